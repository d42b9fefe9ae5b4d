"""Compares runtimes on one network: ours, dense, pruned and quantised, and every peer that is installed, interleaved."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from edgectl.compress.activations import quantise
from edgectl.compress.prune import prune_oneshot
from edgectl.errors import ToolError, UserError
from edgectl.lowering.compile import plain_weights
from edgectl.paths import owner_is_gone, state_root
from edgectl.profile.hosted import XNNPACK, XNNPACK_INT8, ours, xnnpack
from edgectl.profile.int8 import INT8
from edgectl.profile.peers import PeerFailure, arrays
from edgectl.profile.report import Latency
from edgectl.profile.variants import parse_variant
from edgectl.profile.worker import PEERS, Job, Worker
from edgectl.profile.workload import load_workload
from edgectl.quiet import quiet
from edgectl.recipe import PruneRule, QuantRule
from edgectl.runner import Progress, relative_difference

OURS = "edgectl"
RUNTIMES = (OURS, XNNPACK, XNNPACK_INT8, *PEERS)
INT8_RUNTIMES = (XNNPACK_INT8, *(name for name, peer in PEERS.items() if peer.variant == INT8))
RUNS = 30
TOLERANCE = 1e-2
INT8_TOLERANCE = 0.15
"""Of the root mean square error of a quantised row over that of the output: twice what a good int8 network shows, and far
below the 1 of a wrong one. Single values may be off by more, where a range is cut."""
_RUNS_A_ROUND = 5
_WARMUP_MS = 200  # at the start of a round: caches, clocks and threads that others have used


@dataclass(frozen=True)
class Row:
    """One runtime on one variant of the network.

    Attributes:
        latency: of all its runs, in milliseconds.
        max_rel_err: the largest difference of its outputs from PyTorch's with the same weights, in float32, over the
            largest value there; infinite where they cannot be compared. Of a quantised row, what quantisation lost is in it.
    """

    runtime: str
    variant: str
    latency: Latency
    max_rel_err: float


@dataclass
class Comparison:
    """The rows, in the order in which they ran, and what the user must know about them, in sentences."""

    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fastest_peer(self) -> float | None:
        """The least median of the other runtimes, in ms; None where there is none."""
        return min((row.latency.median for row in self.rows if row.runtime != OURS), default=None)


class _Runnable(Protocol):
    def prepare(self) -> list[np.ndarray]: ...
    def round(self, warmup: int, runs: int) -> list[int]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class _Compression:
    """What makes one of our rows of the dense float32 network."""

    prune: list[PruneRule] = field(default_factory=list)
    quant: list[QuantRule] = field(default_factory=list)

    def pruned(self, dense: nn.Module) -> nn.Module:
        """A copy, pruned."""
        module = copy.deepcopy(dense)
        if self.prune:
            prune_oneshot(module, self.prune)
        return module

    def quantised(self, module: nn.Module, example: torch.Tensor, progress: Progress) -> nn.Module | None:
        """The quantised network, calibrated on `example`; None where the row is float32."""
        if not self.quant:
            return None
        with quiet():
            return quantise(module, example, self.quant, [example], progress)


@dataclass
class _Entry:
    """A row in the making."""

    runtime: str
    variant: str
    runnable: _Runnable
    max_rel_err: float
    times: list[int] = field(default_factory=list)


def compare(
    model: Path,
    *,
    runtimes: Sequence[str] | None = None,
    variants: Sequence[str] = (),
    threads: int = 1,
    runs: int = RUNS,
    progress: Progress | None = None,
) -> Comparison:
    """Runs a network on our kernels and on other runtimes, a few runs of each in turn, until each has done `runs`.

    What is quantised is calibrated on the very input that it then runs on: speed is what is compared.

    Args:
        model: a recipe, or a Python file with `model()` and `example_inputs()`.
        runtimes: of `RUNTIMES`; None for all that are installed, those in int8 only where one of our rows is quantised.
        variants: pruned and quantised versions for our kernels, as `parse_variant` reads them.
        progress: called with a message and the fraction done, or None where that is not known.

    Raises:
        UserError: the model, a runtime or a variant is wrong, or a runtime that was named is not installed.
        ToolError: our kernels failed, or every peer did and nothing is left.
    """
    say: Progress = progress or (lambda message, fraction: None)
    chosen = _installed(runtimes)
    if variants and OURS not in chosen:
        raise UserError(f"Variants are of {OURS}: add it to --runtimes, or leave --variant out.")
    parsed = {text: parse_variant(text) for text in variants}
    workload = load_workload(model)
    recipe, example = workload.recipe, workload.example
    dense = plain_weights(workload.module)
    ours_as = {"dense": _Compression()}
    if recipe.prune or recipe.quant:
        ours_as["recipe"] = _Compression(recipe.prune, recipe.quant)
    ours_as |= {text: _Compression(variant.prune_rules(dense), variant.quant_rules()) for text, variant in parsed.items()}
    if runtimes is None and not any(compression.quant for compression in ours_as.values()):
        chosen = [runtime for runtime in chosen if runtime not in INT8_RUNTIMES]
    result = Comparison()
    with _folder() as folder, contextlib.ExitStack() as stack:
        entries: list[_Entry] = []

        def enter(
            runtime: str, variant: str, make: Callable[[], _Runnable], module: nn.Module, quantised: nn.Module | None = None
        ) -> None:
            """`module` is the float32 network; `quantised` what a quantised row computes, as far as PyTorch can say."""
            say(f"preparing {runtime}, {variant}", None)
            with _left_out(runtime, result):
                runnable = make()
                stack.callback(runnable.close)
                got, wanted = runnable.prepare(), _outputs(module, example)
                entries.append(_Entry(runtime, variant, runnable, _largest_error(got, wanted)))
                error, tolerance = entries[-1].max_rel_err, TOLERANCE
                if quantised is not None:
                    error, tolerance = _rms_error(got, _outputs(quantised, example)), INT8_TOLERANCE
                if error > tolerance:
                    result.warnings.append(f"The output of {runtime} ({variant}) differs from PyTorch's by {error:.1e}.")

        if OURS in chosen:
            for i, (variant, compression) in enumerate(ours_as.items()):
                pruned = compression.pruned(dense)
                quantised = compression.quantised(pruned, example, say)
                make = partial(ours, recipe, quantised or pruned, example, threads, folder / f"ours-{i}")
                enter(OURS, variant, make, pruned, quantised)
        for runtime, int8 in ((XNNPACK, False), (XNNPACK_INT8, True)):
            if runtime in chosen:
                make = partial(xnnpack, recipe, dense, example, threads, folder / runtime, int8=int8)
                enter(runtime, INT8 if int8 else "dense", make, dense, dense if int8 else None)
        torch.save((workload.module.state_dict(), example), folder / "state.pt")
        job = Job(model, folder / "state.pt", threads, folder)
        for name in (name for name in chosen if name in PEERS):
            enter(name, PEERS[name].variant, partial(Worker, name, job), dense, dense if name in INT8_RUNTIMES else None)
        _measure(entries, runs, result, say)
    if not result.rows:
        raise ToolError(f"comparing runtimes on {model}", " ".join(result.warnings))
    return result


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the run, gone afterwards; those of runs that were killed go too."""
    root = state_root()
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob("compare-*"):
        if owner_is_gone(left.name):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="compare-", suffix=f"-{os.getpid()}", dir=root) as name:
        yield Path(name)


def _measure(entries: list[_Entry], runs: int, result: Comparison, say: Progress) -> None:
    """Rounds of a few runs, every row in turn, so that what disturbs the machine disturbs all alike."""
    for done in range(0, runs, _RUNS_A_ROUND):
        for entry in list(entries):
            say(f"timing {entry.runtime}, {entry.variant}", done / runs)
            entries.remove(entry)
            with _left_out(entry.runtime, result):
                entry.times += entry.runnable.round(_warmup(entry), min(_RUNS_A_ROUND, runs - done))
                entries.append(entry)
    for entry in entries:
        result.rows.append(Row(entry.runtime, entry.variant, Latency.of(entry.times, "wall"), entry.max_rel_err))


def _warmup(entry: _Entry) -> int:
    """Runs that take `_WARMUP_MS`, at least two; before the first round, as a run then takes."""
    times = entry.times or entry.runnable.round(1, 2)
    return max(2, math.ceil(_WARMUP_MS * 1e6 / min(times)))


@contextlib.contextmanager
def _left_out(runtime: str, result: Comparison) -> Iterator[None]:
    """A peer that fails becomes a warning; our own failure does not."""
    try:
        yield
    except (PeerFailure, ToolError) as error:
        if runtime == OURS:
            raise
        result.warnings.append(f"{runtime} is left out: {str(error).splitlines()[0]}")


def _installed(named: Sequence[str] | None) -> list[str]:
    """The runtimes to run: those named, or all that are installed."""
    if named is None:
        return [runtime for runtime in RUNTIMES if runtime not in PEERS or PEERS[runtime].installed()]
    for runtime in named:
        if runtime not in RUNTIMES:
            raise UserError(f"Unknown runtime {runtime!r}: choose from {', '.join(RUNTIMES)}.")
        if runtime in PEERS and not PEERS[runtime].installed():
            raise UserError(f"{runtime} is not installed: run `pip install edgectl[{PEERS[runtime].extra}]`.")
    return [runtime for runtime in RUNTIMES if runtime in named]


def _outputs(module: nn.Module, example: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        return arrays(module(example))


def _largest_error(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference over all outputs, over the largest value wanted; infinite for other shapes or NaN."""
    return relative_difference(_flat(got), _flat(wanted)) if _alike(got, wanted) else math.inf


def _rms_error(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The root mean square of the difference over that of the values wanted; infinite for other shapes or NaN."""
    if not _alike(got, wanted):
        return math.inf
    norm = float(np.linalg.norm(_flat(wanted))) or 1.0
    error = float(np.linalg.norm(_flat(got) - _flat(wanted))) / norm
    return math.inf if math.isnan(error) else error


def _alike(got: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return [array.shape for array in got] == [array.shape for array in wanted]


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])
