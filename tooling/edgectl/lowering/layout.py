"""From the IR to physical operations: where every tensor lies, which copies that needs, and packed weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl.lowering import depthwise, half, int8, ir, winograd
from edgectl.lowering.chains import plan_chains
from edgectl.lowering.geometry import Geometry, geometry, is_point
from edgectl.lowering.integer import is_integer
from edgectl.lowering.pack import Packed, Taps, pack, reads_aligned, recognise
from edgectl.lowering.plan import (
    LINE,
    Buffer,
    Dims,
    Op,
    OpKind,
    Storage,
    Tensor,
    around_axis,
    dense_stride,
    four_dims,
    io_tensor,
    left_padded,
    reshaped,
    whole_lines,
    write,
)
from edgectl.lowering.winograd import Tiling
from edgectl.recipe import Cpu, Precision

# Maps up to this wide share one row stride, so that a kernel can run a whole plane as one row.
_NARROW = 128
_NO_HALO: Dims = (0, 0, 0, 0)


@dataclass(frozen=True)
class LayerRecord:
    """What lowering did with one layer; see edgectl.artifact.Layer.

    Of layers with weights: `method` is `direct`, `depthwise`, `linear`, or Winograd's with its tile, in int8 or fp16 where it
    says so; `bands` how many bands of rows it runs in; `stored`, `order`, `costs` and `bits` are those of
    edgectl.lowering.pack.Packed; `activation` and `residual` say what its epilogue does.
    """

    name: str
    op: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    scheme: str = "dense"
    weights: int = 0
    nonzeros: int = 0
    macs: int = 0
    effective_macs: int = 0
    bytes: int = 0
    block: int = 0
    fused: list[str] = field(default_factory=list)
    method: str = ""
    bands: int = 1
    stored: int = 0
    order: str = ""
    costs: dict[int, float] = field(default_factory=dict)
    bits: int = 32
    activation: str = ""
    residual: bool = False


def lower(graph: ir.Graph, cpu: Cpu, precision: Precision = "fp32") -> tuple[bytes, list[LayerRecord]]:
    """The plan of an (optimised) graph, its weights packed for `cpu`, and a record of each layer in the order they run.

    Raises:
        UserError: a weight is too large for the precision.
    """
    lowering = _Lowering(graph, cpu, precision)
    for node in graph.nodes:
        lowering.emit(node)
    lowering.finish()
    ops, chains = plan_chains(lowering.ops)
    lowering.pack()
    for chain in chains:
        for op in ops[chain.first : chain.last + 1]:
            lowering.bands[op.twin or op] += len(chain.bands)
    return write(lowering.inputs, lowering.outputs, ops, chains), [make() for make in lowering.layers]


class _Lowering:
    def __init__(self, graph: ir.Graph, cpu: Cpu, precision: Precision) -> None:
        self.graph = graph
        self.cpu: Cpu = cpu
        self.half = half.nodes(graph) if precision == "fp16" else set[ir.Node]()
        self.producers = {node.output: node for node in graph.nodes}
        self.uses = graph.uses()
        self.ops: list[Op] = []
        self.layers: list[Callable[[], LayerRecord]] = []  # known once weights are packed
        self.unpacked: list[tuple[Op, Callable[[], Packed]]] = []
        self.packed: dict[Op, Packed] = {}
        self.bands: Counter[Op] = Counter()
        self.tensors: dict[ir.Value, Tensor] = {}
        self.copies: dict[tuple[ir.Value, object], Tensor] = {}
        convs = [node for node in graph.nodes if isinstance(node, ir.Conv) and not is_point(node)]
        exact = [node for node in convs if not is_integer(node) and node not in self.half]
        self.tilings = {node: tiling for node in exact if (tiling := winograd.choose(node, cpu))}
        self.depthwise = {node for node in convs if node not in self.tilings and depthwise.suits(node) and _alike(node)}
        others = [node for node in convs if node not in self.tilings and node not in self.depthwise]
        self.geometries = {node: geometry(node) for node in others}
        self.aligned = {
            node.inputs[0]
            for node, shape in self.geometries.items()
            if node in exact
            and (shape.factor == 1 or shape.upsample)
            and reads_aligned(node.weight.reshape(len(node.weight), -1), cpu)
        }
        self.halos: dict[ir.Value, Dims] = {}
        self.gaps: dict[tuple[int, ...], int] = {}
        self.parts: dict[ir.Value, tuple[ir.Value, int]] = {}
        self._plan_halos()
        self._plan_parts()
        self.inputs = [io_tensor(Storage.INPUT, value.shape, i) for i, value in enumerate(graph.inputs)]
        self.outputs = [io_tensor(Storage.OUTPUT, value.shape, i) for i, value in enumerate(graph.outputs)]
        self.tensors.update(zip(graph.inputs, self.inputs, strict=True))

    # -- where tensors lie ------------------------------------------------------------------------------------------------

    def _plan_halos(self) -> None:
        for node, shape in self.geometries.items():
            value = node.inputs[0]
            if shape.factor == 1 or shape.upsample:
                self._need_halo(value, shape.halo(*value.shape[2:]))
            else:
                self._widen(shape.grid, shape.columns[1] + 1 - shape.grid[1])
        for node in self.depthwise:
            self._need_halo(node.inputs[0], depthwise.halo(node))

    def _plan_parts(self) -> None:
        """Values that are written where they are concatenated: the concatenation, and their first channel in it."""
        made = {node.output for node in self.graph.nodes if not isinstance(node, ir.View | ir.Softmax)}
        for node in self.graph.nodes:
            if not isinstance(node, ir.Concat) or node.axis != 1 or len(node.output.shape) != 4:
                continue
            if node.output in self.graph.outputs:
                continue
            channel = 0
            for value in node.inputs:
                fits = value.quant is None or channel % 4 == 0
                fits = fits and self._is_half(value) == (node in self.half)
                if value in made and value not in self.parts and value not in self.graph.outputs and fits:
                    self.parts[value] = (node.output, channel)
                    self._need_halo(node.output, self.halos.get(value, _NO_HALO))
                    if value in self.aligned:
                        self.aligned.add(node.output)
                channel += value.shape[1]

    def _is_half(self, value: ir.Value) -> bool:
        """Whether a value is float16 as its operation writes it."""
        return self.producers.get(value) in self.half

    def _wants(self, node: ir.Node) -> bool | None:
        """Whether its operands must be float16, or must not be; None where they may be either."""
        return None if node in self.half and isinstance(node, half.MIXED) else node in self.half

    def _need_halo(self, value: ir.Value, halo: Dims) -> None:
        old = self.halos.get(value, _NO_HALO)
        self.halos[value] = (max(old[0], halo[0]), max(old[1], halo[1]), max(old[2], halo[2]), max(old[3], halo[3]))
        self._widen(value.shape[2:], max(halo[2:]))

    def _widen(self, size: tuple[int, ...], gap: int) -> None:
        if size[1] <= _NARROW:
            self.gaps[size] = max(self.gaps.get(size, 0), gap)

    def _arena(
        self,
        dims: Dims,
        halo: Dims = _NO_HALO,
        *,
        row: int | None = None,
        gap: bool = False,
        fill: int | None = None,
        half: bool = False,
        aligned: bool = False,
    ) -> Tensor:
        """A fresh arena tensor. `gap`: its rows take the common stride of maps of this size. `fill`: of an int8 one. `aligned`:
        wide rows are of whole cache lines.
        """
        element = 2 if half else 4
        n, c, h, w = dims
        top, bottom, left, right = halo
        first = left
        if row is None:
            row = w + max(left, right, self.gaps.get((h, w), 0) if gap else 0)
            if aligned and w > _NARROW:
                row, first = whole_lines(row), whole_lines(left)
        plane = (top + h + bottom - 1) * row + first + w + right
        if halo != _NO_HALO or row != w:
            plane = whole_lines(max(plane, (h + top) * row))
            plane += LINE * (plane * element % 4096 == 0)  # planes a multiple of 4 KiB apart would share cache sets
        start = top * row + first
        buffer = Buffer(element * n * c * plane)
        stride = (c * plane, plane, row)
        return Tensor(Storage.ARENA, dims, stride, halo, buffer=buffer, start=start, fill=fill, half=half)

    def _result(self, value: ir.Value, dims: Dims | None = None) -> Tensor:
        """Where a node writes `value`: the output itself when nobody else reads it, a part of what it is concatenated to,
        or the arena.
        """
        places = [i for i, output in enumerate(self.graph.outputs) if output is value]
        fill = None if value.quant is None else int8.fill(value.quant)
        halves, node = self._is_half(value), self.producers[value]
        either = not halves or _is_linear(node) or isinstance(node, half.MIXED)  # types of the result
        if places and self.uses[value] == 1 and either:
            made = reshaped(self.outputs[places[0]], dims or four_dims(value.shape))
            self.outputs[places[0]] = made
        elif value in self.parts and dims is None:
            whole, channel = self.parts[value]
            made = _channels(self.tensors.get(whole) or self._result(whole), value, channel)
        elif dims is None and len(value.shape) == 4:
            halo, aligned = self.halos.get(value, _NO_HALO), value in self.aligned
            made = self._arena(_dims(value), halo, gap=True, fill=fill, half=halves, aligned=aligned)
        else:
            made = self._arena(dims or _dims(value), fill=fill, half=halves)
        self.tensors[value] = made
        return made

    def _home(self, value: ir.Value, name: str) -> Tensor:
        if value not in self.tensors:
            assert value.data is not None, f"{value.name} is read before it is written ({name})"
            data = np.ascontiguousarray(value.data, np.float32)
            dims = left_padded(value.shape)
            self.tensors[value] = Tensor(Storage.CONST, dims, dense_stride(dims), data=data.tobytes())
        return self.tensors[value]

    def _typed(self, value: ir.Value, home: Tensor, half: bool | None, name: str) -> Tensor:
        """`home`, where `value` lies, or a copy that is float16 as `half` says (None: either will do)."""
        if half is None or home.half == half:
            return home
        key = (value, ("type", half))
        if key not in self.copies:
            self.copies[key] = self._copy(home, self._arena(home.dims, half=half), name)
        return self.copies[key]

    def _dense(self, value: ir.Value, dims: Dims, name: str, half: bool | None = None) -> Tensor:
        """`value` without gaps, seen as `dims`."""
        home = self._typed(value, self._home(value, name), half, name)
        if not home.is_dense:
            key = (value, "dense")
            if key not in self.copies:
                self.copies[key] = self._copy(home, self._arena(home.dims, fill=home.fill, half=home.half), name)
            home = self.copies[key]
        return reshaped(home, dims)

    def _image(self, value: ir.Value, name: str, half: bool | None = None) -> Tensor:
        """`value` as (n, c, h, w), wherever it lies."""
        home = self._home(value, name)
        dims = _dims(value)
        return self._typed(value, home, half, name) if home.dims == dims else self._dense(value, dims, name, half)

    def _haloed(self, value: ir.Value, halo: Dims, name: str, half: bool = False) -> Tensor:
        """`value` in the arena with at least this much halo."""
        home = self._image(value, name)
        fits = home.storage is Storage.ARENA and home.half == half
        if fits and all(have >= want for have, want in zip(home.halo, halo, strict=True)):
            return home
        key = (value, ("halo", half))
        if key not in self.copies:
            widest, aligned = self.halos.get(value, halo), value in self.aligned
            target = self._arena(home.dims, widest, gap=True, fill=home.fill, half=half, aligned=aligned)
            self.copies[key] = self._copy(home, target, name)
        return self.copies[key]

    def _copy(self, source: Tensor, target: Tensor, name: str, p: tuple[int, int, int] = (1, 0, 0)) -> Tensor:
        self.ops.append(Op(kind=OpKind.COPY, name=name, inputs=[source], output=target, p=p))
        return target

    def finish(self) -> None:
        """Copies into the outputs that no operation wrote directly."""
        written = {id(op.output) for op in self.ops}
        for i, value in enumerate(self.graph.outputs):
            if id(self.outputs[i]) in written:
                continue
            home = self._home(value, value.name)
            self.outputs[i] = reshaped(self.outputs[i], home.dims)
            self._copy(home, self.outputs[i], self._producer(value))

    def _producer(self, value: ir.Value) -> str:
        return next((node.name for node in self.graph.nodes if node.output is value), value.name)

    # -- operations -------------------------------------------------------------------------------------------------------

    def emit(self, node: ir.Node) -> None:
        """Appends the operations of one node."""
        match node:
            case ir.View():
                self.tensors[node.output] = self._dense(node.inputs[0], _dims(node.output), node.name)
                return
            case ir.Conv():
                self._conv(node)
                return
            case ir.Linear():
                self._linear(node)
                return
            case ir.Unary():
                self._unary(node)
            case ir.Binary():
                self._binary(node)
            case ir.Concat() if node.output in self.tensors:
                self._join(node)
            case ir.Concat() | ir.Softmax():
                self._along_axis(node)
            case ir.Pool():
                self._pool(node)
            case ir.Quantize() | ir.Dequantize():
                self._convert(node)
            case ir.AdaptiveAvgPool() if node.inputs[0].quant is not None:
                self._mean_int8(node, node.inputs[0].quant)
            case ir.AdaptiveAvgPool():
                n, c = node.inputs[0].shape[:2]
                out = node.output.shape
                dims = (n, c, out[2], out[3]) if len(out) == 4 else (n, c, 1, 1)
                self._image_op(node, OpKind.ADAPTIVE_AVG_POOL, dims=None if len(out) == 4 else dims)
            case ir.Upsample():
                kind = OpKind.UPSAMPLE_NEAREST if node.mode == "nearest" else OpKind.UPSAMPLE_BILINEAR
                self._image_op(node, kind, p=(int(node.align_corners),), f=node.ratio)
            case ir.PixelShuffle():
                self._image_op(node, OpKind.PIXEL_SHUFFLE, p=(node.factor, 0, 0))
            case _:
                raise AssertionError(f"no lowering for {type(node).__name__}")
        self._record(node, ir.label(node))

    def _record(
        self, node: ir.Node, label: str, op: Op | None = None, weight: ir.FloatArray | None = None, uses: int = 0
    ) -> None:
        """Records a layer; `op` is the one that holds its weights, each used `uses` times."""

        def make() -> LayerRecord:
            figures: dict[str, Any] = {}
            if op is not None and weight is not None:
                quantised = isinstance(node, ir.Conv | ir.Linear) and node.quantised is not None
                figures = _figures(weight, self.packed[op], uses, quantised) | {
                    "method": self._method(node, op),
                    "bands": max(1, self.bands[op]),
                }
            if isinstance(node, ir.Conv | ir.Linear):
                figures |= {
                    "activation": node.act.label if node.act.kind is not ir.Act.NONE else "",
                    "residual": node.residual is not None,
                }
            shape = node.inputs[0].shape
            return LayerRecord(node.name, label, shape, node.output.shape, fused=list(node.fused), **figures)

        self.layers.append(make)

    def _method(self, node: ir.Node, op: Op) -> str:
        if isinstance(node, ir.Conv) and node in self.tilings:
            return f"Winograd F({self.tilings[node].m}, 3)"
        if op.kind is OpKind.LINEAR_INT8 and op.p[2]:
            return "int8 linear, codes decoded as they are read"
        names = {
            OpKind.CONV: "direct", OpKind.DEPTHWISE: "depthwise", OpKind.LINEAR: "linear",
            OpKind.CONV_INT8: "int8 direct", OpKind.DEPTHWISE_INT8: "int8 depthwise", OpKind.LINEAR_INT8: "int8 linear",
        }  # fmt: skip
        return f"fp16 {names[op.kind]}" if node in self.half else names[op.kind]

    def _image_op(
        self, node: ir.Node, kind: OpKind, *, p: Sequence[int] = (), f: Sequence[float] = (), dims: Dims | None = None
    ) -> None:
        source = self._image(node.inputs[0], node.name, self._wants(node))
        self.ops.append(Op(kind=kind, name=node.name, inputs=[source], output=self._result(node.output, dims), p=p, f=f))

    def _pool(self, node: ir.Pool) -> None:
        window = (*node.kernel, *node.stride, *node.padding)
        if node.op == "max":
            self._image_op(node, OpKind.MAX_POOL, p=(*window, *node.dilation))
        else:
            more = (int(node.count_include_pad), node.divisor, *node.padding)
            self._image_op(node, OpKind.AVG_POOL, p=(*window, *more))

    def _unary(self, node: ir.Unary) -> None:
        value = node.inputs[0]
        if len(value.shape) == 4:
            source, target = self._image(value, node.name), self._result(node.output)
        else:
            flat = (1, 1, 1, math.prod(value.shape))
            source, target = self._dense(value, flat, node.name), self._result(node.output, flat)
        self.ops.append(Op(kind=OpKind.UNARY, name=node.name, inputs=[source], output=target, act=node.act))

    def _binary(self, node: ir.Binary) -> None:
        sources = []
        for value in node.inputs:
            home = self._home(value, node.name)
            dims = left_padded(value.shape)
            sources.append(home if home.dims == dims else self._dense(value, dims, node.name))
        rank4 = len(node.output.shape) == 4
        target = self._result(node.output, None if rank4 else left_padded(node.output.shape))
        kind = OpKind.ADD if node.op == "add" else OpKind.MUL
        self.ops.append(Op(kind=kind, name=node.name, inputs=sources, output=target, act=node.act))

    def _along_axis(self, node: ir.Concat | ir.Softmax) -> None:
        kind = OpKind.CONCAT if isinstance(node, ir.Concat) else OpKind.SOFTMAX
        if len(node.output.shape) == 4 and (kind is OpKind.CONCAT or node.axis == 1):
            sources = [self._image(v, node.name, self._wants(node)) for v in node.inputs]
            target = self._result(node.output)
            axis = node.axis
        else:
            wants = self._wants(node)
            sources = [self._dense(v, around_axis(v.shape, node.axis), node.name, wants) for v in node.inputs]
            target, axis = self._result(node.output, around_axis(node.output.shape, node.axis)), 1
        p = (axis,) if kind is OpKind.CONCAT else ()
        self.ops.append(Op(kind=kind, name=node.name, inputs=sources, output=target, p=p))

    def _join(self, node: ir.Concat) -> None:
        """A concatenation of which some parts are in their place already."""
        whole, channel = self.tensors[node.output], 0
        for value in node.inputs:
            if self.parts.get(value) != (node.output, channel):
                self._copy(self._image(value, node.name), _channels(whole, value, channel), node.name)
            channel += value.shape[1]

    def _linear(self, node: ir.Linear) -> None:
        if is_integer(node):
            self._linear_int8(node)
            return
        outputs, features = node.weight.shape
        rows = math.prod(node.inputs[0].shape) // features
        halves = node in self.half
        source = self._dense(node.inputs[0], (rows, features, 1, 1), node.name, halves)
        residual = None
        if node.residual is not None:
            residual = self._dense(node.residual, (rows, outputs, 1, 1), node.name, halves)
        target = self._result(node.output, (rows, outputs, 1, 1))
        taps = Taps(node.weight, np.arange(features, dtype=np.int32), np.arange(outputs, dtype=np.uint32))
        op = self._weighted(
            node, OpKind.LINEAR, source, target, residual, lambda: self._pack(node, [taps], node.bias, over_filters=True)
        )
        self._record(node, "linear", op, node.weight, rows)

    def _conv(self, node: ir.Conv) -> None:
        # a transposed convolution uses each weight once an input pixel, the others once an output pixel
        pixels = math.prod((node.inputs[0] if node.transposed else node.output).shape[2:]) * node.output.shape[0]
        if node in self.tilings:
            op = self._winograd_conv(node, self.tilings[node])
        elif is_integer(node):
            op = self._conv_int8(node)
            op.macs = -(-int(np.count_nonzero(node.weight)) * pixels // 4)
        else:
            if is_point(node):
                op = self._point_conv(node)
            elif node in self.depthwise:
                op = self._depthwise_conv(node)
            else:
                op = self._map_conv(node, self.geometries[node])
            op.macs = int(np.count_nonzero(node.weight)) * pixels
        self._record(node, ir.label(node), op, node.filters_first, pixels)

    def _point_conv(self, node: ir.Conv) -> Op:
        source = self._image(node.inputs[0], node.name, node in self.half)
        filters, channels = node.weight.shape[:2]
        inside, spatial = _point_taps(node, source)
        weight = node.weight[:, :, inside].reshape(filters, -1)
        per_group = filters // node.groups
        groups = []
        for g in range(node.groups):
            planes = np.arange(g * channels, (g + 1) * channels) * source.stride[1]
            offsets = (planes[:, None] + spatial[None, :]).reshape(-1).astype(np.int32)
            rows = np.arange(g * per_group, (g + 1) * per_group)
            groups.append(Taps(weight[rows], offsets, rows.astype(np.uint32)))
        residual = None if node.residual is None else self._image(node.residual, node.name, node in self.half)
        target = self._result(node.output)
        return self._weighted(
            node, OpKind.LINEAR, source, target, residual, lambda: self._pack(node, groups, node.bias, over_filters=True)
        )

    def _map_conv(self, node: ir.Conv, shape: Geometry) -> Op:
        r = shape.factor
        shuffled = shape.upsample and r > 1
        halves = node in self.half
        residual = None if node.residual is None else self._image(node.residual, node.name, halves)
        n, filters = node.output.shape[0], len(shape.weight)
        target = self._arena((n, filters, *shape.grid), gap=True, half=halves) if shuffled else self._result(node.output)
        if r > 1 and not shape.upsample:
            source = self._phases(node, shape, target)
        else:
            source = self._haloed(node.inputs[0], shape.halo(*node.inputs[0].shape[2:]), node.name, halves)
        bias = np.repeat(node.bias, r * r) if shuffled else node.bias
        op = self._weighted(
            node, OpKind.CONV, source, target, residual, lambda: self._pack(node, _groups(node, shape, source), bias)
        )
        op.reach = (min(shape.dy), max(shape.dy))
        if shuffled:
            self.ops.append(
                Op(
                    kind=OpKind.PIXEL_SHUFFLE,
                    name=node.name,
                    inputs=[target],
                    output=self._result(node.output),
                    p=(r, 0, 0),
                )
            )
        return op

    def _depthwise_conv(self, node: ir.Conv) -> Op:
        source = self._haloed(node.inputs[0], depthwise.halo(node), node.name, node in self.half)
        p = (node.weight.shape[2], node.stride[0], *node.padding)
        target = self._result(node.output)
        return self._weighted(node, OpKind.DEPTHWISE, source, target, None, lambda: depthwise.weights(node), p=p)

    def _winograd_conv(self, node: ir.Conv, tiling: Tiling) -> Op:
        source = self._image(node.inputs[0], node.name, half=False)
        residual = None if node.residual is None else self._image(node.residual, node.name, half=False)
        p = (tiling.m, node.padding[0], node.padding[1], tiling.tiles)
        target = self._result(node.output)
        op = self._weighted(
            node, OpKind.WINOGRAD, source, target, residual, lambda: self._pack(node, *winograd.weights(node, tiling)), p=p
        )
        n, _, height, width = target.dims
        op.macs = tiling.size * node.weight.shape[0] * node.weight.shape[1] * n * tiling.of(height, width)
        return op

    # -- int8 -------------------------------------------------------------------------------------------------------------

    def _convert(self, node: ir.Quantize | ir.Dequantize) -> None:
        value, output = node.inputs[0], node.output
        if isinstance(node, ir.Quantize):
            assert output.quant is not None
            kind, quant, factor = OpKind.QUANTIZE, output.quant, np.float32(1 / output.quant.scale)
        else:
            assert value.quant is not None
            kind, quant, factor = OpKind.DEQUANTIZE, value.quant, np.float32(value.quant.scale)
        real = value if isinstance(node, ir.Quantize) else output
        n, c, h, w = (*real.shape, 1, 1)[:4]
        if isinstance(node, ir.Quantize):
            home = self._typed(value, self._home(value, node.name), False, node.name)
            source = home if home.dims == (n, c, h, w) else self._dense(value, (n, c, h, w), node.name, half=False)
            target = self._result(output)
        else:
            source = self._image(value, node.name)
            target = self._result(output, None if len(real.shape) == 4 else (n, c, h, w))
        p, f = (quant.zero_point,), (float(factor),)
        self.ops.append(Op(kind=kind, name=node.name, inputs=[source], output=target, p=p, f=f))

    def _mean_int8(self, node: ir.AdaptiveAvgPool, x: ir.Quant) -> None:
        y = node.output.quant
        assert y is not None
        source = self._image(node.inputs[0], node.name)
        pixels = source.dims[2] * source.dims[3]
        f = (float(np.float32(x.scale / (y.scale * pixels))),)
        target = self._result(node.output)
        self.ops.append(
            Op(kind=OpKind.MEAN_INT8, name=node.name, inputs=[source], output=target, p=(y.zero_point, x.zero_point), f=f)
        )

    def _linear_int8(self, node: ir.Linear) -> None:
        quantised, x = node.quantised, node.inputs[0].quant
        assert quantised is not None and x is not None
        outputs, features = node.weight.shape
        rows = node.inputs[0].shape[0]
        layer = int8.quads(quantised.levels.reshape(outputs, features, 1), 1).reshape(outputs, -1, 4)
        taps = int8.QuadTaps(layer, np.arange(layer.shape[1], dtype=np.int32))
        source = self._dense(node.inputs[0], int8.dims(node.inputs[0].shape), node.name)
        residual = None if node.residual is None else self._dense(node.residual, int8.dims(node.residual.shape), node.name)
        dims = int8.dims(node.output.shape) if node.output.quant is not None else (rows, outputs, 1, 1)
        op = self._integer(node, OpKind.LINEAR_INT8, source, self._result(node.output, dims), residual, quantised.levels, taps)
        self._record(node, "linear", op, node.weight, rows)

    def _conv_int8(self, node: ir.Conv) -> Op:
        quantised = node.quantised
        assert quantised is not None
        if node in self.depthwise:
            return self._depthwise_int8(node, quantised)
        levels = replace(node, weight=quantised.levels.astype(np.float32), residual=None)
        residual = None if node.residual is None else self._image(node.residual, node.name)
        if not is_point(node):
            return self._map_int8(node, self.geometries[node], geometry(levels).weight, residual)
        source = self._image(node.inputs[0], node.name)
        inside, spatial = _point_taps(node, source)
        weight = levels.weight[:, :, inside]
        target = self._result(node.output)
        taps = _quad_taps(weight, node.groups, source, lambda: spatial)
        return self._integer(node, OpKind.LINEAR_INT8, source, target, residual, weight, taps)

    def _map_int8(self, node: ir.Conv, shape: Geometry, weight: ir.FloatArray, residual: Tensor | None) -> Op:
        r = shape.factor
        shuffled = shape.upsample and r > 1
        n = node.output.shape[0]
        target = self._arena((n, len(weight), *shape.grid), gap=True) if shuffled else self._result(node.output)
        if r > 1 and not shape.upsample:
            source = self._phases(node, shape, target)
        else:
            source = self._haloed(node.inputs[0], shape.halo(*node.inputs[0].shape[2:]), node.name)
        channels = int8.dims(node.inputs[0].shape)[1]

        def places() -> npt.NDArray[np.integer]:
            _, plane, row = source.stride
            return np.array(shape.phase) * channels * plane + np.array(shape.dy) * row + np.array(shape.dx)

        taps = _quad_taps(weight, node.groups, source, places)
        op = self._integer(node, OpKind.CONV_INT8, source, target, residual, weight, taps, repeat=r * r if shuffled else 1)
        op.reach = (min(shape.dy), max(shape.dy))
        if shuffled:
            out = self._result(node.output)
            self.ops.append(Op(kind=OpKind.PIXEL_SHUFFLE, name=node.name, inputs=[target], output=out, p=(r, 0, 0)))
        return op

    def _depthwise_int8(self, node: ir.Conv, quantised: ir.Levels) -> Op:
        x, y = node.inputs[0].quant, node.output.quant
        assert x is not None and y is not None
        source = self._haloed(node.inputs[0], depthwise.halo(node), node.name)
        kernels = quantised.levels.reshape(len(quantised.levels), -1)
        numbers = int8.scales(node.bias, kernels, quantised.scales, x, y)
        p = (node.weight.shape[2], node.stride[0], *node.padding, y.zero_point)
        op = self._weighted(
            node, OpKind.DEPTHWISE_INT8, source, self._result(node.output), None, lambda: int8.depthwise(kernels, numbers), p=p
        )
        op.act = int8.finish(node.act, y)
        return op

    def _integer(
        self,
        node: ir.Conv | ir.Linear,
        kind: OpKind,
        source: Tensor,
        target: Tensor,
        residual: Tensor | None,
        levels: npt.NDArray[Any],
        taps: Callable[[], int8.QuadTaps] | int8.QuadTaps,
        repeat: int = 1,
    ) -> Op:
        """`levels` of all filters, to sum; `taps` once it is known where tensors lie; `repeat`: filters made of one."""
        quantised, x = node.quantised, node.inputs[0].quant
        assert quantised is not None and x is not None
        y = node.output.quant if target.fill is not None else None
        numbers = int8.scales(
            np.repeat(node.bias, repeat), levels.reshape(len(levels), -1), np.repeat(quantised.scales, repeat), x, y
        )
        r = None if node.residual is None else node.residual.quant
        factor, zero = int8.residual(r, y)
        rows = target.dims[0]
        linear = kind is OpKind.LINEAR_INT8
        streams = int(linear and int8.streams(quantised.levels, rows))

        def weights() -> Packed:
            return int8.pack_int8(taps() if callable(taps) else taps, numbers, linear=linear)

        p = (0 if y is None else y.zero_point, zero, streams)
        op = self._weighted(node, kind, source, target, residual, weights, p=p)
        op.act, op.f = int8.finish(node.act, y), (factor,)
        return op

    def _phases(self, node: ir.Conv, shape: Geometry, target: Tensor) -> Tensor:
        """The input split into phases, so that a strided convolution runs at stride 1."""
        value = node.inputs[0]
        rows, columns = shape.rows[1] + 1, shape.columns[1] + 1
        key = (value, ("phases", node in self.half, shape.factor, shape.phases, node.padding, rows, columns))
        if key not in self.copies:
            source = self._image(value, node.name)
            n, c = source.dims[:2]
            row = max(columns, target.stride[2]) if target.dims[3] <= _NARROW else columns
            split = self._arena((n, c * shape.phases, rows, columns), row=row, fill=source.fill, half=node in self.half)
            self.copies[key] = self._copy(source, split, node.name, (shape.factor, *node.padding))
        return self.copies[key]

    def _weighted(
        self,
        node: ir.Conv | ir.Linear,
        kind: OpKind,
        source: Tensor,
        target: Tensor,
        residual: Tensor | None,
        weights: Callable[[], Packed],
        p: Sequence[int] = (),
    ) -> Op:
        """`weights` packs them once it is known where the tensors lie."""
        op = Op(
            kind=kind,
            name=node.name,
            inputs=[source],
            output=target,
            act=node.act,
            residual=residual,
            residual_after_act=node.residual_after_act,
            p=p,
        )
        self.ops.append(op)
        self.unpacked.append((op, weights))
        return op

    def _pack(
        self, node: ir.Conv | ir.Linear, groups: Sequence[Taps], bias: ir.FloatArray, *, over_filters: bool = False
    ) -> Packed:
        halves = node in self.half
        if halves:  # what becomes zero is not packed
            half.rounded(bias, node.name)  # sums begin with it
            groups = [replace(group, weight=half.rounded(group.weight, node.name).astype(np.float32)) for group in groups]
        return pack(groups, bias, self.cpu, over_filters=over_filters, half=halves)

    def pack(self) -> None:
        """Packs all weights. Nothing may be moved after that."""
        for op, weights in self.unpacked:
            self.packed[op] = weights()
            op.blob = self.packed[op].blob


def _alike(node: ir.Node) -> bool:
    """Whether it takes and gives tensors of one type."""
    return (node.inputs[0].quant is None) == (node.output.quant is None)


def _is_linear(node: ir.Node) -> bool:
    """Whether it becomes a kLinear, whose result may be float32 where its operands are not."""
    return isinstance(node, ir.Linear) or (isinstance(node, ir.Conv) and is_point(node))


def _dims(value: ir.Value) -> Dims:
    """Of the tensor that holds a value."""
    return four_dims(value.shape) if value.quant is None else int8.dims(value.shape)


def _channels(whole: Tensor, part: ir.Value, first: int) -> Tensor:
    """A value's channels in what it is concatenated to, where they begin at channel `first`."""
    return whole.channels(first if part.quant is None else first // 4, _dims(part)[1])


def _groups(node: ir.Conv, shape: Geometry, source: Tensor) -> list[Taps]:
    """The convolution's filters with the offsets of their taps in `source`."""
    filters, channels, _ = shape.weight.shape
    _, plane, row = source.stride
    in_channels = node.inputs[0].shape[1]
    tap = np.array(shape.phase) * in_channels * plane + np.array(shape.dy) * row + np.array(shape.dx)
    per_group = filters // node.groups
    groups = []
    for g in range(node.groups):
        planes = np.arange(g * channels, (g + 1) * channels) * plane
        offsets = (planes[:, None] + tap[None, :]).reshape(-1).astype(np.int32)
        rows = np.arange(g * per_group, (g + 1) * per_group)
        weight = shape.weight[rows].reshape(per_group, -1)
        if np.any(np.diff(offsets) < 0):  # kernels read in the order of addresses, a piece of the input that fits L1 at a time
            order = np.argsort(offsets, kind="stable")
            offsets, weight = offsets[order], weight[:, order]
        groups.append(Taps(weight, offsets, rows.astype(np.uint32)))
    return groups


def _quad_taps(
    weight: ir.FloatArray, groups: int, source: Tensor, places: Callable[[], npt.NDArray[np.integer]]
) -> Callable[[], int8.QuadTaps]:
    """The taps of levels (filters, channels / groups, taps) of which tap t is at places()[t] in a plane of `source`."""

    def make() -> int8.QuadTaps:
        levels = int8.quads(weight, groups)
        planes = np.arange(levels.shape[1]) * source.stride[1]
        offsets = (planes[:, None] + places()[None, :]).reshape(-1).astype(np.int32)
        order = np.argsort(offsets, kind="stable")
        return int8.QuadTaps(levels.reshape(len(levels), -1, 4)[:, order], offsets[order])

    return make


def _point_taps(node: ir.Conv, source: Tensor) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.integer]]:
    """Of a convolution to one pixel: which positions of its kernel (kh, kw) are inside of the input, and where in a plane."""
    _, _, height, width = source.dims
    kh, kw = node.weight.shape[2:]
    y = np.arange(kh) * node.dilation[0] - node.padding[0]
    x = np.arange(kw) * node.dilation[1] - node.padding[1]
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
    return inside, (y[:, None] * source.stride[2] + x[None, :])[inside]


def _figures(weight: ir.FloatArray, packed: Packed, uses: int, quantised: bool) -> dict[str, Any]:
    nonzeros = int(np.count_nonzero(weight))
    return {
        "scheme": recognise(weight, quantised=quantised),
        "weights": weight.size,
        "nonzeros": nonzeros,
        "macs": weight.size * uses,
        "effective_macs": nonzeros * uses,
        "bytes": len(packed.blob),
        "bits": packed.bits,
        "block": packed.block,
        "stored": packed.stored,
        "order": packed.order,
        "costs": packed.costs,
    }
