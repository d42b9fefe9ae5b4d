"""Reads a plan back: records of tensors and operations, and the weights in their packed blobs (plan_format.h)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl.lowering import plan
from edgectl.lowering.ir import Act, Activation
from edgectl.lowering.plan import NONE, OpKind, Storage

Array = npt.NDArray[Any]


class Damaged(Exception):
    """The bytes are no plan of this version."""


@dataclass(frozen=True)
class Record:
    """A TensorRec: of int8 tensors an element is four channels, and `zero_point` what the halo holds."""

    storage: Storage
    io_index: int
    dims: tuple[int, int, int, int]
    halo: tuple[int, int, int, int]
    stride: tuple[int, int, int]
    offset: int
    int8: bool
    half: bool
    zero_point: int


@dataclass(frozen=True)
class Operation:
    """An OpRec; `inputs`, `output` and `residual` are numbers of tensors."""

    kind: OpKind
    name: str
    inputs: tuple[int, ...]
    output: int
    residual: int | None
    residual_after_act: bool
    act: Activation
    p: tuple[int, ...]
    f: tuple[float, ...]
    blob: memoryview


@dataclass(frozen=True)
class Plan:
    """A whole plan. Of chains in several parts, which compute rows of the same outputs, only the first part's operations."""

    tensors: list[Record]
    operations: list[Operation]
    inputs: list[int]
    outputs: list[int]
    data: memoryview


@dataclass(frozen=True)
class Weights:
    """The weights of a packed blob as triplets, and one bias and one factor a filter.

    Filter `filters[i]` multiplies channel lane `lanes[i]` of the element at `offsets[i]` by `values[i]`. Of float32 blobs lanes
    and factors are 0 and 1; of int8 ones values and biases are integers, and the factor makes them the output's.
    """

    filters: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    lanes: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    factor: npt.NDArray[np.float64]


def read_plan(data: bytes) -> Plan:
    """Reads a plan.

    Raises:
        Damaged: it has another version, or records that lie outside of it.
    """
    try:
        return _read(memoryview(data))
    except (struct.error, ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise Damaged(str(error)) from error


def _read(data: memoryview) -> Plan:
    header = plan.HEADER.unpack_from(data)
    magic, version, n_tensors, n_ops, n_inputs, n_outputs, n_index, total = header[:8]
    tensors_off, ops_off, index_off, strings_off, strings_size, data_off, data_size, _, chains_off, n_chains = header[8:18]
    if magic != plan.MAGIC or version != plan.VERSION or total != len(data):
        raise Damaged(f"it is no plan of version {plan.VERSION}")
    index = [int(i) for i in np.frombuffer(data, "<u4", n_index, index_off)]
    strings = bytes(_slice(data, strings_off, strings_size))
    weights = _slice(data, data_off, data_size)
    tensors = [_tensor(plan.TENSOR.unpack_from(data, tensors_off + i * plan.TENSOR.size)) for i in range(n_tensors)]
    again: set[int] = set()
    for i in range(n_chains):
        first, count, _, _, part = plan.CHAIN.unpack_from(data, chains_off + i * plan.CHAIN.size)
        if first + count > n_ops:
            raise Damaged("a chain has operations that there are not")
        again |= set(range(first, first + count)) if part else set()
    records = (plan.OP.unpack_from(data, ops_off + i * plan.OP.size) for i in range(n_ops) if i not in again)
    operations = [_operation(record, index, strings, weights) for record in records]
    for number in (n for op in operations for n in (*op.inputs, op.output, 0 if op.residual is None else op.residual)):
        tensors[number]
    return Plan(tensors, operations, index[:n_inputs], index[n_inputs : n_inputs + n_outputs], weights)


def _tensor(record: Sequence[Any]) -> Record:
    storage, io_index, *rest = record
    fill = rest[14]
    zero_point = (fill & 0xFF) - 256 if fill & 0x80 else fill & 0xFF
    dims, halo, stride = tuple(rest[:4]), tuple(rest[4:8]), tuple(rest[8:11])
    if min(dims) < 1 or min(halo) < 0 or min(stride) < 0:
        raise Damaged("a tensor has negative sizes")
    return Record(Storage(storage), io_index, dims, halo, stride, rest[11], rest[13] == 1, rest[13] == 2, zero_point)


def _operation(record: Sequence[Any], index: list[int], strings: bytes, weights: memoryview) -> Operation:
    kind, act, low, high, name_off, name_len, inputs_off, n_inputs, output, residual, after = record[:11]
    return Operation(
        OpKind(kind),
        strings[name_off : name_off + name_len].decode(),
        tuple(index[inputs_off : inputs_off + n_inputs]),
        output,
        None if residual == NONE else residual,
        bool(after),
        Activation(Act(act), low, high),
        tuple(record[11:23]),
        tuple(record[23:27]),
        _slice(weights, record[28], record[29]),
    )


def constant(plan_: Plan, tensor: Record) -> npt.NDArray[np.float64]:
    """The values of a constant tensor, of its dims."""
    count = int(np.prod(tensor.dims))
    return _array(plan_.data, "<f4", count, tensor.offset).reshape(tensor.dims).astype(np.float64)


def packed(blob: memoryview) -> Weights:
    """The weights behind a PackedHeader."""
    block, n_blocks, n_entries, n_filters = struct.unpack_from("<4I", blob)
    places = struct.unpack_from("<5Q", blob, 16)
    rows = _rows(blob, n_blocks, places[0], n_entries, n_filters)
    filters = _array(blob, "<u4", n_blocks * block, places[1]).astype(np.int64).reshape(n_blocks, block)
    offsets = _array(blob, "<i4", n_entries, places[2]).astype(np.int64)
    values = _array(blob, "<f4", n_entries * block, places[3]).astype(np.float64).reshape(n_entries, block)
    biases = _array(blob, "<f4", n_blocks * block, places[4]).astype(np.float64).reshape(n_blocks, block)
    of_block = np.repeat(np.arange(n_blocks), np.diff(rows))
    entry, lane = np.nonzero((values != 0) & (filters[of_block] != NONE))
    used = filters != NONE
    bias = np.zeros(n_filters)
    bias[filters[used]] = biases[used]
    zeros = np.zeros(len(entry), np.int64)
    return Weights(filters[of_block[entry], lane], offsets[entry], zeros, values[entry, lane], bias, np.ones(n_filters))


def packed_int8(blob: memoryview) -> Weights:
    """The weights behind a PackedInt8Header, 4-bit codes looked up in their tables."""
    block, n_blocks, n_filters, n_offsets, n_entries, bits = struct.unpack_from("<6I", blob)
    tables = np.frombuffer(blob, np.int8, 32, 24).reshape(2, 16)
    places = struct.unpack_from("<8Q", blob, 56)
    if bits not in (4, 8) or block not in (4, 8) or (bits == 4 and n_entries % 2):
        raise Damaged("its codes are of no known kind")
    rows = _rows(blob, n_blocks, places[0], n_entries, n_filters)
    lists = _array(blob, "<u4", n_blocks, places[1]).astype(np.int64)
    groups = _array(blob, "<u4", n_blocks * block // 4, places[2]).astype(np.int64)
    offsets = _array(blob, "<i4", n_offsets, places[3]).astype(np.int64)
    first = np.where(groups == NONE, n_filters, groups * 4)
    filters = (first[:, None] + np.arange(4)).reshape(n_blocks, block)  # those from n_filters on are none
    of_block = np.repeat(np.arange(n_blocks), np.diff(rows))
    if bits == 8:
        levels = _array(blob, np.int8, n_entries * block * 4, places[4]).reshape(n_entries, block, 4)
    else:
        pairs = _array(blob, np.uint8, n_entries // 2 * block * 4, places[4]).reshape(-1, 1, block, 4)
        codes = np.concatenate([pairs & 15, pairs >> 4], axis=1).reshape(n_entries, block, 4)
        books = _array(blob, np.uint8, n_blocks * block, places[7]).reshape(n_blocks, block)
        levels = tables[books[of_block][:, :, None] & 1, codes]
    where = lists[of_block] + np.arange(n_entries) - rows[of_block]
    entry, row, lane = np.nonzero((levels != 0) & (filters[of_block] < n_filters)[:, :, None])
    used = filters < n_filters
    numbers = []
    for kind, place in (("<i4", places[5]), ("<f4", places[6])):
        made = np.zeros(n_filters)
        made[filters[used]] = _array(blob, kind, n_blocks * block, place).reshape(n_blocks, block)[used]
        numbers.append(made)
    values = levels[entry, row, lane].astype(np.float64)
    return Weights(filters[of_block[entry], row], offsets[where[entry]], lane, values, numbers[0], numbers[1])


def _rows(blob: memoryview, n_blocks: int, place: int, n_entries: int, n_filters: int) -> npt.NDArray[np.int64]:
    """Where the entries of every block begin, and where the last one's end."""
    rows = _array(blob, "<u4", n_blocks + 1, place).astype(np.int64)
    if rows[0] != 0 or rows[-1] != n_entries or (np.diff(rows) < 0).any() or max(n_entries, n_filters) > len(blob):
        raise Damaged("its blocks do not share its entries")
    return rows


def depthwise(blob: memoryview, taps: int) -> tuple[Array, Array]:
    """Kernels (channels, taps) and biases of kDepthwise."""
    whole = _array(blob, "<f4", len(blob) // 4, 0).astype(np.float64).reshape(-1, 1 + taps)
    return whole[:, 1:], whole[:, 0]


def depthwise_int8(blob: memoryview, taps: int) -> tuple[Array, Array, Array]:
    """Levels (channels, taps), biases and factors of kDepthwiseInt8, of a multiple of four channels."""
    each = 32 + -(-4 * taps // 16) * 16
    fours = _array(blob, np.uint8, len(blob), 0).reshape(-1, each)
    bias = np.ascontiguousarray(fours[:, :16]).view("<i4").reshape(-1).astype(np.float64)
    factor = np.ascontiguousarray(fours[:, 16:32]).view("<f4").reshape(-1).astype(np.float64)
    kernels = np.ascontiguousarray(fours[:, 32 : 32 + 4 * taps]).view(np.int8).reshape(-1, taps, 4).transpose(0, 2, 1)
    return kernels.reshape(-1, taps).astype(np.float64), bias, factor


def _slice(data: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise Damaged("a part of it lies outside")
    return data[start : start + size]


def _array(data: memoryview, kind: Any, count: int, start: int) -> Array:
    return np.frombuffer(data, kind, count, start) if count else np.zeros(0, kind)
