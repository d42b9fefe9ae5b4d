"""Bounds on a network over a box: interval arithmetic, CROWN, alpha-CROWN and beta-CROWN, all as one backward pass.

A batch holds N problems as columns.  Each minimises a linear function of one layer's pre-activations (and of the output, where
rows of a property take part) over the box, the ReLU relaxations and the problem's splits.  With `A` `[size, N]` the
coefficients on a layer's ReLU outputs, its relaxation replaces `relu(z)` by `D z + p`, neuron by neuron,

    A >= 0:  D = alpha,          p = 0             (alpha in [0, 1]; 1 where split active, 0 where split inactive)
    A <  0:  D = u / (u - l),    p = -D l          (the chord; D = 1 or 0 and p = 0 where split)

and a split adds `beta * S`, S = -1 for `z >= 0` and +1 for `z <= 0`, beta >= 0, to the coefficients on `z`: the Lagrangian of
the triangle relaxation with split constraints (beta-CROWN, arXiv 2103.06624, theorem 3.1).  Any alpha and beta are sound.
Rows of a property that the counterexample must satisfy, `row . y <= threshold`, enter every bound in the same way with
multipliers gamma >= 0 (INVPROP, arXiv 2302.01404): what is bounded is then only what a counterexample could reach.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from edgectl.assure.verify.network import Network


@dataclass(frozen=True, eq=False)
class Box:
    """Inputs between `lower` and `upper`, `[inputs, 1]` or `[inputs, N]`."""

    lower: Tensor
    upper: Tensor

    def to(self, dtype: torch.dtype) -> Box:
        """The same box in another floating type."""
        return Box(self.lower.to(dtype), self.upper.to(dtype))

    @property
    def centre(self) -> Tensor:
        """Midpoint."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width."""
        return (self.upper - self.lower) / 2


@dataclass(frozen=True, eq=False)
class Splits:
    """Neurons whose sign each problem fixes: up to D a column, as rows of the stacked unstable neurons.

    `row` int64 `[D, N]` (the number of unstable neurons where a place is empty), `sign` `[D, N]`: S above, 0 where empty.
    """

    row: Tensor
    sign: Tensor

    def columns(self, keep: Tensor) -> Splits:
        """The splits of some problems."""
        return Splits(self.row[:, keep], self.sign[:, keep])

    def join(self, more: Splits) -> Splits:
        """These splits and others of the same problems."""
        return Splits(torch.cat((self.row, more.row)), torch.cat((self.sign, more.sign)))

    def expand(self, columns: int) -> Splits:
        """One problem's splits for N problems."""
        return Splits(self.row.expand(-1, columns), self.sign.expand(-1, columns))

    def to(self, dtype: torch.dtype) -> Splits:
        """The signs in another floating type."""
        return Splits(self.row, self.sign.to(dtype))


@dataclass(frozen=True, eq=False)
class Rows:
    """Linear functions of the output: `matrix` `[m, outputs]` and `threshold` `[m, 1]`; bounded is `row . y - threshold`."""

    matrix: Tensor
    threshold: Tensor

    def to(self, dtype: torch.dtype) -> Rows:
        """The same rows in another floating type."""
        return Rows(self.matrix.to(dtype), self.threshold.to(dtype))


def interval(
    network: Network, box: Box, upto: int | None = None, known: tuple[Tensor, Tensor] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Interval bound propagation (arXiv 1810.12715): `[size, N]` bounds of every pre-activation before layer `upto`.

    `known`, stacked bounds `[U', N]` of the first layers' unstable neurons, narrows them.
    """
    results = [(box.centre, box.radius)]
    bounds: list[tuple[Tensor, Tensor]] = []
    stacked = 0
    for layer in network.layers[:upto]:
        centre, radius = layer.bias, torch.zeros_like(layer.bias)
        for source, matrix in layer.maps:
            centre = centre + matrix.forward @ results[source][0]
            radius = radius + absolute(matrix.forward) @ results[source][1]
        lower, upper = centre - radius, centre + radius
        u = layer.unstable
        if known is not None and stacked + u <= len(known[0]):
            here = slice(stacked, stacked + u)
            lower = torch.cat((torch.maximum(lower[:u], known[0][here]), lower[u:]))
            upper = torch.cat((torch.minimum(upper[:u], known[1][here]), upper[u:]))
            stacked += u
        bounds.append((lower, upper))
        lower, upper = lower.clone(), upper.clone()
        lower[: layer.unstable].clamp_(min=0)
        upper[: layer.unstable].clamp_(min=0)
        results.append(((lower + upper) / 2, (upper - lower) / 2))
    return bounds


def absolute(matrix: Tensor) -> Tensor:
    """Elementwise absolute value of a dense or CSR matrix."""
    if matrix.layout is torch.strided:
        return matrix.abs()
    return torch.sparse_csr_tensor(matrix.crow_indices(), matrix.col_indices(), matrix.values().abs(), matrix.shape)


class Relaxation:
    """N problems over one network, their relaxation and the buffers that a bounding pass writes.

    Args:
        network: layers below `top` have their bounds in `lower` and `upper`.
        box: the inputs.
        lower, upper: `[U, 1 or N]` bounds of the unstable neurons of all layers before `top`, stacked.
        top: the layer at which the highest coefficients enter.
        columns: N.
        splits: what each problem fixes, or None.
    """

    def __init__(
        self, network: Network, box: Box, lower: Tensor, upper: Tensor, top: int, columns: int, splits: Splits | None = None
    ) -> None:
        self.network, self.top, self.columns = network, top, columns
        self.splits: Splits | None = None
        self.centre, self.radius = box.centre, box.radius
        self.offsets = [0]
        for layer in network.layers[:top]:
            self.offsets.append(self.offsets[-1] + layer.unstable)
        self.unstable = self.offsets[-1]
        lower, upper = lower.clamp(max=0), upper.clamp(min=0)  # chords of stable neurons have slope 1 or 0
        slope = (upper / (upper - lower)).nan_to_num(0)
        shape = (self.unstable + 1, columns)  # the last row is where empty places of splits write
        self.slope, self.intercept = lower.new_empty(shape), lower.new_empty(shape)
        self.slope[-1], self.intercept[-1] = 0, 0
        self.slope[:-1], self.intercept[:-1] = slope, -slope * lower
        if splits is not None:
            self.impose(splits)
        self.buffers()

    def keep(self, columns: Tensor) -> Relaxation:
        """The relaxation of some of the problems, without what the last pass wrote."""
        part = copy(self)
        part.slope, part.intercept = self.slope[:, columns], self.intercept[:, columns]
        part.columns = part.slope.shape[1]
        if self.centre.shape[1] > 1:
            part.centre, part.radius = self.centre[:, columns], self.radius[:, columns]
        if self.splits is not None:
            part.splits = self.splits.columns(columns)
            part.fixed, part.extra = self.fixed[:, columns], torch.zeros_like(part.slope)
        part.buffers()
        return part

    def buffers(self) -> None:
        """Room for what a pass keeps: coefficients `a`, relaxation `d` and `p`, minimiser `z`, all `[U + 1, N]`."""
        self.a, self.d, self.p, self.z = (torch.empty_like(self.slope) for _ in range(4))
        self.a[-1], self.z[-1] = 0, 0

    def split(self, row: Tensor, sign: Tensor) -> Relaxation:
        """The relaxation with one neuron more fixed in every problem."""
        part = self.keep(torch.arange(self.columns, device=row.device))
        one = Splits(row[None], sign[None])
        part.impose(one if self.splits is None else self.splits.join(one))
        return part

    def impose(self, splits: Splits) -> None:
        """Take `splits` for the problems' own: no relaxation is left of the neurons they fix."""
        self.splits, self.fixed = splits, (splits.sign < 0).to(self.slope.dtype)
        self.slope.scatter_(0, splits.row, self.fixed)
        self.intercept.scatter_(0, splits.row, 0)
        self.extra = torch.zeros_like(self.slope)

    def start(self) -> Tensor:
        """CROWN's slopes: 1 where the chord is steeper than a half (the smaller triangle), else 0."""
        return (self.slope > 0.5).to(self.slope.dtype)

    def backward(self, inject: dict[int, Tensor], picked: Picked | None, alpha: Tensor, beta: Tensor | None) -> Tensor:
        """Lower bounds `[N]`.

        `inject` adds coefficients `[size, N]` on pre-activations by layer, `picked` single neurons; keeps `a`, `d`, `p`, `ax`.
        """
        if self.splits is not None:
            alpha.scatter_(0, self.splits.row, self.fixed)
            if beta is not None:
                self.extra.scatter_(0, self.splits.row, beta * self.splits.sign)
        at: list[Tensor | None] = [None] * (self.top + 2)
        constant = self.centre.new_zeros(1, self.columns)
        for k in range(self.top, -1, -1):
            layer, g = self.network.layers[k], at[k + 1]
            here, u = slice(self.offsets[k], self.offsets[min(k + 1, self.top)]), layer.unstable
            a, d, p = self.a[here], self.d[here], self.p[here]
            if g is None:
                a.zero_(), d.zero_(), p.zero_()
            else:
                a.copy_(g[:u])
                negative = a < 0
                torch.where(negative, self.slope[here], alpha[here], out=d)
                torch.mul(self.intercept[here], negative, out=p)
                constant += torch.linalg.vecdot(a, p, dim=0)
                g[:u].mul_(d)
                if beta is not None:
                    g[:u].add_(self.extra[here])
            if k in inject:
                g = inject[k] if g is None else g.add_(inject[k])
            if g is not None:
                constant += layer.bias.t() @ g
                for source, matrix in layer.maps:
                    below = matrix.adjoint @ g
                    at[source] = below if at[source] is None else at[source].add_(below)  # type: ignore[union-attr]
            if picked is not None and picked.layer == k:
                constant += picked.bias
                for source, columns in picked.columns:
                    at[source] = columns.clone() if at[source] is None else at[source].add_(columns)  # type: ignore[union-attr]
        self.ax = at[0] if at[0] is not None else self.centre.new_zeros(len(self.centre), self.columns)
        constant += (self.ax * self.centre).sum(0) - (self.ax.abs() * self.radius).sum(0)
        return constant[0]

    def minimiser(self, upto: int) -> list[Tensor]:
        """The minimiser through the relaxation: the input, then every layer's result `[size, N]` before `upto`; `z` is kept."""
        results = [self.centre - self.radius * self.ax.sign()]
        for k in range(upto):
            layer = self.network.layers[k]
            here, u = slice(self.offsets[k], self.offsets[k + 1]), layer.unstable
            h = self.network.affine(layer, results)
            self.z[here].copy_(h[:u])
            h[:u].mul_(self.d[here]).add_(self.p[here])
            results.append(h)
        return results


@dataclass(frozen=True, eq=False)
class Picked:
    """The first step back from single neurons of one layer: `columns` `[source, N]` by source, and their bias `[N]`."""

    layer: int
    columns: list[tuple[int, Tensor]]
    bias: Tensor

    def keep(self, problems: Tensor) -> Picked:
        """Some of the problems."""
        return Picked(self.layer, [(s, c[:, problems]) for s, c in self.columns], self.bias[problems])


def pick(network: Network, layer: int, neuron: Tensor, sign: Tensor) -> Picked:
    """Problems `min sign * z[neuron]` over neurons `[N]` of `layer`; sign `[N]` is +1 or -1."""
    of = network.layers[layer]
    return Picked(layer, [(s, m.rows(neuron) * sign) for s, m in of.maps], of.bias[neuron, 0] * sign)
