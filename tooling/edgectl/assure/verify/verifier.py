"""One property of one network: attack, bound, branch; a verdict."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgectl.assure.verify.ascent import Rates
from edgectl.assure.verify.attack import Checker, descend, outputs, slack
from edgectl.assure.verify.bab import BranchAndBound, Task
from edgectl.assure.verify.bounds import Box, Rows
from edgectl.assure.verify.graph import Graph
from edgectl.assure.verify.inputs import InputSearch
from edgectl.assure.verify.network import Network, normal_form
from edgectl.assure.verify.properties import Property
from edgectl.assure.verify.root import intermediate, output_bounds
from edgectl.assure.verify.tree import Search

FIRST_RESTARTS, FIRST_STEPS = 4, 30  # of the attack before any bound: enough for most of what is false
AGAIN_STEPS = 15  # of the attack from every root's minimiser


@dataclass(frozen=True)
class Options:
    """How hard to try.

    Attributes:
        timeout: seconds in all.
        restarts, attack_steps: of the attack on each clause that bounds leave open.
        root, output, again: steps on intermediate bounds, on the output's, and on the output's under a new root.
        search: branch and bound on ReLUs.
        few_inputs: networks of no more inputs are searched by halving inputs instead.
        seed: of the attack.
    """

    timeout: float = 120.0
    restarts: int = 30
    attack_steps: int = 60
    root: Rates = field(default_factory=lambda: Rates(20, 0.1))
    output: Rates = field(default_factory=lambda: Rates(100, 0.1))
    again: Rates = field(default_factory=lambda: Rates(30, 0.1))
    search: Search = field(default_factory=Search)
    few_inputs: int = 12
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Verdict:
    """What came out.

    Attributes:
        verdict: `verified`: no input of the box breaks the property; `falsified`: `counterexample` does; `unknown`: time is up.
        bound: of the slack, the largest `row . y - threshold` of a clause's rows, over all clauses and inputs.  Verified: it is
            above this (0 when that took splits of neurons).  Unknown: not below this.  Falsified: the counterexample's.
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

    check, every = Checker(graph, prop), list(range(len(prop.clauses)))
    if (x := check(descend(graph, prop, every, FIRST_RESTARTS, FIRST_STEPS, generator))) is not None:
        return verdict("falsified", least_of(graph, prop, x), 0, x)
    network = network or normal_form(graph, torch.float64)
    box = Box(prop.lower[:, None], prop.upper[:, None])
    rows = Rows(torch.cat([c.rows for c in prop.clauses]), torch.cat([c.bound for c in prop.clauses])[:, None])
    allowed = torch.block_diag(*(torch.ones(len(c.bound), 1, dtype=torch.float64) for c in prop.clauses))
    if network.inputs <= options.few_inputs:
        with torch.inference_mode():
            halving = InputSearch(network, box, rows, allowed, options.search.memory, check)
            bound = halving.run(lambda: time.monotonic() < begin + options.timeout)
        found, branches, least = halving.found, halving.branches, halving.least
    else:
        with torch.inference_mode():
            root = intermediate(network, box, options.root)
            bounds, at = output_bounds(root, rows, allowed, options.output)
        left = (bounds <= 0).nonzero()[:, 0].tolist()
        if not left:
            return verdict("verified", float(bounds.min()))
        if (x := check(descend(graph, prop, left, options.restarts, options.attack_steps, generator))) is not None:
            return verdict("falsified", least_of(graph, prop, x), 0, x)

        def attack(x: Tensor, clause: int) -> Tensor | None:
            with torch.inference_mode(False):
                start = x.clone()
                return check(descend(graph, prop, [clause], 0, AGAIN_STEPS, torch.Generator().manual_seed(options.seed), start))

        search = BranchAndBound(rows, allowed, options.search, options.again, check, attack)
        tasks = [Task(float(bounds[c]), c, root, at.alpha[:, c : c + 1]) for c in left]
        outcome = search.run(tasks, begin + options.timeout)
        bound, found, branches, least = outcome.bound, outcome.found, outcome.branches, 0.0
    if found is not None:
        return verdict("falsified", least_of(graph, prop, found), branches, found)
    if bound == math.inf:
        return verdict("verified", least, branches)
    return verdict("unknown", bound, branches)


def least_of(graph: Graph, prop: Property, x: Tensor) -> float:
    """The smallest slack of any clause at an input `[inputs]`, in float64."""
    return float(slack(prop, outputs(graph.to(torch.float64), x[None])).min())
