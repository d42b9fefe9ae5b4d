"""Compares runtimes on one network: ours, dense and pruned, and every peer that is installed, dense, interleaved."""

from __future__ import annotations

import contextlib
import copy
import glob
import itertools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch
from torch import nn

from edgectl.compress.layers import Prunable, prunable_layers
from edgectl.compress.prune import prune_oneshot
from edgectl.errors import ToolError, UserError
from edgectl.lowering.executorch import plain_weights
from edgectl.paths import owner_is_gone, state_root
from edgectl.profile.hosted import XNNPACK, ours, xnnpack
from edgectl.profile.peers import PEERS, Job, PeerFailure, Worker, arrays
from edgectl.profile.report import Latency
from edgectl.profile.workload import Workload, load_workload
from edgectl.recipe import PruneRule, SchemeName
from edgectl.runner import Progress, relative_difference

OURS = "edgectl"
RUNTIMES = (OURS, XNNPACK, *PEERS)
RUNS = 30
TOLERANCE = 1e-2
_RUNS_A_ROUND = 5
_WARMUP_MS = 200  # at the start of a round: caches, clocks and threads that others have used
_VARIANT = re.compile(r"(?P<scheme>\w+)@(?P<rate>\d+(\.\d+)?)(:(?P<glob>.+))?")


@dataclass(frozen=True)
class Row:
    """One runtime on one variant of the network.

    Attributes:
        latency: of all its runs, in milliseconds.
        max_rel_err: the largest difference of its outputs from PyTorch's with the same weights, over the largest value
            there; infinite where they cannot be compared.
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

    Args:
        model: a recipe, or a Python file with `model()` and `example_inputs()`.
        runtimes: of `RUNTIMES`; None for all that are installed.
        variants: pruned versions for our kernels, as `SCHEME@RATE[:GLOB]`.
        progress: called with a message and the fraction done, or None where that is not known.

    Raises:
        UserError: the model, a runtime or a variant is wrong, or a runtime that was named is not installed.
        ToolError: our kernels failed, or every peer did and nothing is left.
    """
    say: Progress = progress or (lambda message, fraction: None)
    chosen = _installed(runtimes)
    if variants and OURS not in chosen:
        raise UserError(f"Variants are pruned for {OURS}: add it to --runtimes, or leave --variant out.")
    parsed = {text: parse_variant(text) for text in variants}
    workload = load_workload(model)
    dense = plain_weights(workload.module)
    ours_pruned = {text: prune_rules(dense, *spec) for text, spec in parsed.items()}
    result = Comparison()
    with _folder() as folder, contextlib.ExitStack() as stack:
        entries: list[_Entry] = []

        def enter(runtime: str, variant: str, module: nn.Module, make: Callable[[], _Runnable]) -> None:
            say(f"preparing {runtime}, {variant}", None)
            with _left_out(runtime, result):
                runnable = make()
                stack.callback(runnable.close)
                error = _error(runnable.prepare(), module, workload.example)
                entries.append(_Entry(runtime, variant, runnable, error))
                if error > TOLERANCE:
                    result.warnings.append(f"The output of {runtime} ({variant}) differs from PyTorch's by {error:.1e}.")

        if OURS in chosen:
            for i, (variant, module) in enumerate(_variants(workload, dense, ours_pruned)):
                make = partial(ours, workload.recipe, module, workload.example, threads, folder / f"ours-{i}")
                enter(OURS, variant, module, make)
        if XNNPACK in chosen:
            make = partial(xnnpack, workload.recipe, dense, workload.example, threads, folder / "xnnpack")
            enter(XNNPACK, "dense", dense, make)
        torch.save((workload.module.state_dict(), workload.example), folder / "state.pt")
        job = Job(model, folder / "state.pt", threads, folder)
        for peer in (peer for peer in chosen if peer in PEERS):
            enter(peer, "dense", dense, partial(Worker, peer, job))
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


def _variants(workload: Workload, dense: nn.Module, rules: dict[str, list[PruneRule]]) -> Iterator[tuple[str, nn.Module]]:
    """Label and network of each of our rows."""
    yield "dense", dense
    recipe = {"recipe": workload.recipe.prune} if workload.recipe.prune else {}
    for variant, chosen in (recipe | rules).items():
        pruned = copy.deepcopy(dense)
        prune_oneshot(pruned, chosen)
        yield variant, pruned


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


def parse_variant(variant: str) -> tuple[SchemeName, float, str | None]:
    """`SCHEME@RATE[:GLOB]` in its parts.

    Raises:
        UserError: it is not written like that, the scheme is unknown, or the rate is below 1.
    """
    matched = _VARIANT.fullmatch(variant)
    known: dict[str, SchemeName] = {scheme: scheme for scheme in get_args(SchemeName)}
    if matched is None or matched["scheme"] not in known or float(matched["rate"]) < 1:
        schemes = ", ".join(known)
        raise UserError(f"{variant!r} is no variant: write SCHEME@RATE[:GLOB], SCHEME one of {schemes}, RATE 1 or more.")
    return known[matched["scheme"]], float(matched["rate"]), matched["glob"]


def prune_rules(model: nn.Module, scheme: SchemeName, rate: float, match: str | None = None) -> list[PruneRule]:
    """A rule for every layer that the scheme fits, of those whose module path matches the glob `match`.

    Without a glob: every convolution that is not depthwise, and for block_column 1x1 convolutions and linear layers.

    Raises:
        UserError: there is no such layer.
    """
    rules = []
    for path, layer in prunable_layers(model).items():
        wanted = _by_default(layer, scheme) if match is None else fnmatchcase(path, match)
        if wanted and _fits(layer, scheme, rate):
            rules.append(PruneRule(match=glob.escape(path), scheme=scheme, rate=rate))
    if not rules:
        which = "" if match is None else f" whose path matches {match!r}"
        raise UserError(f"The variant {scheme}@{rate:g} fits no layer{which}: choose another scheme, rate or glob.")
    return rules


def _by_default(layer: Prunable, scheme: SchemeName) -> bool:
    if isinstance(layer, nn.Linear):
        return scheme == "block_column"
    return layer.groups == 1 or layer.groups != layer.in_channels


def _fits(layer: Prunable, scheme: SchemeName, rate: float) -> bool:
    kernel = (1, 1) if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)
    required = {"pattern": (3, 3), "block_column": (1, 1)}.get(scheme, kernel)
    return kernel == required and rate < layer.weight.numel()


def _error(got: list[np.ndarray], module: nn.Module, example: torch.Tensor) -> float:
    """The largest difference over all outputs, over the largest value of PyTorch's; infinite for other shapes or NaN."""
    with torch.inference_mode():
        wanted = arrays(module(example))
    if len(got) != len(wanted):
        return math.inf
    flat = [np.concatenate([array.ravel() for array in outputs]) for outputs in (got, wanted)]
    same = all(a.shape == b.shape for a, b in itertools.zip_longest(got, wanted))
    return relative_difference(*flat) if same else math.inf
