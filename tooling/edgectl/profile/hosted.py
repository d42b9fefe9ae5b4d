"""What `compare` runs through the host harness: a network on our kernels, and on ExecuTorch with XNNPACK alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgectl
from edgectl.artifact import Artifact, Manifest, TensorSpec, sha256
from edgectl.device import HostDevice
from edgectl.lowering import build, plan, quiet
from edgectl.lowering.executorch import write_program
from edgectl.profile.int8 import host_cpu, pt2e
from edgectl.profile.peers import PeerFailure
from edgectl.recipe import Recipe, TargetSpec
from edgectl.runner import Session

XNNPACK = "executorch-xnnpack"
XNNPACK_INT8 = "xnnpack-int8"


class Hosted:
    """An artifact in a host harness of its own under `folder`; each round is one process of the runner."""

    def __init__(self, artifact: Artifact, example: torch.Tensor, threads: int, folder: Path) -> None:
        device = HostDevice()
        device.workdir = str(folder)  # nothing is left in the user's state
        self._session = Session.open(artifact, device)
        self._inputs = [example.numpy()]
        self._threads = threads

    def prepare(self) -> list[np.ndarray]:
        """The outputs of a first run. Raises ToolError where the runner fails."""
        return self._session.run(self._inputs, want_outputs=True, threads=self._threads)[1]

    def round(self, warmup: int, runs: int) -> list[int]:
        """Does `warmup` runs, then `runs` timed ones; their times in ns. Raises ToolError where the runner fails."""
        reply, _ = self._session.run(self._inputs, warmup=warmup, runs=runs, threads=self._threads)
        return reply.runs_ns

    def close(self) -> None:
        """Nothing runs between rounds."""


def ours(recipe: Recipe, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> Hosted:
    """A network, its zeros and its quantisation as they are in it, on our kernels; `folder` is made.

    Raises:
        UserError: the network cannot be built.
        ToolError: the runner cannot be built.
    """
    folder.mkdir(parents=True)
    plain = recipe.model_copy(
        update={"prune": [], "quant": [], "calibrate": None, "target": TargetSpec(format=recipe.target.format, cpu=host_cpu())}
    )
    return Hosted(build(plain, folder / "artifact", model=module).artifact, example, threads, folder / "host")


def xnnpack(
    recipe: Recipe, module: nn.Module, example: torch.Tensor, threads: int, folder: Path, *, int8: bool = False
) -> Hosted:
    """A network on ExecuTorch's XNNPACK delegate and portable kernels, without ours; `folder` is made.

    With `int8` it is quantised by ExecuTorch's own XNNPACKQuantizer, per output channel, calibrated on `example`.

    Raises:
        PeerFailure: ExecuTorch cannot convert the network.
        ToolError: the runner cannot be built.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: PLC0415
    from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415

    artifact = folder / "artifact"
    (artifact / "golden").mkdir(parents=True)
    try:
        with quiet(), torch.no_grad():
            outputs = module(example)
            network = _xnnpack_int8(module, example) if int8 else module
            program = torch.export.export(network, (example,))
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            (artifact / "model.pte").write_bytes(write_program(edge))
    except Exception as error:
        raise PeerFailure(next(iter(str(error).strip().splitlines()), type(error).__name__)) from error
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    for kind, tensors in (("input", [example]), ("output", outputs)):
        for i, tensor in enumerate(tensors):
            np.save(artifact / f"golden/{kind}_{i}.npy", np.ascontiguousarray(tensor.numpy()))
    manifest = Manifest(
        edgectl=edgectl.__version__,
        plan_version=plan.VERSION,
        format="pte",
        model="model.pte",
        recipe=recipe.model_dump(mode="json"),
        git_revision=None,
        sha256={p.relative_to(artifact).as_posix(): sha256(p) for p in artifact.rglob("*") if p.is_file()},
        inputs=[TensorSpec(shape=list(example.shape), dtype="float32")],
        outputs=[TensorSpec(shape=list(output.shape), dtype="float32") for output in outputs],
        layers=[],
    )
    (artifact / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return Hosted(Artifact.open(artifact), example, threads, folder / "host")


def _xnnpack_int8(module: nn.Module, example: torch.Tensor) -> nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # noqa: PLC0415
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    return pt2e(module, example, XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
