"""Benches an artifact on a device: times it undisturbed, checks its answer, then times its layers, profiler on."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from edgectl.artifact import Artifact, Layer
from edgectl.device import Device
from edgectl.errors import ToolError, UserError
from edgectl.profile import etdump, litert
from edgectl.profile.events import Profile
from edgectl.profile.report import Clock, Latency, LatencyReport, LayerLatency
from edgectl.runner import Progress, Session, model_hash

RUNS = {"wall": 30, "emulated-instructions": 3}
WARMUP = {"wall": 5, "emulated-instructions": 1}


def bench(
    artifact: Artifact,
    device: Device,
    *,
    runs: int | None = None,
    warmup: int | None = None,
    threads: int = 1,
    cpu_mask: str | None = None,
    progress: Progress | None = None,
) -> LatencyReport:
    """Measures an artifact on a device.

    First `runs` runs of the golden input are timed with no profiler (the total), and what they answer is checked against
    the golden output; then as many are timed with it (the layers). By default 30 runs after 5 to warm up, or 3 after 1 where
    instructions are counted.

    Args:
        cpu_mask: hexadecimal mask of the cores to run on.
        progress: called with a message and the fraction done, or None where that is not known.

    Raises:
        UserError: `runs`, `warmup` or `threads` is out of range, or the device's clock says nothing about latency.
        ToolError: the device fails, or the artifact's answer on it is wrong.
    """
    say: Progress = progress or (lambda message, fraction: None)
    info = device.describe()
    clock = cast(Clock, info.require_latency_clock())  # never `emulated-wall`
    runs = RUNS[clock] if runs is None else runs
    warmup = WARMUP[clock] if warmup is None else warmup
    if runs < 1 or warmup < 0 or threads < 1:
        raise UserError("A bench takes at least 1 run, 0 warm-up runs and 1 thread.")
    session = Session.open(artifact, device, progress)
    options: dict[str, Any] = {"warmup": warmup, "runs": runs, "threads": threads, "cpu_mask": cpu_mask}
    say(f"timing {artifact.folder.name}: {runs} runs on {device.name}", None)
    undisturbed, outputs = session.run(**options, want_outputs=True)
    session.check(outputs)
    say(f"timing the layers of {artifact.folder.name}: {runs} runs on {device.name}", None)
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        profile = Path(folder) / "profile"
        profiled, _ = session.run(**options, profile=profile)
        events = etdump.read(profile) if artifact.manifest.format == "pte" else litert.read(profile)
    if len(undisturbed.runs_ns) != runs or len(profiled.runs_ns) != runs:
        raise ToolError(f"benching on {device.name}", f"the runner did {len(undisturbed.runs_ns)} runs of {runs}")
    return LatencyReport(
        model=artifact.folder.resolve().name,
        sha256=model_hash(artifact),
        device=dataclasses.asdict(info),
        clock=clock,
        threads=threads,
        cpu_mask=cpu_mask,
        warmup=warmup,
        total=Latency.of(undisturbed.runs_ns, clock),
        profiled=Latency.of(profiled.runs_ns, clock),
        peak_rss_kb=undisturbed.peak_rss_kb,
        layers=join(artifact.manifest.layers, events, runs, clock),
    )


def join(layers: Sequence[Layer], events: Profile, runs: int, clock: Clock) -> list[LayerLatency]:
    """The manifest's layers, each with the spread of its last `runs` events, then the runtime's own events by name."""
    left = dict(events)  # layer's name -> ns of each run
    rows = []
    for layer in layers:
        facts = layer.model_dump(include=set(LayerLatency.model_fields)) | {"shape": layer.output_shape}
        times = left.pop(layer.name, None)
        rows.append(LayerLatency.measured(facts, Latency.of(times[-runs:], clock) if times else None))
    for name, times in left.items():
        facts = {"name": name, "op": "runtime", "runner": events.runners[name]}
        rows.append(LayerLatency.measured(facts, Latency.of(times[-runs:], clock)))
    return rows
