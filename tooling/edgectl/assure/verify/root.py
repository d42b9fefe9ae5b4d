"""Bounds of every neuron over the whole box, layer by layer, and the network that they leave."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgectl.assure.verify.bounds import Box, Multipliers, Problem, Rates, Relaxation, Rows, interval, pick
from edgectl.assure.verify.network import Network

COLUMNS = 512  # problems of one batch: what keeps a few thousand neurons' buffers near the caches


@dataclass(frozen=True, eq=False)
class Root:
    """A network restricted to what can be positive over `box`, with the bounds `[U, 1]` of its unstable neurons, stacked."""

    network: Network
    box: Box
    lower: Tensor
    upper: Tensor

    def relax(self, columns: int, top: int | None = None) -> Relaxation:
        """A relaxation of N problems without splits, up to layer `top` (the output when None)."""
        top = len(self.network.layers) - 1 if top is None else top
        u = sum(layer.unstable for layer in self.network.layers[:top])
        return Relaxation(self.network, self.box, self.lower[:u], self.upper[:u], top, columns)


def intermediate(network: Network, box: Box, rates: Rates) -> Root:
    """Bound every layer by CROWN, then by alpha-CROWN (`rates.steps` steps) where CROWN leaves neurons unstable."""
    lower = upper = network.layers[0].bias.new_zeros(0, 1)
    for k in range(len(network.layers) - 1):
        root = Root(network, box, lower, upper)
        low, high = layer_bounds(root, k, rates)
        network = network.restrict(k, low, high)
        unstable = (low < 0) & (high > 0)
        lower, upper = torch.cat((lower, low[unstable][:, None])), torch.cat((upper, high[unstable][:, None]))
    return Root(network, box, lower, upper)


def layer_bounds(root: Root, k: int, rates: Rates) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds `[size]` of layer k's pre-activations, given bounds of every layer before it."""
    size, network = root.network.layers[k].size, root.network
    low, high = (
        (b[:, 0].clone() for b in interval(network, root.box, k + 1)[k])
        if k == 0
        else (torch.full((size,), -torch.inf), torch.full((size,), torch.inf))
    )
    if k == 0:
        return low, high
    for steps in (0, rates.steps) if rates.steps else (0,):
        open_ = ((low < 0) & (high > 0)).nonzero()[:, 0]
        neurons = torch.cat((open_, open_))
        signs = torch.cat((torch.ones(len(open_)), -torch.ones(len(open_)))).to(low)
        bounds = [
            _ascend(root, k, n, s, replace(rates, steps=steps))
            for n, s in zip(neurons.split(COLUMNS), signs.split(COLUMNS), strict=True)
        ]
        if bounds:
            found = torch.cat(bounds)
            low[open_] = torch.maximum(low[open_], found[: len(open_)])
            high[open_] = torch.minimum(high[open_], -found[len(open_) :])
    return low, high


def _ascend(root: Root, k: int, neurons: Tensor, signs: Tensor, rates: Rates) -> Tensor:
    problem = Problem(root.relax(len(neurons), k), None, picked=pick(root.network, k, neurons, signs))
    return problem.ascend(problem.first(), rates, target=0.0 if rates.steps else torch.inf)


def output_bounds(root: Root, rows: Rows, allowed: Tensor, rates: Rates) -> tuple[Tensor, Multipliers]:
    """Lower bounds `[N]` of N mixtures of `rows`, `allowed` `[m, N]`, and the multipliers that `rates.steps` steps end with."""
    problem = Problem(root.relax(allowed.shape[1]), rows, allowed)
    at = problem.first()
    return problem.ascend(at, rates, target=0.0), at
