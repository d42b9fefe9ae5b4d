"""Branch and bound under one root, whose intermediate bounds stay: batches of the worst domains, split and bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgectl.assure.verify.ascent import Multipliers, Problem, Rates
from edgectl.assure.verify.bounds import Rows, Splits
from edgectl.assure.verify.branching import Branching, choose
from edgectl.assure.verify.frontier import Array, Frontier, stack
from edgectl.assure.verify.leaf import FEASIBLE, least_slack
from edgectl.assure.verify.root import Root

CLAIM = 1e-5  # float32 bound from which the search rests and float64 decides


@dataclass(frozen=True)
class Search:
    """How to branch and bound.

    Attributes:
        branching: rule for the neuron to split.
        candidates: how many neurons by each score fsb and kfsb try.
        batch: parents of one batch.
        threads: roots in work at once.
        rates: the optimiser's steps on every batch.
        narrow: its steps on the bounds of single neurons under a new root; 0 steps: the first root serves all.
        patience: branches under one root, as a share of the bounds narrowed for it, that are worth avoiding two more roots.
        branches: splits after which the search stops, decided or not.
        memory: bytes of waiting domains kept out of the disk.
        seed: of random branching.
    """

    branching: Branching = "kfsb"
    candidates: int = 3
    batch: int = 64
    threads: int = 2
    rates: Rates = field(default_factory=lambda: Rates(20, 0.05, 0.05, 0.05))
    narrow: Rates = field(default_factory=lambda: Rates(10, 0.2, 0.2, 0.5))
    patience: float = 0.25
    branches: int = 1 << 62
    memory: int = 2 << 30
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Domain:
    """One subproblem: the neurons fixed besides the root's, what warm-starts its children, and the neuron they split.

    `rows` int32 `[d]` and `signs` int8 `[d]` as `bounds.Splits`, `alpha` float16 `[U + 1]`, `beta` float32 `[root's + d]`,
    `gamma` float32 `[m]`.
    """

    bound: float
    rows: Array
    signs: Array
    alpha: Array
    beta: Array
    gamma: Array
    choice: int

    @property
    def nbytes(self) -> int:
        """Memory it holds, in bytes."""
        return 500 + sum(a.nbytes for a in (self.rows, self.signs, self.alpha, self.beta, self.gamma))

    def under(self, root: Root) -> tuple[Root, Tensor]:
        """The root of this domain alone, and its alphas `[U + 1, 1]`, float32."""
        for row, sign in zip(self.rows.tolist(), self.signs.tolist(), strict=True):
            root = root.split(row, sign)
        return root, torch.from_numpy(self.alpha).float()[:, None]


class Tree:
    """The domains of one clause under one root.

    Args:
        root: float64.
        rows, allowed: the property's rows and which belong to the clause, `[m, 1]`; float64.
        confirm: gives a counterexample `[inputs]` if one of the points `[B, inputs]` is one.
    """

    def __init__(
        self, root: Root, rows: Rows, allowed: Tensor, search: Search, confirm: Callable[[Tensor], Tensor | None]
    ) -> None:
        self.root, self.rows, self.allowed, self.search, self.confirm = root, rows, allowed, search, confirm
        self.quick_rows, self.quick_allowed = rows.to(torch.float32), allowed.to(torch.float32)
        self.frontier: Frontier[Domain] = Frontier(search.memory)
        self.branches = 0
        self.found: Tensor | None = None
        self.stuck: list[float] = []  # bounds of domains with nothing left to split
        self.generator = torch.Generator().manual_seed(search.seed)

    @property
    def bound(self) -> float:
        """The smallest bound of what is not refuted; infinity where all is."""
        return min([self.frontier.bound, *self.stuck])

    def plant(self, bound: Tensor, at: Multipliers) -> Tensor:
        """Start from the root, its bound `[1]` and float32 multipliers; returns its minimiser `[1, inputs]`."""
        problem = self._problem(1)
        self._enter(problem, at, None, bound)
        return problem.relaxation.minimiser(0)[0].t()

    def grow(self, budget: int, running: Callable[[], bool]) -> None:
        """Split until nothing is left, a counterexample is found, `budget` branches are made, or `running` says no."""
        while len(self.frontier) and self.found is None and self.branches < budget and running():
            self._expand(self.frontier.pop(self.search.batch))

    def _problem(self, columns: int, splits: Splits | None = None, exact: bool = False) -> Problem:
        if exact:
            splits = splits and splits.to(torch.float64)
            return Problem(self.root.relax(columns, splits=splits), self.rows, self.allowed.expand(-1, columns))
        return Problem(self.root.quick.relax(columns, splits=splits), self.quick_rows, self.quick_allowed.expand(-1, columns))

    def _expand(self, parents: list[Domain]) -> None:
        """Split every parent in two, bound the children, and put back those that are not refuted."""
        number, depth = len(parents), max(len(p.rows) for p in parents) + 1
        fixed = len(self.root.splits.row)
        rows = torch.from_numpy(stack([np.append(p.rows, p.choice) for p in parents], depth, len(self.root.lower), np.int64))
        sign = torch.from_numpy(stack([np.append(p.signs, 1) for p in parents], depth, 0, np.float32))
        beta = torch.from_numpy(stack([p.beta for p in parents], fixed + depth, 0, np.float32))
        other = sign.clone()
        other[[len(p.rows) for p in parents], range(number)] = -1
        alpha = torch.from_numpy(np.stack([p.alpha for p in parents], 1)).float()
        gamma = torch.from_numpy(np.stack([p.gamma for p in parents], 1))
        splits = Splits(rows.repeat(1, 2), torch.cat((sign, other), 1))
        at = Multipliers(alpha.repeat(1, 2), beta.repeat(1, 2), gamma.repeat(1, 2))
        problem = self._problem(2 * number, splits)
        problem.ascend(at, self.search.rates, target=CLAIM)
        bounds = self._problem(2 * number, splits, exact=True).bound(at.to(torch.float64))
        bounds = torch.maximum(bounds, torch.tensor([p.bound for p in parents]).repeat(2))
        self.branches += number
        left = (bounds <= 0).nonzero()[:, 0]
        if len(left):
            self._enter(problem.columns(left), at.columns(left), splits.columns(left), bounds[left])

    def _leaf(self, bound: float, splits: Splits | None) -> None:
        """Decide a domain in which every neuron is fixed."""
        fixed = self.root.splits if splits is None else self.root.splits.join(splits.to(torch.float64))
        sign = self.root.lower.new_zeros(len(self.root.lower) + 1).scatter(0, fixed.row[:, 0], fixed.sign[:, 0])
        slack, x = least_slack(self.root, sign[:-1], self.rows, self.allowed)
        if x is not None and slack <= FEASIBLE and self.found is None:
            self.found = self.confirm(x[None])
        if slack <= FEASIBLE and self.found is None:
            self.stuck.append(bound)

    def _enter(self, problem: Problem, at: Multipliers, splits: Splits | None, bounds: Tensor) -> None:
        """Look for a counterexample at the problems' minimisers, choose what each splits next, and queue them.

        `splits` are those besides the root's.
        """
        problem.bound(at)
        self.found = self.confirm(problem.relaxation.minimiser(0)[0].t())
        choice = choose(problem, at, self.search.branching, self.search.candidates, self.generator)
        fixed = len(self.root.splits.row)
        alpha = at.alpha.t().half().numpy()
        beta = np.zeros((0, len(choice)), np.float32) if at.beta is None else at.beta.numpy()
        gamma = np.zeros((0, len(choice)), np.float32) if at.gamma is None else at.gamma.numpy()
        for i, row in enumerate(choice.tolist()):
            if row == problem.relaxation.unstable:
                self._leaf(float(bounds[i]), splits and splits.columns(torch.tensor([i])))
                continue
            rows, signs, used = np.zeros(0, np.int32), np.zeros(0, np.int8), np.ones(len(beta), bool)
            if splits is not None:
                here = (splits.sign[:, i] != 0).numpy()
                rows, signs = splits.row[here, i].numpy().astype(np.int32), splits.sign[here, i].numpy().astype(np.int8)
                used = np.append(np.ones(fixed, bool), here)
            self.frontier.push([Domain(float(bounds[i]), rows, signs, alpha[i].copy(), beta[used, i], gamma[:, i].copy(), row)])
