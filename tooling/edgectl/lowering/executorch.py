"""What our backend does not take goes to XNNPACK and ExecuTorch's own kernels; and the `.pte` is written."""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig
from executorch.exir.passes import MemoryPlanningPass
from torch.export import ExportedProgram

from edgectl.errors import UserError, first_line
from edgectl.lowering.partitioner import kept_whole


class RemainderPartitioner(XnnpackPartitioner):
    """XNNPACK for what is left.

    It keeps the same operations whole as EdgePartitioner: ExecuTorch decomposes once per partitioner, and the second would
    take apart what the first asked to keep.
    """

    def ops_to_not_decompose(self, ep: ExportedProgram) -> tuple[list[Any], None]:
        """The same as EdgePartitioner's."""
        return kept_whole(ep), None


def write_program(edge: EdgeProgramManager) -> bytes:
    """The .pte. Inputs have no memory in it: the runtime reads the caller's instead of copying them at every run.

    Raises:
        UserError: ExecuTorch has no kernel for an operation.
    """
    planning = MemoryPlanningPass(alloc_graph_input=False)
    try:
        return bytes(edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)
    except RuntimeError as error:
        if "out variant" not in str(error).lower():
            raise
        raise UserError(f"ExecuTorch has no kernel for an operation of the model: {first_line(error)}") from error
