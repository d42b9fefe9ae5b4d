"""Branch and bound on the input box: where inputs are few, halving them beats fixing neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgectl.assure.verify.ascent import Problem
from edgectl.assure.verify.bounds import Box, Relaxation, Rows, interval, pick
from edgectl.assure.verify.frontier import Frontier
from edgectl.assure.verify.network import Network

BOXES = 64  # bounded together: every neuron of every box is a column


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of the box, `lower` and `upper` `[inputs]`, its bound, and the input to halve next."""

    bound: float
    lower: Tensor
    upper: Tensor
    widest: int

    @property
    def nbytes(self) -> int:
        """Memory it holds, in bytes."""
        return 1000 + 16 * len(self.lower)


class InputSearch:
    """Decide a property by halving inputs, every piece bounded anew by CROWN in float64.

    Args:
        network, box: float64; box `[inputs, 1]`.
        rows, allowed: the clauses' rows, and which belong to each, `[m, clauses]`.
        memory: bytes of waiting pieces kept out of the disk.
        confirm: gives a counterexample `[inputs]` if one of the points `[B, inputs]` is one.
    """

    def __init__(
        self, network: Network, box: Box, rows: Rows, allowed: Tensor, memory: int, confirm: Callable[[Tensor], Tensor | None]
    ) -> None:
        self.network, self.rows, self.allowed, self.confirm = network, rows, allowed, confirm
        self.frontier: Frontier[Part] = Frontier(memory)
        self.branches = 0
        self.least = float("inf")  # bound of what is refuted
        self.found: Tensor | None = None
        self._enter(box.lower, box.upper, torch.tensor([-torch.inf], dtype=torch.float64))

    def run(self, running: Callable[[], bool]) -> float:
        """Halve until nothing is left, a counterexample is found or `running` says no; the bound over what is left."""
        while len(self.frontier) and self.found is None and running():
            parts = self.frontier.pop(BOXES // 2)
            self.branches += len(parts)
            lower, upper = torch.stack([p.lower for p in parts], 1), torch.stack([p.upper for p in parts], 1)
            which, column = torch.tensor([p.widest for p in parts]), torch.arange(len(parts))
            middle = (lower[which, column] + upper[which, column]) / 2
            left, right = upper.clone(), lower.clone()
            left[which, column], right[which, column] = middle, middle
            known = torch.tensor([p.bound for p in parts], dtype=torch.float64).repeat(2)
            self._enter(torch.cat((lower, right), 1), torch.cat((left, upper), 1), known)
        return self.frontier.bound

    def _enter(self, lower: Tensor, upper: Tensor, known: Tensor) -> None:
        """Bound pieces `[inputs, N]`, look for a counterexample at their minimisers, and queue what is not refuted."""
        number, clauses = lower.shape[1], self.allowed.shape[1]
        low, high = self._layers(lower, upper)
        top = len(self.network.layers) - 1
        wide = [t.repeat(1, clauses) for t in (lower, upper, low, high)]
        relaxation = Relaxation(self.network, Box(*wide[:2]), wide[2], wide[3], top, number * clauses)
        problem = Problem(relaxation, self.rows, self.allowed.repeat_interleave(number, 1))
        bounds, worst = problem.bound(problem.first()).reshape(clauses, number).min(0)
        bounds = torch.maximum(bounds, known)
        self.least = min([self.least, *bounds[bounds > 0].tolist()])
        column = worst * number + torch.arange(number)
        self.found = self.confirm(relaxation.minimiser(0)[0][:, column].t())
        pull = relaxation.ax[:, column].abs()
        pull = pull.clamp(min=0.1 * float(pull.mean()))  # an input the bound does not lean on may still loosen its relaxation
        widest = (pull * (upper - lower)).argmax(0)
        self.frontier.push(
            [Part(float(bounds[i]), lower[:, i], upper[:, i], int(widest[i])) for i in (bounds <= 0).nonzero()[:, 0].tolist()]
        )

    def _layers(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds `[U, N]` of every neuron over N pieces, layer by layer."""
        number, box = lower.shape[1], Box(lower, upper)
        low, high = interval(self.network, box, 1)[0]
        for k in range(1, len(self.network.layers) - 1):
            size = self.network.layers[k].size
            neurons = torch.arange(size).repeat(2).repeat_interleave(number)
            signs = torch.tensor([1, -1]).repeat_interleave(size * number)
            boxes = Box(lower.repeat(1, 2 * size), upper.repeat(1, 2 * size))
            below = low.repeat(1, 2 * size), high.repeat(1, 2 * size)
            relaxation = Relaxation(self.network, boxes, *below, k, len(neurons))
            problem = Problem(relaxation, None, picked=pick(self.network, k, neurons, signs))
            found = problem.bound(problem.first()).reshape(2, size, number)
            low, high = torch.cat((low, found[0])), torch.cat((high, -found[1]))
        return low, high
