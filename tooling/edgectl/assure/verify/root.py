"""Bounds of every neuron over the whole box, layer by layer, and the network that they leave.

Multipliers are searched for in float32 and every bound that counts is then evaluated with them in float64: rounding in the
search costs tightness, never soundness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from edgectl.assure.verify.ascent import Multipliers, Problem, Rates
from edgectl.assure.verify.bounds import Box, Relaxation, Rows, Splits, interval, pick
from edgectl.assure.verify.network import Network

COLUMNS = 256  # problems of one batch: what keeps a few thousand neurons' buffers near the caches


@dataclass(frozen=True, eq=False)
class Root:
    """A network restricted to what can be positive over `box`, with the bounds `[U, 1]` of its unstable neurons, stacked."""

    network: Network
    box: Box
    lower: Tensor
    upper: Tensor
    splits: Splits

    @classmethod
    def of(cls, network: Network, box: Box, lower: Tensor, upper: Tensor) -> Root:
        """A root without splits."""
        none = torch.zeros(0, 1, dtype=torch.int64, device=lower.device)
        return cls(network, box, lower, upper, Splits(none, none.to(lower.dtype)))

    @property
    def free(self) -> Tensor:
        """Which of the unstable neurons `[U]` are not split."""
        free = torch.ones(len(self.lower) + 1, dtype=torch.bool, device=self.lower.device)
        free[self.splits.row[:, 0]] = False
        return free[:-1]

    @cached_property
    def quick(self) -> Root:
        """The same in float32, to search with."""
        dtype = torch.float32
        bounds = self.lower.to(dtype), self.upper.to(dtype)
        return Root(self.network.to(dtype), self.box.to(dtype), *bounds, self.splits.to(dtype))

    def relax(self, columns: int, top: int | None = None, splits: Splits | None = None) -> Relaxation:
        """A relaxation of N problems, each with `splits` besides the root's, up to layer `top` (the output when None)."""
        top = len(self.network.layers) - 1 if top is None else top
        u = sum(layer.unstable for layer in self.network.layers[:top])
        fixed = self.splits.expand(columns) if splits is None else self.splits.expand(columns).join(splits)
        return Relaxation(
            self.network, self.box, self.lower[:u], self.upper[:u], top, columns, fixed if len(fixed.row) else None
        )

    def split(self, row: int, sign: int) -> Root:
        """One neuron more fixed: S = -1 for `z >= 0`, +1 for `z <= 0`."""
        one = Splits(self.splits.row.new_tensor([[row]]), self.splits.sign.new_tensor([[sign]]))
        lower, upper = self.lower.clone(), self.upper.clone()
        (lower if sign < 0 else upper)[row] = 0
        return Root(self.network, self.box, lower, upper, self.splits.join(one))


def intermediate(network: Network, box: Box, rates: Rates) -> Root:
    """Bound every layer by CROWN, then by alpha-CROWN (`rates.steps` steps) where CROWN leaves neurons unstable.

    `network` and `box` are float64, `box` `[inputs, 1]`.
    """
    lower = upper = network.layers[0].bias.new_zeros(0, 1)
    for k in range(len(network.layers) - 1):
        low, high = layer_bounds(Root.of(network, box, lower, upper), k, rates)
        network = network.restrict(k, low, high)
        unstable = network.layers[k].index[: network.layers[k].unstable]
        lower, upper = torch.cat((lower, low[unstable, None])), torch.cat((upper, high[unstable, None]))
    return Root.of(network, box, lower, upper)


def layer_bounds(root: Root, k: int, rates: Rates) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds `[size]` of layer k's pre-activations, given bounds of every layer before it."""
    low, high = (bound[:, 0].clone() for bound in interval(root.network, root.box, k + 1, (root.lower, root.upper))[k])
    if all(source == 0 for source, _ in root.network.layers[k].maps):
        return low, high
    for steps in sorted({0, rates.steps}):  # upper bounds first: most stable neurons are inactive
        for bound, sign in ((high, -1), (low, 1)):
            neurons = ((low < 0) & (high > 0)).nonzero()[:, 0]
            found = reach(root, k, neurons, torch.full_like(neurons, sign), replace(rates, steps=steps))
            # plain CROWN, as published, takes its own bound even where the interval is the tighter one
            bound[neurons] = sign * (torch.maximum(sign * bound[neurons], found) if rates.steps else found)
    return low, high


def reach(root: Root, k: int, neurons: Tensor, signs: Tensor, rates: Rates) -> Tensor:
    """Lower bounds `[N]` of `sign * z` over neurons `[N]` of layer k; a neuron shown to be stable is taken no further."""
    found = [root.lower.new_zeros(0)]
    for some, sign in zip(neurons.split(COLUMNS), signs.split(COLUMNS), strict=True):
        exact = Problem(root.relax(len(some), k), None, picked=pick(root.network, k, some, sign))
        at = exact.first()
        if rates.steps:
            at = at.to(torch.float32)
            quick = Problem(root.quick.relax(len(some), k), None, picked=pick(root.quick.network, k, some, sign))
            quick.ascend(at, rates, target=0.0)
        found.append(exact.bound(at.to(root.lower.dtype)))
    return torch.cat(found)


def output_bounds(
    root: Root, rows: Rows, allowed: Tensor, rates: Rates, alpha: Tensor | None = None
) -> tuple[Tensor, Multipliers]:
    """Lower bounds `[N]` of N mixtures of `rows`, `allowed` `[m, N]`, and the float32 multipliers that give them.

    `alpha` `[U + 1, N]` is where to start, CROWN's slopes where it is None.
    """
    exact, dtype = Problem(root.relax(allowed.shape[1]), rows, allowed), torch.float32
    at = exact.first().to(dtype)
    if alpha is not None:
        at.alpha = alpha.clone()
    if rates.steps:
        Problem(root.quick.relax(allowed.shape[1]), rows.to(dtype), allowed.to(dtype)).ascend(at, rates, target=0.0)
    return exact.bound(at.to(root.lower.dtype)), at


def narrow(root: Root, rows: Rows, allowed: Tensor, alpha: Tensor, rates: Rates, first: int) -> tuple[Root, Tensor] | None:
    """Bounds of what a counterexample of one clause can reach (INVPROP): every layer from `first` on, given the output's rows.

    `allowed` `[m, 1]` is the clause and `alpha` `[U + 1, 1]` float32 where the ascents start.  Returns the root with its new
    bounds and the alphas of the neurons that are still unstable; None where nothing can reach the clause: it is refuted.
    """
    for k in range(first, len(root.network.layers) - 1):
        begin = sum(layer.unstable for layer in root.network.layers[:k])
        end = begin + root.network.layers[k].unstable
        neurons = root.free[begin:end].nonzero()[:, 0]
        signs = torch.ones_like(neurons)
        both, signs = torch.cat((neurons, neurons)), torch.cat((signs, -signs))
        found = _reach_given(root, rows, allowed, alpha, k, both, signs, rates)
        low, high = found[: len(neurons)], -found[len(neurons) :]
        lower, upper = root.lower.clone(), root.upper.clone()
        lower[begin + neurons, 0] = torch.maximum(lower[begin + neurons, 0], low)
        upper[begin + neurons, 0] = torch.minimum(upper[begin + neurons, 0], high)
        if (lower > upper).any():
            return None
        root, kept = stabilise(root, k, lower, upper)
        alpha = alpha[kept]
    return root, alpha


def _reach_given(
    root: Root, rows: Rows, allowed: Tensor, alpha: Tensor, k: int, neurons: Tensor, signs: Tensor, rates: Rates
) -> Tensor:
    """Lower bounds `[N]` of `sign * z` over neurons `[N]` of layer k where the output fulfils the clause's rows."""
    found = [root.lower.new_zeros(0)]
    for some, sign in zip(neurons.split(COLUMNS), signs.split(COLUMNS), strict=True):
        quick, exact = (
            Problem(r.relax(len(some)), o, a.expand(-1, len(some)), pick(r.network, k, some, sign))
            for r, o, a in ((root.quick, rows.to(torch.float32), allowed.float()), (root, rows, allowed))
        )
        at = quick.first()
        at.alpha = alpha.repeat(1, len(some))
        quick.ascend(at, rates, target=0.0)
        found.append(exact.bound(at.to(root.lower.dtype)))
    return torch.cat(found)


def stabilise(root: Root, k: int, lower: Tensor, upper: Tensor) -> tuple[Root, Tensor]:
    """The root with new bounds `[U, 1]`, without what they make stable in layer k, and the rows `[U' + 1]` that are left."""
    layer = root.network.layers[k]
    begin = sum(each.unstable for each in root.network.layers[:k])
    here = slice(begin, begin + layer.unstable)
    kept = ((lower < 0) & (upper > 0))[:, 0] | ~root.free
    kept[:begin], kept[begin + layer.unstable :] = True, True
    active = (lower[here, 0] >= 0) & ~kept[here]
    keep = torch.cat((kept[here].nonzero()[:, 0], active.nonzero()[:, 0], torch.arange(layer.unstable, layer.size)))
    network = (
        root.network if len(keep) == layer.size and not active.any() else root.network.keep(k, keep, int(kept[here].sum()))
    )
    left = torch.cat((kept, kept.new_ones(1))).nonzero()[:, 0]
    place = torch.zeros(len(kept) + 1, dtype=torch.int64).scatter(0, left, torch.arange(len(left)))
    splits = Splits(place[root.splits.row], root.splits.sign)
    return Root(network, root.box, lower[kept], upper[kept], splits), left
