"""A graph in normal form: affine maps between layers of ReLUs, restricted to the neurons that a box leaves open.

Leaky ReLUs become `slope * z + (1 - slope) * relu(z)` and max pools become tournaments of `a + relu(b - a)`, both exact, so
that bounds, gradients and branching know one nonlinearity.  Everything here is features first: a batch is `[features, N]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from edgectl.assure.verify.graph import Graph, LeakyRelu, MaxPool, Node, Relu
from edgectl.errors import UserError

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

DENSE_FROM = 0.2  # share of nonzeros from which a dense product beats the sparse one on a CPU (measured: 70 against 12 GFLOP/s)
MOST_ELEMENTS = 1 << 33  # of a matrix, zeros included: minutes to read off
BASIS_ELEMENTS = 1 << 25  # elements of one chunk of unit vectors pushed through a segment when its matrix is read off


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix `[o, i]` with its transpose, dense or compressed by rows, whichever multiplies faster."""

    forward: Tensor
    adjoint: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Matrix:
        """From a coalesced COO tensor `[o, i]` of any sparsity."""
        if matrix.is_cuda or matrix._nnz() > DENSE_FROM * matrix.shape[0] * matrix.shape[1]:
            dense = matrix.to_dense()
            return cls(dense, dense.t().contiguous())
        return cls(*(_narrow_indices(m.to_sparse_csr()) for m in (matrix, matrix.t().coalesce())))

    def rows(self, indices: Tensor) -> Tensor:
        """Rows `indices` as dense columns `[i, len(indices)]`: what `adjoint` makes of unit vectors."""
        if self.forward.layout is torch.strided:
            return self.adjoint[:, indices]
        entry, count = _entries(self.forward, indices)
        problem = torch.arange(len(indices), device=indices.device).repeat_interleave(count)
        dense = self.forward.values().new_zeros(self.forward.shape[1], len(indices))
        dense[self.forward.col_indices()[entry], problem] = self.forward.values()[entry]
        return dense

    def restrict(self, rows: Tensor | None, columns: Tensor | None) -> Matrix:
        """The matrix of some rows and columns, in the order given."""
        if self.forward.layout is torch.strided:
            dense = self.forward if rows is None else self.forward[rows]
            dense = dense if columns is None else dense[:, columns]
            return Matrix(dense, dense.t().contiguous())
        forward, adjoint = _take(self.forward, rows, columns), _take(self.adjoint, columns, rows)
        if forward._nnz() > DENSE_FROM * forward.shape[0] * forward.shape[1]:
            return Matrix(forward.to_dense(), adjoint.to_dense())
        return Matrix(forward, adjoint)

    def to(self, dtype: torch.dtype) -> Matrix:
        """The same matrix in another floating type."""
        return Matrix(self.forward.to(dtype), self.adjoint.to(dtype))


def _entries(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of some rows of a CSR matrix are among its values, row by row, and how many each row has."""
    crow = matrix.crow_indices().long()
    count = crow[rows + 1] - crow[rows]
    last = count.cumsum(0)
    entry = (crow[rows] - last + count).repeat_interleave(count)
    return entry.add_(torch.arange(len(entry), device=rows.device)), count


def _take(matrix: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Some rows and columns of a CSR matrix, in the order given; its columns need not be sorted within a row."""
    crow, column, value = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    height, width = matrix.shape
    if rows is not None:
        entry, count = _entries(matrix, rows)
        column, value, height = column[entry], value[entry], len(rows)
        crow = torch.cat((count.new_zeros(1), count.cumsum(0)))
    if columns is not None:
        place = torch.full((width,), -1, device=matrix.device, dtype=torch.int32)
        place[columns] = torch.arange(len(columns), device=matrix.device, dtype=torch.int32)
        column, width = place[column], len(columns)
        kept = column >= 0
        crow = torch.cat((crow.new_zeros(1), kept.cumsum(0)))[crow]
        column, value = column[kept], value[kept]
    return _narrow_indices(torch.sparse_csr_tensor(crow, column, value, (height, width)))


def _narrow_indices(matrix: Tensor) -> Tensor:
    """The CSR matrix with 32-bit indices: MKL would convert 64-bit ones at every product."""
    crow, column = matrix.crow_indices().to(torch.int32), matrix.col_indices().to(torch.int32)
    return torch.sparse_csr_tensor(crow, column, matrix.values(), matrix.shape)


@dataclass(frozen=True, eq=False)
class Layer:
    """`z = sum over sources of M_s h_s + bias`, then `h = relu(z)` on the first `unstable` neurons and `h = z` on the rest.

    Source 0 is the network's input and source k + 1 is the result `h` of layer k; `index` `[size]` says which neurons of the
    whole layer these are (stable inactive ones are left out), in that order.
    """

    maps: tuple[tuple[int, Matrix], ...]
    bias: Tensor  # [size, 1]
    unstable: int
    index: Tensor  # [size], int64

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.bias)


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in topological order; the last is the output and has no ReLU."""

    inputs: int
    layers: tuple[Layer, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `[outputs, N]` for inputs `[inputs, N]`."""
        results = [x]
        for layer in self.layers:
            z = self.affine(layer, results)
            results.append(torch.cat((z[: layer.unstable].relu(), z[layer.unstable :])))
        return results[-1]

    @staticmethod
    def affine(layer: Layer, results: list[Tensor]) -> Tensor:
        """The pre-activation `[size, N]` of `layer` given every source's result."""
        z = layer.bias
        for source, matrix in layer.maps:
            z = z + matrix.forward @ results[source]
        return z

    def restrict(self, k: int, lower: Tensor, upper: Tensor) -> Network:
        """The network in which layer k keeps only neurons that can be positive: unstable ones first, then active ones.

        `lower` and `upper` `[size]` bound the layer's pre-activation over the box: the result is equal to this network there.
        """
        unstable, active = ((lower < 0) & (upper > 0)).nonzero()[:, 0], (lower >= 0).nonzero()[:, 0]
        return self.keep(k, torch.cat((unstable, active)), len(unstable))

    def keep(self, k: int, keep: Tensor, unstable: int) -> Network:
        """The network with only the neurons `keep` of layer k, in that order, of which the first `unstable` have a ReLU."""
        layers = list(self.layers)
        old = layers[k]
        maps = tuple((s, m.restrict(keep, None)) for s, m in old.maps)
        layers[k] = Layer(maps, old.bias[keep], unstable, old.index[keep])
        for j in range(k + 1, len(layers)):
            if any(s == k + 1 for s, _ in layers[j].maps):
                maps = tuple((s, m.restrict(None, keep) if s == k + 1 else m) for s, m in layers[j].maps)
                layers[j] = replace(layers[j], maps=maps)
        return Network(self.inputs, tuple(layers))

    def to(self, dtype: torch.dtype) -> Network:
        """The same network in another floating type."""
        return Network(
            self.inputs,
            tuple(replace(y, maps=tuple((s, m.to(dtype)) for s, m in y.maps), bias=y.bias.to(dtype)) for y in self.layers),
        )


def normal_form(graph: Graph, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Network:
    """Read the matrices between ReLUs off a graph, in float64, and round them to `dtype`.

    Raises ValueError for a node that is neither affine nor one of ReLU, leaky ReLU and max pool.
    """
    graph = graph.to(torch.float64, device)
    builder = _Builder(graph, dtype)
    for node in graph.nodes[1:]:
        builder.add(node)
    builder.cut(builder.values[graph.output.name], graph.output.size, last=True)
    return Network(graph.input.size, tuple(builder.layers))


class _Builder:
    """Collects layers: every value is an affine function of sources, evaluated on `{source: [B, size]}`, absent being 0."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.layers: list[Layer] = []
        self.shapes: list[tuple[int, ...]] = [graph.input.shape]
        self.device = next(
            (t.device for n in graph.nodes for t in vars(n).values() if isinstance(t, Tensor)), torch.device("cpu")
        )
        self.values: dict[str, _Value] = {graph.input.name: self._source(0)}

    def _source(self, k: int) -> _Value:
        shape = self.shapes[k]

        def evaluate(x: dict[int, Tensor], batch: int) -> Tensor:
            return (
                x[k].reshape(batch, *shape) if k in x else torch.zeros(batch, *shape, dtype=torch.float64, device=self.device)
            )

        return _Value(frozenset((k,)), evaluate)

    def add(self, node: Node) -> None:
        """Enter a node's value."""
        inputs = [self.values[name] for name in node.inputs]
        if isinstance(node, Relu):
            self.values[node.name] = self.relu(inputs[0], node.shape)
        elif isinstance(node, LeakyRelu):
            positive = self.relu(inputs[0], node.shape)
            self.values[node.name] = _apply(lambda z, h: node.slope * z + (1 - node.slope) * h, inputs[0], positive)
        elif isinstance(node, MaxPool):
            self.values[node.name] = self.max_pool(node, inputs[0])
        else:
            self.values[node.name] = _apply(node.forward, *inputs)

    def relu(self, value: _Value, shape: tuple[int, ...]) -> _Value:
        """A new layer on `value`; its result is a new source."""
        self.cut(value, torch.Size(shape).numel())
        self.shapes.append(shape)
        return self._source(len(self.layers))

    def max_pool(self, node: MaxPool, value: _Value) -> _Value:
        """The window's elements, pair by pair; `max(a, b) = a + relu(b - a)`.

        A padded element takes the value of the window's own first real element, which never changes the maximum.
        """
        height, width = node.shape[1:]
        taken = []
        for dy, dx in product(range(node.kernel[0]), range(node.kernel[1])):
            rows, columns = (
                torch.arange(n, device=self.device) * node.stride[d] + offset * node.dilation[d] - node.padding[d]
                for d, (n, offset) in enumerate(((height, dy), (width, dx)))
            )
            taken.append(_apply(lambda x, r=rows, c=columns: _gather(x, r, c, node), value))
        while len(taken) > 1:
            pairs = [
                _apply(torch.add, a, self.relu(_apply(torch.sub, b, a), node.shape))
                for a, b in zip(taken[::2], taken[1::2], strict=False)
            ]
            taken = pairs + taken[len(pairs) * 2 :]
        return taken[0]

    def cut(self, value: _Value, size: int, last: bool = False) -> None:
        """Append the layer whose pre-activation is `value`."""
        bias = value.evaluate({}, 1).reshape(-1)
        maps = tuple((s, self._matrix(value, s, bias)) for s in sorted(value.sources))
        bias = bias.to(self.dtype)[:, None]
        self.layers.append(Layer(maps, bias, 0 if last else size, torch.arange(size, device=self.device)))

    def _matrix(self, value: _Value, source: int, bias: Tensor) -> Matrix:
        features = torch.Size(self.shapes[source]).numel()
        if features * len(bias) > MOST_ELEMENTS:
            raise UserError(f"A layer from {features} to {len(bias)} values is too large to verify: use a smaller input.")
        step = max(1, BASIS_ELEMENTS // max(features, len(bias)))
        indices, entries = [], []
        for first in range(0, features, step):
            n = min(step, features - first)
            basis = torch.zeros(n, features, dtype=torch.float64, device=self.device)
            basis[torch.arange(n), first + torch.arange(n)] = 1
            block = (value.evaluate({source: basis}, n).reshape(n, -1) - bias).t()
            block = torch.where(
                block.abs() > 1e-15 * (1 + bias.abs()[:, None]), block, 0
            )  # what subtracting the bias left of zeros
            at = block.nonzero().t()
            entries.append(block[at[0], at[1]])
            indices.append(at + torch.tensor([[0], [first]], device=self.device))
        shape = (len(bias), features)
        matrix = torch.sparse_coo_tensor(torch.cat(indices, 1), torch.cat(entries).to(self.dtype), shape, check_invariants=True)
        return Matrix.of(matrix.coalesce())


@dataclass(frozen=True, eq=False)
class _Value:
    """An affine function of the sources named; `evaluate(values by source, batch)` gives `[batch, *shape]` in float64."""

    sources: frozenset[int]
    evaluate: Callable[[dict[int, Tensor], int], Tensor]


def _apply(function: Callable[..., Tensor], *values: _Value) -> _Value:
    def evaluate(x: dict[int, Tensor], batch: int) -> Tensor:
        return function(*(v.evaluate(x, batch) for v in values))

    return _Value(frozenset().union(*(v.sources for v in values)), evaluate)


def _gather(x: Tensor, rows: Tensor, columns: Tensor, node: MaxPool) -> Tensor:
    """`x[:, :, rows, columns]` with places outside the picture moved, by whole dilations, to the window's first real one."""

    def inside(at: Tensor, size: int, dilation: int) -> Tensor:
        at = at + dilation * ((-at).clamp(min=0) + dilation - 1).div(dilation, rounding_mode="floor")
        return at - dilation * ((at - size + 1).clamp(min=0) + dilation - 1).div(dilation, rounding_mode="floor")

    rows = inside(rows, x.shape[2], node.dilation[0])
    return x[:, :, rows][:, :, :, inside(columns, x.shape[3], node.dilation[1])]
