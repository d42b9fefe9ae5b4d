"""Which neuron to split: BaBSR (arXiv 1909.06588), filtered smart branching (FSB, kFSB; arXiv 2104.06718), or any at random."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from edgectl.assure.verify.ascent import Multipliers, Problem

Branching = Literal["babsr", "fsb", "kfsb", "random"]


def choose(problem: Problem, at: Multipliers, branching: Branching, candidates: int, generator: torch.Generator) -> Tensor:
    """The row `[N]` of the stacked unstable neurons that each problem splits next; the number of rows where none is left.

    Call after `problem.bound(at)`.
    """
    relaxation = problem.relaxation
    free = torch.ones_like(relaxation.a, dtype=torch.bool)
    free[-1] = False
    if relaxation.splits is not None:
        free.scatter_(0, relaxation.splits.row, False)
    if branching == "random":
        score = torch.rand(relaxation.a.shape, generator=generator).to(relaxation.a)
        return _none_left(score.where(free, -1).argmax(0), free)
    score, intercept = scores(problem)
    score, intercept = score.where(free, -1), intercept.where(free, -1)
    if branching == "babsr":
        flat = score.amax(0) <= 1e-4  # no gain to be seen in the scores: the intercepts decide
        return _none_left(torch.where(flat, intercept.argmax(0), score.argmax(0)), free)
    spans = [(0, relaxation.unstable)]
    if branching == "fsb":
        spans = [(a, b) for a, b in zip(relaxation.offsets, relaxation.offsets[1:], strict=False) if b > a]
    rows = torch.cat(
        [a + s[a:b].topk(min(candidates, b - a), 0).indices for a, b in spans for s in (score, intercept)]
    )  # [K, N]
    gain = torch.stack([_worse_child(problem, at, row) for row in rows])
    gain = gain.where(free.gather(0, rows), -torch.inf)
    return _none_left(rows.gather(0, gain.argmax(0, keepdim=True))[0], free)


def scores(problem: Problem) -> tuple[Tensor, Tensor]:
    """BaBSR's estimate of what splitting each neuron gains, and its intercept alone, both `[U + 1, N]`, larger is better."""
    relaxation = problem.relaxation
    biases = [layer.bias[: layer.unstable] for layer in relaxation.network.layers[: relaxation.top]]
    bias = torch.cat((*biases, biases[0].new_zeros(1, 1)))
    intercept = -relaxation.a.clamp(max=0) * relaxation.intercept
    active, inactive = bias * relaxation.a * (relaxation.slope - 1), bias * relaxation.a * relaxation.slope
    return (torch.maximum(active, inactive) - intercept).abs(), intercept


def _worse_child(problem: Problem, at: Multipliers, row: Tensor) -> Tensor:
    """The smaller of the two children's bounds `[N]` when `row` `[N]` is split, with the parent's multipliers."""
    bounds = []
    for sign in (-1.0, 1.0):
        child, multipliers = problem.split(at, row, torch.full_like(row, sign, dtype=at.alpha.dtype))
        bounds.append(child.bound(multipliers))
    return torch.minimum(*bounds)


def _none_left(row: Tensor, free: Tensor) -> Tensor:
    return torch.where(free.any(0), row, len(free) - 1)
