"""Reads a PyTorch module, as torch.export traces it, into a verifier's graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import InputKind

from edgectl.assure.verify.builder import Builder, Pair, Unsupported, Value
from edgectl.assure.verify.graph import Graph
from edgectl.errors import UserError, first_line
from edgectl.quiet import quiet

_WHOLE = [
    torch.ops.aten.linear.default,
    torch.ops.aten.max_pool2d.default,
    torch.ops.aten.adaptive_avg_pool2d.default,
    torch.ops.aten.leaky_relu.default,
    torch.ops.aten.batch_norm.default,
]  # kept from torch.export's decompositions


def read_module(module: nn.Module, example: torch.Tensor) -> Graph:
    """The graph of a module in eval mode for inputs like `example` (1, ...), float32.

    Batch normalisation and arithmetic with constants become affine nodes; what depends on constants alone is computed.

    Raises:
        UserError: torch.export cannot trace it, it has more than one output, an operation without a relaxation, or weights
            that are not finite.
    """
    try:
        with quiet(), torch.no_grad():
            table = default_decompositions()
            for whole in _WHOLE:
                table.pop(whole, None)
            program = torch.export.export(module, (example,)).run_decompositions(table)
    except Exception as error:
        raise UserError(f"torch.export cannot trace the model: {first_line(error)}.") from error
    try:
        return _Reader(program, example).read()
    except Unsupported as error:
        raise UserError(f"{_capital(str(error))}.") from error


class _Reader:
    """Walks the nodes of an exported program."""

    def __init__(self, program: ExportedProgram, example: torch.Tensor) -> None:
        self.program = program
        self.values: dict[fx.Node, Any] = {}
        constants = {**program.state_dict, **program.constants}
        targets = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = targets[node.name]
            if spec.kind is InputKind.USER_INPUT:
                self.builder = Builder(node.name, example.shape)
                self.values[node] = self.builder.input
            else:
                self.values[node] = constants[str(spec.target)].detach()

    def read(self) -> Graph:
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                try:
                    self.values[node] = self._step(node)
                except Unsupported as why:
                    raise Unsupported(f"the operation {_short(node)} ({_path(node)}) {why}") from why
            elif node.op not in ("placeholder", "output"):
                raise Unsupported(f"the model calls {node.target}, which has no relaxation here")
        results = self.program.graph.output_node().args[0]
        outputs = [self.values.get(result) for result in results if isinstance(result, fx.Node)]
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            raise Unsupported(f"the model has {len(outputs)} outputs that depend on its input, where one can be verified")
        return self.builder.graph(outputs[0])

    def _step(self, node: fx.Node) -> Any:
        operands = {value for value in node.all_input_nodes if isinstance(self.values[value], Value)}
        if not operands:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.target is operator.getitem:
            if node.args[1] != 0:
                raise Unsupported("uses more than the first of several results")
            return self.values[node.args[0]]  # type: ignore[index]
        translate = _OPERATIONS.get(str(node.target))
        if translate is None:
            raise Unsupported("has no relaxation here")
        return translate(_Call(self, node))


class _Call:
    """One operation, its arguments by their names in ATen's schema."""

    def __init__(self, reader: _Reader, node: fx.Node) -> None:
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = {a.name: a.default_value for a in schema if a.has_default_value()}
        given.update({a.name: v for a, v in zip(schema, node.args, strict=False)})
        given.update(node.kwargs)
        self.builder = reader.builder
        self.name = _path(node)
        self.shape = tuple(node.meta["val"].shape) if isinstance(node.meta.get("val"), torch.Tensor) else ()
        self._given = {key: fx.map_arg(value, lambda n: reader.values[n]) for key, value in given.items()}

    def __getitem__(self, name: str) -> Any:
        return self._given[name]

    @property
    def x(self) -> Value:
        """What the operation is of."""
        return self.variable("self" if "self" in self._given else "input")

    def variable(self, name: str) -> Value:
        value = self[name]
        if not isinstance(value, Value):
            raise Unsupported(f"has a constant as `{name}`")
        return value

    def constant(self, name: str) -> Any:
        value = self[name]
        if isinstance(value, Value):
            raise Unsupported(f"computes its `{name}`, which must be constant")
        return value

    def pair(self, name: str, default: Pair | None = None) -> Pair:
        value = self.constant(name)
        sizes = [value] * 2 if isinstance(value, int) else list(value)
        if not sizes and default is not None:
            return default
        if len(sizes) == 1:
            sizes *= 2
        if len(sizes) != 2:
            raise Unsupported(f"has {len(sizes)} dimensions, not the 2 of images")
        return int(sizes[0]), int(sizes[1])


def _conv(call: _Call) -> Value:
    if call["transposed"]:
        raise Unsupported("is transposed, for which there is no bound here")
    if call.constant("weight").dim() != 4:
        raise Unsupported("is not over images: there is no bound here")
    top, left = call.pair("padding")
    return call.builder.conv(
        call.name,
        call.x,
        call.constant("weight"),
        call.constant("bias"),
        stride=call.pair("stride"),
        pads=(top, left, top, left),
        dilation=call.pair("dilation"),
        groups=int(call["groups"]),
    )


def _batch_norm(call: _Call) -> Value:
    if call._given.get("training"):
        raise Unsupported("is in training mode")
    mean, var = call.constant("running_mean"), call.constant("running_var")
    if mean is None or var is None:
        raise Unsupported("has no running statistics")
    gamma = torch.ones_like(mean) if call.constant("weight") is None else call.constant("weight")
    beta = torch.zeros_like(mean) if call.constant("bias") is None else call.constant("bias")
    return call.builder.batch_norm(call.name, call.x, gamma, beta, mean, var, float(call["eps"]))


def _sum(sign: float) -> Callable[[_Call], Value]:
    """self + alpha other, or self - alpha other."""

    def read(call: _Call) -> Value:
        a, b, factor = call["self"], call["other"], sign * float(call["alpha"])
        if isinstance(a, Value) and isinstance(b, Value):
            if abs(factor) != 1:
                b = call.builder.affine(f"{call.name}.alpha", b, abs(factor), 0.0)
            return (call.builder.add if factor > 0 else call.builder.subtract)(call.name, a, b)
        if isinstance(a, Value):
            return call.builder.affine(call.name, a, 1.0, factor * torch.as_tensor(b, dtype=torch.float64))
        return call.builder.affine(call.name, b, factor, a)

    return read


def _multiply(call: _Call) -> Value:
    a, b = call["self"], call["other"]
    if isinstance(a, Value) and isinstance(b, Value):
        raise Unsupported("multiplies two computed tensors, which has no relaxation here")
    return call.builder.affine(call.name, a if isinstance(a, Value) else b, b if isinstance(a, Value) else a, 0.0)


def _divide(call: _Call) -> Value:
    return call.builder.affine(call.name, call.x, 1.0 / torch.as_tensor(call.constant("other"), dtype=torch.float64), 0.0)


def _matmul(weight: str) -> Callable[[_Call], Value]:
    """x @ W of mm(self, mat2), addmm(self: bias, mat1, mat2)."""

    def read(call: _Call) -> Value:
        if weight == "mat2" and "mat1" in call._given:
            bias = torch.as_tensor(call.constant("self"), dtype=torch.float64) * call["beta"]
            return call.builder.linear(call.name, call.variable("mat1"), call.constant("mat2").T * call["alpha"], bias)
        return call.builder.linear(call.name, call.x, call.constant("mat2").T, None)

    return read


def _clamp(call: _Call) -> Value:
    low, high = call._given.get("min"), call._given.get("max")
    if low is None and "min_val" in call._given:
        low, high = call["min_val"], call["max_val"]
    return call.builder.clip(call.name, call.x, -math.inf if low is None else low, math.inf if high is None else high)


def _average_pool(call: _Call) -> Value:
    if call["divisor_override"] is not None:
        raise Unsupported("overrides its divisor")
    kernel = call.pair("kernel_size")
    top, left = call.pair("padding")
    pads = (top, left, top, left)
    include = bool(call["count_include_pad"])
    return call.builder.average_pool(
        call.name, call.x, kernel, call.pair("stride", kernel), pads, include, bool(call["ceil_mode"])
    )


def _max_pool(call: _Call) -> Value:
    kernel = call.pair("kernel_size")
    top, left = call.pair("padding")
    stride, dilation = call.pair("stride", kernel), call.pair("dilation")
    return call.builder.max_pool(call.name, call.x, kernel, stride, (top, left, top, left), dilation, bool(call["ceil_mode"]))


def _adaptive(call: _Call) -> Value:
    sizes, out = call.x.shape[2:], call.pair("output_size")
    if len(sizes) != 2 or any(size % to for size, to in zip(sizes, out, strict=True)):
        raise Unsupported(f"pools {list(sizes)} to {list(out)}, which windows of one size do not make")
    kernel = sizes[0] // out[0], sizes[1] // out[1]
    return call.builder.average_pool(call.name, call.x, kernel, kernel, (0, 0, 0, 0), True, False)


def _mean(call: _Call) -> Value:
    rank = len(call.x.shape)
    if rank != 4 or {d % rank for d in call["dim"] or ()} != {2, 3}:
        raise Unsupported("is not the mean of an image's pixels, the only one that has a bound here")
    return call.builder.mean(call.name, call.x, bool(call["keepdim"]))


def _reshape(call: _Call) -> Value:
    return call.builder.reshape(call.name, call.x, call.shape)


def _transpose(call: _Call) -> Value:
    order = list(range(len(call.x.shape)))
    a, b = int(call["dim0"]), int(call["dim1"])
    order[a], order[b] = order[b], order[a]
    return call.builder.permute(call.name, call.x, order)


def _permute(call: _Call) -> Value:
    rank = len(call.x.shape)
    return call.builder.permute(call.name, call.x, [dim % rank for dim in call["dims"]])


def _concat(call: _Call) -> Value:
    parts: Sequence[Any] = call["tensors"]
    if any(not isinstance(part, Value) for part in parts):
        raise Unsupported("joins constants to what is computed, which is not read here")
    return call.builder.concat(call.name, parts, int(call["dim"]))


def _pad(call: _Call) -> Value:
    return call.builder.pad(call.name, call.x, [int(p) for p in call["pad"]], float(call["value"]))


_OPERATIONS: dict[str, Callable[[_Call], Value]] = {
    "aten.linear.default": lambda call: call.builder.linear(call.name, call.x, call.constant("weight"), call.constant("bias")),
    "aten.mm.default": _matmul("mat2"),
    "aten.addmm.default": _matmul("mat2"),
    "aten.convolution.default": _conv,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.relu.default": lambda call: call.builder.relu(call.name, call.x),
    "aten.leaky_relu.default": lambda call: call.builder.leaky_relu(call.name, call.x, float(call["negative_slope"])),
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.hardtanh.default": _clamp,
    "aten.add.Tensor": _sum(1.0),
    "aten.add.Scalar": _sum(1.0),
    "aten.sub.Tensor": _sum(-1.0),
    "aten.sub.Scalar": _sum(-1.0),
    "aten.rsub.Scalar": lambda call: call.builder.affine(call.name, call.x, -float(call["alpha"]), float(call["other"])),
    "aten.mul.Tensor": _multiply,
    "aten.mul.Scalar": _multiply,
    "aten.div.Tensor": _divide,
    "aten.div.Scalar": _divide,
    "aten.neg.default": lambda call: call.builder.affine(call.name, call.x, -1.0, 0.0),
    "aten.view.default": _reshape,
    "aten.reshape.default": _reshape,
    "aten._unsafe_view.default": _reshape,
    "aten.squeeze.dim": _reshape,
    "aten.squeeze.dims": _reshape,
    "aten.unsqueeze.default": _reshape,
    "aten.transpose.int": _transpose,
    "aten.permute.default": _permute,
    "aten.cat.default": _concat,
    "aten.constant_pad_nd.default": _pad,
    "aten.avg_pool2d.default": _average_pool,
    "aten.max_pool2d.default": _max_pool,
    "aten.adaptive_avg_pool2d.default": _adaptive,
    "aten.mean.dim": _mean,
    "aten.clone.default": lambda call: call.x,
    "aten.alias.default": lambda call: call.x,
    "aten._to_copy.default": lambda call: call.x,
}


def _short(node: fx.Node) -> str:
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else str(node.target)


def _path(node: fx.Node) -> str:
    """The module's path in the model, or the operation's name in the graph."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0] or node.name) if stack else node.name


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
