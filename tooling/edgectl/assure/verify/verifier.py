"""One property of one network: attack, bound, branch; a verdict."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgectl.assure.verify.attack import Checker, descend
from edgectl.assure.verify.bab import BranchAndBound, Task
from edgectl.assure.verify.bounds import Box, Rates, Rows
from edgectl.assure.verify.graph import Graph
from edgectl.assure.verify.network import Network, normal_form
from edgectl.assure.verify.properties import Property
from edgectl.assure.verify.root import intermediate, output_bounds
from edgectl.assure.verify.tree import Search


@dataclass(frozen=True)
class Options:
    """How hard to try: seconds in all, restarts and steps of the attack, steps of alpha-CROWN, the search."""

    timeout: float = 120.0
    restarts: int = 30
    attack_steps: int = 60
    root: Rates = field(default_factory=lambda: Rates(20, 0.1))
    output: Rates = field(default_factory=lambda: Rates(100, 0.1))
    again: Rates = field(default_factory=lambda: Rates(30, 0.1))
    search: Search = field(default_factory=Search)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Verdict:
    """What came out.

    Attributes:
        verdict: `verified`: no input of the box breaks the property; `falsified`: `counterexample` does; `unknown`: time is up.
        bound: the smallest lower bound of any clause's slack: positive where verified.
        branches: splits made.
        seconds: wall time.
        counterexample: an input `[inputs]`, float64, or None.
    """

    verdict: Literal["verified", "falsified", "unknown"]
    bound: float
    branches: int
    seconds: float
    counterexample: Tensor | None = None


def verify(graph: Graph, prop: Property, options: Options, network: Network | None = None) -> Verdict:
    """Decide a property; `network` is `normal_form(graph, torch.float64)` where many properties share it."""
    begin = time.monotonic()
    generator = torch.Generator().manual_seed(options.seed)

    def verdict(
        kind: Literal["verified", "falsified", "unknown"], bound: float, branches: int = 0, x: Tensor | None = None
    ) -> Verdict:
        return Verdict(kind, bound, branches, time.monotonic() - begin, x)

    check = Checker(graph, prop)
    points, _ = descend(graph, prop, list(range(len(prop.clauses))), options.restarts, options.attack_steps, generator)
    if (x := check(points)) is not None:
        return verdict("falsified", -math.inf, 0, x)
    network = network or normal_form(graph, torch.float64)
    with torch.inference_mode():
        root = intermediate(network, Box(prop.lower[:, None], prop.upper[:, None]), options.root)
        rows = Rows(torch.cat([c.rows for c in prop.clauses]), torch.cat([c.bound for c in prop.clauses])[:, None])
        allowed = torch.block_diag(*(torch.ones(len(c.bound), 1, dtype=torch.float64) for c in prop.clauses))
        bounds, at = output_bounds(root, rows, allowed, options.output)
        left = (bounds <= 0).nonzero()[:, 0]
        least = float(bounds.min())
        if not len(left):
            return verdict("verified", least)
        search = BranchAndBound(rows, allowed, options.search, options.again, check)
        tasks = [Task(float(bounds[c]), c, root, at.alpha[:, c : c + 1]) for c in left.tolist()]
        outcome = search.run(tasks, begin + options.timeout)
    if outcome.found is not None:
        return verdict("falsified", outcome.bound, outcome.branches, outcome.found)
    if outcome.bound == math.inf:
        return verdict("verified", max(least, 0.0), outcome.branches)
    return verdict("unknown", outcome.bound, outcome.branches)
