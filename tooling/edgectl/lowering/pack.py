"""Packs weights for the block-sparse kernels by what is zero in them, and names the sparsity scheme that the zeros show.

A layer is a matrix: filters by taps, a tap being one input offset (channel, kernel position). Rows are put in blocks of B that
share the list of taps where any of them is non-zero; B and the order of rows are what a cost model finds cheapest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl.lowering.ir import FloatArray
from edgectl.lowering.plan import ALIGN, NONE
from edgectl.recipe import Cpu

BLOCKS = (1, 2, 4, 8, 16)
_HEADER = 64  # bytes of PackedHeader
AS_THEY_ARE, _BY_ZEROS, _BY_LIKENESS = "as they are", "by their zeros", "by likeness"
_ROUNDED = 0.2  # of the weights of a layer that is not pruned, what quantisation may make zero
_ALIGNED: frozenset[Cpu] = frozenset({"x86-64-v4"})  # whose kernels of one filter read aligned vectors
_VECTOR = 16  # floats of theirs
_MOST_PLACES = 5  # in a vector: those of a 5x5 kernel whose rows begin alike
_PIECE = 144  # taps: 16 channels of a 3x3 convolution
_MOST_COMPARISONS = 3_000_000_000  # of weights: some seconds a layer

# Cost of one entry of B weights, in multiply-add vector instructions at the peak: B over the fraction of the peak that the
# kernel reaches. x86-64: the mean of 3x3 layers from 64 to 256 channels, dense and 3x pruned, measured with AVX2 (conv_bench in
# runtime_kernels measures them); one filter alone loads its input for every multiply-add, half of the time across two cache
# lines. arm64: the kernels' inner loops in llvm-mca's model of a Neoverse N1 (tests/native/test_mca.py), and a tenth of a
# multiply-add more for every vector of pixels that is loaded, assumed for those that miss the first cache; not measured.
_PIXEL_COST: dict[Cpu, dict[int, float]] = {
    "x86-64": {1: 2.3, 2: 2.75, 4: 4.85, 8: 9.6, 16: 20.0},
    "x86-64-v4": {1: 1.5, 2: 2.4, 4: 4.2, 8: 8.2, 16: 16.6},
    "arm64": {1: 1.38, 2: 2.16, 4: 4.12, 8: 8.15, 16: 16.3},
}
# A linear layer runs vectors over the filters of a block, so narrow blocks waste lanes.
_FILTER_COST = {1: 3.0, 2: 4.0, 4: 2.0, 8: 2.2, 16: 3.0}
# The same in float16: cycles an entry of the inner loops in llvm-mca's model; 1 and 2 go number by number, which is a guess.
_HALF_FILTER_COST = {1: 4.0, 2: 8.0, 4: 1.29, 8: 1.26, 16: 1.77}


@dataclass(frozen=True)
class Taps:
    """One group of filters: `weight` (filters, taps), the input offset of every tap, and the filters' output channels."""

    weight: FloatArray
    offsets: npt.NDArray[np.int32]
    filters: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Packed:
    """A packed layer: the blob of PackedHeader in plan_format.h, and what it holds."""

    blob: bytes
    block: int
    nonzeros: int
    stored: int  # weights in the blob, zeros that share a block with non-zeros included
    order: str  # how the filters were put in blocks: `as they are`, `by their zeros`, `by likeness`
    costs: dict[int, float]  # estimated for every block size tried, over that of the chosen one
    bits: int = 32  # of a stored weight


def pack(groups: Sequence[Taps], bias: FloatArray, cpu: Cpu, *, over_filters: bool = False, half: bool = False) -> Packed:
    """Packs a layer.

    Args:
        groups: the filters, in groups that read different inputs (one group unless the convolution is grouped).
        bias: one per output channel.
        cpu: the processor whose kernels should be fast.
        over_filters: the kernel runs vectors over filters (linear) instead of over pixels (convolution).
        half: weights are stored as float16, which none of them may exceed.
    """
    cost = _PIXEL_COST[cpu]
    if over_filters:
        cost = _HALF_FILTER_COST if half else _FILTER_COST
    supports = [group.weight != 0 for group in groups]
    natural = [np.arange(len(support)) for support in supports]
    costs: dict[int, float] = {}
    chosen: dict[int, list[tuple[str, npt.NDArray[np.intp]]]] = {}
    for block in BLOCKS:
        if block > 1 and max(map(len, supports)) <= block // 2:
            break
        costs[block] = cost[block] * sum(map(_count_entries, supports, natural, [block] * len(groups)))
        chosen[block] = [(AS_THEY_ARE, order) for order in natural]
    for block in costs:
        if cost[block] * sum(_fewest_entries(support, block) for support in supports) >= min(costs.values()):
            continue  # in no order the best
        found = [best_order(support, block) for support in supports]
        costs[block] = cost[block] * sum(entries for entries, _, _ in found)
        chosen[block] = [(name, order) for _, name, order in found]
    block = min(costs, key=lambda b: costs[b])
    names = {name for name, _ in chosen[block]} - {AS_THEY_ARE}
    costs = {b: costs[b] / costs[block] if costs[block] else 1.0 for b in costs}
    packed = _write(groups, bias, block, [order for _, order in chosen[block]], cpu, half)
    return replace(packed, order=max(names, default=AS_THEY_ARE), costs=costs)


def estimate(weight: FloatArray, cpu: Cpu) -> float:
    """What a convolution with these (filters, taps) costs a pixel, in multiply-adds at the peak, its filters as they are."""
    return min(_costs(weight, cpu).values())


def reads_aligned(weight: FloatArray, cpu: Cpu) -> bool:
    """Whether a convolution with these (filters, taps) is expected to run filter by filter, in kernels that gain from rows of
    whole vectors.
    """
    if cpu not in _ALIGNED:
        return False
    costs = _costs(weight, cpu)
    return costs[1] == min(costs.values())


def _costs(weight: FloatArray, cpu: Cpu) -> dict[int, float]:
    """Block size -> multiply-adds at the peak, a pixel, filters as they are."""
    support, natural = weight != 0, np.arange(len(weight))
    blocks = [block for block in BLOCKS if block == 1 or len(weight) > block // 2]
    return {block: _PIXEL_COST[cpu][block] * _count_entries(support, natural, block) for block in blocks}


def expect(filters: int, taps: int, kept: float, scheme: str, cpu: Cpu) -> float:
    """What `estimate` would give for weights (filters, taps) of a scheme that keeps this fraction of them, not knowing which.

    `block_punched` and `block_column` are taken to prune 8 filters together; other zeros than theirs and those of `filter`, to
    be anywhere.
    """
    shared = {"filter": filters, "block_punched": 8, "block_column": 8}.get(scheme, 1)  # filters that have the same zeros
    rows = max(1, round(filters * kept)) if scheme == "filter" else filters
    costs = []
    for block in BLOCKS:
        if block == 1 or filters > block // 2:
            any_kept = 1.0 if scheme == "filter" else 1 - (1 - kept) ** max(1.0, block / shared)
            costs.append(_PIXEL_COST[cpu][block] * -(-rows // block) * taps * any_kept)
    return min(costs)


def _fewest_entries(support: npt.NDArray[np.bool_], block: int) -> int:
    """No order of the rows has fewer."""
    return max(int(support.sum(axis=1).max(initial=0)), -(-int(support.sum()) // block))


def best_order(support: npt.NDArray[np.bool_], block: int) -> tuple[int, str, npt.NDArray[np.intp]]:
    """The order of the rows whose blocks have the fewest entries: how many, its name, and the order."""
    natural = np.arange(len(support))
    least = (_count_entries(support, natural, block), AS_THEY_ARE, natural)
    if block == 1 or least[0] <= 1.02 * _fewest_entries(support, block):
        return least
    for name, arrange in ((_BY_ZEROS, _by_zeros), (_BY_LIKENESS, _by_likeness)):
        order = arrange(support, block)
        entries = _count_entries(support, order, block)
        if entries < 0.98 * least[0]:
            least = (entries, name, order)
    return least


def _by_zeros(support: npt.NDArray[np.bool_], block: int) -> npt.NDArray[np.intp]:
    """Rows with the same zeros next to each other."""
    bits = np.packbits(support, axis=1)
    keys = bits[:, : min(bits.shape[1], 64)]
    return np.lexsort((*keys.T[::-1], -support.sum(axis=1)))


def _by_likeness(support: npt.NDArray[np.bool_], block: int) -> npt.NDArray[np.intp]:
    """Greedy: a block begins with the row that has most entries, and takes the row that adds fewest until it is full."""
    rows, taps = support.shape
    if rows * rows * taps > _MOST_COMPARISONS:
        return np.arange(rows)
    matrix = support.astype(np.float32)
    counts = matrix.sum(axis=1)
    left = np.ones(rows, bool)
    order: list[int] = []
    while len(order) < rows:
        if len(order) % block == 0:
            row = int(np.argmax(np.where(left, counts, -1)))
            union = matrix[row].copy()
        else:
            added = np.where(left, counts - matrix @ union, np.inf)
            row = int(np.argmin(added))
            np.maximum(union, matrix[row], out=union)
        left[row] = False
        order.append(row)
    return np.array(order)


def _count_entries(support: npt.NDArray[np.bool_], order: npt.NDArray[np.intp], block: int) -> int:
    return sum(int(support[rows].any(axis=0).sum()) for rows in _blocks(order, block))


def _blocks(order: npt.NDArray[np.intp], block: int) -> Iterable[npt.NDArray[np.intp]]:
    return (order[i : i + block] for i in range(0, len(order), block))


def _in_order(taps: npt.NDArray[np.intp], offsets: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """The order in which the entries of one filter are stored where vectors are read aligned: in a piece of the input that fits
    the first cache, by their place in a vector, where few are different (AccumulateAligned in conv_impl.h).
    """
    places = offsets % _VECTOR
    if len(np.unique(places)) > _MOST_PLACES:
        return taps
    return taps[np.lexsort((offsets[taps], places[taps], taps // _PIECE))]


def _write(
    groups: Sequence[Taps], bias: FloatArray, block: int, orders: list[npt.NDArray[np.intp]], cpu: Cpu, half: bool
) -> Packed:
    row_ptr, filters, offsets, weights, biases = [0], [], [], [], []
    for group, order in zip(groups, orders, strict=True):
        for rows in _blocks(order, block):
            part: npt.NDArray[np.float32] = group.weight[rows]
            taps = np.flatnonzero(np.any(part != 0, axis=0))
            if block == 1 and cpu in _ALIGNED and not half:
                taps = _in_order(taps, group.offsets)
            lanes = np.full(block, NONE, np.uint32)
            lanes[: len(rows)] = group.filters[rows]
            entries = np.zeros((len(taps), block), np.float32)
            entries[:, : len(rows)] = part[:, taps].T
            lane_bias = np.zeros(block, np.float32)
            lane_bias[: len(rows)] = bias[group.filters[rows]]
            row_ptr.append(row_ptr[-1] + len(taps))
            filters.append(lanes)
            offsets.append(group.offsets[taps])
            weights.append(entries)
            biases.append(lane_bias)
    parts = [
        np.asarray(row_ptr, np.uint32),
        np.concatenate(filters),
        np.concatenate(offsets).astype(np.int32),
        np.concatenate(weights).reshape(-1).astype(np.float16 if half else np.float32),
        np.concatenate(biases),
    ]
    head = np.array([block, len(row_ptr) - 1, row_ptr[-1], len(bias)], np.uint32).tobytes()
    places, body = sections(parts, _HEADER)
    blob = head + places + body
    nonzeros = sum(int(np.count_nonzero(group.weight)) for group in groups)
    return Packed(blob, block, nonzeros, int(parts[3].size), AS_THEY_ARE, {}, bits=16 if half else 32)


def sections(parts: Iterable[npt.NDArray[Any]], at: int) -> tuple[bytes, bytes]:
    """Arrays one after the other, aligned, from byte `at` of a blob on: (their offsets and a reserved one, uint64; data)."""
    body, places = b"", list[int]()
    for array in parts:
        places.append(at + len(body))
        body += array.tobytes()
        body += b"\0" * (-len(body) % ALIGN)
    return np.array([*places, 0], np.uint64).tobytes(), body


def recognise(weight: FloatArray, *, quantised: bool = False) -> str:
    """The scheme whose structure the zeros of a (filters, channels, kh, kw) or (outputs, inputs) weight have.

    `dense` when under 1 % is zero, or 20 % of a quantised weight, of which rounding makes some zero wherever they are. Names
    are those of edgectl.compress.schemes; the most structured that fits wins.
    """
    zero = weight == 0
    if zero.mean() < 0.01:
        return "dense"
    matrix = zero.reshape(len(zero), -1)
    whole = matrix.all(axis=1)
    rounded = _ROUNDED if quantised else 0.0
    if whole.any() and (whole.all() or matrix[~whole].mean() <= rounded):
        return "filter"
    pointwise = weight.ndim == 2 or weight.shape[2:] == (1, 1)
    if _columns_agree(matrix, rounded):
        return "block_column" if pointwise else "block_punched"
    if not pointwise and _is_pattern(zero, quantised):
        return "pattern"
    return "dense" if zero.mean() < rounded else "unstructured"


def _columns_agree(matrix: npt.NDArray[np.bool_], rounded: float) -> bool:
    """True when rows in blocks of 4 or more share their zeros, up to the odd accidental zero.

    Where as many of the others as `rounded` may be zero, what is shared must be something.
    """
    block = min(4, len(matrix))
    if block < 2:
        return False
    whole = len(matrix) // block * block
    parts = matrix[:whole].reshape(-1, block, matrix.shape[1])
    shared = parts.all(axis=1).sum() * block
    accidental = parts.sum() - shared
    if rounded:
        return bool(shared >= 0.01 * parts.size and accidental <= rounded * (parts.size - shared))
    return bool(accidental <= 0.01 * parts.sum())


def _is_pattern(zero: npt.NDArray[np.bool_], quantised: bool) -> bool:
    """True when 3x3 kernels are whole, gone, or keep 4 weights, in at most 8 ways; rounding may have taken more."""
    if zero.shape[2:] != (3, 3):
        return False
    kernels = ~zero.reshape(-1, 9)
    kept = kernels.sum(axis=1)
    patterns = np.unique(kernels[kept == 4], axis=0)
    if not 1 <= len(patterns) <= 8:
        return False
    if not quantised:
        return bool(np.isin(kept, (0, 4, 9)).all())
    some = kernels[kept < 4]
    return bool((some[:, None] <= patterns).all(axis=2).any(axis=1).all())
