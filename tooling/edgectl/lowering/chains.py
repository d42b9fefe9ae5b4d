"""Which operations run depth-first, in bands of rows, so that what one writes is still in the cache when the next reads it.

A map of 64 channels of 180x320 takes 15 MB; written by one layer and read by the next it travels to memory and back. In bands
of a few rows it stays in the second-level cache, and only those rows, the *window*, have memory. See ChainRec in plan_format.h.

The operations are cut into chains where an estimate of the time, of traffic beyond the second-level cache, of starting an
operation, and of vectors that a band's end leaves half empty, is least (dynamic programming over the places to cut).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgectl.lowering.plan import LINE, Buffer, Chain, Op, OpKind, Storage, Tensor, whole_lines

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
_PARTS = (4, 2)  # that may run at the same time
_AGAIN = 0.05  # of the work may be done twice for that
_SMALL = 64 * 1024  # bytes of a map that stays in the cache anyway

_ROW_BY_ROW = frozenset(
    (OpKind.CONV, OpKind.UNARY, OpKind.ADD, OpKind.MUL, OpKind.CONCAT, OpKind.CONV_INT8, OpKind.QUANTIZE, OpKind.DEQUANTIZE)
)
_WINDOWED = frozenset((OpKind.COPY, OpKind.MAX_POOL, OpKind.DEPTHWISE, OpKind.DEPTHWISE_INT8))


def plan_chains(ops: Sequence[Op]) -> tuple[list[Op], list[Chain]]:
    """Cuts `ops` into chains, the chains into parts, and gives the tensors inside them windows.

    Returns the operations, those of parts after the first as twins of the first's, and the chains. Strides change: pack
    weights afterwards.
    """
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
    found = []
    at = len(ops)
    while at > 0:
        chosen = cut[at - 1]
        if chosen is None:
            at -= 1
            continue
        whole = _in_parts(ops, uses, chosen.first, at - 1, chosen.rows)
        if whole is not None:  # its first bands fit, and the last ones too
            found.append(whole)
        at = chosen.first
    planned: list[Op] = []
    chains = []
    for candidate in found[::-1]:
        planned += ops[at : candidate.first]
        at = candidate.first + len(candidate.parts[0].begins)
        candidate.apply()
        for number, part in enumerate(candidate.parts):
            chains.append(Chain(len(planned), part.begins, part.bands, number))
            mine = ops[candidate.first : at]
            planned += _twins(mine, candidate.windows) if number else mine
    return [*planned, *ops[at:]], chains


def _twins(ops: Sequence[Op], windows: Iterable[Tensor]) -> list[Op]:
    """The same operations with windows of their own."""
    own = {tensor: replace(tensor, buffer=Buffer(tensor.buffer.size)) for tensor in windows if tensor.buffer is not None}

    def twin(op: Op) -> Op:
        inputs = [own.get(tensor, tensor) for tensor in op.inputs]
        residual = None if op.residual is None else own.get(op.residual, op.residual)
        return replace(op, inputs=inputs, output=own.get(op.output, op.output), residual=residual, twin=op)

    return [twin(op) for op in ops]


def _can_chain(op: Op) -> bool:
    n, c, h, w = op.output.dims
    if op.output.element * n * c * h * w < _SMALL:
        return False
    if op.kind is OpKind.CONCAT:
        return op.p[0] == 1
    if op.kind is OpKind.PIXEL_SHUFFLE:
        return op.p[1] == 0
    return op.kind in _ROW_BY_ROW or op.kind in _WINDOWED


def _rows_read(op: Op, tensor: Tensor, begin: int, end: int) -> tuple[int, int]:
    """The rows of one of its operands that an operation reads for rows [begin, end) of its output, padding included."""
    height = op.output.dims[2]
    match op.kind:
        case OpKind.CONV | OpKind.CONV_INT8 if tensor is not op.residual:
            return begin + op.reach[0], end + op.reach[1]
        case OpKind.COPY:
            factor, pad, _ = op.p
            return begin * factor - pad, end * factor - pad
        case OpKind.DEPTHWISE | OpKind.DEPTHWISE_INT8:
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
class _Part:
    """What Chain says of one."""

    begins: list[int]
    bands: list[list[tuple[int, int]]]


@dataclass
class _Candidate:
    first: int
    rows: int  # of the last operation's output in a band
    parts: list[_Part]
    windows: dict[Tensor, int]
    seconds: float

    def apply(self) -> None:
        """Gives the windows their memory."""
        for tensor, rows in self.windows.items():
            n, c, _, w = tensor.dims
            _, _, left, right = tensor.halo
            row = tensor.stride[2]
            first = whole_lines(left) if row % LINE == tensor.start % LINE == 0 else left
            plane = whole_lines(max((rows - 1) * row + first + w + right, rows * row))
            plane += LINE * (plane * tensor.element % 4096 == 0)
            tensor.window, tensor.stride, tensor.start = rows, (c * plane, plane, row), first
            tensor.buffer = Buffer(tensor.element * n * c * plane)


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


def _in_parts(ops: Sequence[Op], uses: _Uses, first: int, last: int, rows: int) -> _Candidate | None:
    """The chain with all its bands, in as many parts as do little twice; None when the windows do not fit."""
    for count in _PARTS:
        candidate = _banded(ops, uses, first, last, rows, parts=count)
        if candidate is None or len(candidate.parts) < count:
            continue
        if _done_again(ops[first : last + 1], candidate.parts) <= _AGAIN:
            return candidate
    return _banded(ops, uses, first, last, rows)


def _done_again(ops: Sequence[Op], parts: Sequence[_Part]) -> float:
    """The share of the work that is done again where parts meet."""
    whole = done = 0.0
    for k, op in enumerate(ops):
        work = max(op.macs, math.prod(op.output.dims))
        whole += work
        done += work * sum(part.bands[-1][k][0] - part.begins[k] for part in parts) / op.output.dims[2]
    return done / whole - 1


def _banded(
    ops: Sequence[Op], uses: _Uses, first: int, last: int, rows: int, *, parts: int = 1, sampled: bool = False
) -> _Candidate | None:
    """A chain that advances `rows` rows of its last operation at a time; None when the windows do not fit.

    `parts`: of the chain, fewer where its rows or its tensors do not allow that many. `sampled`: looks at a few bands only,
    which shows how large the windows become.
    """
    chain = _Rows.of(ops[first : last + 1])
    part, heights, readers = chain.ops, chain.heights, chain.readers
    written = {op.output.buffer for op in part if op.output.buffer is not None}
    if any(tensor.buffer in written and tensor not in chain.place for op in part for tensor in op.operands):
        return None  # somebody reads, as another view, what the chain is still writing
    inside = [bool(readers[k]) and uses.inside(op.output, first, last) for k, op in enumerate(part)]
    step = part[-1].p[0] if part[-1].kind is OpKind.PIXEL_SHUFFLE else 1
    starts = sorted({heights[-1] * i // parts // step * step for i in range(parts)})
    if any(readers[k] and not inside[k] for k in range(len(part))):
        starts = [0]
    begins, made = [0] * len(part), []
    windows: dict[Tensor, int] = {}
    for start, stop in zip(starts, [*starts[1:], heights[-1]], strict=True):
        begins = chain.begins(start, begins)
        most_bands = 4 if sampled else heights[-1]
        ends = chain.ends(begins, range(start + rows, stop + rows, rows)[:most_bands], stop)
        bases = [[0] * len(part) for _ in ends]
        for k, op in enumerate(part):
            if not inside[k]:
                continue
            column, most = chain.bases(k, begins[k], ends)
            if most < heights[k] + op.output.halo[0] + op.output.halo[1]:
                windows[op.output] = max(most, windows.get(op.output, 0))
                for base, row in zip(bases, column, strict=True):
                    base[k] = row
            elif len(starts) > 1:
                return _banded(ops, uses, first, last, rows)
        made.append(_Part(begins, [list(zip(*band, strict=True)) for band in zip(ends, bases, strict=True)]))
        begins = [end if not readers[k] else 0 for k, end in enumerate(ends[-1])]
    size = sum(t.element * t.dims[0] * t.dims[1] * t.stride[2] * window for t, window in windows.items())
    weights = max(op.inputs[0].element * op.macs // (op.output.dims[2] * op.output.dims[3]) for op in part)
    if not windows or size + weights > _L2_BYTES:
        return None
    return _Candidate(first, rows, made, windows, _seconds(part, windows, -(-heights[-1] // rows)))


@dataclass
class _Rows:
    """The operations of a chain, and which rows of their outputs need which."""

    ops: Sequence[Op]
    heights: list[int]
    place: dict[Tensor, int]
    readers: list[list[int]]  # positions in `ops`

    @staticmethod
    def of(ops: Sequence[Op]) -> _Rows:
        place = {op.output: k for k, op in enumerate(ops)}
        readers: list[list[int]] = [[] for _ in ops]
        for k, op in enumerate(ops):
            for tensor in op.operands:
                if tensor in place:
                    readers[place[tensor]].append(k)
        return _Rows(ops, [op.output.dims[2] for op in ops], place, readers)

    def begins(self, start: int, ended: list[int]) -> list[int]:
        """Where operations begin when the last one does at `start`; those that nobody here reads where they have ended."""
        begins = list(ended)
        begins[-1] = start
        for k in range(len(self.ops) - 1, -1, -1):
            op = self.ops[k]
            if self.readers[k]:
                needed = min(_rows_read(self.ops[r], op.output, begins[r], begins[r] + 1)[0] for r in self.readers[k])
                begins[k] = max(0, needed)
            if op.kind is OpKind.PIXEL_SHUFFLE:
                begins[k] -= begins[k] % op.p[0]
        return begins

    def ends(self, begins: list[int], rows: Iterable[int], stop: int) -> list[list[int]]:
        """Where the outputs end after each band, which ends the last one at these rows, but at `stop` at most."""
        ends: list[list[int]] = []
        for row in rows:
            ends.append(self._ends(min(row, stop), ends[-1] if ends else begins))
        return ends

    def _ends(self, row: int, before: list[int]) -> list[int]:
        """As far as the operations that read them need, from the last one backwards."""
        if row >= self.heights[-1]:
            return self.heights
        ends = [0] * len(self.ops)
        for k in range(len(self.ops) - 1, -1, -1):
            op = self.ops[k]
            if k == len(self.ops) - 1:
                end = row
            elif self.readers[k]:
                end = max(_rows_read(self.ops[r], op.output, 0, ends[r])[1] for r in self.readers[k])
            else:
                end = math.ceil(self.heights[k] * row / self.heights[-1])
            if op.kind is OpKind.PIXEL_SHUFFLE:
                end = -(-end // op.p[0]) * op.p[0]
            ends[k] = max(min(end, self.heights[k]), before[k])
        return ends

    def bases(self, k: int, begin: int, ends: list[list[int]]) -> tuple[list[int], int]:
        """The first row that operation k's output must keep in each band, and how many rows it then has at most."""
        tensor, heights = self.ops[k].output, self.heights
        top, bottom = tensor.halo[:2]
        base, most, column = begin or -top, 0, []
        for band, now in enumerate(ends):
            if band:
                before = ends[band - 1]
                reading = [r for r in self.readers[k] if before[r] < heights[r]]
                unread = [_rows_read(self.ops[r], tensor, before[r], heights[r])[0] for r in reading]
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
            size = tensor.element * n * c * h * w
            near = tensor in windows or size < _FAR_BYTES or tensor.storage is Storage.CONST
            seconds += size / (_NEAR if near else _FAR)
            if tensor is op.output and tensor in windows:  # rows that are moved down with every band
                kept = max(0, windows[tensor] - h // bands)
                seconds += 2 * bands * tensor.element * n * c * kept * w / _NEAR
        pixels = op.output.dims[2] * op.output.dims[3] / bands
        seconds += bands * _START + op.macs / _MACS * (1 + _WASTE / pixels)
    return seconds
