"""What networks of a space take on a device: predicted from what was measured there, or measured."""

from __future__ import annotations

import hashlib
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgectl.artifact import Artifact
from edgectl.device import Device
from edgectl.errors import ToolError, UserError
from edgectl.lowering import build
from edgectl.profile.bench import bench
from edgectl.profile.collect import collect
from edgectl.profile.history import History
from edgectl.profile.int8 import host_cpu
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.measurements import Measurements
from edgectl.profile.report import Clock, LatencyReport
from edgectl.profile.space import Network
from edgectl.profile.trace import points_of_module
from edgectl.recipe import Cpu, ModelSpec, PruneRule, Recipe, TargetSpec
from edgectl.search import network as source
from edgectl.search.network import network
from edgectl.search.space import Candidate, Cell, SrSpace
from edgectl.tasks.task import Progress

_RATES = (1.5, 8.0)
_ROUNDS = 5
_PAUSES = (5.0, 15.0)


def recipe_of(space: SrSpace, candidate: Candidate, rules: Sequence[PruneRule], cpu: Cpu) -> Recipe:
    """The recipe of a network, whose `model.py` is edgectl.search.network."""
    args = {"scale": space.scale, "features": candidate.features, "blocks": candidate.blocks}
    model = ModelSpec(
        file=Path(source.__file__).name, factory="network", args=args, input=space.shape, task="sr", scale=space.scale
    )
    return Recipe(model=model, prune=list(rules), target=TargetSpec(cpu=cpu))


def cpu_of(device: Device) -> Cpu:
    """Whose kernels to pack weights for, so that they are fast on a device."""
    return host_cpu() if device.target == "host" else "arm64"


class Latencies:
    """Times of networks of one space, in ns of one device's clock.

    Attributes:
        clock: what the times are.
        correction: measured over predicted times, of networks that were measured whole.
    """

    def __init__(self, space: SrSpace, model: LatencyModel, threads: int) -> None:
        self.space, self.model, self.threads = space, model, threads
        self.clock: Clock = model.clock
        self.correction = 1.0
        self._parts: dict[object, float] = {}

    def predicted(self, candidate: Candidate) -> float:
        """What a network takes."""
        bare = Candidate(candidate.features, (), (), candidate.tail, candidate.rate)
        return (self._part(bare) + sum(self._cell(bare, cell) for cell in candidate.cells)) * self.correction

    def correct(self, measured: Mapping[Candidate, float]) -> None:
        """Takes the median of measured over predicted times of networks for all predictions to come."""
        self.correction = 1.0
        self.correction = float(np.median([ns / self.predicted(candidate) for candidate, ns in measured.items()]))

    def shown(self, ns: float) -> str:
        """A time for people: `12.3 ms`, or `120 M emulated-instructions`."""
        return f"{ns / 1e6:.3g} ms" if self.clock == "wall" else f"{ns / 1e6:.4g} M emulated-instructions"

    def _cell(self, bare: Candidate, cell: Cell) -> float:
        """What a block adds to a network without one; the same wherever it stands."""
        with_it = Candidate(bare.features, (cell,), (0,), bare.tail, bare.rate)
        return self._part(with_it) - self._part(bare)

    def _part(self, candidate: Candidate) -> float:
        if candidate not in self._parts:
            module = network(self.space.scale, candidate.features, candidate.blocks)
            points = points_of_module(module, self.space.shape, candidate.rules())
            self._parts[candidate] = self.model.network(points.values(), self.threads)[0]
        return self._parts[candidate]


def profile(space: SrSpace, device: Device, threads: int, layers: int, store: Measurements, progress: Progress) -> None:
    """Measures networks of the space on the device until `layers` layers of them are known.

    Raises:
        UserError: the device's clock says nothing about latency.
        ToolError: the device fails. What was measured is kept, and the same call goes on from there.
    """
    collect(_networks(space, cpu_of(device)), device, store, count=layers, threads=threads, progress=progress)


def measure(recipe: Recipe, module: nn.Module, device: Device, threads: int, progress: Progress) -> float:
    """What a network takes on a device, built as the recipe says: in ns of its clock, the median or the least count.

    Raises:
        ToolError: the device fails three times in a row, or what it answers is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        artifact = build(recipe, Path(folder) / "network", model=module).artifact
        return in_turns([artifact], device, threads, progress, rounds=1)[0]


def in_turns(
    artifacts: Sequence[Artifact], device: Device, threads: int, progress: Progress, rounds: int = _ROUNDS
) -> list[float]:
    """What artifacts take on a device, measured in turns, so that what disturbs it disturbs all alike: medians of the rounds.

    In ns of its clock. Where instructions are counted, one round is enough.

    Raises:
        ToolError: the device fails three times in a row, or what it answers is wrong.
    """
    clock = device.describe().require_latency_clock()
    times: list[list[float]] = [[] for _ in artifacts]
    rounds = rounds if clock == "wall" else 1
    for number in range(rounds):
        progress(f"measuring on {device.name}", number / rounds)
        for artifact, own in zip(artifacts, times, strict=True):
            report = _patiently(partial(bench, artifact, device, threads=threads), progress)
            History().record(report)
            own.append(float(report.quoted(report.total) or 0) * (1e6 if clock == "wall" else 1))
    return [float(np.median(own)) for own in times]


def _patiently(verb: Callable[[], LatencyReport], progress: Progress) -> LatencyReport:
    """What a device does, tried again after some seconds where it fails: a cable may be loose for a moment."""
    for pause in _PAUSES:
        try:
            return verb()
        except ToolError as error:
            progress(f"{error.step} failed, trying again in {pause:.0f} s", None)
            time.sleep(pause)
    return verb()


def parse_budget(text: str, clock: Clock) -> tuple[float, bool]:
    """(the number, whether it is a fraction of the baseline): `33ms` or `0.02s` in ns, `120M` instructions, `50%`.

    Raises:
        UserError: it is none of these, or of another clock than the device's.
    """
    units = {"%": 0.01, "ms": 1e6, "us": 1e3, "s": 1e9} | {"k": 1e3, "M": 1e6, "G": 1e9}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * units.get(unit, math.nan)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(
            f"{text!r} is no budget: write 33ms, or 120M instructions (of an emulated phone), or 50% (of the baseline)."
        )
    if unit != "%" and (unit in ("ms", "us", "s")) != (clock == "wall"):
        kind = "time: write 33ms" if clock == "wall" else "executed instructions: write 120M"
        raise UserError(f"The budget {text} is not in the device's clock, which counts {kind}, or 50% of the baseline.")
    return value, unit == "%"


def _networks(space: SrSpace, cpu: Cpu) -> Iterator[Network]:
    """Networks of the space without end, pruned at random rates; the baseline first."""
    chance = random.Random(f"{space.model_dump_json()}")
    candidate = space.dense()
    while True:
        low, high = (math.log(rate) for rate in _RATES)
        rates = {path: round(math.exp(chance.uniform(low, high)), 3) for path in candidate.schemes()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chance.randrange(1 << 31))
            module = network(space.scale, candidate.features, candidate.blocks)
        recipe = recipe_of(space, candidate, candidate.rules(rates), cpu)
        name = f"search/{hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]}"
        yield Network(name, recipe, module.eval())
        candidate = space.candidate(space.random(chance))
