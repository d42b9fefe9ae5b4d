"""How a convolution becomes a stride-1 sum over taps of its input, of the input's phases, or of a few single elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgectl.lowering.ir import Conv, FloatArray


@dataclass(frozen=True)
class Geometry:
    """The stride-1 form of a convolution.

    Output element (f, y, x) is the sum over channels c and taps t of `weight[f, c, t]` times source element
    (phase[t], c, y + dy[t], x + dx[t]), for y, x in `grid`. `factor` > 1 with `upsample` False: the source is the input split
    into factor**2 phases; with `upsample` True: the result has factor**2 channels per filter, to be shuffled into pixels.
    """

    weight: FloatArray  # (filters, channels / groups, taps)
    dy: tuple[int, ...]
    dx: tuple[int, ...]
    phase: tuple[int, ...]
    grid: tuple[int, int]
    factor: int
    upsample: bool

    @property
    def rows(self) -> tuple[int, int]:
        """First and last source row read, relative to row 0."""
        return min(self.dy), self.grid[0] - 1 + max(self.dy)

    @property
    def columns(self) -> tuple[int, int]:
        """First and last source column read, relative to column 0."""
        return min(self.dx), self.grid[1] - 1 + max(self.dx)

    @property
    def phases(self) -> int:
        """How many leading phases are read."""
        return max(self.phase) + 1

    def halo(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Zeros needed around an input of this size: top, bottom, left, right."""
        (top, bottom), (left, right) = self.rows, self.columns
        return max(0, -top), max(0, bottom - (height - 1)), max(0, -left), max(0, right - (width - 1))


def geometry(node: Conv) -> Geometry:
    """The stride-1 form of `node`."""
    return _transposed(node) if node.transposed else _forward(node)


def is_point(node: Conv) -> bool:
    """True when the output is one pixel: a linear layer over single elements of the input."""
    return not node.transposed and node.output.shape[2:] == (1, 1)


def _forward(node: Conv) -> Geometry:
    filters, channels, kh, kw = node.weight.shape
    s = node.stride[0]
    dy, dx, phase = [], [], []
    for ky in range(kh):
        for kx in range(kw):
            y, x = ky * node.dilation[0], kx * node.dilation[1]
            if s == 1:
                dy.append(y - node.padding[0])
                dx.append(x - node.padding[1])
                phase.append(0)
            else:
                dy.append(y // s)
                dx.append(x // s)
                phase.append(y % s * s + x % s)
    weight = node.weight.reshape(filters, channels, kh * kw)
    grid = (node.output.shape[2], node.output.shape[3])
    return Geometry(weight, tuple(dy), tuple(dx), tuple(phase), grid, s, False)


def _transposed(node: Conv) -> Geometry:
    """Output row r q + p sums weight row k over input row q + (p + padding - k dilation) / r where that is whole."""
    channels, per_group, kh, kw = node.weight.shape
    r = node.stride[0]
    height, width = node.output.shape[2:]
    shifts: dict[tuple[int, int], int] = {}
    terms = []
    for ky in range(kh):
        for kx in range(kw):
            py = (ky * node.dilation[0] - node.padding[0]) % r
            px = (kx * node.dilation[1] - node.padding[1]) % r
            shift = (
                (py + node.padding[0] - ky * node.dilation[0]) // r,
                (px + node.padding[1] - kx * node.dilation[1]) // r,
            )
            terms.append((ky, kx, py * r + px, shifts.setdefault(shift, len(shifts))))
    in_group = channels // node.groups
    filters = per_group * node.groups
    weight = np.zeros((filters, r * r, in_group, len(shifts)), np.float32)
    by_group = node.weight.reshape(node.groups, in_group, per_group, kh, kw)
    for ky, kx, sub, tap in terms:
        weight[:, sub, :, tap] += by_group[..., ky, kx].transpose(0, 2, 1).reshape(filters, in_group)
    dy, dx = zip(*shifts, strict=True)
    grid = (-(-height // r), -(-width // r))
    return Geometry(weight.reshape(-1, in_group, len(shifts)), dy, dx, (0,) * len(shifts), grid, r, True)
