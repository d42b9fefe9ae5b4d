"""What the latency model is told about layers: what each must do, a base for its time, and features of the regressors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgectl.errors import UserError
from edgectl.lowering.pack import expect
from edgectl.lowering.winograd import DIRECT, fastest
from edgectl.profile.points import Point
from edgectl.recipe import Cpu

try:
    from scipy.optimize import nnls
except ImportError as error:
    raise UserError("The latency model is fitted by scipy: run `pip install 'edgectl[search]'`.") from error

Array = npt.NDArray[np.float64]

_SCHEMES = ("dense", "filter", "pattern", "block_punched", "block_column", "unstructured")
_CPU: Cpu = "arm64"  # which recipes pack for by default
_KINDS = ("conv", "dwconv", "deconv", "linear")


def _kind(point: Point) -> str:
    """Layers of one kind share their costs in the base."""
    if point.op not in _KINDS:
        return point.op
    size = "x".join(map(str, point.kernel))
    sparse = "" if point.scheme in ("dense", "filter") else " sparse"
    number = "" if point.bits == 32 else " fp16" if point.bits == 16 else " int8"
    return f"{point.op}{size}{sparse}{number}"


def _direct(point: Point) -> float:
    """Multiply-adds at the peak that a layer is expected to cost as entries of blocks (edgectl.lowering.pack)."""
    if point.op not in ("conv", "linear"):
        return point.effective_macs
    taps = point.weights // point.filters
    return point.uses * expect(point.filters, taps, point.nonzeros / point.weights, point.scheme, _CPU)


def _winograd(point: Point) -> float | None:
    """What it would cost by Winograd's algorithm, in the same unit; None where that does not suit it."""
    if point.op != "conv" or point.kernel != (3, 3) or point.stride > 1 or point.groups > 1 or point.bits < 32:
        return None
    return fastest(point.filters, point.channels, 1, point.out_height, point.out_width)[1] / DIRECT


def _work(point: Point) -> list[float]:
    """What a layer must do: multiply-adds, elements read and written, weights, and being started."""
    elements_in = point.channels * point.height * point.width
    elements_out = point.filters * point.out_height * point.out_width
    residual = elements_out if point.residual else 0
    macs = min(_direct(point), _winograd(point) or math.inf)
    return [macs, elements_in, elements_out, residual, point.nonzeros, 1000.0]


@dataclass
class Base:
    """Costs of each kind of layer, in ns for each part of `_work`; `any` of layers with weights of a kind unknown."""

    costs: dict[str, Array]
    ops: set[str]

    @classmethod
    def of(cls, points: Sequence[Point], times: Array) -> Base:
        """Fits the costs of every kind of layer that is among the points. times [n], ns."""
        members: dict[str, list[int]] = {}
        for i, point in enumerate(points):
            members.setdefault(_kind(point), []).append(i)
            members.setdefault("any", []).append(i)
        work = np.array([_work(point) for point in points])
        costs = {}
        for kind, chosen in members.items():
            relative = work[chosen] / times[chosen, None]
            costs[kind] = np.asarray(nnls(relative, np.ones(len(chosen)))[0], float)
        return cls(costs, {point.op for point in points})

    def log(self, points: Sequence[Point]) -> Array:
        """log b(x), [n]."""
        sums = [np.dot(_work(point), self.costs.get(_kind(point), self.costs["any"])) for point in points]
        return np.log(np.maximum(sums, 1.0))


def features(points: Sequence[Point], threads: Sequence[int], base: Array) -> Array:
    """What the regressors see of each layer: [n, features]."""
    rows = []
    for point, count, log_base in zip(points, threads, base, strict=True):
        pixels = point.out_height * point.out_width
        elements_in, elements_out = point.channels * point.height * point.width, point.filters * pixels
        row_in, row_out = point.channels * point.width, point.filters * point.out_width
        direct, winograd = _direct(point), _winograd(point)
        sizes: list[float] = [
            point.channels,
            point.filters,
            point.out_width,
            point.out_height,
            pixels,
            elements_in,
            elements_out,
        ]
        sizes += [row_in, row_out, row_in * point.kernel[0] + row_out, direct, math.prod(point.kernel), count]
        sizes += [point.nonzeros, point.weights, point.macs, point.effective_macs]
        logs = [math.log1p(size) for size in sizes]
        ratios = [
            math.log(point.rate),
            log_base,
            log_base - math.log1p(point.effective_macs),
            math.log1p(direct) - math.log1p(point.effective_macs),
            math.log(direct / winograd) if winograd else -3.0,
            math.log1p(point.effective_macs / (elements_in + elements_out)),
            math.log1p(point.nonzeros / max(1, point.filters)),
            math.log1p(point.nonzeros * point.filters / max(1, point.weights)),
            *(-(-point.filters // block) * block / point.filters for block in (2, 4, 8)),
            -(-point.out_width // 16) * 16 / point.out_width,
        ]
        flags = [point.kernel[0], point.stride, point.bits, point.groups > 1, point.residual, bool(point.activation)]
        flags += [point.scheme == scheme for scheme in _SCHEMES] + [point.op == op for op in _KINDS]
        rows.append([*logs, *ratios, *(float(flag) for flag in flags)])
    return np.array(rows, float)
