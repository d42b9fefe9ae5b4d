"""Weights of the integer kernels: PackedInt8Header of plan_format.h, and the numbers that stand beside them.

Four channels of a pixel are one element of an int8 tensor, so an entry of a block is four input channels at one kernel
position, and the filters of a block are one or two groups of four output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl.compress.codebooks import Codebook
from edgectl.lowering import ir
from edgectl.lowering.pack import AS_THEY_ARE, Packed, best_order, sections
from edgectl.lowering.plan import NONE

_HEADER = 128
# Cost of an entry in products of a vector of pixels with one filter: four filters leave a little less for each to share.
_COST = {4: 4.4, 8: 8.2}
# The levels that four bits can name: plan_format.h has room for two tables a layer.
_CODEBOOKS = {
    "fixed": tuple(range(-8, 8)),  # -8 too, which others use
    "sp2": Codebook.sp2(4).levels,
    "power_of_two": Codebook.power_of_two(4).levels,
}
_STREAMED_BYTES = 512 * 1024  # weights that no cache near a core holds are read as codes


@dataclass(frozen=True)
class Scales:
    """How sums become outputs (see the arithmetic in plan_format.h).

    `bias` is int32, the input's zero point in it, and `factor` float32, one of each a filter.
    """

    bias: npt.NDArray[np.int32]
    factor: npt.NDArray[np.float32]


def scales(bias: ir.FloatArray, levels: npt.NDArray[Any], weight: ir.FloatArray, x: ir.Quant, y: ir.Quant | None) -> Scales:
    """For filters with these levels (filters, ...) and scales `weight`, from an input `x` to an output `y` (None: float32)."""
    step = np.float64(x.scale) * weight.astype(np.float64)
    sums = levels.reshape(len(levels), -1).astype(np.float64).sum(axis=1)
    bias32 = np.rint(bias.astype(np.float64) / step) - x.zero_point * sums
    limit = 2.0**31 - 1
    factor = step / (1.0 if y is None else y.scale)
    return Scales(np.clip(bias32, -limit, limit).astype(np.int32), factor.astype(np.float32))


def finish(act: ir.Activation, y: ir.Quant | None) -> ir.Activation:
    """The activation in units of the output's scale."""
    if act.kind is not ir.Act.CLAMP or y is None:
        return act
    return ir.Activation(act.kind, float(np.float32(act.lo / y.scale)), float(np.float32(act.hi / y.scale)))


def residual(r: ir.Quant | None, y: ir.Quant | None) -> tuple[float, int]:
    """Scale, in units of the output's, and zero point of what is added."""
    return (0.0, 0) if r is None else (float(np.float32(r.scale / (1.0 if y is None else y.scale))), r.zero_point)


@dataclass(frozen=True)
class QuadTaps:
    """A layer for the integer kernels: `levels` (filters, taps, 4), and the input offset of every tap."""

    levels: ir.LevelArray
    offsets: npt.NDArray[np.int32]


def quads(levels: npt.NDArray[Any], groups: int) -> ir.LevelArray:
    """(filters, channels / groups, taps) as (filters, quads, taps, 4) over all channels, zeros where there are none."""
    filters, per_group, taps = levels.shape
    channels = per_group * groups
    whole = np.zeros((filters, -(-channels // 4) * 4, taps), np.int8)
    rows = filters // groups
    for g in range(groups):
        whole[g * rows : (g + 1) * rows, g * per_group : (g + 1) * per_group] = levels[g * rows : (g + 1) * rows]
    return np.ascontiguousarray(whole.reshape(filters, -1, 4, taps).transpose(0, 1, 3, 2))


def pack_int8(layer: QuadTaps, numbers: Scales, *, linear: bool = False) -> Packed:
    """Packs a layer in blocks of 4 or 8 filters, whichever costs less; linear layers in blocks of 8."""
    filters = len(layer.levels)
    fours = -(-filters // 4)
    levels = np.zeros((fours * 4, *layer.levels.shape[1:]), np.int8)
    levels[:filters] = layer.levels
    support: npt.NDArray[np.bool_] = np.any(levels.reshape(fours, 4, -1, 4) != 0, axis=(1, 3))
    entries, name, order = best_order(support, 2)
    costs = {8: _COST[8] * entries, 4: _COST[4] * int(support.sum())}
    block = 8 if linear or (fours > 1 and costs[8] <= costs[4]) else 4
    if block == 4:
        name, order = AS_THEY_ARE, np.arange(fours)
    books, tables = _codebooks(levels)
    blob, stored = _write(layer, levels, support, order, block, numbers, books, tables)
    least = max(costs[block], 1e-9)
    return Packed(
        blob, block, int(np.count_nonzero(levels)), stored, name, {b: c / least for b, c in costs.items()},
        bits=8 if books is None else 4,
    )  # fmt: skip


def streams(levels: ir.LevelArray, rows: int) -> bool:
    """Whether a linear layer's codes are decoded as they are read: when reading them is what takes the time."""
    return rows <= 4 and levels.size > _STREAMED_BYTES


def depthwise(kernels: ir.LevelArray, numbers: Scales) -> Packed:
    """The weights of kDepthwiseInt8 for kernels (channels, taps)."""
    channels, taps = kernels.shape
    fours = -(-channels // 4)
    blob = np.zeros((fours, 32 + -(-4 * taps // 16) * 16), np.uint8)

    def by_four(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        whole = np.zeros((fours * 4, *values.shape[1:]), values.dtype)
        whole[:channels] = values
        return whole.reshape(fours, 4, *values.shape[1:])

    blob[:, :16] = by_four(numbers.bias).view(np.uint8)
    blob[:, 16:32] = by_four(numbers.factor).view(np.uint8)
    blob[:, 32 : 32 + 4 * taps] = by_four(kernels).transpose(0, 2, 1).reshape(fours, -1).view(np.uint8)
    nonzeros = int(np.count_nonzero(kernels))
    return Packed(blob.tobytes(), 4, nonzeros, kernels.size, AS_THEY_ARE, {4: 1.0}, bits=8)


def _codebooks(levels: ir.LevelArray) -> tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.int8]]:
    """The codebook of every row, at most two, that have all its levels, and their tables; None where four bits do not do."""
    tables = np.zeros((2, 16), np.int8)
    flat = levels.reshape(len(levels), -1)
    has = {name: np.isin(flat, np.array(book, np.int8)).all(axis=1) for name, book in _CODEBOOKS.items()}
    names = sorted(has, key=lambda name: -int(has[name].sum()))
    first = names[0]
    second = next((name for name in names if (has[first] | has[name]).all()), None)
    if second is None:
        return None, tables
    for table, name in zip(tables, (first, second), strict=True):
        table[: len(_CODEBOOKS[name])] = _CODEBOOKS[name]
    return np.where(has[first], 0, 1).astype(np.uint8), tables


def _write(
    layer: QuadTaps,
    levels: ir.LevelArray,
    support: npt.NDArray[np.bool_],
    order: npt.NDArray[np.intp],
    block: int,
    numbers: Scales,
    books: npt.NDArray[np.uint8] | None,
    tables: npt.NDArray[np.int8],
) -> tuple[bytes, int]:
    filters = len(layer.levels)
    per = block // 4
    row_ptr, starts, groups, offsets, weights = [0], [], [], list[npt.NDArray[np.int32]](), []
    lists: dict[bytes, int] = {}
    lanes: list[npt.NDArray[np.intp]] = []  # the filter of every lane, -1 for none
    for i in range(0, len(order), per):
        fours = order[i : i + per]
        taps = np.flatnonzero(support[fours].any(axis=0))
        used = len(taps)
        if books is not None and used % 2:  # codes are those of two entries: the last one again, without weights
            taps = np.append(taps, taps[-1])
        entries = np.zeros((len(taps), block, 4), np.int8)
        rows = (fours[:, None] * 4 + np.arange(4)).reshape(-1)
        entries[:used, : len(rows)] = levels[rows][:, taps[:used]].transpose(1, 0, 2)
        mine = np.full(block, -1)
        mine[: len(rows)] = np.where(rows < filters, rows, -1)
        key = layer.offsets[taps].tobytes()
        if key not in lists:
            lists[key] = sum(map(len, offsets))
            offsets.append(layer.offsets[taps])
        row_ptr.append(row_ptr[-1] + len(taps))
        starts.append(lists[key])
        groups += [*fours.tolist(), *[NONE] * (per - len(fours))]
        lanes.append(mine)
        weights.append(_encode(entries, mine, books, tables))
    lane = np.concatenate(lanes)

    def of_lanes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(lane >= 0, values[np.maximum(lane, 0)], 0).astype(values.dtype)

    parts: list[npt.NDArray[Any]] = [
        np.asarray(row_ptr, np.uint32),
        np.asarray(starts, np.uint32),
        np.asarray(groups, np.uint32),
        np.concatenate(offsets) if offsets else np.zeros(0, np.int32),
        np.concatenate(weights),
        of_lanes(numbers.bias),
        of_lanes(numbers.factor),
        np.zeros(len(lane), np.uint8) if books is None else of_lanes(books),
    ]
    n_offsets = len(parts[3])
    bits = 8 if books is None else 4
    head = np.array([block, len(row_ptr) - 1, filters, n_offsets, row_ptr[-1], bits], np.uint32).tobytes()
    places, body = sections(parts, _HEADER)
    head += tables.tobytes() + places
    assert len(head) == _HEADER
    return head + body, int(row_ptr[-1]) * block * 4


def _encode(
    entries: ir.LevelArray, lanes: npt.NDArray[np.intp], books: npt.NDArray[np.uint8] | None, tables: npt.NDArray[np.int8]
) -> npt.NDArray[np.uint8]:
    """(entries, block, 4) levels as bytes, or as codes of the lanes' codebooks, those of two entries in the same bytes."""
    if books is None:
        return entries.reshape(-1).view(np.uint8)
    codes = np.zeros(entries.shape, np.uint8)
    book = np.where(lanes >= 0, books[np.maximum(lanes, 0)], 0)
    for number, table in enumerate(tables):
        of_level = np.zeros(256, np.uint8)
        of_level[table[::-1].view(np.uint8)] = np.arange(16, dtype=np.uint8)[::-1]
        mine = book == number
        codes[:, mine] = of_level[entries[:, mine].view(np.uint8)]
    pairs = codes.reshape(-1, 2, codes[0].size)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, np.uint8).reshape(-1)


def dims(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Of an int8 tensor: four channels an element; (n, c) is a map of one pixel."""
    n, c, h, w = (*shape, 1, 1)[:4]
    return n, -(-c // 4), h, w


def fill(quant: ir.Quant) -> int:
    """The bits of an element of zeros."""
    return (quant.zero_point & 0xFF) * 0x01010101
