"""Which operations run depth-first, in bands of rows, so that what one writes is still in the cache when the next reads it.

A map of 64 channels of 180x320 takes 15 MB; written by one layer and read by the next it travels to memory and back. In bands
of a few rows it stays in the second-level cache, and only those rows, the *window*, have memory. See ChainRec in plan_format.h.

The operations are cut into chains where an estimate of the time, of traffic beyond the second-level cache, of starting an
operation, and of vectors that a band's end leaves half empty, is least (dynamic programming over the places to cut).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgectl.lowering.plan import Buffer, Chain, Op, OpKind, Storage, Tensor

# The estimate's constants: an application core of a few years ago. Only where to cut depends on them.
_L2_BYTES = 600 * 1024  # what the windows of a chain may take together; a band does not work on all of it at once
_FAR_BYTES = 1024 * 1024  # larger maps travel to memory and back
_FAR = 15e9  # bytes a second from there
_NEAR = 60e9  # and from a cache
_MACS = 35e9  # multiply-adds a second
_START = 2e-6  # seconds to start an operation
_WASTE = 20.0  # pixels that the end of a band costs a convolution
_BANDS = (256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
_LONGEST = 32  # operations
_SMALL = 64 * 1024  # bytes of a map that stays in the cache anyway

_ROW_BY_ROW = frozenset((OpKind.CONV, OpKind.UNARY, OpKind.ADD, OpKind.MUL, OpKind.CONCAT))


def plan_chains(ops: Sequence[Op]) -> list[Chain]:
    """Cuts `ops` into chains and gives the tensors inside them windows. Strides change: pack weights afterwards."""
    uses = _Uses(ops)
    best = [0.0]
    cut: list[_Candidate | None] = []
    for last in range(len(ops)):
        least, chosen = best[last] + _alone(ops[last]), None
        for first in range(last - 1, max(-1, last - _LONGEST), -1):
            if not (_can_chain(ops[first]) and _can_chain(ops[last])):
                break
            candidate = _chain(ops, uses, first, last)
            if candidate is None:
                break
            if best[first] + candidate.seconds < least:
                least, chosen = best[first] + candidate.seconds, candidate
        best.append(least)
        cut.append(chosen)
    chains = []
    at = len(ops)
    while at > 0:
        chosen = cut[at - 1]
        if chosen is None:
            at -= 1
            continue
        whole = _banded(ops, uses, chosen.first, at - 1, chosen.rows, sampled=False)
        if whole is not None:  # its first bands fit, and the last ones too
            whole.apply()
            chains.append(Chain(whole.first, whole.bands))
        at = chosen.first
    return chains[::-1]


def _can_chain(op: Op) -> bool:
    n, c, h, w = op.output.dims
    if 4 * n * c * h * w < _SMALL:
        return False
    if op.kind is OpKind.CONCAT:
        return op.p[0] == 1
    if op.kind is OpKind.PIXEL_SHUFFLE:
        return op.p[1] == 0
    return op.kind in _ROW_BY_ROW or op.kind in (OpKind.COPY, OpKind.MAX_POOL, OpKind.DEPTHWISE)


def _rows_read(op: Op, tensor: Tensor, begin: int, end: int) -> tuple[int, int]:
    """The rows of one of its operands that an operation reads for rows [begin, end) of its output, padding included."""
    height = op.output.dims[2]
    match op.kind:
        case OpKind.CONV if tensor is not op.residual:
            return begin + op.reach[0], end + op.reach[1]
        case OpKind.COPY:
            factor, pad, _ = op.p
            return begin * factor - pad, end * factor - pad
        case OpKind.DEPTHWISE:
            kernel, stride, pad = op.p[:3]
            return begin * stride - pad, (end - 1) * stride - pad + kernel
        case OpKind.MAX_POOL:
            kernel, stride, pad, dilation = op.p[0], op.p[2], op.p[4], op.p[6]
            return begin * stride - pad, (end - 1) * stride - pad + (kernel - 1) * dilation + 1
        case OpKind.PIXEL_SHUFFLE:
            return begin // op.p[0], -(-end // op.p[0])
        case _:
            return (begin, end) if tensor.dims[2] == height else (0, tensor.dims[2])


class _Uses:
    """Who writes and reads each tensor."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.readers: dict[Tensor, list[int]] = {}
        self.writers: dict[Tensor, list[int]] = {}
        self.views: dict[Buffer, set[Tensor]] = {}
        for i, op in enumerate(ops):
            self.writers.setdefault(op.output, []).append(i)
            for tensor in op.operands:
                self.readers.setdefault(tensor, []).append(i)
            for tensor in [*op.operands, op.output]:
                if tensor.buffer is not None:
                    self.views.setdefault(tensor.buffer, set()).add(tensor)

    def inside(self, tensor: Tensor, first: int, last: int) -> bool:
        """Nobody outside of [first, last] looks at the tensor or its memory."""
        if tensor.buffer is None or len(self.views[tensor.buffer]) > 1 or len(self.writers[tensor]) > 1:
            return False
        return all(first <= i <= last for i in self.readers.get(tensor, []))


@dataclass
class _Candidate:
    first: int
    rows: int  # of the last operation's output in a band
    bands: list[list[tuple[int, int]]]
    windows: dict[Tensor, int]
    seconds: float

    def apply(self) -> None:
        """Gives the windows their memory."""
        for tensor, rows in self.windows.items():
            n, c, _, w = tensor.dims
            _, _, left, right = tensor.halo
            row = tensor.stride[2]
            plane = (max((rows - 1) * row + left + w + right, rows * row) + 15) // 16 * 16
            plane += 16 * (plane % 1024 == 0)
            tensor.window, tensor.stride, tensor.start = rows, (c * plane, plane, row), left
            tensor.buffer = Buffer(4 * n * c * plane)


def _chain(ops: Sequence[Op], uses: _Uses, first: int, last: int) -> _Candidate | None:
    """The best number of bands for a chain; None when its windows fit in none."""
    best: _Candidate | None = None
    tried = 0
    height = ops[last].output.dims[2]
    for count in _BANDS:
        rows = -(-height // count)
        if rows == tried or count > height:
            continue
        tried = rows
        candidate = _banded(ops, uses, first, last, rows, sampled=True)
        if candidate is None or (best is not None and candidate.seconds >= best.seconds):
            break
        best = candidate
    return best


def _banded(ops: Sequence[Op], uses: _Uses, first: int, last: int, rows: int, *, sampled: bool) -> _Candidate | None:
    """A chain that advances `rows` rows of its last operation at a time; None when the windows do not fit.

    `sampled`: looks at a few bands only, which shows how large the windows become.
    """
    part = ops[first : last + 1]
    heights = [op.output.dims[2] for op in part]
    readers: list[list[int]] = [[] for _ in part]  # positions in `part`
    place = {op.output: k for k, op in enumerate(part)}
    written = {op.output.buffer for op in part if op.output.buffer is not None}
    if any(tensor.buffer in written and tensor not in place for op in part for tensor in op.operands):
        return None  # somebody reads, as another view, what the chain is still writing
    for k, op in enumerate(part):
        for tensor in op.operands:
            if tensor in place:
                readers[place[tensor]].append(k)
    count = -(-heights[-1] // rows)
    bands = range(min(count, 4)) if sampled else range(count)
    ends: list[list[int]] = []
    for band in bands:
        ends.append(_ends(part, heights, readers, (band + 1) / count, rows * (band + 1), ends[-1] if ends else None))
    windows: dict[Tensor, int] = {}
    bases = [[0] * len(part) for _ in bands]
    for k, op in enumerate(part):
        tensor = op.output
        if not readers[k] or not uses.inside(tensor, first, last):
            continue
        column, most = _bases(part, heights, readers[k], ends, k)
        if most < heights[k] + tensor.halo[0] + tensor.halo[1]:
            windows[tensor] = most
            for band in bands:
                bases[band][k] = column[band]
    size = sum(4 * t.dims[0] * t.dims[1] * t.stride[2] * window for t, window in windows.items())
    weights = max(4 * op.macs // (op.output.dims[2] * op.output.dims[3]) for op in part)
    if not windows or size + weights > _L2_BYTES:
        return None
    pairs = [list(zip(ends[band], bases[band], strict=True)) for band in bands]
    return _Candidate(first, rows, pairs, windows, _seconds(part, windows, count))


def _ends(
    part: Sequence[Op], heights: list[int], readers: list[list[int]], share: float, rows: int, before: list[int] | None
) -> list[int]:
    """Where the outputs end after a band: as far as the operations that read them need, from the last one backwards."""
    if share >= 1:
        return heights
    ends = [0] * len(part)
    for k in range(len(part) - 1, -1, -1):
        op = part[k]
        if k == len(part) - 1:
            end = rows
        elif readers[k]:
            end = max(_rows_read(part[r], op.output, 0, ends[r])[1] for r in readers[k])
        else:
            end = math.ceil(heights[k] * share)
        if op.kind is OpKind.PIXEL_SHUFFLE:
            end = -(-end // op.p[0]) * op.p[0]
        ends[k] = max(min(end, heights[k]), before[k] if before else 0)
    return ends


def _bases(part: Sequence[Op], heights: list[int], readers: list[int], ends: list[list[int]], k: int) -> tuple[list[int], int]:
    """The first row that operation k's output must keep in each band, and how many rows it then has at most."""
    tensor = part[k].output
    top, bottom = tensor.halo[:2]
    base, most, column = -top, 0, []
    for band, now in enumerate(ends):
        if band:
            before = ends[band - 1]
            unread = [_rows_read(part[r], tensor, before[r], heights[r])[0] for r in readers if before[r] < heights[r]]
            base = max(base, min([*unread, before[k]]))
        column.append(base)
        most = max(most, now[k] + (bottom if now[k] == heights[k] else 0) - base)
    return column, most


def _alone(op: Op) -> float:
    return _seconds([op], {}, 1)


def _seconds(ops: Sequence[Op], windows: dict[Tensor, int], bands: int) -> float:
    """The estimate for operations that run in so many bands."""
    seconds = 0.0
    for op in ops:
        for tensor in [*op.operands, op.output]:
            n, c, h, w = tensor.dims
            size = 4 * n * c * h * w
            near = tensor in windows or size < _FAR_BYTES or tensor.storage is Storage.CONST
            seconds += size / (_NEAR if near else _FAR)
            if tensor is op.output and tensor in windows:  # rows that are moved down with every band
                kept = max(0, windows[tensor] - h // bands)
                seconds += 2 * bands * 4 * n * c * kept * w / _NEAR
        pixels = op.output.dims[2] * op.output.dims[3] / bands
        seconds += bands * _START + op.macs / _MACS * (1 + _WASTE / pixels)
    return seconds
