"""Reads an artifact into a verifier's graph: the weights that devices compute with, unpacked from the plan in its file."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgectl.artifact import Artifact, TensorSpec
from edgectl.assure.verify import plan_reader
from edgectl.assure.verify.builder import Builder, Unsupported, Value
from edgectl.assure.verify.graph import Graph
from edgectl.assure.verify.plan_reader import Damaged, Operation, Plan, Record, Weights
from edgectl.errors import UserError
from edgectl.lowering.ir import Act, Activation
from edgectl.lowering.plan import MAGIC, OpKind, Storage
from edgectl.lowering.winograd import KERNEL_TRANSFORM

_TOTAL = struct.Struct("<Q")
_TOTAL_AT = 32  # in a plan's header
_QUANTISED_TOLERANCE = 0.2  # what is not rounded may differ from what is by this much of the largest output
_MOST_WEIGHTS = 1 << 28  # of a layer
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decoded:
    """An artifact's network.

    Attributes:
        graph: its operations, with the weights as they are stored: pruned, and of quantised layers levels times scales.
        shape: of its input.
        note: says that activations are not rounded, where the device rounds them; otherwise empty.
    """

    graph: Graph
    shape: tuple[int, ...]
    note: str


def read_artifact(folder: Path) -> Decoded:
    """Decodes an artifact that our backend runs as a whole, and checks it on the artifact's golden output.

    Raises:
        UserError: the folder is no artifact or a damaged one, or has an operation without a relaxation, or another runner.
    """
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    others = sorted({f"{layer.op} ({layer.name})" for layer in manifest.layers if layer.runner != "edge"})
    if others:
        raise UserError(f"{folder}: {others[0]} is not run by our kernels: verify its recipe or an ONNX file instead.")
    if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
        raise UserError(f"{folder} has several inputs or outputs, where one of each can be verified.")
    shape = _planned(manifest.inputs[0])
    try:
        plan = plan_reader.read_plan(_plan(artifact.model.read_bytes()))
        if any(tensor.half for tensor in plan.tensors):
            raise Unsupported('its maps are float16, whose rounding is not verified: build it with precision = "fp32"')
        decoder = _Decoder(plan, shape)
        graph = decoder.read(_planned(manifest.outputs[0]))
    except Unsupported as why:
        raise UserError(f"{folder}: {why}.") from why
    except (Damaged, ValueError, IndexError, KeyError, struct.error) as error:
        raise UserError(f"{folder} is damaged ({error}): build the artifact again.") from error
    x, want = (
        array.transpose(0, 3, 1, 2) if spec.channels_last else array
        for spec, (array,) in zip((manifest.inputs[0], manifest.outputs[0]), artifact.golden(), strict=True)
    )
    have = graph.forward(torch.from_numpy(np.ascontiguousarray(x)).double().reshape(1, *graph.input.shape)).numpy().reshape(-1)
    differs = float(np.abs(have - want.reshape(-1)).max() / max(float(np.abs(want).max()), 1e-30))
    if not differs <= (_QUANTISED_TOLERANCE if decoder.rounds else manifest.golden_tolerance):
        raise UserError(f"{folder}: its weights do not give its golden output: build the artifact again.")
    note = (
        f"{folder} runs in int8: verified are its weights as they are stored, with activations that are not rounded (which "
        f"changes its golden output by {differs:.1%} of the largest value)."
    )
    return Decoded(graph, shape, note if decoder.rounds else "")


def _planned(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of an input or output in the plan, whose images are (n, c, h, w) also where the file's are not."""
    if not spec.channels_last:
        return tuple(spec.shape)
    n, height, width, channels = spec.shape
    return n, channels, height, width


def _plan(program: bytes) -> bytes:
    """The plan in a `.pte` or `.tflite`: there must be one."""
    at = program.find(MAGIC)
    if at < 0 or program.find(MAGIC, at + 1) >= 0:
        raise Damaged("its program does not hold one plan")
    (total,) = _TOTAL.unpack_from(program, at + _TOTAL_AT)
    if at + total > len(program):
        raise Damaged("its plan is cut short")
    return program[at : at + total]


@dataclass(frozen=True)
class _Phases:
    """What kCopy makes of an image for a strided convolution: its pixels by their phase."""

    source: Value
    factor: int
    top: int
    left: int


class _Decoder:
    """Follows a plan's operations over memory.

    A value is (1, c, h, w). That of an int8 tensor is q - z before it is rounded, for q of zero point z, without the channels
    that fill the last four: sums of levels times such values, times the factor, are those of the next tensor.
    """

    def __init__(self, plan: Plan, shape: tuple[int, ...]) -> None:
        self.plan = plan
        self.builder = Builder("input", shape)
        self.rounds = False
        self._written: list[tuple[int, Value | _Phases]] = []
        (number,) = plan.inputs
        dims = plan.tensors[number].dims
        if math.prod(dims) != math.prod(shape):
            raise Damaged("its input has another shape")
        self._written.append((number, self.builder.reshape("input", self.builder.input, dims)))

    def read(self, shape: tuple[int, ...]) -> Graph:
        for op in self.plan.operations:
            try:
                self._step(op)
            except Unsupported as why:
                raise Unsupported(f"the operation {op.kind.name.lower()} ({op.name}) {why}") from why
        (number,) = self.plan.outputs
        result = self._read(number)
        if not isinstance(result, Value) or math.prod(result.shape) != math.prod(shape):
            raise Damaged("its output has another shape")
        return self.builder.graph(self.builder.reshape("output", result, shape))

    # -- memory -----------------------------------------------------------------------------------------------------------

    def _read(self, number: int) -> Value | _Phases:
        """What was last written where a tensor lies: itself, all of it in another shape, or its channels piece by piece."""
        tensor = self.plan.tensors[number]
        for other, value in reversed(self._written):
            if other == number:
                return value
            have = self.plan.tensors[other]
            if (have.storage, have.io_index, have.offset) != (tensor.storage, tensor.io_index, tensor.offset):
                continue
            if have.dims == tensor.dims and have.stride == tensor.stride:
                return value
            if _is_dense(have) and _is_dense(tensor) and math.prod(have.dims) == math.prod(tensor.dims):
                if isinstance(value, _Phases) or (tensor.int8 and value.shape[1] != 4 * have.dims[1]):
                    break
                shape = (1, 4 * tensor.dims[1], *tensor.dims[2:]) if tensor.int8 else tensor.dims
                return self.builder.reshape("view", value, shape)
        return self._joined(tensor)

    def _joined(self, tensor: Record) -> Value:
        parts: list[Value] = []
        channel = 0
        while channel < tensor.dims[1]:
            found = next((f for f in map(lambda w: self._part(tensor, channel, *w), reversed(self._written)) if f), None)
            if found is None:
                raise Unsupported("reads what nobody wrote as a whole")
            parts.append(found[0])
            channel += found[1]
        return self.builder.concat("concat", parts, 1)

    def _part(self, tensor: Record, channel: int, number: int, value: Value | _Phases) -> tuple[Value, int] | None:
        """What was written at a channel of a tensor, and how many of its channels that is."""
        have = self.plan.tensors[number]
        alike = have.storage is tensor.storage and have.dims[2:] == tensor.dims[2:] and have.stride[1:] == tensor.stride[1:]
        at = tensor.offset + 4 * channel * tensor.stride[1]
        if not alike or have.offset != at or have.dims[1] > tensor.dims[1] - channel or isinstance(value, _Phases):
            return None
        return value, have.dims[1]

    def _value(self, number: int) -> Value:
        value = self._read(number)
        if isinstance(value, _Phases):
            raise Unsupported("reads the phases of an image, which only convolutions do")
        return value

    # -- operations -------------------------------------------------------------------------------------------------------

    def _step(self, op: Operation) -> None:
        tensors, build, name = self.plan.tensors, self.builder, op.name
        out = tensors[op.output]
        if out.dims[0] != 1:
            raise Unsupported(f"has a batch or {out.dims[0]} rows, where one can be verified")
        match op.kind:
            case OpKind.COPY:
                self._put(op, self._copy(op))
                return
            case OpKind.CONV | OpKind.CONV_INT8 | OpKind.LINEAR | OpKind.LINEAR_INT8:
                y = self._weighted(op)
            case OpKind.WINOGRAD:
                y = self._winograd(op)
            case OpKind.DEPTHWISE | OpKind.DEPTHWISE_INT8:
                y = self._depthwise(op)
            case OpKind.QUANTIZE:
                self.rounds = True
                y = build.affine(name, self._value(op.inputs[0]), op.f[0], 0.0)
            case OpKind.DEQUANTIZE:
                y = build.affine(name, self._value(op.inputs[0]), op.f[0], 0.0)
            case OpKind.MEAN_INT8:
                x = self._value(op.inputs[0])
                y = build.affine(name, build.mean(f"{name}.mean", x, True), op.f[0] * x.shape[2] * x.shape[3], 0.0)
            case OpKind.UNARY:
                y = self._activated(name, self._value(op.inputs[0]), op.act)
            case OpKind.ADD | OpKind.MUL:
                y = self._activated(name, self._binary(op), op.act)
            case OpKind.CONCAT:
                y = build.concat(name, [self._value(number) for number in op.inputs], op.p[0])
            case OpKind.MAX_POOL:
                kh, kw, sh, sw, top, left, dh, dw = op.p[:8]
                pads = self._pool_pads(op, (kh, kw), (sh, sw), (top, left), (dh, dw))
                y = build.max_pool(name, self._value(op.inputs[0]), (kh, kw), (sh, sw), pads, (dh, dw), False)
            case OpKind.AVG_POOL:
                kh, kw, sh, sw, top, left, include, divisor = op.p[:8]
                if divisor:
                    raise Unsupported("overrides its divisor")
                pads = self._pool_pads(op, (kh, kw), (sh, sw), (top, left), (1, 1))
                y = build.average_pool(name, self._value(op.inputs[0]), (kh, kw), (sh, sw), pads, bool(include), False)
            case OpKind.ADAPTIVE_AVG_POOL if out.dims[2:] == (1, 1):
                y = build.mean(name, self._value(op.inputs[0]), True)
            case _:
                raise Unsupported("has no relaxation here")
        self._put(op, y)

    def _put(self, op: Operation, y: Value | _Phases) -> None:
        out = self.plan.tensors[op.output]
        if isinstance(y, Value):
            channels = y.shape[1]
            if out.dims[2:] != y.shape[2:] or (-(-channels // 4) if out.int8 else channels) != out.dims[1]:
                raise Unsupported(f"gives {list(y.shape)} where its record says {list(out.dims)}")
        self._written.append((op.output, y))

    def _copy(self, op: Operation) -> Value | _Phases:
        factor, top, left = op.p[:3]
        x = self._value(op.inputs[0])
        return x if (factor, top, left) == (1, 0, 0) else _Phases(x, factor, top, left)

    def _binary(self, op: Operation) -> Value:
        a, b = (self.plan.tensors[number] for number in op.inputs)
        if a.storage is Storage.CONST:
            a, b = b, a
            numbers = op.inputs[::-1]
        else:
            numbers = op.inputs
        x = self._value(numbers[0])
        if b.storage is Storage.CONST:
            given = torch.from_numpy(plan_reader.constant(self.plan, b))
            scale, shift = (1.0, given) if op.kind is OpKind.ADD else (given, 0.0)
            return self.builder.affine(op.name, x, scale, shift)
        if op.kind is OpKind.MUL:
            raise Unsupported("multiplies two computed tensors, which has no relaxation here")
        return self.builder.add(op.name, x, self._value(numbers[1]))

    def _weighted(self, op: Operation) -> Value:
        """Convolutions and linear layers from packed weights; the bias of int8 ones holds the input's zero point."""
        int8 = op.kind in (OpKind.CONV_INT8, OpKind.LINEAR_INT8)
        record = self.plan.tensors[op.inputs[0]]
        weights = (plan_reader.packed_int8 if int8 else plan_reader.packed)(op.blob)
        if int8:
            sums = np.zeros(len(weights.bias))
            np.add.at(sums, weights.filters, weights.values)
            bias = weights.bias + record.zero_point * sums
            values = weights.values * weights.factor[weights.filters]
            weights = replace(weights, values=values, bias=bias * weights.factor)
        source = self._read(op.inputs[0])
        if op.kind in (OpKind.CONV, OpKind.CONV_INT8):
            y = self._convolved(op, record, weights, source)
        elif isinstance(source, _Phases):
            raise Unsupported("reads the phases of an image, which only convolutions do")
        else:
            channel, dy, dx = _places(record, weights)
            _, channels, height, width = source.shape
            if len(weights.bias) * channels * height * width > _MOST_WEIGHTS:
                raise Damaged("a matrix is larger than any")
            matrix = np.zeros((len(weights.bias), channels, height, width))
            np.add.at(matrix, (weights.filters, channel, dy, dx), weights.values)
            flat = self.builder.reshape(f"{op.name}.flat", source, (1, channels * height * width))
            y = self.builder.linear(op.name, flat, *map(torch.from_numpy, (matrix.reshape(len(matrix), -1), weights.bias)))
            y = self.builder.reshape(f"{op.name}.map", y, (1, len(matrix), 1, 1))
        return self._finished(op, y, op.f[0] if int8 else 1.0)

    def _convolved(self, op: Operation, record: Record, weights: Weights, source: Value | _Phases) -> Value:
        """out[f][y][x] = bias[f] + sum of w in[channel][y s + ky][x s + kx] over the weights of f, zero outside of in."""
        channel, dy, dx = _places(record, weights)
        stride = 1
        if isinstance(source, _Phases):
            stride, x = source.factor, source.source
            phase, channel = np.divmod(channel, (4 * -(-x.shape[1] // 4)) if record.int8 else x.shape[1])
            dy = dy * stride + phase // stride - source.top
            dx = dx * stride + phase % stride - source.left
        else:
            x = source
        _, channels, *size = x.shape
        out = self.plan.tensors[op.output].dims[2:]
        spans = []
        for places, have, want in ((dy, size[0], out[0]), (dx, size[1], out[1])):
            first = int(min(0, places.min(initial=0)))
            last = int(max(places.max(initial=0), have - 1 - (want - 1) * stride))
            spans.append((first, last, (want - 1) * stride + last - (have - 1)))
        (top, bottom, below), (left, right, beside) = spans
        if len(weights.bias) * channels * (bottom - top + 1) * (right - left + 1) > _MOST_WEIGHTS:
            raise Damaged("a kernel is larger than any")
        kernel = np.zeros((len(weights.bias), channels, bottom - top + 1, right - left + 1))
        np.add.at(kernel, (weights.filters, channel, dy - top, dx - left), weights.values)
        return self.builder.conv(
            op.name,
            x,
            torch.from_numpy(kernel),
            torch.from_numpy(weights.bias),
            stride=(stride, stride),
            pads=(-top, -left, below, beside),
            dilation=(1, 1),
            groups=1,
        )

    def _winograd(self, op: Operation) -> Value:
        """U = G g G^T for every filter and channel, whose g is G^+ U G^+T."""
        m, top, left, tiles = op.p[:4]
        x = self._value(op.inputs[0])
        weights, size, channels = plan_reader.packed(op.blob), (m + 2) ** 2, x.shape[1]
        filters = len(weights.bias) // size
        transformed = np.zeros((size, filters, channels))
        place = (weights.filters // filters, weights.filters % filters, weights.offsets // tiles % channels)
        np.add.at(transformed, place, weights.values)
        inverse = np.linalg.pinv(KERNEL_TRANSFORM[m])
        kernel = np.einsum("ik,klfc,jl->fcij", inverse, transformed.reshape(m + 2, m + 2, filters, channels), inverse)
        height, width = self.plan.tensors[op.output].dims[2:]
        y = self.builder.conv(
            op.name,
            x,
            torch.from_numpy(kernel),
            torch.from_numpy(weights.bias.reshape(size, filters)[m + 3]),
            stride=(1, 1),
            pads=(top, left, height + 2 - top - x.shape[2], width + 2 - left - x.shape[3]),
            dilation=(1, 1),
            groups=1,
        )
        return self._finished(op, y, 1.0)

    def _depthwise(self, op: Operation) -> Value:
        k, stride, top, left = op.p[:4]
        x = self._value(op.inputs[0])
        channels, record = x.shape[1], self.plan.tensors[op.inputs[0]]
        if op.kind is OpKind.DEPTHWISE_INT8:
            levels, bias, factor = (part[:channels] for part in plan_reader.depthwise_int8(op.blob, k * k))
            bias = (bias + record.zero_point * levels.sum(axis=1)) * factor
            kernels = levels * factor[:, None]
        else:
            kernels, bias = plan_reader.depthwise(op.blob, k * k)
        height, width = self.plan.tensors[op.output].dims[2:]
        below, right = ((size - 1) * stride - pad + k - have for size, pad, have in zip(
            (height, width), (top, left), x.shape[2:], strict=True))  # fmt: skip
        y = self.builder.conv(
            op.name,
            x,
            torch.from_numpy(kernels.reshape(channels, 1, k, k)),
            torch.from_numpy(bias),
            stride=(stride, stride),
            pads=(top, left, max(0, below), max(0, right)),
            dilation=(1, 1),
            groups=channels,
        )
        return self._finished(op, y, 1.0)

    def _finished(self, op: Operation, y: Value, scale: float) -> Value:
        """Residual, times `scale`, and activation, in the operation's order."""
        if op.residual is None:
            return self._activated(f"{op.name}.act", y, op.act)
        r = self._value(op.residual)
        if scale != 1.0:
            r = self.builder.affine(f"{op.name}.residual", r, scale, 0.0)
        r = self.builder.reshape(f"{op.name}.residual", r, y.shape)
        if op.residual_after_act:
            return self.builder.add(f"{op.name}.add", self._activated(f"{op.name}.act", y, op.act), r)
        return self._activated(f"{op.name}.act", self.builder.add(f"{op.name}.add", y, r), op.act)

    def _activated(self, name: str, x: Value, act: Activation) -> Value:
        match act.kind:
            case Act.NONE:
                return x
            case Act.CLAMP:
                return self.builder.clip(name, x, act.lo, act.hi)
            case Act.LEAKY_RELU:
                return self.builder.leaky_relu(name, x, act.lo)
        raise Unsupported(f"ends in {act.label}, which has no relaxation here")

    def _pool_pads(
        self, op: Operation, kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int], dilation: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """Top, left, bottom, right: as much at the end as at the beginning."""
        out = self.plan.tensors[op.output].dims[2:]
        have = self.plan.tensors[op.inputs[0]].dims[2:]
        for size, got, k, s, p, d in zip(have, out, kernel, stride, pads, dilation, strict=True):
            if (size + 2 * p - d * (k - 1) - 1) // s + 1 != got:
                raise Unsupported("rounds its output's size up: windows that are cut off have no bound")
        return pads[0], pads[1], pads[0], pads[1]


def _places(record: Record, weights: Weights) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Channel, row and column in the input, relative to those of the output's pixel, of every weight."""
    _, plane, row = record.stride
    top, _, left, _ = record.halo
    channel, rest = np.divmod(weights.offsets + top * row + left, plane)
    dy, dx = np.divmod(rest, row)
    return (4 * channel + weights.lanes if record.int8 else channel), dy - top, dx - left


def _is_dense(tensor: Record) -> bool:
    _, c, h, w = tensor.dims
    return tensor.halo == (0, 0, 0, 0) and tensor.stride == (c * h * w, h * w, w)
