"""Branch and bound over roots: each is bounded anew under its splits, searched for a while, then split in two."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgectl.assure.verify.ascent import Rates
from edgectl.assure.verify.bounds import Rows
from edgectl.assure.verify.frontier import Frontier
from edgectl.assure.verify.root import Root, narrow, output_bounds
from edgectl.assure.verify.tree import Search, Tree


@dataclass(frozen=True, eq=False)
class Task:
    """A root to refute for one clause, with its parent's bound and alphas `[U + 1, 1]`."""

    bound: float
    clause: int
    root: Root
    alpha: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of the bounds, in bytes; the network is shared with its sibling."""
        return 32 * len(self.alpha) + 2000


@dataclass(frozen=True, eq=False)
class Outcome:
    """`bound`: over what is not refuted (infinity: everything is); `branches`: splits made; `found`: a counterexample.

    `trace`: the bound over time, `(seconds of time.monotonic(), bound)`.
    """

    bound: float
    branches: int
    found: Tensor | None
    trace: list[tuple[float, float]]


class BranchAndBound:
    """Decide the clauses of a property.

    Args:
        rows, allowed: the clauses' rows, and which belong to each, `[m, clauses]`; float64.
        search: how.
        output: steps on the output's bound under a new root.
        confirm: gives a counterexample `[inputs]` if one of the points `[B, inputs]` is one.
        attack: looks for a counterexample of a clause near points `[B, inputs]`.
    """

    def __init__(
        self,
        rows: Rows,
        allowed: Tensor,
        search: Search,
        output: Rates,
        confirm: Callable[[Tensor], Tensor | None],
        attack: Callable[[Tensor, int], Tensor | None],
    ) -> None:
        self.rows, self.allowed, self.search, self.output = rows, allowed, search, output
        self.confirm, self.attack = confirm, attack
        self.tasks: Frontier[Task] = Frontier(search.memory)
        self.branches = 0
        self.found: Tensor | None = None
        self.stuck: list[float] = []
        self.trace: list[tuple[float, float]] = []
        self._working: dict[int, float] = {}  # the bound of what each thread has in hand
        self._change = threading.Condition()
        self._failure: BaseException | None = None
        self._deadline = 0.0

    @property
    def bound(self) -> float:
        """The smallest bound of what is not refuted."""
        return min([self.tasks.bound, *self._working.values(), *self.stuck])

    def run(self, tasks: list[Task], deadline: float) -> Outcome:
        """Work until nothing is left, a counterexample is found, or `time.monotonic()` passes `deadline`."""
        self.tasks.push(tasks)
        self._deadline = deadline
        threads = [threading.Thread(target=self._work, args=(i,)) for i in range(self.search.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return Outcome(self.bound, self.branches, self.found, self.trace)

    def _running(self) -> bool:
        return (
            time.monotonic() < self._deadline
            and self.found is None
            and self._failure is None
            and self.branches < self.search.branches
        )

    def _work(self, worker: int) -> None:
        torch.set_num_threads(1)
        while True:
            with self._change:
                while not len(self.tasks) and self._working and self._running():
                    self._change.wait(0.05)
                if not self._running() or not len(self.tasks):
                    self._change.notify_all()
                    return
                task = self.tasks.pop(1)[0]
                self._working[worker] = task.bound
                self.trace.append((time.monotonic(), self.bound))
            try:
                with torch.inference_mode():
                    children, left = self._refute(task)
            except BaseException as error:
                self._failure, children, left = error, [], task.bound
            with self._change:
                self.tasks.push(children)
                if left is not None:
                    self.stuck.append(left)
                del self._working[worker]
                self._change.notify_all()

    def _refute(self, task: Task) -> tuple[list[Task], float | None]:
        """The halves of a root that is not refuted; or the bound of what is left where time is up or nothing can be split."""
        root, alpha, allowed = task.root, task.alpha, self.allowed[:, task.clause : task.clause + 1]
        if self.search.narrow.steps:
            narrowed = narrow(root, self.rows, allowed, alpha, self.search.narrow, first=1)
            if narrowed is None:
                return [], None
            root, alpha = narrowed
        bound, at = output_bounds(root, self.rows, allowed, self.output, alpha)
        bound = bound.clamp(min=task.bound)
        if bound > 0:
            return [], None
        tree = Tree(root, self.rows, allowed, self.search, self.confirm)
        near = tree.plant(bound, at)
        tree.found = tree.found if tree.found is not None else self.attack(near, task.clause)
        tree.grow(1, self._running)
        halves = tree.frontier.entries
        budget = self.search.patience * 2 * sum(layer.unstable for layer in root.network.layers[1:])
        gain = tree.bound - float(bound)
        if not self.search.narrow.steps:
            tree.grow(self.search.branches - self.branches, self._running)
        elif gain > 0 and -float(bound) / gain < math.log2(1 + budget):  # a tree of so many levels is cheaper than new roots
            tree.grow(int(budget), self._running)
        with self._change:
            self.branches += tree.branches
            if tree.found is not None:
                self.found = tree.found
        if tree.bound == math.inf:
            return [], None
        if not self._running() or tree.stuck:
            return [], tree.bound
        return [Task(half.bound, task.clause, *half.under(root)) for half in halves], None
