"""Reads one node of an exported graph (ATen or Edge dialect) into the IR, or says why the backend does not take it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from executorch.exir.dialects.edge._ops import EdgeOpOverload
from torch import fx
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram

from edgectl.lowering import ir

# Kept whole by torch.export's decompositions when the backend takes them.
PRESERVED = [
    torch.ops.aten.linear.default,
    torch.ops.aten.hardswish.default,
    torch.ops.aten.silu.default,
    torch.ops.aten.mish.default,
    torch.ops.aten.leaky_relu.default,
    torch.ops.aten.max_pool2d.default,
    torch.ops.aten.adaptive_avg_pool2d.default,
    torch.ops.aten.upsample_nearest2d.vec,
    torch.ops.aten.upsample_bilinear2d.vec,
    torch.ops.aten.pixel_shuffle.default,
]

# What the runtime's loader takes at most.
_WIDEST_WINDOW = 2048  # of a pool: kMaxWindowSpan
_LONGEST_ROW = 1 << 24  # elements of a tensor that is not an image: kMaxDim
_LARGEST_STRIDE = 64  # of a convolution: CheckCopy


class Unsupported(Exception):
    """The backend leaves this node to another one; the message says why."""


def op_name(node: fx.Node) -> str:
    """`aten.add.Tensor` and the like, whichever dialect the node is in."""
    return str(_aten(node.target))


def _aten(target: Any) -> Any:
    return target._op if isinstance(target, EdgeOpOverload) else target


def constant(program: ExportedProgram, node: Any) -> torch.Tensor | None:
    """The tensor behind a parameter, buffer or lifted constant; None for anything else."""
    if not isinstance(node, fx.Node):
        return None
    signature = program.graph_signature
    for table in (signature.inputs_to_parameters, signature.inputs_to_buffers):
        if node.name in table:
            name = table[node.name]
            if name in signature.buffers_to_mutate.values():
                return None
            return program.state_dict[name] if name in program.state_dict else program.constants[name]
    if node.name in signature.inputs_to_lifted_tensor_constants:
        return program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
    if op_name(node) == _DEQUANTIZE_CHANNELS:
        parts = _levels(program, node)
        return None if parts is None else parts[0].to(torch.float32) * parts[1]
    if op_name(node) in _CONSTANT_CASTS:
        source = constant(program, node.args[0])
        if source is not None and source.numel() == 1:
            return source.to(torch.float32)
    return None


def _levels(program: ExportedProgram, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The int8 levels of a constant that is quantised by channel around zero, and its scales, to be multiplied with them."""
    source, scales, zero_points, axis = (*node.args, None)[:4]
    levels, factors, zeros = (constant(program, part) for part in (source, scales, zero_points))
    if levels is None or factors is None or levels.dtype != torch.int8 or not isinstance(axis, int):
        return None
    if zeros is not None and not isinstance(zeros, FakeTensor) and bool(zeros.any()):
        levels = levels.to(torch.int32) - zeros.reshape([-1 if d == axis else 1 for d in range(levels.dim())])
    shape = [-1 if d == axis % levels.dim() else 1 for d in range(levels.dim())]
    return levels, factors.to(torch.float32).reshape(shape)


_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor.default"
_DEQUANTIZE_CHANNELS = "quantized_decomposed.dequantize_per_channel.default"
CONVERSIONS = {_QUANTIZE, DEQUANTIZE, _DEQUANTIZE_CHANNELS}
_CONSTANT_CASTS = {_DEQUANTIZE_CHANNELS, "dim_order_ops._to_dim_order_copy.default", "aten._to_copy.default"}


def module_path(node: fx.Node) -> str:
    """The node's name for a person: the module path, with the operation added when the module is not itself a layer."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = (stack[-1][0], stack[-1][1]) if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    if path and kind.startswith("torch.nn.modules.") and not kind.startswith("torch.nn.modules.container."):
        return path
    short = op_name(node).split(".")[1] if "." in op_name(node) else op_name(node)
    return f"{path}.{short}" if path else short


class Reader:
    """Turns nodes of one exported program into IR nodes.

    With `with_data` False, constants read as zeros: enough to ask whether a node is taken, and all there is while
    ExecuTorch partitions (it hands over fake tensors).
    """

    def __init__(self, program: ExportedProgram, *, with_data: bool = True) -> None:
        self.program = program
        self.with_data = with_data
        self.values: dict[fx.Node, ir.Value] = {}

    def check(self, node: fx.Node) -> None:
        """Raises Unsupported when the backend cannot take the node."""
        self.read(node)

    def value(self, node: Any) -> ir.Value:
        """The IR value of an operand; constants carry their data."""
        if not isinstance(node, fx.Node):
            raise Unsupported(f"an operand is {type(node).__name__}, not a tensor")
        if node not in self.values:
            data, shape, quant = constant(self.program, node), _shape(node), _quant(node)
            self.values[node] = ir.Value(node.name, shape, None if data is None else self._array(data.expand(shape)), quant)
        return self.values[node]

    def read(self, node: fx.Node) -> ir.Node | None:
        """The IR node, or None for a node that leaves no trace (a cast of a constant, taking a tuple apart).

        Raises:
            Unsupported: with the reason.
        """
        name = op_name(node)
        if node.target is operator.getitem:
            source = node.args[0]
            if isinstance(source, fx.Node) and op_name(source) in _TUPLES and node.args[1] == 0:
                self.check(source)
                return None
            raise Unsupported("it takes a tuple apart")
        if name in _CONSTANT_CASTS and constant(self.program, node) is not None:
            return None
        reader = _READERS.get(name)
        if reader is None:
            raise Unsupported(f"{name} is not among the backend's operations")
        if name in _TUPLES:
            users = [user for user in node.users if user.target is operator.getitem]
            if len(users) != len(node.users) or any(user.args[1] != 0 for user in users):
                raise Unsupported("more than its first result is used")
            target = users[0] if users else node
            if len(users) > 1:
                raise Unsupported("its result is taken apart twice")
        else:
            target = node
        if name not in _TUPLES or target is not node:
            self._require_float(target)
        return reader(self, node, target)

    def _require_float(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise Unsupported("its result is not one tensor")
        if value.dtype != torch.float32 and _quant(node) is None:
            raise Unsupported(f"its result is {value.dtype}, not float32")
        _shape(node)

    def weight(self, node: Any, what: str) -> ir.FloatArray:
        """A constant operand as an array."""
        data = constant(self.program, node)
        if data is None:
            raise Unsupported(f"its {what} is computed, not constant")
        if data.dtype != torch.float32:
            raise Unsupported(f"its {what} is {data.dtype}, not float32")
        return self._array(data)

    def quantised(self, node: Any, filters: int, *, transposed: bool = False) -> ir.Levels | None:
        """How a weight with so many filters is quantised; None when it is not, or not as the integer kernels take it."""
        if not isinstance(node, fx.Node) or op_name(node) != _DEQUANTIZE_CHANNELS or not self.with_data:
            return None
        parts = _levels(self.program, node)
        if parts is None or parts[0].dtype != torch.int8 or node.args[3] != int(transposed):
            return None
        levels, scales = parts[0].cpu().numpy(), parts[1].reshape(-1).cpu().numpy()
        if transposed:
            scales = np.tile(scales, filters // len(scales))
        return ir.Levels(np.ascontiguousarray(levels), np.ascontiguousarray(scales, np.float32))

    def optional(self, node: Any, what: str, default: ir.FloatArray) -> ir.FloatArray:
        """The same, or a default for None."""
        return default if node is None else self.weight(node, what)

    def _array(self, data: torch.Tensor) -> ir.FloatArray:
        if not self.with_data:
            return np.broadcast_to(np.float32(0), tuple(data.shape))
        return np.ascontiguousarray(data.detach().to(torch.float32).cpu().numpy())


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise Unsupported("an operand is not one tensor")
    if any(not isinstance(size, int) for size in value.shape):
        raise Unsupported("its shape is dynamic")
    if value.numel() == 0:
        raise Unsupported("a tensor is empty")
    if value.dtype != torch.float32 and _quant(node) is None:
        raise Unsupported(f"an operand is {value.dtype}, not float32")
    if value.dim() != 4 and value.numel() > _LONGEST_ROW:
        raise Unsupported(f"a tensor that is not an image has more than {_LONGEST_ROW} elements")
    return tuple(value.shape)


def _quant(node: fx.Node) -> ir.Quant | None:
    """What the result of a quantisation to int8 stands for; None for any other node."""
    if op_name(node) != _QUANTIZE:
        return None
    scale, zero_point, low, high, dtype = node.args[1:6]
    whole = (low, high, dtype) == (-128, 127, torch.int8)
    if not (whole and isinstance(scale, float) and isinstance(zero_point, int) and -128 <= zero_point <= 127):
        return None
    return ir.Quant(scale, zero_point) if 1e-30 < scale < 1e30 else None


def _quantize(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    output = reader.value(target)
    if output.quant is None:
        raise Unsupported("it does not quantise to all of int8")
    if len(output.shape) not in (2, 4):
        raise Unsupported(f"its input has {len(output.shape)} dimensions, not 2 or 4")
    return ir.Quantize(name=module_path(node), inputs=[reader.value(node.args[0])], output=output)


def _dequantize(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    source = node.args[0]
    if not isinstance(source, fx.Node) or _quant(source) is None or source.args[1:6] != node.args[1:6]:
        raise Unsupported("what it takes is not quantised to all of int8")
    reader.check(source)
    return ir.Dequantize(name=module_path(node), inputs=[reader.value(source)], output=reader.value(target))


def _image(reader: Reader, node: Any) -> ir.Value:
    value = reader.value(node)
    if len(value.shape) != 4:
        raise Unsupported(f"its input has {len(value.shape)} dimensions, not 4 (n, c, h, w)")
    return value


def _pair(value: Any, what: str) -> tuple[int, int]:
    sizes = [value] if isinstance(value, int) else list(value)
    if len(sizes) == 1:
        sizes = sizes * 2
    if len(sizes) != 2:
        raise Unsupported(f"its {what} has {len(sizes)} dimensions, not 2")
    return int(sizes[0]), int(sizes[1])


def _arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an ATen node by name, defaults filled in."""
    schema = _aten(node.target)._schema.arguments
    values = {a.name: a.default_value for a in schema if a.has_default_value()}
    values.update({a.name: v for a, v in zip(schema, node.args, strict=False)})
    values.update(node.kwargs)
    return values


def _conv(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    a = _arguments(node)
    value = _image(reader, a["input"])
    weight = reader.weight(a["weight"], "weight")
    transposed = bool(a.get("transposed", False))
    groups = int(a["groups"])
    filters = weight.shape[1] * groups if transposed else weight.shape[0]
    stride, dilation = _pair(a["stride"], "stride"), _pair(a["dilation"], "dilation")
    if isinstance(a["padding"], str):
        raise Unsupported("its padding is given as a word")
    padding = _pair(a["padding"], "padding")
    if stride[0] != stride[1]:
        raise Unsupported(f"its strides differ: {stride[0]} and {stride[1]}")
    if stride[0] > _LARGEST_STRIDE:
        raise Unsupported(f"its stride is above {_LARGEST_STRIDE}")
    if padding[0] < 0 or padding[1] < 0:
        raise Unsupported("its padding is negative")
    bias = reader.optional(a["bias"], "bias", np.zeros(filters, np.float32))
    return ir.Conv(
        name=module_path(node),
        inputs=[value],
        output=reader.value(target),
        weight=weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        quantised=reader.quantised(a["weight"], filters, transposed=transposed),
    )


def _batch_norm(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    """Inference batch normalisation is a 1x1 depthwise convolution; the pass that composes convolutions folds it."""
    a = _arguments(node)
    value = _image(reader, a["input"])
    channels = value.shape[1]
    mean, var = reader.weight(a["running_mean"], "running mean"), reader.weight(a["running_var"], "running variance")
    gamma = reader.optional(a["weight"], "weight", np.ones(channels, np.float32)).astype(np.float64)
    beta = reader.optional(a["bias"], "bias", np.zeros(channels, np.float32))
    scale = gamma / np.sqrt(var.astype(np.float64) + float(a["eps"]))
    return ir.Conv(
        name=module_path(node),
        inputs=[value],
        output=reader.value(target),
        weight=scale.astype(np.float32).reshape(channels, 1, 1, 1),
        bias=(beta - mean * scale).astype(np.float32),
        groups=channels,
    )


def _linear(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    a = _arguments(node)
    weight = reader.weight(a["weight"], "weight")
    bias = reader.optional(a["bias"], "bias", np.zeros(weight.shape[0], np.float32))
    return ir.Linear(
        name=module_path(node),
        inputs=[reader.value(a["input"])],
        output=reader.value(target),
        weight=weight,
        bias=bias,
        quantised=reader.quantised(a["weight"], len(weight)),
    )


def _unary(make: Callable[[dict[str, Any]], ir.Activation]) -> Callable[[Reader, fx.Node, fx.Node], ir.Node]:
    def read(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
        a = _arguments(node)
        return ir.Unary(name=module_path(node), inputs=[reader.value(a["self"])], output=reader.value(target), act=make(a))

    return read


def _binary(op: str) -> Callable[[Reader, fx.Node, fx.Node], ir.Node]:
    def read(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
        a = _arguments(node)
        if a.get("alpha", 1) != 1:
            raise Unsupported(f"its second operand is scaled by alpha = {a['alpha']}")
        inputs = [reader.value(a["self"]), reader.value(a["other"])]
        output = reader.value(target)
        if len(output.shape) > 4:
            raise Unsupported(f"its result has {len(output.shape)} dimensions, more than 4")
        return ir.Binary(name=module_path(node), op=op, inputs=inputs, output=output)

    return read


def _cat(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    a = _arguments(node)
    inputs = [reader.value(value) for value in a["tensors"]]
    rank = len(reader.value(target).shape)
    return ir.Concat(name=module_path(node), inputs=inputs, output=reader.value(target), axis=int(a["dim"]) % rank)


def _pool(op: str) -> Callable[[Reader, fx.Node, fx.Node], ir.Node]:
    def read(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
        a = _arguments(node)
        kernel = _pair(a["kernel_size"], "kernel")
        dilation = _pair(a.get("dilation", 1), "dilation")
        if max(dilation[i] * (kernel[i] - 1) + 1 for i in range(2)) > _WIDEST_WINDOW:
            raise Unsupported(f"its window spans more than {_WIDEST_WINDOW} pixels")
        return ir.Pool(
            name=module_path(node),
            op=op,
            inputs=[_image(reader, a["self"])],
            output=reader.value(target),
            kernel=kernel,
            stride=_pair(a["stride"], "stride") if a["stride"] else kernel,
            padding=_pair(a["padding"], "padding"),
            dilation=dilation,
            count_include_pad=bool(a.get("count_include_pad", True)),
            divisor=int(a.get("divisor_override") or 0),
        )

    return read


def _adaptive(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    value = _image(reader, _arguments(node)["self"])
    return ir.AdaptiveAvgPool(name=module_path(node), inputs=[value], output=reader.value(target))


def _mean(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    a = _arguments(node)
    value = _image(reader, a["self"])
    dims = a["dim"]
    if dims is None or sorted(int(d) % 4 for d in dims) != [2, 3]:
        raise Unsupported("it averages over other dimensions than rows and columns")
    return ir.AdaptiveAvgPool(name=module_path(node), inputs=[value], output=reader.value(target))


def _upsample(mode: str) -> Callable[[Reader, fx.Node, fx.Node], ir.Node]:
    def read(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
        a = _arguments(node)
        value, output = _image(reader, a["input"]), reader.value(target)
        scales = a.get("scale_factors") or [None, None]
        align = bool(a.get("align_corners", False))
        ratio = [_ratio(value.shape[2 + i], output.shape[2 + i], scales[i], align) for i in range(2)]
        return ir.Upsample(
            name=module_path(node),
            mode=mode,
            inputs=[value],
            output=output,
            ratio=(ratio[0], ratio[1]),
            align_corners=align,
        )

    return read


def _ratio(size: int, out: int, scale: float | None, align: bool) -> float:
    """Input pixels per output pixel (area_pixel_compute_scale in PyTorch)."""
    if align:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else size / out


def _pixel_shuffle(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    a = _arguments(node)
    value = _image(reader, a["self"])
    return ir.PixelShuffle(name=module_path(node), inputs=[value], output=reader.value(target), factor=int(a["upscale_factor"]))


def _softmax(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    a = _arguments(node)
    value = reader.value(a["self"])
    if not value.shape:
        raise Unsupported("its input has no dimensions")
    return ir.Softmax(
        name=module_path(node), inputs=[value], output=reader.value(target), axis=int(a["dim"]) % len(value.shape)
    )


def _view(reader: Reader, node: fx.Node, target: fx.Node) -> ir.Node:
    value = reader.value(node.args[0])
    order = node.kwargs.get("dim_order")
    if isinstance(order, list | tuple) and list(order) != list(range(len(value.shape))):
        raise Unsupported("it changes the memory order")
    return ir.View(name=module_path(node), inputs=[value], output=reader.value(target))


def _clamp(lo: float | None, hi: float | None) -> ir.Activation:
    low, high = -np.inf if lo is None else float(lo), np.inf if hi is None else float(hi)
    if not low <= high:
        raise Unsupported(f"its bounds are {lo} and {hi}")
    return ir.Activation(ir.Act.CLAMP, low, high)


_TUPLES = {"aten._native_batch_norm_legit_no_training.default"}
_READERS: dict[str, Callable[[Reader, fx.Node, fx.Node], ir.Node]] = {
    "aten.convolution.default": _conv,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.linear.default": _linear,
    "aten.relu.default": _unary(lambda a: _clamp(0.0, None)),
    "aten.relu6.default": _unary(lambda a: _clamp(0.0, 6.0)),
    "aten.hardtanh.default": _unary(lambda a: _clamp(a["min_val"], a["max_val"])),
    "aten.clamp.default": _unary(lambda a: _clamp(a["min"], a["max"])),
    "aten.leaky_relu.default": _unary(lambda a: ir.Activation(ir.Act.LEAKY_RELU, float(a["negative_slope"]))),
    "aten.hardswish.default": _unary(lambda a: ir.Activation(ir.Act.HARDSWISH)),
    "aten.sigmoid.default": _unary(lambda a: ir.Activation(ir.Act.SIGMOID)),
    "aten.mish.default": _unary(lambda a: ir.Activation(ir.Act.MISH)),
    "aten.silu.default": _unary(lambda a: ir.Activation(ir.Act.SILU)),
    "aten.add.Tensor": _binary("add"),
    "aten.mul.Tensor": _binary("mul"),
    "aten.cat.default": _cat,
    "aten.max_pool2d.default": _pool("max"),
    "aten.avg_pool2d.default": _pool("avg"),
    "aten.adaptive_avg_pool2d.default": _adaptive,
    "aten._adaptive_avg_pool2d.default": _adaptive,
    "aten.mean.dim": _mean,
    "aten.upsample_nearest2d.vec": _upsample("nearest"),
    "aten.upsample_bilinear2d.vec": _upsample("bilinear"),
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten._softmax.default": _softmax,
    _QUANTIZE: _quantize,
    DEQUANTIZE: _dequantize,
    "aten.view_copy.default": _view,
    "aten.view.default": _view,
    "aten.squeeze_copy.dims": _view,
    "aten.squeeze_copy.dim": _view,
    "aten.unsqueeze_copy.default": _view,
    "aten.clone.default": _view,
    "dim_order_ops._clone_dim_order.default": _view,
}
