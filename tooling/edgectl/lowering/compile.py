"""From a PyTorch module to a program: export, partition, lower, write; and who runs each operation, with the reason."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch import fx, nn
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.nn.utils import parametrize, prune

from edgectl.artifact import Runner
from edgectl.errors import UserError, first_line
from edgectl.lowering import executorch, ir
from edgectl.lowering.layout import LayerRecord
from edgectl.lowering.partitioner import BACKEND, Decision, EdgePartitioner, Placement, Subgraph, lowering_to
from edgectl.lowering.read import CONVERSIONS, module_path, op_name
from edgectl.quiet import quiet
from edgectl.recipe import TargetSpec


@dataclass(frozen=True)
class Compiled:
    """A compiled program, the layers of its delegated subgraphs, and the placement of every operation.

    Attributes:
        program: the model file, a `.pte` or a `.tflite`.
        quantised: the module has int8 values or weights.
        half: what our backend runs in floating point is float16.
        network: the graph that our backend runs, where it is the whole of a quantised network; None otherwise.
    """

    program: bytes
    layers: list[LayerRecord]
    placements: list[Placement]
    quantised: bool
    half: bool
    network: ir.Graph | None


def compile_module(
    model: nn.Module,
    example: torch.Tensor,
    progress: Callable[[str], None] | None = None,
    *,
    target: TargetSpec = TargetSpec(),  # noqa: B008
) -> Compiled:
    """Compiles a module for inputs of the example's shape (NCHW), its weights packed for the kernels of the target's processor.

    Both formats have the same subgraphs for our backend, with the same plans: what else the module computes goes to ExecuTorch
    and its XNNPACK in a `.pte`, to LiteRT and its XNNPACK in a `.tflite`. Weights under torch parametrizations,
    `torch.nn.utils.prune` masks or weight norm are first made plain; zeros are found in the weights themselves. The module
    given is not changed.

    Raises:
        UserError: torch.export cannot trace the module, the format's runtime does not know one of its operations, it holds
            weights that are not finite, or the format's packages are not installed.
    """
    say = progress or (lambda _: None)
    with quiet():
        model = plain_weights(model)
    say("tracing the model")
    try:
        program = torch.export.export(model, (example,))
    except Exception as error:
        raise UserError(f"torch.export cannot trace the model: {first_line(error)}") from error
    say("lowering")
    partitioner, subgraphs = EdgePartitioner(), list[Subgraph]()
    with lowering_to(subgraphs, target, say), quiet():
        if target.format == "pte":
            edge = _lower(program, [partitioner, executorch.RemainderPartitioner()])
            placements = _placements(edge, partitioner.decisions, "executorch")
            say("writing the program")
            written = executorch.write_program(edge)
        else:
            from edgectl.lowering import litert  # noqa: PLC0415  # its packages are an extra, and slow to import

            edge = _lower(program, [partitioner], EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True))
            placements = _placements(edge, partitioner.decisions, "litert")
            say("writing the program")
            written = litert.write_program(edge, subgraphs, example, channels_last=target.layout == "nhwc")
    layers = [layer for subgraph in subgraphs for layer in subgraph.layers]
    quantised = any("quantized_decomposed" in str(node.target) for node in program.graph.nodes)
    network = None if any(p.runner != "edge" for p in placements) else _whole(edge, subgraphs)
    return Compiled(written, layers, placements, quantised, target.precision == "fp16", network)


def _lower(
    program: ExportedProgram, partitioners: list[Partitioner], config: EdgeCompileConfig | None = None
) -> EdgeProgramManager:
    try:
        return to_edge_transform_and_lower(program, partitioner=partitioners, compile_config=config)
    except SpecViolationError as error:
        raise UserError(f"ExecuTorch cannot run the model: {first_line(error)}") from error


def _placements(edge: EdgeProgramManager, decisions: dict[str, Decision], others: Runner) -> list[Placement]:
    """Placement of every operation, in the order of the graph that was partitioned; `others` runs what no backend takes.

    What our backend quantises and dequantises is left out: those are no operations of the user's model.
    """
    program = edge.exported_program()
    xnnpack: set[str] = set()
    rest: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            lowered = getattr(program.graph_module, str(node.target))
            if isinstance(lowered, LoweredBackendModule) and lowered.backend_id != BACKEND:
                xnnpack |= {n.name for n in lowered.original_module.graph.nodes if n.op == "call_function"}
        elif node.op == "call_function" and node.target is not operator.getitem and "call_delegate" not in str(node.target):
            rest[node.name] = node
    placements = []
    for name, decision in decisions.items():
        if decision.op == "<built-in function getitem>" or (decision.taken and decision.op in CONVERSIONS):
            continue
        runner: Runner = "edge" if decision.taken else "xnnpack" if name in xnnpack else others
        reason = decision.reason or "the backend owns it"
        placements.append(Placement(name, decision.op, decision.layer, runner, reason))
    for name, node in rest.items():
        if name not in decisions:
            placements.append(Placement(name, op_name(node), module_path(node), others, "added in lowering"))
    return placements


def _whole(edge: EdgeProgramManager, subgraphs: list[Subgraph]) -> ir.Graph | None:
    """The graph of a program that is nothing but one quantised subgraph, its outputs in the program's order."""
    program = edge.exported_program()
    calls = [node for node in program.graph.nodes if "call_delegate" in str(node.target)]
    graph = subgraphs[0].quantised if len(subgraphs) == len(calls) == 1 else None
    results = program.graph.output_node().args[0]
    gotten = [node.args[1] for node in results if isinstance(node, fx.Node) and node.target is operator.getitem]
    picked = [i for i in gotten if isinstance(i, int)]
    if graph is None or len(graph.inputs) != 1 or len(picked) != len(results):
        return None
    return replace(graph, outputs=[graph.outputs[i] for i in picked])


def plain_weights(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights are plain tensors: parametrizations, prune masks and weight norm applied."""
    for module in model.modules():
        # weights computed by a hook are not leaves and cannot be copied; the hook computes them again when it runs
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _apply_parametrizations(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
            elif type(hook).__name__ == "WeightNorm":
                torch.nn.utils.remove_weight_norm(module, getattr(hook, "name"))  # noqa: B009
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        # channels-last weights would make every map channels-last
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"The weights {name} hold NaN or infinity: train or load the model again.")
    return model


def _apply_parametrizations(module: nn.Module) -> None:
    """parametrize.remove_parametrizations would strip the class, which the copy shares with the module it was copied from."""
    names = [name for name, _ in module.get_submodule("parametrizations").named_children()]
    values = {name: getattr(module, name).detach() for name in names}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
