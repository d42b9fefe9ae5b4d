"""Runs an IR graph in numpy and torch: the specification of the arithmetic of integer operations, bit for bit.

An operation is an integer one when its first input is int8 (`Value.quant`). Every step is an IEEE float32 operation, in the
order written here, without fused multiply-add; `rne` is rounding to nearest, ties to even. A real number is s (q - z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgectl.compress.shift_add import ShiftAdd
from edgectl.lowering import ir

Array = npt.NDArray[Any]
Int64Array = npt.NDArray[np.int64]


def run(graph: ir.Graph, inputs: list[Array], *, shift_add: bool = False) -> list[Array]:
    """The outputs of a graph.

    Args:
        graph: values with `quant` are int8, all others float32; plain (n, c, h, w) order.
        inputs: one array for each of the graph's inputs, of its shape and type.
        shift_add: multiply quantised weights of convolutions and linear layers by shifts and additions (`ShiftAdd`)
            instead: the same numbers, where all levels are sums of two powers of two. Slow.

    Raises:
        ValueError: an input is not of its value's shape and type, an integer operation is none that the device has, its
            sums exceed 32 bits, or, with `shift_add`, a level is not a sum of two powers of two.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"the graph has {len(graph.inputs)} inputs, not {len(inputs)}")
    known: dict[ir.Value, Array] = {}
    for value, array in zip(graph.inputs, inputs, strict=True):
        known[value] = _checked(value, array)
    for node in graph.nodes:
        read = [known[value] if value.data is None else value.data for value in ir.operands(node)]
        if isinstance(node, ir.Quantize):
            result = _quantize(read[0], _quant(node.output))
        elif isinstance(node, ir.Dequantize):
            result = _dequantize(read[0], _quant(node.inputs[0]))
        elif node.inputs[0].quant is not None:
            result = _integer(node, read, shift_add)
        elif any(value.quant is not None for value in ir.operands(node)):
            raise ValueError(f"{node.name} reads float32 and int8")
        else:
            result = _float(node, [torch.from_numpy(np.ascontiguousarray(array)) for array in read]).numpy()
        known[node.output] = _checked(node.output, result)
    return [known[value] if value.data is None else value.data for value in graph.outputs]


def reproducible(graph: ir.Graph) -> bool:
    """Whether every value that is quantised is the same on all machines, bit for bit.

    Float32 sums (layers, means, softmax, bilinear resampling) depend on the order of their additions, and functions such as
    the sigmoid on who computes them; single operations and what moves values do not.
    """
    inexact: set[ir.Value] = set()
    for node in graph.nodes:
        if isinstance(node, ir.Quantize):
            if node.inputs[0] in inexact:
                return False
        elif (node.inputs[0].quant is None and _varies(node)) or not inexact.isdisjoint(ir.operands(node)):
            inexact.add(node.output)
    return True


def _varies(node: ir.Node) -> bool:
    """Whether an operation on float32 need not give the same bits everywhere."""
    match node:
        case ir.Unary() | ir.Binary():
            return node.act.kind not in (ir.Act.NONE, ir.Act.CLAMP, ir.Act.LEAKY_RELU)
        case ir.Pool():
            return node.op != "max"
        case ir.Upsample():
            return node.mode != "nearest"
        case _:
            return not isinstance(node, ir.Concat | ir.PixelShuffle | ir.View)


def _checked(value: ir.Value, array: Array) -> Array:
    """Raises ValueError unless the array is what the value says."""
    kind = np.dtype(np.float32 if value.quant is None else np.int8)
    if array.shape != value.shape or array.dtype != kind:
        raise ValueError(f"{value.name} is {kind} {value.shape}, not {array.dtype} {array.shape}")
    return array


def _quant(value: ir.Value) -> ir.Quant:
    if value.quant is None:
        raise ValueError(f"{value.name} is not quantised")
    return value.quant


def _quantize(x: Array, quant: ir.Quant) -> Array:
    """q = clamp(rne(x float32(1 / s)) + z, -128, 127)."""
    scaled = x * np.float32(1 / quant.scale)
    return _to_int8(scaled, quant.zero_point)


def _to_int8(t: Array, zero_point: int) -> Array:
    """q = rne(clamp(t, -128 - z, 127 - z)) + z: clamping at whole numbers first does not change what rounds."""
    low, high = np.float32(-128 - zero_point), np.float32(127 - zero_point)
    return (np.rint(np.minimum(np.maximum(t, low), high)).astype(np.int32) + zero_point).astype(np.int8)


def _dequantize(q: Array, quant: ir.Quant) -> Array:
    """x = float32(q - z) float32(s)."""
    return (q.astype(np.int32) - quant.zero_point).astype(np.float32) * np.float32(quant.scale)


def _integer(node: ir.Node, read: list[Array], shift_add: bool) -> Array:
    """An operation on int8."""
    match node:
        case ir.Conv() | ir.Linear():
            return _product(node, read, shift_add)
        case ir.AdaptiveAvgPool() if _pooled(node) == (1, 1):
            quant, pixels = _quant(node.inputs[0]), read[0].shape[2] * read[0].shape[3]
            total = read[0].astype(np.int64).sum(axis=(2, 3)) - pixels * quant.zero_point
            total = total.reshape(node.output.shape)
            return _finish(node, total, np.float32(quant.scale / (_scale(node.output) * pixels)), ir.IDENTITY, None, False)
        case ir.Pool(op="max") | ir.Concat() | ir.PixelShuffle() | ir.View() | ir.Upsample(mode="nearest"):
            if any(value.quant != node.output.quant for value in node.inputs):
                raise ValueError(f"{node.name} moves int8 values between different scales or zero points")
            # float32 holds every int8 value
            moved = _float(node, [torch.from_numpy(array.astype(np.float32)) for array in read])
            return moved.numpy().astype(np.int8)
    raise ValueError(f"{node.name} ({ir.label(node)}) is no operation on int8")


def _product(node: ir.Conv | ir.Linear, read: list[Array], shift_add: bool) -> Array:
    """Convolution or linear layer on int8.

    acc[f] = rne(b[f] / (sx sw[f])) + sum w[f] (q_x - zx); the products of padding are 0, q_x being zx there. The device
    has -zx sum w[f] in the bias: the same integer.
    """
    if node.quantised is None:
        raise ValueError(f"{node.name} reads int8, but its weights are not quantised")
    quant, levels = _quant(node.inputs[0]), node.quantised.levels.astype(np.int64)
    scales = quant.scale * node.quantised.scales.astype(np.float64)
    x = read[0].astype(np.int64) - quant.zero_point
    bias = np.rint(node.bias.astype(np.float64) / scales).astype(np.int64)
    factor = (scales / _scale(node.output)).astype(np.float32)
    if isinstance(node, ir.Linear):
        flat = x.reshape(-1, x.shape[-1]).T
        levels = levels.reshape(len(levels), -1)
        sums = (ShiftAdd.of(levels).matmul(flat) if shift_add else levels @ flat).T.reshape(node.output.shape) + bias
    else:
        convolve = _convolve_by_shifts if shift_add else _convolve
        sums = convolve(node, x, levels) + bias[:, None, None]
        factor = factor[:, None, None]
    residual = read[1] if node.residual is not None else None
    return _finish(node, sums, factor, node.act, residual, node.residual_after_act)


def _finish(
    node: ir.Node, sums: Int64Array, factor: Array | np.float32, act: ir.Activation, residual: Array | None, after: bool
) -> Array:
    """From int32 sums to the output, int8 or float32 (s_y = 1): t = float32(acc) m, then residual and activation in turn."""
    if sums.min() < -(2**31) or sums.max() >= 2**31:
        raise ValueError(f"the sums of {node.name} exceed 32 bits")
    scale = _scale(node.output)
    t = sums.astype(np.int32).astype(np.float32) * factor
    added: Array | np.float32 = np.float32(0)
    if residual is not None:
        value = ir.operands(node)[-1]
        if value.quant is not None:
            added = (residual.astype(np.int32) - value.quant.zero_point).astype(np.float32)
            added = added * np.float32(value.quant.scale / scale)
        elif node.output.quant is None:
            added = residual
        else:
            raise ValueError(f"{node.name} adds a float32 residual to an int8 output")
    if residual is not None and not after:
        t = t + added
    match act.kind:
        case ir.Act.NONE:
            pass
        case ir.Act.CLAMP:
            t = np.minimum(np.maximum(t, np.float32(act.lo / scale)), np.float32(act.hi / scale))
        case ir.Act.LEAKY_RELU:
            t = np.where(t > 0, t, t * np.float32(act.lo))
        case _:
            raise ValueError(f"{node.name}: {act.label} is no activation of an integer operation")
    if residual is not None and after:
        t = t + added
    return t if node.output.quant is None else _to_int8(t, node.output.quant.zero_point)


def _scale(value: ir.Value) -> float:
    return 1.0 if value.quant is None else value.quant.scale


def _convolve(node: ir.Conv, x: Int64Array, levels: Int64Array) -> Int64Array:
    """Integer convolution of (n, c, h, w) with levels of the weight's shape: in float64, exact below 2^53."""
    sums = _conv(node, torch.from_numpy(x.astype(np.float64)), torch.from_numpy(levels.astype(np.float64)))
    return sums.numpy().astype(np.int64)


def _convolve_by_shifts(node: ir.Conv, x: Int64Array, levels: Int64Array) -> Int64Array:
    """The same by shifts and additions, over the patches of the input.

    A transposed convolution is the convolution with the flipped kernel of the input, zeros between whose pixels.
    """
    levels = replace(node, weight=levels.astype(np.float32)).filters_first.astype(np.int64)
    kernel, stride = levels.shape[2:], node.stride
    reach = [node.dilation[i] * (kernel[i] - 1) for i in range(2)]
    if node.transposed:
        levels = levels[:, :, ::-1, ::-1]
        n, channels, *size = x.shape
        spread = np.zeros((n, channels, *((size[i] - 1) * stride[i] + 1 for i in range(2))), np.int64)
        spread[:, :, :: stride[0], :: stride[1]] = x
        x, stride = spread, (1, 1)
        before = [reach[i] - node.padding[i] for i in range(2)]
    else:
        before = list(node.padding)
    out = node.output.shape[2:]
    needed = [(out[i] - 1) * stride[i] + reach[i] + 1 - before[i] - x.shape[2 + i] for i in range(2)]
    edges = (before[1], needed[1], before[0], needed[0])  # negative ones crop
    padded = F.pad(torch.from_numpy(x.astype(np.float64)), edges)
    patches = F.unfold(padded, kernel, node.dilation, stride=stride).numpy().astype(np.int64)
    products = [
        np.concatenate([ShiftAdd.of(rows.reshape(len(rows), -1)).matmul(columns) for rows, columns in groups])
        for groups in (zip(np.split(levels, node.groups), np.split(image, node.groups), strict=True) for image in patches)
    ]
    return np.stack(products).reshape(node.output.shape)


def _conv(node: ir.Conv, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution alone, whatever the type."""
    if not node.transposed:
        return F.conv2d(x, weight, None, node.stride, node.padding, node.dilation, node.groups)
    extra = [
        node.output.shape[2 + i]
        - ((x.shape[2 + i] - 1) * node.stride[i] - 2 * node.padding[i] + node.dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(2)
    ]
    return F.conv_transpose2d(x, weight, None, node.stride, node.padding, extra, node.groups, node.dilation)


def _float(node: ir.Node, read: list[Tensor]) -> Tensor:
    """An operation on float32."""
    x = read[0]
    match node:
        case ir.Conv() | ir.Linear():
            if isinstance(node, ir.Conv):
                y = _conv(node, x, torch.from_numpy(node.weight)) + torch.from_numpy(node.bias)[:, None, None]
            else:
                y = F.linear(x, torch.from_numpy(node.weight), torch.from_numpy(node.bias))
            if node.residual is None:
                return _activated(y, node.act)
            return _activated(y, node.act) + read[1] if node.residual_after_act else _activated(y + read[1], node.act)
        case ir.Unary():
            return _activated(x, node.act)
        case ir.Binary():
            return _activated(x + read[1] if node.op == "add" else x * read[1], node.act)
        case ir.Concat():
            return torch.cat(read, dim=node.axis)
        case ir.Pool():
            return _pool(node, x)
        case ir.AdaptiveAvgPool():
            return F.adaptive_avg_pool2d(x, _pooled(node)).reshape(node.output.shape)
        case ir.Upsample():
            return _upsample(node, x)
        case ir.PixelShuffle():
            return F.pixel_shuffle(x, node.factor)
        case ir.Softmax():
            return F.softmax(x, dim=node.axis)
        case ir.View():
            return x.reshape(node.output.shape)
    raise ValueError(f"{node.name} ({ir.label(node)}) is no operation on float32")


def _activated(x: Tensor, act: ir.Activation) -> Tensor:
    table: dict[ir.Act, Callable[[], Tensor]] = {
        ir.Act.NONE: lambda: x,
        ir.Act.CLAMP: lambda: x.clamp(act.lo, act.hi),
        ir.Act.LEAKY_RELU: lambda: F.leaky_relu(x, act.lo),
        ir.Act.HARDSWISH: lambda: F.hardswish(x),
        ir.Act.SIGMOID: lambda: torch.sigmoid(x),
        ir.Act.MISH: lambda: F.mish(x),
        ir.Act.SILU: lambda: F.silu(x),
    }
    return table[act.kind]()


def _pool(node: ir.Pool, x: Tensor) -> Tensor:
    spans = [node.dilation[i] * (node.kernel[i] - 1) + 1 for i in range(2)]
    floor = tuple((x.shape[2 + i] + 2 * node.padding[i] - spans[i]) // node.stride[i] + 1 for i in range(2))
    ceil = floor != node.output.shape[2:]
    if node.op == "max":
        return F.max_pool2d(x, node.kernel, node.stride, node.padding, node.dilation, ceil)
    return F.avg_pool2d(x, node.kernel, node.stride, node.padding, ceil, node.count_include_pad, node.divisor or None)


def _pooled(node: ir.AdaptiveAvgPool) -> tuple[int, int]:
    """Rows and columns of an adaptive pool's output, which may have lost them."""
    rows, columns = node.output.shape[2:] or (1, 1)
    return rows, columns


def _upsample(node: ir.Upsample, x: Tensor) -> Tensor:
    size = node.output.shape[2:]
    if node.mode == "nearest":
        rows, columns = (
            (torch.arange(size[i]) * torch.tensor(node.ratio[i])).long().clamp(max=x.shape[2 + i] - 1) for i in range(2)
        )
        return x[:, :, rows][:, :, :, columns]
    if node.align_corners or all(node.ratio[i] == x.shape[2 + i] / size[i] for i in range(2)):
        return F.interpolate(x, size, mode=node.mode, align_corners=node.align_corners)
    factors = [1 / ratio for ratio in node.ratio]
    return F.interpolate(x, scale_factor=factors, mode=node.mode, align_corners=False, recompute_scale_factor=False)
