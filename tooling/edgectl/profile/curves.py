"""How much faster pruning makes our kernels: speed-up against rate, a line for each scheme, beside the other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.profile.compare import OURS, Comparison, Row
from edgectl.profile.picture import png, sheet
from edgectl.profile.variants import parse_variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PEERS = 3
_MARKERS = "osD^v"
_NOTE = "Speed-up: median of edgectl's dense row / median of the row. Bars: its 10th to 90th percentile. Pruned in one shot."


@dataclass(frozen=True)
class Point:
    """One of our rows: `speedup` is the median of our dense row over its median, `low` and `high` over its p90 and p10."""

    rate: float
    speedup: float
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """What is drawn.

    Attributes:
        dense: our dense row, at rate 1 and speed-up 1.
        schemes: the pruned rows of each scheme by rising rate; those of a glob apart, as `SCHEME:GLOB`, and those that are
            quantised, as `SCHEME+QUANT`, led by the row that is only quantised, at rate 1, where there is one.
        peers: speed of the other runtimes relative to our dense row, of at most the three fastest, fastest first.
    """

    dense: Point
    schemes: dict[str, list[Point]]
    peers: dict[str, float]

    @property
    def rates(self) -> list[float]:
        """Every rate there is, rising, 1 among them."""
        return sorted({1.0, *(point.rate for points in self.schemes.values() for point in points)})


def curves(comparison: Comparison) -> Curves:
    """The points of a comparison that has our dense row; what a recipe prunes has no one rate and is left out.

    Raises:
        ValueError: our dense row is missing, or there is no variant with a rate.
    """
    ours = {row.variant: row for row in comparison.rows if row.runtime == OURS}
    if "dense" not in ours:
        raise ValueError("there is no dense row to compare with")
    base = ours["dense"].latency.median

    def point(row: Row, rate: float) -> Point:
        return Point(rate, base / row.latency.median, base / row.latency.p90, base / row.latency.p10)

    schemes: dict[str, list[Point]] = {}
    for text, row in ours.items():
        if "@" in text:
            variant = parse_variant(text)
            only_quantised = [point(ours[variant.quant], 1.0)] if variant.quant in ours else []
            schemes.setdefault(variant.name, only_quantised).append(point(row, variant.rate))
    if not schemes:
        raise ValueError("there is no variant with a rate")
    others = sorted((row for row in comparison.rows if row.runtime != OURS), key=lambda row: row.latency.median)
    return Curves(
        dense=point(ours["dense"], 1.0),
        schemes={scheme: sorted(points, key=lambda point: point.rate) for scheme, points in schemes.items()},
        peers={row.runtime: base / row.latency.median for row in others[:_PEERS]},
    )


def draw(found: Curves, model: Path, threads: int) -> bytes:
    """The picture, as PNG: a float32 scheme's line starts at our dense row; the other runtimes' dense rows lie across."""
    figure, axes = sheet()
    title = f"{Path(*model.parts[-2:])} on this machine, {threads} thread{'s' * (threads > 1)}"
    axes.set(xlabel="pruning rate: weights / weights kept", ylabel="speed-up over edgectl, dense", title=title)
    axes.set_xscale("log", base=2)
    axes.set_xticks(found.rates, [f"{rate:g}" for rate in found.rates])
    axes.set_xticks([], minor=True)
    for i, (scheme, points) in enumerate(found.schemes.items()):
        line = points if "+" in scheme else [found.dense, *points]
        places = ([point.rate for point in line], [point.speedup for point in line])
        axes.plot(*places, color=f"C{i}", marker=_MARKERS[i % len(_MARKERS)], markersize=6, label=scheme, zorder=3)
        _draw_spread(axes, points, f"C{i}")
    _draw_spread(axes, [found.dense], "black")
    axes.plot(1, 1, "o", color="black", markersize=7, label=f"{OURS}, dense", zorder=4)
    axes.set_ylim(bottom=0)
    _draw_peers(axes, found.peers)
    axes.legend(loc="upper left", fontsize=9)
    figure.supxlabel(_NOTE, fontsize=8, color="dimgray")
    return png(figure, title, _NOTE)


def _draw_spread(axes: Axes, points: list[Point], colour: str) -> None:
    below = [point.speedup - point.low for point in points]
    above = [point.high - point.speedup for point in points]
    places = ([point.rate for point in points], [point.speedup for point in points])
    axes.errorbar(*places, yerr=(below, above), fmt="none", ecolor=colour, elinewidth=1, capsize=3, alpha=0.4, zorder=2)


def _draw_peers(axes: Axes, peers: dict[str, float]) -> None:
    """A dashed line for each, its name on the right, none over another."""
    for speed in peers.values():
        axes.axhline(speed, color="gray", linestyle="--", linewidth=1, zorder=1)
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.set_ylim(axes.get_ylim())  # held, so that the names stay at their lines
    height = 0.0
    for runtime, speed in sorted(peers.items(), key=lambda peer: peer[1]):
        height = max(height + 0.04, to_axes.transform((1, speed))[1])
        axes.annotate(
            f"{runtime}, dense",
            (1, speed),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "gray", "linewidth": 0.6, "relpos": (0, 0.5)},
        )
