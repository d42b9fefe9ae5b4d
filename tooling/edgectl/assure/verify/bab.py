"""Branch and bound on the signs of ReLUs: batches of the worst domains, split, bounded by beta-CROWN from their parents' multipliers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgectl.assure.verify.bounds import Multipliers, Problem, Rates, Rows, Splits
from edgectl.assure.verify.branching import Branching, choose
from edgectl.assure.verify.frontier import Domain, Frontier, stack
from edgectl.assure.verify.root import Root

CLAIM = 1e-5  # float32 bound from which a domain is handed to float64


@dataclass(frozen=True)
class Search:
    """How to branch and bound.

    Attributes:
        branching: rule for the neuron to split.
        candidates: how many neurons by each score fsb and kfsb try.
        batch: parents of one batch.
        threads: batches in work at once.
        rates: the optimiser's steps on every batch.
        memory: bytes of waiting domains kept out of the disk.
        seed: of random branching.
    """

    branching: Branching = "kfsb"
    candidates: int = 3
    batch: int = 64
    threads: int = 2
    rates: Rates = field(default_factory=lambda: Rates(20, 0.05, 0.05, 0.05))
    memory: int = 2 << 30
    seed: int = 0


@dataclass(eq=False)
class Outcome:
    """`bound`: over what is not refuted (infinity: every clause is); `branches`: splits made; `found`: a counterexample."""

    bound: float
    branches: int
    found: Tensor | None
    stuck: int
    trace: list[tuple[float, float]]


class BranchAndBound:
    """Decide the clauses of a property over one root.

    Args:
        root: the network over the box, float64.
        rows, allowed: the clauses' rows, and which belong to each, `[m, clauses]`; float64.
        confirm: gives a counterexample `[inputs]` if one of the points `[B, inputs]` is one.
    """

    def __init__(
        self, root: Root, rows: Rows, allowed: Tensor, search: Search, confirm: Callable[[Tensor], Tensor | None]
    ) -> None:
        self.root, self.rows, self.allowed, self.search, self.confirm = root, rows, allowed, search, confirm
        self.quick_rows, self.quick_allowed = rows.to(torch.float32), allowed.to(torch.float32)
        self.frontier = Frontier(search.memory)
        self.branches = 0
        self.found: Tensor | None = None
        self.stuck: list[float] = []  # bounds of domains with nothing left to split
        self.trace: list[tuple[float, float]] = []
        self._working: dict[int, float] = {}  # the smallest bound in each thread's hands
        self._change = threading.Condition()
        self._failure: BaseException | None = None

    @property
    def bound(self) -> float:
        """The smallest bound of what is not refuted."""
        return min([self.frontier.bound, *self._working.values(), *self.stuck])

    def run(self, clauses: Tensor, bounds: Tensor, at: Multipliers, deadline: float) -> Outcome:
        """Branch and bound until nothing is left, a counterexample is found, or `time.monotonic()` passes `deadline`.

        `clauses` `[N]` with the root's `bounds` and float32 multipliers.
        """
        generator = torch.Generator().manual_seed(self.search.seed)
        problem = Problem(self.root.quick.relax(len(clauses)), self.quick_rows, self.quick_allowed[:, clauses])
        self._enter(problem, at, clauses, bounds, generator)
        threads = [threading.Thread(target=self._work, args=(i, deadline)) for i in range(self.search.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return Outcome(self.bound, self.branches, self.found, len(self.stuck), self.trace)

    def _work(self, worker: int, deadline: float) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(self.search.seed + worker + 1)
        while True:
            with self._change:
                while not len(self.frontier) and self._working and not self._over(deadline):
                    self._change.wait(0.05)
                if self._over(deadline) or not len(self.frontier):
                    self._change.notify_all()
                    return
                share = -(-len(self.frontier) // self.search.threads)
                parents = self.frontier.pop(min(self.search.batch, max(share, 4)))
                self._working[worker] = parents[0].bound
                self.trace.append((time.monotonic(), self.bound))
            try:
                with torch.inference_mode():
                    self._expand(parents, generator)
            except BaseException as error:
                self._failure = error
            finally:
                with self._change:
                    del self._working[worker]
                    self._change.notify_all()

    def _over(self, deadline: float) -> bool:
        return time.monotonic() > deadline or self.found is not None or self._failure is not None

    def _expand(self, parents: list[Domain], generator: torch.Generator) -> None:
        """Split every parent in two, bound the children, and put back those that are not refuted."""
        empty, depth = self.root.lower.shape[0], max(len(p.rows) for p in parents) + 1
        rows = torch.from_numpy(stack([np.append(p.rows, p.choice) for p in parents], depth, empty, np.int64))
        sign = torch.from_numpy(stack([np.append(p.signs, 1) for p in parents], depth, 0, np.float32))
        beta = torch.from_numpy(stack([p.beta for p in parents], depth, 0, np.float32))
        last = torch.tensor([len(p.rows) for p in parents])
        alpha = torch.from_numpy(np.stack([p.alpha for p in parents], 1)).float()
        gamma = torch.from_numpy(np.stack([p.gamma for p in parents], 1))
        other = sign.clone()
        other[last, torch.arange(len(parents))] = -1
        splits = Splits(rows.repeat(1, 2), torch.cat((sign, other), 1))
        at = Multipliers(alpha.repeat(1, 2), beta.repeat(1, 2), gamma.repeat(1, 2))
        clauses = torch.tensor([p.clause for p in parents]).repeat(2)
        problem = Problem(self.root.quick.relax(len(clauses), splits=splits), self.quick_rows, self.quick_allowed[:, clauses])
        problem.ascend(at, self.search.rates, target=CLAIM)
        exact = Problem(self.root.relax(len(clauses), splits=splits.to(torch.float64)), self.rows, self.allowed[:, clauses])
        bounds = torch.maximum(exact.bound(at.to(torch.float64)), torch.tensor([p.bound for p in parents]).repeat(2))
        with self._change:
            self.branches += len(parents)
        left = (bounds <= 0).nonzero()[:, 0]
        if len(left):
            self._enter(problem.columns(left), at.columns(left), clauses[left], bounds[left], generator)

    def _enter(self, problem: Problem, at: Multipliers, clauses: Tensor, bounds: Tensor, generator: torch.Generator) -> None:
        """Look for a counterexample at the problems' minimisers, choose what each splits next, and queue them."""
        problem.bound(at)
        found = self.confirm(problem.relaxation.minimiser(0)[0].t())
        choice = choose(problem, at, self.search.branching, self.search.candidates, generator)
        alpha, splits = at.alpha.t().half().numpy(), problem.relaxation.splits
        assert at.gamma is not None
        gamma = at.gamma.t().numpy()
        domains, stuck = [], []
        for i in range(len(clauses)):
            if int(choice[i]) == problem.relaxation.unstable:
                stuck.append(float(bounds[i]))
                continue
            if splits is None or at.beta is None:
                rows, signs, beta = np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.float32)
            else:
                used = splits.sign[:, i] != 0
                rows = splits.row[used, i].numpy().astype(np.int32)
                signs, beta = splits.sign[used, i].numpy().astype(np.int8), at.beta[used, i].numpy()
            domains.append(
                Domain(float(bounds[i]), int(clauses[i]), rows, signs, alpha[i].copy(), beta, gamma[i].copy(), int(choice[i]))
            )
        with self._change:
            self.stuck += stuck
            self.frontier.push(domains)
            if found is not None:
                self.found = found
            self._change.notify_all()
