"""Reads an ONNX file into a verifier's graph. Files come from anywhere: nothing outside of them is opened."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from edgectl.assure.verify.builder import Builder, Pair, Unsupported, Value
from edgectl.assure.verify.files import read_limited
from edgectl.assure.verify.graph import Graph
from edgectl.errors import UserError, first_line

_MOST_BYTES = 1 << 30
_MOST_CONSTANT = 1 << 26  # elements of a folded constant
Array: TypeAlias = npt.NDArray[Any]
Operand: TypeAlias = "Value | Array"


def read_onnx(path: Path) -> tuple[Graph, tuple[int, ...], bytes]:
    """The graph of an ONNX file, the shape of its input with a batch of 1, and the file's bytes for a runtime.

    Batch normalisation and arithmetic with constants become affine nodes; what depends on constants alone is computed.

    Raises:
        UserError: the file is missing or damaged, keeps weights in other files, has more than one input or output, has an
            operation without a relaxation, or weights that are not finite.
    """
    try:
        import onnx  # noqa: PLC0415
    except ImportError as error:
        raise UserError("ONNX files are read by the package onnx: pip install 'edgectl[verify]'.") from error
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    data = read_limited(path, "ONNX file", _MOST_BYTES)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a readable ONNX file: {first_line(error)}.") from error
    if not model.graph.node:
        raise UserError(f"{path} is not a readable ONNX file: it has no operations.")
    try:
        reader = _Reader(model)
        return reader.read(), reader.builder.input.shape, data
    except Unsupported as error:
        raise UserError(f"{path}: {error}.") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        raise UserError(f"{path} is a damaged ONNX file: {first_line(error)}.") from error


class _Reader:
    """Walks a model's nodes in their order, which ONNX demands to be topological."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self.nodes = graph.node
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
        self.values: dict[str, Operand] = {item.name: _array(item) for item in graph.initializer}
        inputs = [item for item in graph.input if item.name not in self.values]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise Unsupported(f"has {len(inputs)} inputs and {len(graph.output)} outputs, where one of each can be verified")
        self.builder = Builder(inputs[0].name, _input_shape(inputs[0]))
        self.values[inputs[0].name] = self.builder.input
        self.output = graph.output[0].name

    def read(self) -> Graph:
        for node in self.nodes:
            try:
                self._step(node)
            except Unsupported as why:
                raise Unsupported(f"the operation {node.op_type} ({_name(node)}) {why}") from why
        output = self.values.get(self.output)
        if not isinstance(output, Value):
            raise Unsupported("its output does not depend on its input")
        return self.builder.graph(output)

    def _step(self, node: Any) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise Unsupported(f"is of the domain {node.domain}, which has no relaxation here")
        operands = [self.values[name] if name else None for name in node.input]
        arguments = _attributes(node)
        if all(not isinstance(operand, Value) for operand in operands):
            self.values[node.output[0]] = self._folded(node, operands)
            return
        if node.op_type == "Shape" and isinstance(operands[0], Value):
            shape = np.array(operands[0].shape, np.int64)
            self.values[node.output[0]] = shape[arguments.get("start", 0) : arguments.get("end", None)]
            return
        translate = _OPERATIONS.get(node.op_type)
        if translate is None:
            raise Unsupported("has no relaxation here")
        self.values[node.output[0]] = translate(_Call(self, node, operands, arguments))

    def _folded(self, node: Any, operands: Sequence[Operand | None]) -> Array:
        """What a node computes of constants alone."""
        from onnx import helper  # noqa: PLC0415
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        if node.op_type not in _FOLDED:
            raise Unsupported("has no relaxation here")
        given = zip(node.input, operands, strict=True)
        named = {str(name): operand for name, operand in given if isinstance(operand, np.ndarray)}
        size = _folded_size(node.op_type, list(named.values()))
        if size > _MOST_CONSTANT:
            raise Unsupported(f"makes a constant of {size} elements")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _array(attribute.t)  # refuses what is kept elsewhere
        inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in named.items()]
        outputs = [helper.make_value_info(node.output[0], helper.make_tensor_type_proto(0, None))]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        return np.asarray(next(iter(ReferenceEvaluator(model).run(None, named))))


class _Call:
    """One node with its operands, at least one of which is computed from the input."""

    def __init__(self, reader: _Reader, node: Any, operands: Sequence[Operand | None], arguments: dict[str, Any]) -> None:
        self.builder = reader.builder
        self.opset = reader.opset
        self.name = _name(node)
        self.operands = operands
        self.arguments = arguments

    @property
    def x(self) -> Value:
        """The first operand."""
        return self.variable(0)

    def variable(self, i: int) -> Value:
        value = self.operands[i] if i < len(self.operands) else None
        if not isinstance(value, Value):
            raise Unsupported(f"has a constant, or nothing, as operand {i}")
        return value

    def given(self, i: int) -> Array | None:
        """Constant operand number i, None where it is left out."""
        value = self.operands[i] if i < len(self.operands) else None
        if isinstance(value, Value):
            raise Unsupported(f"computes its operand {i}, which must be constant")
        return value

    def constant(self, i: int) -> Array:
        value = self.given(i)
        if value is None:
            raise Unsupported(f"lacks operand {i}")
        return value

    def tensor(self, i: int) -> torch.Tensor:
        """Constant operand number i in float64."""
        return torch.from_numpy(np.array(self.constant(i), np.float64))

    def integers(self, key: str, i: int | None = None) -> list[int] | None:
        """An attribute, which later versions of the operation have as operand i."""
        if key in self.arguments:
            return [int(value) for value in np.atleast_1d(self.arguments[key])]
        value = self.given(i) if i is not None else None
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def pair(self, key: str) -> Pair:
        values = self.integers(key) or [1, 1]
        if len(values) != 2 or min(values) < 1:
            raise Unsupported(f"has {key} {values}: only those of images, two numbers from 1 on, have a bound")
        return values[0], values[1]

    def pads(self, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        kind = self.arguments.get("auto_pad", b"NOTSET").decode()
        if kind in ("SAME_UPPER", "SAME_LOWER"):
            before, after = [], []
            for size, k, s, d in zip(self.x.shape[2:], kernel, stride, dilation, strict=True):
                total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
                half = total // 2 if kind == "SAME_UPPER" else total - total // 2
                before.append(half)
                after.append(total - half)
            return before[0], before[1], after[0], after[1]
        values = [0, 0, 0, 0] if kind == "VALID" else self.integers("pads") or [0, 0, 0, 0]
        if len(values) != 4:
            raise Unsupported(f"has pads {values}: only those of images, four numbers, have a bound")
        return values[0], values[1], values[2], values[3]


def _gemm(call: _Call) -> Value:
    a = call.arguments
    if a.get("transA", 0):
        raise Unsupported("transposes its input")
    weight = call.tensor(1) * a.get("alpha", 1.0)
    weight = weight if a.get("transB", 0) else weight.T
    bias = None if call.given(2) is None else (call.tensor(2) * a.get("beta", 1.0)).reshape(-1)
    return call.builder.linear(call.name, call.x, weight, bias)


def _matmul(call: _Call) -> Value:
    if not isinstance(call.operands[0], Value):
        x, weight = call.variable(1), call.tensor(0)
        if weight.dim() != 2 or x.shape[-1] != 1:
            raise Unsupported("multiplies a matrix by one with more than one column, of which there is no bound")
        row = call.builder.reshape(f"{call.name}.row", x, (*x.shape[:-2], 1, x.shape[-2]))
        y = call.builder.linear(call.name, row, weight, None)
        return call.builder.reshape(f"{call.name}.column", y, (*x.shape[:-2], len(weight), 1))
    weight = call.tensor(1)
    if weight.dim() != 2:
        raise Unsupported("multiplies by a tensor that is no matrix")
    return call.builder.linear(call.name, call.x, weight.T, None)


def _conv(call: _Call) -> Value:
    weight = call.tensor(1)
    if weight.dim() != 4:
        raise Unsupported(f"has a kernel of {weight.dim() - 2} dimensions: only those of images have a bound")
    kernel, stride, dilation = (weight.shape[2], weight.shape[3]), call.pair("strides"), call.pair("dilations")
    pads, groups = call.pads(kernel, stride, dilation), int(call.arguments.get("group", 1))
    bias = None if call.given(2) is None else call.tensor(2)
    return call.builder.conv(call.name, call.x, weight, bias, stride=stride, pads=pads, dilation=dilation, groups=groups)


def _batch_norm(call: _Call) -> Value:
    if call.arguments.get("training_mode", 0):
        raise Unsupported("is in training mode")
    gamma, beta, mean, var = (call.tensor(i) for i in range(1, 5))
    return call.builder.batch_norm(call.name, call.x, gamma, beta, mean, var, float(call.arguments.get("epsilon", 1e-5)))


def _add(call: _Call) -> Value:
    a, b = call.operands[:2]
    if isinstance(a, Value) and isinstance(b, Value):
        return call.builder.add(call.name, a, b)
    i = 0 if isinstance(a, Value) else 1
    return call.builder.affine(call.name, call.variable(i), 1.0, call.tensor(1 - i))


def _subtract(call: _Call) -> Value:
    a, b = call.operands[:2]
    if isinstance(a, Value) and isinstance(b, Value):
        return call.builder.subtract(call.name, a, b)
    if isinstance(a, Value):
        return call.builder.affine(call.name, a, 1.0, -call.tensor(1))
    return call.builder.affine(call.name, call.variable(1), -1.0, call.tensor(0))


def _multiply(call: _Call) -> Value:
    i = 0 if isinstance(call.operands[0], Value) else 1
    if isinstance(call.operands[1 - i], Value):
        raise Unsupported("multiplies two computed tensors, which has no relaxation here")
    return call.builder.affine(call.name, call.variable(i), call.tensor(1 - i), 0.0)


def _divide(call: _Call) -> Value:
    if isinstance(call.operands[1], Value):
        raise Unsupported("divides by a computed tensor, which has no relaxation here")
    return call.builder.affine(call.name, call.x, 1.0 / call.tensor(1), 0.0)


def _clip(call: _Call) -> Value:
    bounds = []
    for i, key, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        given = call.given(i)
        bounds.append(float(call.arguments.get(key, default)) if given is None else float(given.reshape(-1)[0]))
    return call.builder.clip(call.name, call.x, bounds[0], bounds[1])


def _flatten(call: _Call) -> Value:
    axis, shape = int(call.arguments.get("axis", 1)), call.x.shape
    axis = axis + len(shape) if axis < 0 else axis
    return call.builder.reshape(call.name, call.x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _reshape(call: _Call) -> Value:
    sizes, shape = call.integers("shape", 1) or [], call.x.shape
    if not call.arguments.get("allowzero", 0):
        sizes = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(sizes)]
    if sizes.count(-1) == 1 and 0 not in sizes:
        sizes[sizes.index(-1)] = math.prod(shape) // math.prod(size for size in sizes if size != -1)
    return call.builder.reshape(call.name, call.x, sizes)


def _squeeze(call: _Call) -> Value:
    shape = call.x.shape
    axes = call.integers("axes", 1)
    gone = {axis % len(shape) for axis in axes} if axes is not None else {i for i, size in enumerate(shape) if size == 1}
    if any(shape[axis] != 1 for axis in gone):
        raise Unsupported("squeezes an axis longer than 1")
    return call.builder.reshape(call.name, call.x, [size for i, size in enumerate(shape) if i not in gone] or [1])


def _unsqueeze(call: _Call) -> Value:
    axes = call.integers("axes", 1) or []
    rank = len(call.x.shape) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(call.x.shape)
    return call.builder.reshape(call.name, call.x, [1 if i in new else next(rest) for i in range(rank)])


def _transpose(call: _Call) -> Value:
    order = call.integers("perm") or list(range(len(call.x.shape)))[::-1]
    return call.builder.permute(call.name, call.x, order)


def _concat(call: _Call) -> Value:
    parts = [call.variable(i) for i in range(len(call.operands))]
    return call.builder.concat(call.name, parts, int(call.arguments["axis"]))


def _pad(call: _Call) -> Value:
    if call.arguments.get("mode", b"constant") != b"constant":
        raise Unsupported("pads with copies of the input, not with a constant")
    if len(call.operands) > 3 and call.operands[3] is not None:
        raise Unsupported("names the axes to pad, which is not read here")
    pads, rank = call.integers("pads", 1) or [], len(call.x.shape)
    value = call.given(2)
    if len(pads) != 2 * rank or pads[0] or pads[rank]:
        raise Unsupported("pads the batch, or not all axes")
    torch_order = [pads[i + side * rank] for i in range(rank - 1, 0, -1) for side in (0, 1)]
    number = float(call.arguments.get("value", 0.0)) if value is None else float(value.reshape(-1)[0])
    return call.builder.pad(call.name, call.x, torch_order, number)


def _average_pool(call: _Call) -> Value:
    kernel, stride = call.pair("kernel_shape"), call.pair("strides")
    if call.pair("dilations") != (1, 1):
        raise Unsupported("is dilated, for which there is no bound")
    include, ceil = bool(call.arguments.get("count_include_pad", 0)), bool(call.arguments.get("ceil_mode", 0))
    pads = call.pads(kernel, stride, (1, 1))
    return call.builder.average_pool(call.name, call.x, kernel, stride, pads, include or not any(pads), ceil)


def _max_pool(call: _Call) -> Value:
    kernel, stride, dilation = call.pair("kernel_shape"), call.pair("strides"), call.pair("dilations")
    ceil = bool(call.arguments.get("ceil_mode", 0))
    return call.builder.max_pool(call.name, call.x, kernel, stride, call.pads(kernel, stride, dilation), dilation, ceil)


def _mean(call: _Call) -> Value:
    axes, rank = call.integers("axes", 1), len(call.x.shape)
    if rank != 4 or axes is None or {axis % rank for axis in axes} != {2, 3}:
        raise Unsupported("is not the mean of an image's pixels, the only one that has a bound here")
    return call.builder.mean(call.name, call.x, bool(call.arguments.get("keepdims", 1)))


def _leaky_relu(call: _Call) -> Value:
    return call.builder.leaky_relu(call.name, call.x, float(call.arguments.get("alpha", 0.01)))


def _dropout(call: _Call) -> Value:
    mode = call.given(2)
    if mode is not None and bool(mode.any()):
        raise Unsupported("is in training mode")
    return call.x


_OPERATIONS: dict[str, Callable[[_Call], Value]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda call: call.builder.relu(call.name, call.x),
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Neg": lambda call: call.builder.affine(call.name, call.x, -1.0, 0.0),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Pad": _pad,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda call: call.builder.mean(call.name, call.x, True),
    "MaxPool": _max_pool,
    "ReduceMean": _mean,
    "Identity": lambda call: call.x,
    "Dropout": _dropout,
}
# Computed where all operands are constant; the sizes of their results are those of their operands, or checked.
_FOLDED = {
    "Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Pow", "Identity", "Cast", "Shape", "Gather", "Slice", "Concat",
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Constant", "ConstantOfShape",
}  # fmt: skip


def _folded_size(kind: str, operands: Sequence[Array]) -> int:
    """How many elements an operation on constants makes, at most."""
    if kind == "ConstantOfShape":
        return math.prod(int(n) for n in operands[0].reshape(-1))
    if kind in ("Add", "Sub", "Mul", "Div", "Pow"):
        return math.prod(np.broadcast_shapes(*(operand.shape for operand in operands)))
    if kind == "Gather":
        return operands[0].size * operands[1].size
    return sum(operand.size for operand in operands)


def _array(item: Any) -> Array:
    """The tensor of an initializer, out of this file alone."""
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415

    if item.data_location == TensorProto.EXTERNAL or item.external_data:
        raise Unsupported(
            f"keeps its weights {item.name} in another file: save it as one (torch.onnx.export: external_data=False)"
        )
    array = numpy_helper.to_array(item)
    return np.asarray(array)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import AttributeProto, helper  # noqa: PLC0415

    simple = (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.FLOATS, AttributeProto.STRING)
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type in simple}


def _input_shape(item: Any) -> list[int]:
    """The input's shape; a batch of any size is taken as 1."""
    dims = item.type.tensor_type.shape.dim
    sizes = [int(dim.dim_value) if dim.HasField("dim_value") else 0 for dim in dims]
    if sizes and sizes[0] == 0:
        sizes[0] = 1
    if any(size < 1 for size in sizes):
        raise Unsupported(f"its input {item.name} has a shape that is not fixed")
    return sizes


def _name(node: Any) -> str:
    return str(node.name or node.output[0])
