"""Verdicts against exact ones, and how the search behaves on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from small_networks import Drawn, box_of, drawn, inside, minimum

from edgectl.assure.verify.ascent import Rates
from edgectl.assure.verify.attack import slack
from edgectl.assure.verify.bounds import Box, interval
from edgectl.assure.verify.frontier import Frontier
from edgectl.assure.verify.graph import Graph, Relu
from edgectl.assure.verify.network import normal_form
from edgectl.assure.verify.properties import Clause, Property
from edgectl.assure.verify.tree import Search
from edgectl.assure.verify.verifier import Options, Verdict, verify

QUICK = Options(timeout=120, restarts=2, attack_steps=10, few_inputs=0, search=Search(threads=1))


def exact_minimum(graph: Graph, box: Box, row: torch.Tensor) -> float:
    network = normal_form(graph, torch.float64)
    return minimum(network, box, row, [(low[:, 0], high[:, 0]) for low, high in interval(network, box)[:-1]])


def asked(box: Box, *clauses: tuple[list[list[float]], list[float]]) -> Property:
    made = tuple(Clause(torch.tensor(rows).double(), torch.tensor(bound).double()) for rows, bound in clauses)
    return Property("asked", box.lower[:, 0], box.upper[:, 0], made)


def check(graph: Graph, prop: Property, found: Verdict, safe: bool) -> None:
    assert found.verdict == ("verified" if safe else "falsified")
    if found.counterexample is not None:
        x = found.counterexample
        assert (prop.lower <= x).all()
        assert (x <= prop.upper).all()
        y = graph.forward(x.reshape(1, *graph.input.shape).float()).reshape(1, -1)
        assert (slack(prop, y.double()) <= 0).any()


@pytest.mark.parametrize("narrow", [0, 10])
@pytest.mark.parametrize("seed", range(18))
def test_verdicts_are_those_of_mixed_integer_programming(seed: int, narrow: int) -> None:
    graph = drawn(seed)
    box = box_of(graph, seed)
    row = [1.0, -1.0, 0.5]
    exact = exact_minimum(graph, box, torch.tensor(row).double())
    options = replace(QUICK, search=replace(QUICK.search, narrow=Rates(narrow, 0.2, 0.2, 0.5)))
    for margin in (-0.01, 0.01):
        prop = asked(box, ([row], [exact + margin]))
        found = verify(graph.to(torch.float32), prop, options)
        check(graph.to(torch.float32), prop, found, safe=margin < 0)
        assert found.bound >= 0 or margin > 0


@pytest.mark.parametrize("seed", [0, 3, 6, 9, 2, 5])
def test_halving_few_inputs_gives_the_same_verdicts(seed: int) -> None:
    graph = drawn(seed)
    box = box_of(graph, seed)
    row = [1.0, -1.0, 0.5]
    exact = exact_minimum(graph, box, torch.tensor(row).double())
    for margin in (-0.02, 0.02):
        prop = asked(box, ([row], [exact + margin]))
        check(
            graph.to(torch.float32), prop, verify(graph.to(torch.float32), prop, replace(QUICK, few_inputs=4)), safe=margin < 0
        )


@pytest.mark.parametrize("seed", range(6))
def test_a_conjunction_is_refuted_by_its_rows_together(seed: int) -> None:
    """`y0 >= y1 and y1 >= y0 + 0.2` cannot be, though either alone can."""
    graph = drawn(seed)
    box = box_of(graph, seed)
    found = verify(graph.to(torch.float32), asked(box, ([[-1, 1, 0], [1, -1, 0]], [0.0, -0.2])), QUICK)
    assert found.verdict == "verified"


def test_any_clause_of_a_disjunction_is_enough_for_a_counterexample() -> None:
    graph = drawn(3)
    box = box_of(graph, 3)
    exact = exact_minimum(graph, box, torch.tensor([1.0, 0.0, 0.0]).double())
    prop = asked(box, ([[1, 0, 0]], [exact - 1]), ([[1, 0, 0]], [exact + 0.1]))
    check(graph.to(torch.float32), prop, verify(graph.to(torch.float32), prop, QUICK), safe=False)


def wide(seed: int) -> Graph:
    """Large enough to need a few dozen branches."""
    net = Drawn(seed, (6,))
    for _ in range(3):
        net.linear(16)
        net.add(Relu)
    net.linear(2)
    return net.graph


def hard(seed: int, share: float = 0.25) -> tuple[Graph, Property]:
    """A true property whose margin is a share of what the root's bound is short of the least sampled output."""
    graph = wide(seed)
    box = box_of(graph, seed)
    box = Box(box.centre - 0.6, box.centre + 0.6)
    row = torch.tensor([1.0, -1.0]).double()
    exact = exact_minimum(graph, box, row)
    return graph.to(torch.float32), asked(box, ([row.tolist()], [exact - share * 0.2]))


def test_the_bound_of_an_early_stop_only_rises() -> None:
    graph, prop = hard(1, 0.05)
    bounds = [
        verify(graph, prop, replace(QUICK, search=replace(QUICK.search, narrow=Rates(0), branches=limit, batch=4))).bound
        for limit in (0, 8, 32, 128)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


@pytest.mark.slow
def test_filtered_branching_needs_fewer_branches_than_babsr_and_babsr_fewer_than_chance() -> None:
    means = {}
    for branching in ("kfsb", "fsb", "babsr", "random"):
        counts = []
        for seed in range(30):
            graph, prop = hard(seed, 2.0)
            search = replace(QUICK.search, branching=branching, narrow=Rates(0), batch=8, branches=2000)
            found = verify(graph, prop, replace(QUICK, restarts=1, attack_steps=1, search=search))
            assert found.verdict == "verified" or found.branches >= 2000
            counts.append(1 + found.branches)
        means[branching] = math.exp(sum(map(math.log, counts)) / len(counts))
    assert means["kfsb"] < means["babsr"] < means["random"]
    assert means["fsb"] < means["babsr"]


@dataclass(frozen=True)
class Waiting:
    bound: float
    nbytes: int = 100


def test_a_full_queue_waits_on_disk_and_keeps_its_order() -> None:
    queue: Frontier[Waiting] = Frontier(limit=1000)
    bounds = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    for bound in bounds:
        queue.push([Waiting(bound)])
        assert queue.bytes <= 1000
    assert len(queue) == 200
    assert queue.bound == min(bounds)
    assert [entry.bound for entry in queue.pop(200)] == sorted(bounds)
    assert not len(queue)


def test_the_same_verdict_with_a_queue_of_no_memory() -> None:
    graph, prop = hard(2)
    found = [
        verify(graph, prop, replace(QUICK, search=replace(QUICK.search, narrow=Rates(0), memory=memory)))
        for memory in (1, 1 << 30)
    ]
    assert [f.verdict for f in found] == ["verified", "verified"]


def test_points_of_the_box_never_contradict_verified() -> None:
    graph, prop = hard(4)
    assert verify(graph, prop, QUICK).verdict == "verified"
    x = inside(Box(prop.lower[:, None], prop.upper[:, None]), 5000).float()
    assert (slack(prop, graph.forward(x).double()) > 0).all()
