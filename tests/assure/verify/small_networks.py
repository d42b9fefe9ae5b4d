"""Random small networks, and exact answers about them from scipy's HiGHS."""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor

from edgectl.assure.verify.bounds import Box
from edgectl.assure.verify.graph import (
    Add,
    Affine,
    AveragePool,
    Concat,
    Conv,
    Graph,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Node,
    Pad,
    Permute,
    Relu,
    Reshape,
    Sub,
    shaped,
)
from edgectl.assure.verify.network import Network


class Drawn:
    """A random network under construction."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.nodes: list[Node] = [Input("x", (), shape)]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def add(self, kind: type[Node], *inputs: Node, shape: tuple[int, ...] = (), **fields: object) -> Node:
        inputs = inputs or (self.nodes[-1],)
        node = kind(f"n{len(self.nodes)}", tuple(n.name for n in inputs), shape, **fields)
        self.nodes.append(shaped(node, inputs))
        return self.nodes[-1]

    def linear(self, outputs: int, *inputs: Node) -> Node:
        size = (inputs or (self.nodes[-1],))[0].size
        weight = self.normal(outputs, size) / size**0.5
        return self.add(Linear, *inputs, weight=weight, bias=0.3 * self.normal(outputs))

    def conv(self, outputs: int, kernel: int, **fields: object) -> Node:
        channels = self.nodes[-1].shape[0] // int(fields.get("groups", 1))  # type: ignore[call-overload]
        weight = self.normal(outputs, channels, kernel, kernel) / (channels * kernel * kernel) ** 0.5
        return self.add(Conv, weight=weight, bias=0.3 * self.normal(outputs), **fields)

    @property
    def graph(self) -> Graph:
        return Graph(tuple(self.nodes))


def dense(seed: int) -> Graph:
    """Two or three layers of a few ReLUs."""
    net = Drawn(seed, (4,))
    for _ in range(2 + seed % 2):
        net.linear(5 + seed % 3)
        net.add(Relu)
    net.linear(3)
    return net.graph


def convolutional(seed: int) -> Graph:
    """Convolution with stride, padding and groups, batch norm, leaky ReLU, pools, padding, a flat end."""
    net = Drawn(seed, (2, 4, 4))
    net.add(Pad, pads=(1, 0, 0, 1), value=0.5)
    net.conv(4, 3, stride=(2, 2), padding=(1, 1), groups=2)
    net.add(Affine, scale=1 + 0.2 * net.normal(4, 1, 1), shift=0.1 * net.normal(4, 1, 1))
    net.add(LeakyRelu, slope=0.1) if seed % 2 else net.add(Relu)
    if seed % 3 == 0:
        net.add(MaxPool, kernel=(2, 2), stride=(2, 2), padding=(1, 1))
    elif seed % 3 == 1:
        net.add(AveragePool, kernel=(2, 2), stride=(1, 1), padding=(1, 1), count_include_pad=False)
    net.add(Permute, order=(1, 2, 0))
    net.add(Reshape, shape=(net.nodes[-1].size,))
    net.linear(4)
    net.add(Relu)
    net.linear(3)
    return net.graph


def residual(seed: int) -> Graph:
    """Skips, a difference of branches, a join."""
    net = Drawn(seed, (4,))
    first = net.linear(5)
    h = net.add(Relu)
    net.linear(5)
    inner = net.add(Relu)
    total = net.add(Add, inner, first if seed % 2 else h)
    side = net.linear(5, h)
    difference = net.add(Sub, total, side)
    relu = net.add(Relu, difference)
    net.add(Concat, relu, h, axis=0)
    net.linear(3)
    return net.graph


def drawn(seed: int) -> Graph:
    """One of the three kinds."""
    return (dense, convolutional, residual)[seed % 3](seed)


def box_of(graph: Graph, seed: int) -> Box:
    """A random box of the graph's inputs, `[inputs, 1]`, float64."""
    random = torch.Generator().manual_seed(1000 + seed)
    centre = torch.rand(graph.input.size, 1, generator=random, dtype=torch.float64) * 2 - 1
    radius = (0.1 + 0.5 * torch.rand(1, generator=random, dtype=torch.float64)) * torch.ones_like(centre)
    return Box(centre - radius, centre + radius)


def inside(box: Box, count: int, seed: int = 0) -> Tensor:
    """Random points of a box and some of its corners, `[count, inputs]`."""
    random = torch.Generator().manual_seed(seed)
    share = torch.rand(count, len(box.lower), generator=random, dtype=torch.float64)
    share[::2] = share[::2].round()
    return box.lower[:, 0] + share * (box.upper - box.lower)[:, 0]


def values(network: Network, x: Tensor) -> list[Tensor]:
    """Every layer's pre-activation `[size, N]` at inputs `[inputs, N]`."""
    results, found = [x], []
    for layer in network.layers:
        z = network.affine(layer, results)
        found.append(z)
        results.append(torch.cat((z[: layer.unstable].relu(), z[layer.unstable :])))
    return found


def minimum(
    network: Network,
    box: Box,
    row: Tensor,
    bounds: list[tuple[Tensor, Tensor]],
    fixed: dict[tuple[int, int], int] | None = None,
    relaxed: bool = False,
    given: list[tuple[Tensor, float]] | None = None,
) -> float:
    """The least `row . y` over the box by HiGHS; infinity where nothing is feasible.

    `bounds` are `[size]` of every layer before the output; `fixed` gives S of neurons by `(layer, neuron)`; `relaxed` asks for
    the triangle relaxation in place of the network; `given` adds constraints `row . y <= threshold`.
    """
    sizes = [network.inputs]
    for layer in network.layers[:-1]:
        sizes += [layer.size, layer.size, layer.unstable]  # z, h, whether it is active
    sizes.append(len(row))
    starts = np.concatenate(([0], np.cumsum(sizes)))
    total = starts[-1]
    low, high = np.full(total, -np.inf), np.full(total, np.inf)
    low[: sizes[0]], high[: sizes[0]] = box.lower[:, 0].numpy(), box.upper[:, 0].numpy()
    integral = np.zeros(total)
    lines: list[tuple[dict[int, float], float, float]] = []

    def at(source: int) -> int:
        return 0 if source == 0 else int(starts[3 * (source - 1) + 2])

    for k, layer in enumerate(network.layers):
        z = int(starts[3 * k + 1])
        for i in range(layer.size):
            line = {z + i: -1.0}
            for source, matrix in layer.maps:
                weights = matrix.forward.to_dense()[i]
                for j in weights.nonzero()[:, 0].tolist():
                    line[at(source) + j] = line.get(at(source) + j, 0.0) + float(weights[j])
            lines.append((line, -float(layer.bias[i]), -float(layer.bias[i])))
        if k == len(network.layers) - 1:
            break
        h, active = int(starts[3 * k + 2]), int(starts[3 * k + 3])
        for i in range(layer.size):
            if i >= layer.unstable:
                lines.append(({h + i: 1.0, z + i: -1.0}, 0.0, 0.0))
                continue
            floor, ceiling = float(bounds[k][0][i]), float(bounds[k][1][i])
            sign = (fixed or {}).get((k, i), 0)
            low[z + i], high[z + i], low[h + i] = floor, ceiling, 0.0
            low[active + i], high[active + i], integral[active + i] = 0.0, 1.0, 0 if relaxed else 1
            if sign < 0 or floor >= 0:
                low[z + i] = max(floor, 0.0)
                lines.append(({h + i: 1.0, z + i: -1.0}, 0.0, 0.0))
            elif sign > 0 or ceiling <= 0:
                high[z + i] = min(ceiling, 0.0)
                high[h + i] = 0.0
            else:
                lines.append(({h + i: 1.0, z + i: -1.0}, 0.0, np.inf))
                lines.append(({h + i: 1.0, active + i: -ceiling}, -np.inf, 0.0))
                lines.append(({h + i: 1.0, z + i: -1.0, active + i: -floor}, -np.inf, -floor))
    y = int(starts[-2])
    for constraint, threshold in given or []:
        lines.append(({y + i: float(c) for i, c in enumerate(constraint)}, -np.inf, threshold))
    matrix_of = sparse.lil_matrix((len(lines), total))
    for r, (line, _, _) in enumerate(lines):
        for column, value in line.items():
            matrix_of[r, column] = value
    cost = np.zeros(total)
    cost[y:] = row.numpy()
    constraint = optimize.LinearConstraint(matrix_of.tocsr(), [a for _, a, _ in lines], [b for _, _, b in lines])
    answer = optimize.milp(cost, constraints=constraint, bounds=optimize.Bounds(low, high), integrality=integral)
    if answer.status == 2:
        return float("inf")
    assert answer.status == 0, answer.message
    return float(answer.fun)
