"""Packs weights for the block-sparse kernels by what is zero in them, and names the sparsity scheme that the zeros show.

A layer is a matrix: filters by taps, a tap being one input offset (channel, kernel position). Rows are put in blocks of B that
share the list of taps where any of them is non-zero; B and the order of rows are what a cost model finds cheapest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgectl.lowering.ir import FloatArray
from edgectl.lowering.plan import NONE

BLOCKS = (1, 2, 4, 8, 16)

# Cost of one entry of B weights, in multiply-add vector instructions: the B of them, plus the shared load of the input and of
# the entry. Relative figures for a register-blocked kernel; only the ratios matter.
_PIXEL_COST = {1: 1.35, 2: 2.35, 4: 4.3, 8: 8.5, 16: 16.9}
# A linear layer runs vectors over the filters of a block, so narrow blocks waste lanes.
_FILTER_COST = {1: 3.0, 2: 4.0, 4: 2.0, 8: 2.2, 16: 3.0}


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


def pack(groups: Sequence[Taps], bias: FloatArray, *, over_filters: bool = False) -> Packed:
    """Packs a layer.

    Args:
        groups: the filters, in groups that read different inputs (one group unless the convolution is grouped).
        bias: one per output channel.
        over_filters: the kernel runs vectors over filters (linear) instead of over pixels (convolution).
    """
    cost = _FILTER_COST if over_filters else _PIXEL_COST
    orders = [_row_orders(group.weight) for group in groups]
    best: tuple[float, int, list[npt.NDArray[np.intp]]] | None = None
    for block in BLOCKS:
        if block > 1 and max(len(group.filters) for group in groups) <= block // 2:
            break
        total, chosen = 0.0, []
        for group, candidates in zip(groups, orders, strict=True):
            entries = [_count_entries(group.weight, order, block) for order in candidates]
            least = int(np.argmin(entries))
            total += entries[least] * cost[block]
            chosen.append(candidates[least])
        if best is None or total < best[0]:
            best = (total, block, chosen)
    assert best is not None
    return _write(groups, bias, best[1], best[2])


def _row_orders(weight: FloatArray) -> list[npt.NDArray[np.intp]]:
    """Orders of the rows worth trying: as they are, and with rows of like zeros together."""
    natural = np.arange(len(weight))
    support = weight != 0
    if support.all() or len(weight) == 1:
        return [natural]
    bits = np.packbits(support, axis=1)
    keys = bits[:, : min(bits.shape[1], 64)]
    by_support = np.lexsort((*keys.T[::-1], -support.sum(axis=1)))
    return [natural, by_support]


def _count_entries(weight: FloatArray, order: npt.NDArray[np.intp], block: int) -> int:
    return sum(int(np.any(weight[rows] != 0, axis=0).sum()) for rows in _blocks(order, block))


def _blocks(order: npt.NDArray[np.intp], block: int) -> Iterable[npt.NDArray[np.intp]]:
    return (order[i : i + block] for i in range(0, len(order), block))


def _write(groups: Sequence[Taps], bias: FloatArray, block: int, orders: list[npt.NDArray[np.intp]]) -> Packed:
    row_ptr, filters, offsets, weights, biases = [0], [], [], [], []
    for group, order in zip(groups, orders, strict=True):
        for rows in _blocks(order, block):
            part: npt.NDArray[np.float32] = group.weight[rows]
            taps = np.flatnonzero(np.any(part != 0, axis=0))
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
        np.concatenate(weights).reshape(-1),
        np.concatenate(biases),
    ]
    head = np.array([block, len(row_ptr) - 1, row_ptr[-1], len(bias)], np.uint32).tobytes()
    at, body, places = 64, b"", []
    for array in parts:
        places.append(at)
        data = array.tobytes()
        data += b"\0" * (-len(data) % 64)
        body += data
        at += len(data)
    blob = head + np.array([*places, 0], np.uint64).tobytes() + body
    nonzeros = sum(int(np.count_nonzero(group.weight)) for group in groups)
    return Packed(blob, block, nonzeros, int(parts[3].size))


def recognise(weight: FloatArray) -> str:
    """The scheme whose structure the zeros of a (filters, channels, kh, kw) or (outputs, inputs) weight have.

    `dense` when under 1 % is zero. Names are those of edgectl.compress.schemes; the most structured that fits wins.
    """
    zero = weight == 0
    if zero.mean() < 0.01:
        return "dense"
    matrix = zero.reshape(len(zero), -1)
    whole = matrix.all(axis=1)
    if whole.any() and not matrix[~whole].any():
        return "filter"
    if weight.ndim == 2 or weight.shape[2:] == (1, 1):
        return "block_column" if _columns_agree(matrix) else "unstructured"
    if _columns_agree(matrix):
        return "block_punched"
    return "pattern" if _is_pattern(zero) else "unstructured"


def _columns_agree(matrix: npt.NDArray[np.bool_]) -> bool:
    """True when rows in blocks of 4 or more share their zeros, up to the odd accidental zero."""
    block = min(4, len(matrix))
    if block < 2:
        return False
    whole = len(matrix) // block * block
    parts = matrix[:whole].reshape(-1, block, matrix.shape[1])
    shared = parts.all(axis=1).sum() * block
    return bool(shared >= 0.99 * parts.sum())


def _is_pattern(zero: npt.NDArray[np.bool_]) -> bool:
    """True when 3x3 kernels are whole, gone, or keep 4 weights, in at most 8 ways."""
    if zero.shape[2:] != (3, 3):
        return False
    kernels = ~zero.reshape(-1, 9)
    kept = kernels.sum(axis=1)
    patterned = kernels[kept == 4]
    if not np.isin(kept, (0, 4, 9)).all() or not len(patterned):
        return False
    return len(np.unique(np.packbits(patterned, axis=1), axis=0)) <= 8
