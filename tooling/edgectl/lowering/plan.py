"""Writes plans: the binary of runtime_kernels/include/edge/plan_format.h, from physical tensors and operations."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from edgectl.lowering.ir import IDENTITY, Activation

MAGIC = b"EDGEPLAN"
VERSION = 7
ALIGN = 64
LINE = ALIGN // 4  # elements of a cache line
NONE = 0xFFFFFFFF

HEADER = struct.Struct("<8s6I10QI12x")
TENSOR = struct.Struct("<2I4i4i3qQi2I12x")
OP = struct.Struct("<2I2f7I12i4fI2Q32x")
CHAIN = struct.Struct("<5I4x")


class Storage(IntEnum):
    """`Storage` of plan_format.h."""

    ARENA = 0
    INPUT = 1
    OUTPUT = 2
    CONST = 3


class OpKind(IntEnum):
    """`OpKind` of plan_format.h."""

    COPY = 0
    CONV = 1
    LINEAR = 2
    UNARY = 3
    ADD = 4
    MUL = 5
    CONCAT = 6
    MAX_POOL = 7
    AVG_POOL = 8
    ADAPTIVE_AVG_POOL = 9
    UPSAMPLE_NEAREST = 10
    UPSAMPLE_BILINEAR = 11
    PIXEL_SHUFFLE = 12
    SOFTMAX = 13
    WINOGRAD = 14
    DEPTHWISE = 15
    QUANTIZE = 16
    DEQUANTIZE = 17
    CONV_INT8 = 18
    LINEAR_INT8 = 19
    DEPTHWISE_INT8 = 20
    MEAN_INT8 = 21


Dims = tuple[int, int, int, int]


@dataclass(eq=False)
class Buffer:
    """Bytes of the arena that live from operation `first` to operation `last`; `offset` is what planning decides."""

    size: int
    first: int = -1
    last: int = -1
    offset: int = -1


@dataclass(eq=False)
class Tensor:
    """A TensorRec. `start` is the element offset of (0, 0, 0, 0) in `buffer`; `data` the bytes of a constant.

    Planning chains gives some tensors a `window`, and with it another stride and start. `fill`: the bits of an element of the
    halo; of int8 tensors, whose elements are four channels, only. `half`: its elements are float16.
    """

    storage: Storage
    dims: Dims
    stride: tuple[int, int, int]
    halo: Dims = (0, 0, 0, 0)
    io_index: int = 0
    buffer: Buffer | None = None
    start: int = 0
    data: bytes | None = None
    window: int = 0
    fill: int | None = None
    half: bool = False

    @property
    def element(self) -> int:
        """Bytes of an element."""
        return 2 if self.half else 4

    @property
    def is_dense(self) -> bool:
        """True when the elements lie one after the other."""
        return self.halo == (0, 0, 0, 0) and self.stride == dense_stride(self.dims)

    def channels(self, first: int, count: int) -> Tensor:
        """Some channels of an arena tensor, in the same memory."""
        n, _, h, w = self.dims
        start = self.start + first * self.stride[1]
        return replace(self, dims=(n, count, h, w), start=start)


@dataclass(eq=False, kw_only=True)
class Op:
    """An OpRec. `p` and `f` are the parameters that plan_format.h lists for its kind.

    `reach`: a convolution reads rows y + reach[0] to y + reach[1] of its input for row y of its output. `macs`: multiply-adds
    with weights that are not zero. `twin`: the operation whose weights it shares.
    """

    kind: OpKind
    name: str
    inputs: list[Tensor]
    output: Tensor
    act: Activation = IDENTITY
    residual: Tensor | None = None
    residual_after_act: bool = False
    p: Sequence[int] = ()
    f: Sequence[float] = ()
    blob: bytes = field(default=b"", repr=False)
    reach: tuple[int, int] = (0, 0)
    macs: int = 0
    twin: Op | None = field(default=None, repr=False)

    @property
    def operands(self) -> list[Tensor]:
        """What it reads, the residual included."""
        return [*self.inputs, self.residual] if self.residual is not None else self.inputs


@dataclass(frozen=True)
class Chain:
    """A ChainRec: operations from `first` on run depth-first.

    begins[k]: the row where operation first + k begins; bands[i][k]: its (end, base) in band i. `part`: 0, or which of the
    parts that follow the chain's first one.
    """

    first: int
    begins: list[int]
    bands: list[list[tuple[int, int]]]
    part: int = 0

    @property
    def last(self) -> int:
        """Its last operation."""
        return self.first + len(self.begins) - 1


def whole_lines(elements: int) -> int:
    """As many elements, or up to a cache line more."""
    return -(-elements // LINE) * LINE


def dense_stride(dims: Dims) -> tuple[int, int, int]:
    """Strides of n, c and h, in elements, of a tensor without gaps."""
    _, c, h, w = dims
    return c * h * w, h * w, w


def io_tensor(storage: Storage, shape: tuple[int, ...], i: int) -> Tensor:
    """Input or output number `i` of the plan."""
    dims = four_dims(shape)
    return Tensor(storage, dims, dense_stride(dims), io_index=i)


def four_dims(shape: tuple[int, ...]) -> Dims:
    """Four dimensions for a tensor: its own, or all elements in a row."""
    return (shape[0], shape[1], shape[2], shape[3]) if len(shape) == 4 else (1, 1, 1, math.prod(shape))


def left_padded(shape: tuple[int, ...]) -> Dims:
    """Four dimensions for broadcasting: ones before the tensor's own."""
    a, b, c, d = (1,) * (4 - len(shape)) + tuple(shape)
    return a, b, c, d


def around_axis(shape: tuple[int, ...], axis: int) -> Dims:
    """(all before, `axis`, 1, all after): any axis as the second of four."""
    return math.prod(shape[:axis]), shape[axis], 1, math.prod(shape[axis + 1 :])


def reshaped(tensor: Tensor, dims: Dims) -> Tensor:
    """The same bytes seen with other dims; the tensor is dense."""
    if tensor.dims == dims:
        return tensor
    assert tensor.is_dense and math.prod(tensor.dims) == math.prod(dims)
    return replace(tensor, dims=dims, stride=dense_stride(dims))


def plan_arena(buffers: Sequence[Buffer]) -> int:
    """Gives every buffer an offset such that buffers alive together do not overlap; returns the arena's size in bytes.

    Greedy by size: the largest first, each at the lowest gap between those it lives beside (Pisarchyk and Lee, 2020).
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        alive = sorted((b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=lambda b: b.offset)
        at = 0
        for other in alive:
            if at + buffer.size <= other.offset:
                break
            at = max(at, _align(other.offset + other.size))
        buffer.offset = at
        placed.append(buffer)
    return _align(max((b.offset + b.size for b in buffers), default=0))


def live_ranges(ops: Sequence[Op], chains: Sequence[Chain] = ()) -> list[Buffer]:
    """Sets first and last use of every buffer by the operations' order, and returns the buffers.

    The operations of a chain take turns and its parts run at the same time, so what one of them uses lives as long as all.
    """
    first, last = list(range(len(ops))), list(range(len(ops)))
    begin = 0
    for chain in chains:
        begin = begin if chain.part else chain.first
        for i in range(begin, chain.last + 1):
            first[i], last[i] = begin, chain.last
    seen: dict[int, Buffer] = {}
    for i, op in enumerate(ops):
        for tensor in [*op.operands, op.output]:
            if tensor.buffer is None:
                continue
            if id(tensor.buffer) not in seen:
                seen[id(tensor.buffer)] = tensor.buffer
                tensor.buffer.first = first[i]
            tensor.buffer.last = last[i]
    return list(seen.values())


def write(inputs: Sequence[Tensor], outputs: Sequence[Tensor], ops: Sequence[Op], chains: Sequence[Chain] = ()) -> bytes:
    """The plan's bytes. Live ranges and arena offsets are planned here."""
    arena_size = plan_arena(live_ranges(ops, chains))
    tensors: dict[int, tuple[int, Tensor]] = {}

    def number(tensor: Tensor) -> int:
        return tensors.setdefault(id(tensor), (len(tensors), tensor))[0]

    index = [number(tensor) for tensor in [*inputs, *outputs]]
    strings, data = bytearray(), bytearray()
    places: dict[Op, int] = {}  # of weights
    records = []
    for op in ops:
        owner = op.twin or op
        if owner not in places:
            places[owner] = _append(data, owner.blob) if owner.blob else 0
        records.append(_op_record(op, number, index, strings, places[owner], len(owner.blob)))
    chain_bytes = b""
    for chain in chains:
        chain_bytes += CHAIN.pack(chain.first, len(chain.begins), len(chain.bands), len(index), chain.part)
        index += chain.begins
        index += [value & 0xFFFFFFFF for band in chain.bands for pair in band for value in pair]
    tensor_bytes = b"".join(_tensor_record(tensor, data) for _, tensor in tensors.values())
    op_bytes = b"".join(records)
    index_bytes = struct.pack(f"<{len(index)}I", *index)
    tensors_off = HEADER.size
    ops_off = tensors_off + len(tensor_bytes)
    chains_off = ops_off + len(op_bytes)
    index_off = chains_off + len(chain_bytes)
    strings_off = index_off + len(index_bytes)
    data_off = _align(strings_off + len(strings))
    total = data_off + len(data)
    header = HEADER.pack(
        MAGIC, VERSION, len(tensors), len(ops), len(inputs), len(outputs), len(index), total,
        tensors_off, ops_off, index_off, strings_off, len(strings), data_off, len(data), arena_size,
        chains_off, len(chains),
    )  # fmt: skip
    body = header + tensor_bytes + op_bytes + chain_bytes + index_bytes + bytes(strings)
    return body + b"\0" * (data_off - len(body)) + bytes(data)


def _op_record(
    op: Op, number: Callable[[Tensor], int], index: list[int], strings: bytearray, data_off: int, data_size: int
) -> bytes:
    inputs_off = len(index)
    index.extend(number(tensor) for tensor in op.inputs)
    name = op.name.encode()
    name_off = len(strings)
    strings += name
    residual = NONE if op.residual is None else number(op.residual)
    p = [*op.p, *[0] * (12 - len(op.p))]
    f = [*op.f, *[0.0] * (4 - len(op.f))]
    return OP.pack(
        op.kind, op.act.kind, op.act.lo, op.act.hi, name_off, len(name), inputs_off, len(op.inputs),
        number(op.output), residual, int(op.residual_after_act), *p, *f, 0, data_off, data_size,
    )  # fmt: skip


def _tensor_record(tensor: Tensor, data: bytearray) -> bytes:
    offset = 0
    if tensor.buffer is not None:
        offset = tensor.buffer.offset + tensor.element * tensor.start
    elif tensor.data is not None:
        offset = _append(data, tensor.data)
    element_type = 2 if tensor.half else int(tensor.fill is not None)
    return TENSOR.pack(
        tensor.storage,
        tensor.io_index,
        *tensor.dims,
        *tensor.halo,
        *tensor.stride,
        offset,
        tensor.window,
        element_type,
        tensor.fill or 0,
    )


def _append(data: bytearray, piece: bytes) -> int:
    data += b"\0" * (-len(data) % ALIGN)
    at = len(data)
    data += piece
    return at


def _align(size: int) -> int:
    return (size + ALIGN - 1) // ALIGN * ALIGN
