"""What our backend does not take becomes standard TFLite operations, by litert-torch; and the `.tflite` is written.

A delegated subgraph is one custom operation, `EdgeKernels`, and not one for each of its layers: the plan runs runs of layers
depth-first in strips of rows and keeps maps in layouts of its own, so that one operation a layer would copy every map in and
out, and lose what makes the plan fast. Nothing is lost for a report: the delegate times each layer of the plan by itself.

An `EdgeKernels` operation reads the subgraph's inputs, in the plan's order, then the plan's bytes, a constant uint8 tensor that
lies at a multiple of 64 bytes in the file. Its options are a flexbuffer map of `plan_version` and `layers`, the PyTorch module
paths, and the model's metadata has an entry `edgectl` with the same in JSON: viewers show both.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from executorch.exir import EdgeProgramManager
from executorch.exir.dialects.edge._ops import EdgeOpOverload
from torch import fx, nn
from torch.export import ExportedProgram

import edgectl
from edgectl.errors import UserError, first_line
from edgectl.lowering import plan
from edgectl.lowering.partitioner import Subgraph
from edgectl.lowering.read import constant

try:
    import flatbuffers
    import litert_torch
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers
    from litert_converter.mlir import ir as mlir
    from litert_torch.backend.lowerings import registry
except ImportError as missing:
    raise UserError(f"LiteRT is not installed ({missing}): run `pip install 'edgectl[litert]'`.") from missing

CUSTOM_CODE = "EdgeKernels"
_METADATA = "edgectl"
_ALIGNMENT = 64


def write_program(
    edge: EdgeProgramManager, subgraphs: list[Subgraph], example: torch.Tensor, *, channels_last: bool = False
) -> bytes:
    """The .tflite of a program of which our partitioner has taken its share.

    Args:
        edge: the program; its delegates are ours alone, in the order of `subgraphs`.
        subgraphs: what was lowered of it.
        example: an input of the module, NCHW.
        channels_last: images come in and go out as NHWC; TFLite operations transpose them.

    Raises:
        UserError: litert-torch cannot convert an operation of the remainder, or the module keeps state.
    """
    program = edge.exported_program()
    module: nn.Module = Remainder(program, [_index_of(name, program, subgraphs) for name in _delegates(program)]).eval()
    if channels_last:
        images = [i for i, node in enumerate(program.graph.output_node().args[0]) if node.meta["val"].dim() == 4]
        module = litert_torch.to_channel_last_io(module, args=[0] if example.dim() == 4 else [], outputs=images)
        example = example.permute(0, 2, 3, 1).contiguous() if example.dim() == 4 else example
    with _silent():
        try:
            content = litert_torch.convert(module, (example,)).model_content()
        except Exception as error:
            raise UserError(f"LiteRT cannot run the model: {first_line(error)}") from error
    return _with_plans(content, subgraphs)


class Remainder(nn.Module):
    """A partitioned program as a module that torch.export can trace again.

    Delegated subgraphs are calls of the operation `edgectl::subgraph`, Edge operations are ATen's, and quantised constants are
    the float32 values that they stand for.
    """

    def __init__(self, program: ExportedProgram, indices: list[int]) -> None:
        super().__init__()
        if program.graph_signature.buffers_to_mutate or program.graph_signature.user_inputs_to_mutate:
            raise UserError("The model changes its own buffers when it runs, which LiteRT cannot do: make it free of state.")
        self._program = program
        self._indices = dict(zip(_delegates(program), indices, strict=True))
        self._constants: dict[fx.Node, str] = {}
        for node in program.graph.nodes:
            value = _value(program, node, self)
            if value is not None:
                self._constants[node] = f"constant_{len(self._constants)}"
                self.register_buffer(self._constants[node], value)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The program's outputs."""
        given = iter(inputs)
        values: dict[fx.Node, Any] = {}
        for node in self._program.graph.nodes:
            if node in self._constants:
                values[node] = getattr(self, self._constants[node])
            elif node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "call_function":
                arguments = fx.map_arg((node.args, node.kwargs), lambda used: values[used])
                values[node] = self._call(node, *arguments)
            elif node.op == "get_attr":
                values[node] = node.target  # the name of a delegate
        outputs = self._program.graph.output_node().args[0]
        return tuple(values[node] for node in outputs)

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "call_delegate" not in str(node.target):
            return _aten(node.target)(*args, **kwargs)
        shapes = [list(value.shape) for value in node.meta["val"]]
        ranks, sizes = [len(shape) for shape in shapes], [size for shape in shapes for size in shape]
        return torch.ops.edgectl.subgraph(list(args[1:]), self._indices[args[0]], ranks, sizes)


def _value(program: ExportedProgram, node: fx.Node, known: Remainder) -> torch.Tensor | None:
    """The tensor of a node that does not depend on the inputs: a parameter, a buffer, or one of those dequantised."""
    found = constant(program, node)
    if found is not None or node.op != "call_function" or "dequantize_per" not in str(node.target):
        return found.detach() if found is not None else None
    if not all(used in known._constants for used in node.all_input_nodes):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda used: getattr(known, known._constants[used]))
    with torch.no_grad():
        value: torch.Tensor = _aten(node.target)(*args, **kwargs)
    return value


def _aten(target: Any) -> Any:
    """ATen's operation for an Edge one; a copying view is a view."""
    if not isinstance(target, EdgeOpOverload):
        return target
    op = target._op
    namespace, _, name = op._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_copy"), None) if name.endswith("_copy") else None
    return op if packet is None else getattr(packet, op._overloadname)


def _delegates(program: ExportedProgram) -> list[str]:
    """Names of the delegated modules, in the order in which they are called."""
    return [str(node.args[0].target) for node in program.graph.nodes if "call_delegate" in str(node.target)]


def _index_of(name: str, program: ExportedProgram, subgraphs: list[Subgraph]) -> int:
    bytes_of = getattr(program.graph_module, name).processed_bytes
    return next(i for i, subgraph in enumerate(subgraphs) if subgraph.plan == bytes_of)


@torch.library.custom_op("edgectl::subgraph", mutates_args=())
def _subgraph(inputs: list[torch.Tensor], index: int, ranks: list[int], sizes: list[int]) -> list[torch.Tensor]:
    raise NotImplementedError("a delegated subgraph runs in LiteRT alone")


@_subgraph.register_fake
def _(inputs: list[torch.Tensor], index: int, ranks: list[int], sizes: list[int]) -> list[torch.Tensor]:
    left = iter(sizes)
    return [inputs[0].new_empty([next(left) for _ in range(rank)]) for rank in ranks]


@registry.lower(torch.ops.edgectl.subgraph.default)
def _lower_subgraph(context: Any, inputs: list[Any], index: int, ranks: list[int], sizes: list[int]) -> list[Any]:
    """A `tfl.custom` whose options are the subgraph's index alone: the plan is put in when the file is there."""
    element = inputs[0].type.element_type
    results = [mlir.RankedTensorType.get(list(value.shape), element) for value in context.node.meta["val"]]
    attributes = {
        "custom_code": mlir.StringAttr.get(CUSTOM_CODE),
        "custom_option": mlir.Attribute.parse(f'#tfl<const_bytes : "0x{struct.pack("<I", index).hex().upper()}">'),
    }
    return list(mlir.Operation.create("tfl.custom", results=results, operands=inputs, attributes=attributes).results)


def _with_plans(content: bytes, subgraphs: list[Subgraph]) -> bytes:
    """The model with every plan in it, and with what a viewer shows of them."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(content))
    (graph,) = model.subgraphs
    facts = [{"plan_version": plan.VERSION, "layers": [layer.name for layer in s.layers]} for s in subgraphs]
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].customCode != CUSTOM_CODE.encode():
            continue
        (index,) = struct.unpack("<I", bytes(operator.customOptions))
        operator.customOptions = np.frombuffer(flexbuffers.Dumps(facts[index]), np.uint8)
        tensor = schema.TensorT()
        tensor.name = f"edgectl_plan_{index}"
        tensor.shape, tensor.type = [len(subgraphs[index].plan)], schema.TensorType.UINT8
        tensor.buffer = _add_buffer(model, subgraphs[index].plan)
        graph.tensors.append(tensor)
        operator.inputs = [*operator.inputs, len(graph.tensors) - 1]
    entry = schema.MetadataT()
    entry.name = _METADATA
    entry.buffer = _add_buffer(model, json.dumps({"edgectl": edgectl.__version__, "subgraphs": facts}).encode())
    model.metadata = [*(model.metadata or []), entry]
    model.description = f"edgectl {edgectl.__version__}"
    builder = _Builder(len(content) + 2 * sum(len(subgraph.plan) for subgraph in subgraphs))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _add_buffer(model: Any, content: bytes) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


class _Builder(flatbuffers.Builder):
    """Puts every vector of bytes at a multiple of 64 in the file, so that plans and weights can be used where they are."""

    def CreateNumpyVector(self, x: np.ndarray) -> Any:
        if x.dtype != np.uint8:
            return super().CreateNumpyVector(x)
        self.StartVector(1, x.size, _ALIGNMENT)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Sends what the converter prints, from Python and from C++, to nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere, contextlib.redirect_stdout(io.StringIO()):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
