"""Searching for counterexamples by projected gradient descent with restarts (arXiv 1706.06083)."""

from __future__ import annotations

import torch
from torch import Tensor

from edgectl.assure.verify.graph import Graph
from edgectl.assure.verify.properties import Property


def slack(prop: Property, y: Tensor) -> Tensor:
    """How far outputs `[B, outputs]` are from each clause: `[B, clauses]`, at most 0 where one holds."""
    return torch.stack([(y @ c.rows.t().to(y) - c.bound.to(y)).amax(1) for c in prop.clauses], 1)


class Checker:
    """Whether points break a property: kept in float64 and float32, to ask often."""

    def __init__(self, graph: Graph, prop: Property) -> None:
        self.prop, self.double, self.single = prop, graph.to(torch.float64), graph.to(torch.float32)

    def __call__(self, x: Tensor) -> Tensor | None:
        """The first of inputs `[B, inputs]` that breaks the property in float32 and in float64, `[inputs]` float64, or None."""
        x = torch.minimum(torch.maximum(x.double(), self.prop.lower), self.prop.upper)
        hits = x[(slack(self.prop, outputs(self.single, x.float()).double()) <= 0).any(1)]
        if len(hits):
            hits = hits[(slack(self.prop, outputs(self.double, hits)) <= 0).any(1)]
        return hits[0] if len(hits) else None


def outputs(graph: Graph, x: Tensor) -> Tensor:
    """Outputs `[B, outputs]` for flat inputs `[B, inputs]`."""
    return graph.forward(x.reshape(len(x), *graph.input.shape)).reshape(len(x), -1)


def descend(
    graph: Graph,
    prop: Property,
    clauses: list[int],
    restarts: int,
    steps: int,
    generator: torch.Generator,
    start: Tensor | None = None,
) -> Tensor:
    """Signed gradient descent on the slack of each of `clauses`, from random points of the box.

    Half of the restarts first move along a random direction of the output (output-diversified starts, arXiv 2003.06878).
    `start` `[S, inputs]` adds given starts for every clause.  Returns the best points `[B, inputs]`, float32.
    """
    lower, upper = prop.lower.float(), prop.upper.float()
    width = upper - lower
    given = torch.empty(0, len(lower)) if start is None else start.float()
    count = restarts + len(given)
    random = torch.rand(restarts, len(clauses), len(lower), generator=generator)
    x = torch.cat((lower + width * random, given[:, None].expand(-1, len(clauses), -1))).reshape(count * len(clauses), -1)
    target = torch.tensor(clauses).repeat(count)
    single = graph.to(torch.float32)
    direction = torch.randn(len(x), graph.output.size, generator=generator)
    direction[len(x) // 2 :] = 0
    best, best_x = torch.full((len(x),), torch.inf), x.clone()
    for step in range(-5, steps):
        x.requires_grad_(True)
        y = outputs(single, x)
        value = slack(prop, y).gather(1, target[:, None])[:, 0]
        loss = value if step >= 0 else torch.where(direction.any(1), (direction * y).sum(1), value)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        x, value = x.detach(), value.detach()
        better = value < best
        best[better], best_x[better] = value[better], x[better]
        if best.min() <= 0:
            break
        rate = 0.3 if step < 0 else 0.25 * (1 - step / steps) ** 1.5 + 0.002
        x = torch.minimum(torch.maximum(x - rate * width * gradient.sign(), lower), upper)
    return best_x
