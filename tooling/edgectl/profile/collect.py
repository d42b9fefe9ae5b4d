"""Measures the layers of networks on a device, round by round, so that every network gets some of the quiet moments."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from edgectl.compress.layers import prunable_layers
from edgectl.device import Device
from edgectl.errors import ToolError
from edgectl.lowering import build
from edgectl.profile import etdump, litert
from edgectl.profile.measurements import WHOLE, Measured, Measurements, Setting, layers_in, networks
from edgectl.profile.points import Point, points_of
from edgectl.profile.report import Clock
from edgectl.profile.space import Network
from edgectl.runner import Progress, Session, remote_folder

FEWEST_ROUNDS: dict[Clock, int] = {"wall": 4, "emulated-instructions": 1}
MOST_ROUNDS = 12
_ROUND_NS = 250_000_000
_RUNS = {"wall": (3, 30), "emulated-instructions": (1, 1)}
_BATCH = 8
_WHOLE_OVER_PARTS = 1.08


@dataclass
class _Open:
    """A network on the device."""

    network: Network
    session: Session
    points: dict[str, Point]
    known: list[Measured]
    runs: int = field(default=0)

    @property
    def rounds(self) -> int:
        return self.known[0].rounds if self.known else 0


def collect(
    drawn: Iterable[Network],
    device: Device,
    store: Measurements,
    *,
    count: int | None = None,
    threads: int = 1,
    rounds: int = MOST_ROUNDS,
    progress: Progress | None = None,
) -> int:
    """Measures networks in their order until `count` layers of them are measured, or all; returns how many layers are.

    Networks measured before, in the same setting, count and are left alone. Eight at a time are built and pushed; then they
    take turns, a round each, of a quarter of a second of undisturbed runs and as many with the profiler on. Every network has
    four rounds, and more until the lowest times of its layers agree (`measurements.agree`) and add up to that of the whole, but
    at most `rounds`; one where instructions are counted. Every round is written before the next.

    Raises:
        UserError: the device's clock says nothing about latency.
        ToolError: the device fails or goes away. What was measured is kept, and the same call goes on from there.
    """
    say: Progress = progress or (lambda message, fraction: None)
    clock = cast(Clock, device.describe().require_latency_clock())
    former = networks(store.read(device=device.name, clock=clock, threads=threads))
    done, coming = 0, iter(drawn)
    while count is None or done < count:
        batch: list[Network] = []
        planned = done
        for network in coming:
            known = former.get(network.name, [])
            if known and _is_done(known, rounds):
                done += layers_in(known)
                planned += layers_in(known)
            else:
                batch.append(network)
                planned += _layers(network)
            if len(batch) == _BATCH or (count is not None and planned >= count):
                break
        if not batch:
            break
        done += _measure(batch, device, store, clock, threads, former, rounds, say, (done, count))
    return done


def _measure(
    batch: Sequence[Network],
    device: Device,
    store: Measurements,
    clock: Clock,
    threads: int,
    former: dict[str, list[Measured]],
    rounds: int,
    say: Progress,
    reached: tuple[int, int | None],
) -> int:
    """Measures a batch; returns how many layers it has."""
    layers = 0
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        opened: list[_Open] = []
        try:
            for i, network in enumerate(batch):
                say(f"building {network.name}", None)
                artifact = build(network.recipe, Path(folder) / str(i), model=network.module).artifact
                points = points_of(artifact.manifest.layers)
                opened.append(_Open(network, Session.open(artifact, device), points, former.get(network.name, [])))
            waiting = list(opened)
            for number in itertools.count(1):
                for one in waiting:
                    done, count = reached
                    fraction = min(1.0, (done + layers) / count) if count else None
                    say(f"measuring {one.network.name} on {device.name}: round {number}", fraction)
                    one.known = _round(one, store, device, clock, threads, Path(folder))
                layers += sum(layers_in(one.known) for one in waiting if _is_done(one.known, rounds))
                waiting = [one for one in waiting if not _is_done(one.known, rounds)]
                if not waiting:
                    return layers
        except ToolError as error:
            kept = layers_in(store.read(device=device.name, threads=threads))
            detail = error.detail or "it gave no reason"
            more = f"the measurements of {kept} layers are kept, and the same command goes on from there"
            raise ToolError(error.step, f"{detail.rstrip('.')}; {more}") from error
        finally:
            for one in opened:
                _forget(one.session)
    return layers


def _round(one: _Open, store: Measurements, device: Device, clock: Clock, threads: int, folder: Path) -> list[Measured]:
    """Undisturbed runs, and as many with the profiler on, written to the store."""
    least, most = _RUNS[clock]
    if not one.runs:
        first, _ = one.session.run(warmup=1, runs=1, threads=threads)
        one.runs = max(least, min(most, _ROUND_NS // max(1, min(first.runs_ns))))
    profile = folder / "profile"
    plain, _ = one.session.run(warmup=1, runs=one.runs, threads=threads)
    one.session.run(warmup=1, runs=one.runs, threads=threads, profile=profile)
    events = etdump.read(profile) if one.session.artifact.manifest.format == "pte" else litert.read(profile)
    layers = [(point, events[name][-one.runs :]) for name, point in one.points.items() if events.get(name)]
    inside = zip(*(times[-one.runs :] for times in events.values()), strict=True)
    rest = [max(0, total - sum(times)) for total, times in zip(events.totals[-one.runs :], inside, strict=True)]
    setting = Setting(device.name, clock, threads, plain.isa)
    return store.add(setting, one.network.name, plain.runs_ns, rest, layers)


def _is_done(known: Sequence[Measured], most: int) -> bool:
    clock, rounds = known[0].setting.clock, known[0].rounds
    enough = rounds >= FEWEST_ROUNDS[clock] and (clock != "wall" or _is_settled(known))
    return enough or rounds >= most


def _is_settled(known: Sequence[Measured]) -> bool:
    """The lowest times agree, and the whole took no longer than its parts: it has met a quiet moment as long as itself."""
    parts = sum(row.ns for row in known if row.position != WHOLE)
    whole = next(row.ns for row in known if row.position == WHOLE)
    return whole <= _WHOLE_OVER_PARTS * parts and all(row.settled for row in known if row.point is not None)


def _layers(network: Network) -> int:
    """About how many layers it has."""
    return 10 if network.module is None else len(prunable_layers(network.module))


def _forget(session: Session) -> None:
    """Takes the network off the device, which else would fill up; a device that is gone keeps it."""
    try:
        name = remote_folder(session.artifact).partition("/")
        session.device.run(["rm", "-rf", name[2]], folder=name[0], timeout=30)
    except ToolError:
        pass
