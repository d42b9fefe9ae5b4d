"""From a PyTorch module to an ExecuTorch program: export, partition, lower; and who runs each operation, with the reason."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.passes import MemoryPlanningPass
from torch import fx, nn
from torch._export.verifier import SpecViolationError
from torch.nn.utils import parametrize, prune

from edgectl.errors import UserError, first_line
from edgectl.lowering import ir
from edgectl.lowering.layout import LayerRecord
from edgectl.lowering.partitioner import BACKEND, Decision, EdgePartitioner, RemainderPartitioner, Subgraph, lowering_to
from edgectl.lowering.read import CONVERSIONS, module_path, op_name
from edgectl.quiet import quiet
from edgectl.recipe import Cpu


@dataclass(frozen=True)
class Placement:
    """Who runs one operation of the graph, and why not our backend when it does not."""

    node: str
    op: str
    layer: str
    runner: str
    reason: str


@dataclass(frozen=True)
class Compiled:
    """A compiled program, the layers of its delegated subgraphs, and the placement of every operation.

    Attributes:
        quantised: the module has int8 values or weights.
        network: the graph that our backend runs, where it is the whole of a quantised network; None otherwise.
    """

    pte: bytes
    layers: list[LayerRecord]
    placements: list[Placement]
    quantised: bool
    network: ir.Graph | None


def compile_module(
    model: nn.Module, example: torch.Tensor, progress: Callable[[str], None] | None = None, *, cpu: Cpu = "arm64"
) -> Compiled:
    """Compiles a module for inputs of the example's shape, its weights packed for the kernels of `cpu`.

    Weights under torch parametrizations, `torch.nn.utils.prune` masks or weight norm are first made plain; zeros are found
    in the weights themselves. The module given is not changed.

    Raises:
        UserError: torch.export cannot trace the module, ExecuTorch does not know one of its operations, or it holds
            weights that are not finite.
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
    with lowering_to(subgraphs, cpu, say), quiet():
        try:
            edge = to_edge_transform_and_lower(program, partitioner=[partitioner, RemainderPartitioner()])
        except SpecViolationError as error:
            raise UserError(f"ExecuTorch cannot run the model: {first_line(error)}") from error
        placements = _placements(edge, partitioner.decisions)
        say("writing the program")
        try:
            pte = write_program(edge)
        except RuntimeError as error:
            if "out variant" not in str(error).lower():
                raise
            raise UserError(f"ExecuTorch has no kernel for an operation of the model: {first_line(error)}") from error
    layers = [layer for subgraph in subgraphs for layer in subgraph.layers]
    quantised = any("quantized_decomposed" in str(node.target) for node in program.graph.nodes)
    network = None if any(p.runner != "edge" for p in placements) else _whole(edge, subgraphs)
    return Compiled(pte, layers, placements, quantised, network)


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


def write_program(edge: EdgeProgramManager) -> bytes:
    """The .pte. Inputs have no memory in it: the runtime reads the caller's instead of copying them at every run."""
    planning = MemoryPlanningPass(alloc_graph_input=False)
    return bytes(edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)


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


def _placements(edge: EdgeProgramManager, decisions: dict[str, Decision]) -> list[Placement]:
    """Placement of every operation, in the order of the graph that was partitioned.

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
        if decision.taken:
            runner, reason = "edge", "the backend owns it"
        else:
            runner, reason = ("xnnpack" if name in xnnpack else "executorch"), decision.reason
        placements.append(Placement(name, decision.op, decision.layer, runner, reason))
    for name, node in rest.items():
        if name not in decisions:
            placements.append(Placement(name, op_name(node), module_path(node), "executorch", "added by ExecuTorch"))
    return placements
