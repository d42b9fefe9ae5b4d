"""Which nodes of an exported graph the backend takes, and the plan of each subgraph: ExecuTorch asks, for either format."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, final

import torch
from executorch.exir.backend.backend_details import BackendDetails, PreprocessResult
from executorch.exir.backend.canonical_partitioners.pattern_op_partitioner import generate_partitions_from_list_of_nodes
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch import fx
from torch.export import ExportedProgram

from edgectl.artifact import Runner
from edgectl.lowering import ir
from edgectl.lowering.layout import LayerRecord, lower
from edgectl.lowering.passes import optimise
from edgectl.lowering.read import DEQUANTIZE, PRESERVED, Reader, Unsupported, constant, module_path, op_name
from edgectl.recipe import TargetSpec

BACKEND = "EdgeKernelsBackend"


@dataclass(frozen=True)
class Decision:
    """What the backend said to one node: taken, or left with the reason."""

    op: str
    layer: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class Placement:
    """Who runs one operation of the graph, and why not our backend when it does not."""

    node: str
    op: str
    layer: str
    runner: Runner
    reason: str


@dataclass
class Subgraph:
    """One delegated subgraph as it was lowered; `names` are those of its operations, views included.

    `quantised` is the graph where it computes in integers, for the reference to run; None otherwise.
    """

    plan: bytes
    layers: list[LayerRecord]
    names: list[str]
    quantised: ir.Graph | None


_SUBGRAPHS: ContextVar[list[Subgraph] | None] = ContextVar("subgraphs", default=None)
_PROGRESS: ContextVar[Callable[[str], None] | None] = ContextVar("progress", default=None)
_TARGET: ContextVar[TargetSpec | None] = ContextVar("target", default=None)


@contextmanager
def lowering_to(subgraphs: list[Subgraph], target: TargetSpec, progress: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within this context, subgraphs are lowered for `target` and appended to `subgraphs` (ExecuTorch only passes bytes on)."""
    token, token2, token3 = _SUBGRAPHS.set(subgraphs), _PROGRESS.set(progress), _TARGET.set(target)
    try:
        yield
    finally:
        _SUBGRAPHS.reset(token)
        _PROGRESS.reset(token2)
        _TARGET.reset(token3)


class EdgePartitioner(Partitioner):
    """Takes every node that `edgectl.lowering.read` can read; `decisions` tells why or why not, by node name."""

    def __init__(self) -> None:
        super().__init__()
        self.decisions: dict[str, Decision] = {}

    def ops_to_not_decompose(self, ep: ExportedProgram) -> tuple[list[Any], None]:
        """Operations to keep whole for this backend."""
        return kept_whole(ep), None

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """Tags the nodes that the backend takes."""
        reader = Reader(exported_program, with_data=False)
        taken = []
        for node in exported_program.graph.nodes:
            if node.op != "call_function":
                continue
            reason = _reason(reader, node) or _memory_order(exported_program, node)
            self.decisions[node.name] = Decision(op_name(node), module_path(node), reason is None, reason or "")
            if reason is None:
                taken.append(node)
        tags: dict[str, DelegationSpec] = {}
        for partition in generate_partitions_from_list_of_nodes(exported_program.graph_module, pattern_list=[taken]):
            tag = f"edge_{partition.id}"
            tags[tag] = DelegationSpec(BACKEND, [])
            for node in partition.nodes:
                node.meta["delegation_tag"] = tag
        for node in taken:  # int8 tensors stay inside of a subgraph: what takes one goes where it is made
            if op_name(node) == DEQUANTIZE:
                node.meta["delegation_tag"] = node.all_input_nodes[0].meta["delegation_tag"]
        tag_constant_data(exported_program)
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)


def kept_whole(ep: ExportedProgram) -> list[Any]:
    """Operations that decomposition must leave whole: those all of whose nodes the backend takes.

    A filter by node is not given: ExecuTorch then decomposes the program five times over instead of twice.
    """
    reader = Reader(ep, with_data=False)
    calls = [node for node in ep.graph.nodes if node.op == "call_function"]
    refused = {node.target for node in calls if node.target in PRESERVED and _reason(reader, node) is not None}
    return [op for op in PRESERVED if op not in refused]


def _memory_order(program: ExportedProgram, node: fx.Node) -> str | None:
    """Why the backend, whose tensors are dense, cannot take a node that reads or writes channels-last tensors."""
    for operand in (node, *node.all_input_nodes):
        value = operand.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.is_contiguous() or constant(program, operand) is not None:
            continue
        if list(value.dim_order()) != list(range(value.dim())):
            return "a tensor's memory order is not the order of its dimensions"
    return None


def _reason(reader: Reader, node: fx.Node) -> str | None:
    if node.op != "call_function":
        return "it is not an operation"
    try:
        reader.check(node)
    except Unsupported as unsupported:
        return str(unsupported)
    return None


@final
class EdgeKernelsBackend(BackendDetails):
    """Compiles a delegated subgraph to a plan. ExecuTorch finds it by its class name, the device's by the same string."""

    @staticmethod
    def preprocess(edge_program: ExportedProgram, compile_specs: list[CompileSpec]) -> PreprocessResult:
        """The plan's bytes."""
        subgraphs, progress = _SUBGRAPHS.get(), _PROGRESS.get()
        if progress is not None:
            progress("packing weights")
        graph = read_graph(edge_program)
        taken = {name for subgraph in subgraphs or [] for name in subgraph.names}
        for node in graph.nodes:
            node.name = unique_name(node.name, taken)
        target = _TARGET.get() or TargetSpec()
        plan, layers = lower(graph, target.cpu, target.precision)
        if subgraphs is not None:
            quantised = graph if any(isinstance(node, ir.Quantize) for node in graph.nodes) else None
            subgraphs.append(Subgraph(plan, layers, [node.name for node in graph.nodes], quantised))
        return PreprocessResult(processed_bytes=plan)


def read_graph(program: ExportedProgram) -> ir.Graph:
    """The optimised IR of a program all of whose nodes the backend takes."""
    reader = Reader(program)
    signature = program.graph_signature
    by_name = {node.name: node for node in program.graph.nodes}
    nodes = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            read = reader.read(node)
            if read is not None:
                nodes.append(read)
    inputs = [reader.value(by_name[str(name)]) for name in signature.user_inputs]
    outputs = [reader.value(by_name[str(name)]) for name in signature.user_outputs]
    return optimise(ir.Graph(inputs, outputs, nodes))


def unique_name(name: str, taken: set[str]) -> str:
    """`name`, or `name#2`, `name#3` and so on where that is taken; it is taken from then on."""
    numbers = itertools.count(2)
    unique = name
    while unique in taken:
        unique = f"{name}#{next(numbers)}"
    taken.add(unique)
    return unique
