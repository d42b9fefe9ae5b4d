"""The roofline of an artifact on a device: each layer's multiply-adds over its bytes, beneath what the device can do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from edgectl.artifact import Artifact, Layer
from edgectl.device import Device
from edgectl.errors import UserError
from edgectl.profile.bench import bench
from edgectl.profile.picture import png, sheet
from edgectl.profile.report import Clock, LatencyReport
from edgectl.runner import Progress, Session

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMULATED = "emulated: counted in executed instructions, not in time; no phone's speed"
_FLOAT_BYTES = 4
_LABELLED = 5
_COLOURS = {"memory": "tab:blue", "arithmetic": "tab:orange"}
_NOTE = (
    "A dot is a layer, its area its share of the time. FLOP: 2 x non-zero multiply-adds. Bytes: input, output, weights, once."
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RooflineLayer(_Strict):
    """A layer with multiply-adds.

    `flop` is 2 x those with non-zero weights, `bytes` what input, output and packed weights hold, `intensity` the one over the
    other. `time` is in the roofline's `time_unit`, `share` of the profiled runs; `performance`, and the `roof` above it at that
    intensity, are in its `performance_unit`. `of_roof` is above 1 where Winograd saves multiply-adds that are counted, where
    what is read is still in a cache, or in int8: the peak is that of float32.
    """

    name: str
    op: str
    scheme: str
    flop: int
    bytes: int
    intensity: float
    time: int | float
    share: float
    performance: float
    roof: float
    bound: Literal["memory", "arithmetic"]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def of_roof(self) -> float:
        """Performance over the roof."""
        return self.performance / self.roof


class Roofline(_Strict):
    """What a device did of an artifact's layers, and can do at most: `peak` of multiply-adds, `bandwidth` of its memory."""

    artifact: str
    sha256: str
    device: dict[str, Any]
    clock: Clock
    threads: int
    runs: int
    peak: float
    bandwidth: float
    layers: list[RooflineLayer]
    left_out: list[str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def emulated(self) -> str | None:
        """What to say of the figures of an emulated device; None on real silicon."""
        return EMULATED if self.clock != "wall" else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def time_unit(self) -> str:
        """The unit of the layers' `time`."""
        return "ms" if self.emulated is None else "emulated-instructions"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def performance_unit(self) -> str:
        """The unit of `peak` and of the layers' `performance` and `roof`."""
        return "GFLOP/s" if self.emulated is None else "FLOP/emulated-instruction"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bandwidth_unit(self) -> str:
        """The unit of `bandwidth`."""
        return "GB/s" if self.emulated is None else "byte/emulated-instruction"

    @property
    def where(self) -> str:
        """The device and the threads, in words."""
        facts = self.device
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{facts.get('name')} ({facts.get('soc') or facts.get('model')}), {threads}"

    @property
    def roofs(self) -> tuple[str, str]:
        """Both roofs in words: multiply-adds, then memory."""
        return (
            f"{self.peak:.3g} {self.performance_unit} of multiply-adds",
            f"{self.bandwidth:.3g} {self.bandwidth_unit} read from memory",
        )


def measure(
    artifact: Artifact,
    device: Device,
    *,
    runs: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Roofline:
    """Benches an artifact layer by layer; before and after that, measures the peaks of the device with as many threads.

    Of the two measurements the better counts: other programs on the device only ever lower one.

    Args:
        runs: timed runs; None for as many as `bench` does.
        progress: called with a message and the fraction done, or None where that is not known.

    Raises:
        UserError: as `bench`; or no layer of the artifact does multiply-adds.
        ToolError: the device fails, or the artifact's answer on it is wrong.
    """
    if not any(layer.effective_macs for layer in artifact.manifest.layers):
        raise UserError(f"No layer of {artifact.folder} does multiply-adds on our kernels, so its roofline is empty.")
    say: Progress = progress or (lambda message, fraction: None)
    device.describe().require_latency_clock()
    session = Session.open(artifact, device, progress)
    say(f"measuring the peaks of {device.name}", None)
    before = session.peaks(threads)
    report = bench(artifact, device, runs=runs, threads=threads, progress=progress)
    say(f"measuring the peaks of {device.name} again", None)
    after = session.peaks(threads)
    peak = max(before.flops_per_ns, after.flops_per_ns)
    bandwidth = max(before.bytes_per_ns, after.bytes_per_ns)
    return join(artifact.manifest.layers, report, peak, bandwidth)


def join(layers: Sequence[Layer], report: LatencyReport, peak: float, bandwidth: float) -> Roofline:
    """The roofline of a bench: layers of the manifest that have multiply-adds and were timed, in its order.

    The model is Williams et al.'s: roof(intensity) = min(peak, bandwidth x intensity).

    Args:
        peak: float operations in a nanosecond of the device's clock.
        bandwidth: bytes read in one.
    """
    times = {row.name: report.quoted(row) for row in report.layers}
    whole = report.quoted(report.profiled) or math.inf
    ns = 1e6 if report.clock == "wall" else 1  # in a unit of the report's figures
    found, left_out = [], []
    for layer in layers:
        time = times.get(layer.name)
        if not time or not layer.effective_macs:
            left_out.append(layer.name)
            continue
        flop = 2 * layer.effective_macs
        # quantised layers read and write int8, float16 ones float16
        element = 1 if layer.quant else 2 if layer.bits == 16 else _FLOAT_BYTES
        moved = element * (math.prod(layer.input_shape) + math.prod(layer.output_shape)) + layer.bytes
        by_memory = bandwidth * flop / moved
        made = RooflineLayer(
            name=layer.name,
            op=layer.op,
            scheme=layer.scheme,
            flop=flop,
            bytes=moved,
            intensity=flop / moved,
            time=time,
            share=time / whole,
            performance=flop / (time * ns),
            roof=min(peak, by_memory),
            bound="memory" if by_memory < peak else "arithmetic",
        )
        found.append(made)
    return Roofline(
        artifact=report.model,
        sha256=report.sha256,
        device=report.device,
        clock=report.clock,
        threads=report.threads,
        runs=report.profiled.n,
        peak=peak,
        bandwidth=bandwidth,
        layers=found,
        left_out=left_out,
    )


def draw(roofline: Roofline) -> bytes:
    """The picture, as PNG: both roofs with their values and a dot for each layer, on logarithmic axes."""
    figure, axes = sheet()
    _frame(axes, roofline)
    _draw_roofs(axes, roofline)
    for bound, colour in _COLOURS.items():
        dots = [layer for layer in roofline.layers if layer.bound == bound]
        places = ([layer.intensity for layer in dots], [layer.performance for layer in dots])
        areas = [max(12.0, 4000 * layer.share) for layer in dots]
        axes.scatter(*places, s=areas, color=colour, alpha=0.6, edgecolors="black", linewidths=0.6, zorder=3)
        axes.scatter([], [], s=50, color=colour, alpha=0.6, label=f"bound by {bound}")
    _label_slowest(axes, roofline)
    axes.legend(loc="upper left", fontsize=9)  # where no layer can be
    figure.supxlabel(_NOTE, fontsize=8, color="dimgray")
    return png(figure, f"{roofline.artifact} on {roofline.where}", roofline.emulated or _NOTE)


def _frame(axes: Axes, roofline: Roofline) -> None:
    """Axes that hold every dot and enough of the slope to write on it, with room for labels on the right."""
    ridge = roofline.peak / roofline.bandwidth
    across = [ridge, *(layer.intensity for layer in roofline.layers)]
    up = [roofline.peak, *(layer.performance for layer in roofline.layers)]
    low, high = min(ridge / 20, min(across) / 3), max(across) * 2
    bottom = min(roofline.peak / 16, min(up) / 2)
    axes.set(xscale="log", yscale="log", xlim=(low, high * (high / low) ** 0.35), ylim=(bottom, max(up) * 2))
    unit = roofline.performance_unit if roofline.emulated is None else "FLOP per emulated instruction"
    axes.set(xlabel="arithmetic intensity, FLOP/byte", ylabel=f"performance, {unit}")
    title = f"{roofline.artifact} on {roofline.where}"
    if roofline.emulated is not None:
        axes.set_title(f"{title}\n{roofline.emulated}", color="firebrick")
    else:
        axes.set_title(title)


def _draw_roofs(axes: Axes, roofline: Roofline) -> None:
    left, right = axes.get_xlim()
    ridge = roofline.peak / roofline.bandwidth
    axes.plot([left, ridge, right], [roofline.bandwidth * left, roofline.peak, roofline.peak], color="black", linewidth=1.5)
    arithmetic, memory = roofline.roofs
    axes.text(right * 0.97, roofline.peak * 1.03, arithmetic, fontsize=9, ha="right", va="bottom")
    start = max(left, axes.get_ylim()[0] / roofline.bandwidth)  # where the slope comes into sight
    middle = math.sqrt(start * ridge)
    axes.text(
        middle,
        roofline.bandwidth * middle * 1.05,
        memory,
        fontsize=9,
        ha="center",
        va="bottom",
        rotation=math.degrees(math.atan(roofline.bandwidth)),  # of the roof, which is straight on these axes too
        rotation_mode="anchor",
        transform_rotates_text=True,
    )


def _label_slowest(axes: Axes, roofline: Roofline) -> None:
    """Names the slowest layers in a column on the right, none over another, each with a line to its dot."""
    slowest = sorted(roofline.layers, key=lambda layer: layer.time, reverse=True)[:_LABELLED]
    to_axes = axes.transData + axes.transAxes.inverted()
    height = 1.0
    for layer in sorted(slowest, key=lambda layer: layer.performance, reverse=True):
        place = (layer.intensity, layer.performance)
        height = min(height - 0.05, to_axes.transform(place)[1])
        axes.annotate(
            f"{layer.name}  {100 * layer.share:.1f} %",
            place,
            xytext=(0.8, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "gray", "linewidth": 0.6, "relpos": (0, 0.5)},
            zorder=4,
        )
