"""Bounds of every neuron over the whole box, layer by layer, and the network that they leave.

Multipliers are searched for in float32 and every bound that counts is then evaluated with them in float64: rounding in the search
costs tightness, never soundness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from edgectl.assure.verify.bounds import Box, Multipliers, Problem, Rates, Relaxation, Rows, Splits, interval, pick
from edgectl.assure.verify.network import Network

COLUMNS = 512  # problems of one batch: what keeps a few thousand neurons' buffers near the caches


@dataclass(frozen=True, eq=False)
class Root:
    """A network restricted to what can be positive over `box`, with the bounds `[U, 1]` of its unstable neurons, stacked."""

    network: Network
    box: Box
    lower: Tensor
    upper: Tensor

    @cached_property
    def quick(self) -> Root:
        """The same in float32, to search with."""
        dtype = torch.float32
        return Root(self.network.to(dtype), self.box.to(dtype), self.lower.to(dtype), self.upper.to(dtype))

    def relax(self, columns: int, top: int | None = None, splits: Splits | None = None) -> Relaxation:
        """A relaxation of N problems up to layer `top` (the output when None)."""
        top = len(self.network.layers) - 1 if top is None else top
        u = sum(layer.unstable for layer in self.network.layers[:top])
        return Relaxation(self.network, self.box, self.lower[:u], self.upper[:u], top, columns, splits)


def intermediate(network: Network, box: Box, rates: Rates) -> Root:
    """Bound every layer by CROWN, then by alpha-CROWN (`rates.steps` steps) where CROWN leaves neurons unstable.

    `network` and `box` are float64, `box` `[inputs, 1]`.
    """
    lower = upper = network.layers[0].bias.new_zeros(0, 1)
    for k in range(len(network.layers) - 1):
        low, high = layer_bounds(Root(network, box, lower, upper), k, rates)
        network = network.restrict(k, low, high)
        unstable = network.layers[k].index[: network.layers[k].unstable]
        lower, upper = torch.cat((lower, low[unstable, None])), torch.cat((upper, high[unstable, None]))
    return Root(network, box, lower, upper)


def layer_bounds(root: Root, k: int, rates: Rates) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds `[size]` of layer k's pre-activations, given bounds of every layer before it."""
    if all(source == 0 for source, _ in root.network.layers[k].maps):
        low, high = interval(root.network, root.box, k + 1)[k]
        return low[:, 0], high[:, 0]
    low = root.lower.new_full((root.network.layers[k].size,), -torch.inf)
    high = -low
    for steps in sorted({0, rates.steps}):
        neurons = ((low < 0) & (high > 0)).nonzero()[:, 0]
        signs = torch.ones_like(neurons)
        found = reach(root, k, torch.cat((neurons, neurons)), torch.cat((signs, -signs)), replace(rates, steps=steps))
        low[neurons] = torch.maximum(low[neurons], found[: len(neurons)])
        high[neurons] = torch.minimum(high[neurons], -found[len(neurons) :])
    return low, high


def reach(root: Root, k: int, neurons: Tensor, signs: Tensor, rates: Rates) -> Tensor:
    """Lower bounds `[N]` of `sign * z` over neurons `[N]` of layer k; a neuron shown to be stable is taken no further."""
    found = [root.lower.new_zeros(0)]
    for some, sign in zip(neurons.split(COLUMNS), signs.split(COLUMNS), strict=True):
        quick, exact = (Problem(r.relax(len(some), k), None, picked=pick(r.network, k, some, sign)) for r in (root.quick, root))
        at = quick.first()
        if rates.steps:
            quick.ascend(at, rates, target=0.0)
        found.append(exact.bound(at.to(torch.float64)))
    return torch.cat(found)


def output_bounds(root: Root, rows: Rows, allowed: Tensor, rates: Rates) -> tuple[Tensor, Multipliers]:
    """Lower bounds `[N]` of N mixtures of `rows`, `allowed` `[m, N]`, and the float32 multipliers that give them."""
    dtype = torch.float32
    problem = Problem(root.quick.relax(allowed.shape[1]), rows.to(dtype), allowed.to(dtype))
    at = problem.first()
    problem.ascend(at, rates, target=0.0)
    exact = Problem(root.relax(allowed.shape[1]), rows, allowed)
    return exact.bound(at.to(torch.float64)), at


def narrow(root: Root, rows: Rows, allowed: Tensor, at: Multipliers, rates: Rates, first: int = 0) -> Root | None:
    """Bounds of what a counterexample of one clause can reach (INVPROP): every layer from `first` on, given the output's rows.

    `allowed` `[m, 1]` is the clause and `at` the float32 multipliers of its bound, one column.  None: nothing can, the clause is
    refuted.
    """
    for k in range(first, len(root.network.layers) - 1):
        begin = sum(layer.unstable for layer in root.network.layers[:k])
        count = root.network.layers[k].unstable
        neurons = torch.arange(count)
        found = []
        for sign in (1, -1):
            for some in neurons.split(COLUMNS):
                quick, exact = (
                    Problem(r.relax(len(some)), o, a.expand(-1, len(some)), pick(r.network, k, some, torch.full_like(some, sign)))
                    for r, o, a in ((root.quick, rows.to(torch.float32), allowed.float()), (root, rows, allowed))
                )
                here = Multipliers(at.alpha.repeat(1, len(some)), None, torch.zeros(len(allowed), len(some)))
                quick.ascend(here, rates, target=0.0)
                found.append(exact.bound(here.to(torch.float64)))
        low, high = torch.cat(found)[:count], -torch.cat(found)[count:]
        lower, upper = root.lower.clone(), root.upper.clone()
        here_ = slice(begin, begin + count)
        lower[here_, 0], upper[here_, 0] = torch.maximum(lower[here_, 0], low), torch.minimum(upper[here_, 0], high)
        if (lower > upper).any():
            return None
        root, at = stabilise(root, k, lower, upper, at)
    return root


def stabilise(root: Root, k: int, lower: Tensor, upper: Tensor, at: Multipliers) -> tuple[Root, Multipliers]:
    """Drop from layer k what new bounds `[U, 1]` have made stable, and its multipliers."""
    begin = sum(layer.unstable for layer in root.network.layers[:k])
    layer = root.network.layers[k]
    here = slice(begin, begin + layer.unstable)
    active = lower.new_zeros(layer.size - layer.unstable)
    low, high = torch.cat((lower[here, 0], active)), torch.cat((upper[here, 0], active + 1))
    network = root.network.restrict(k, low, high)
    kept = torch.cat((
        torch.ones(begin, dtype=torch.bool), (lower[here, 0] < 0) & (upper[here, 0] > 0), torch.ones(len(lower) - begin - layer.unstable, dtype=torch.bool)
    ))
    alpha = at.alpha[torch.cat((kept, torch.ones(1, dtype=torch.bool)))]
    return Root(network, root.box, lower[kept], upper[kept]), Multipliers(alpha, None, at.gamma)
