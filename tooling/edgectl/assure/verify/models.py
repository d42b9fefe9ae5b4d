"""What can be verified: an ONNX file, a recipe, an artifact, or a Python file; its graph, and what really runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgectl.assure.verify.graph import Graph
from edgectl.assure.verify.network import Network, normal_form
from edgectl.errors import ToolError, UserError, first_line

_SEED = 0
_TOLERANCE = 1e-4  # of float32 runtimes, over the largest output
Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Model:
    """A model to be verified.

    Attributes:
        name: what the user called it.
        graph: what is verified, float64.
        shape: of its input, the batch of 1 included.
        run: outputs, flat, of a float32 input of `shape`, by `runner`.
        runner: who computes `run`: onnxruntime, PyTorch, or the artifact's decoded weights.
        note: what the user must know about what is verified; empty where there is nothing.
    """

    name: str
    graph: Graph
    shape: tuple[int, ...]
    run: Callable[[Array], Array]
    runner: str
    note: str = ""

    @cached_property
    def normal_form(self) -> Network:
        """The graph in the form that bounds are computed on."""
        return normal_form(self.graph, torch.float64)

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return self.graph.output.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the graph: its operations, their parameters and weights."""
        sha = hashlib.sha256()
        for node in self.graph.nodes:
            for field in fields(node):
                value = getattr(node, field.name)
                if isinstance(value, Tensor):
                    sha.update(f"{field.name}{tuple(value.shape)}".encode())
                    sha.update(value.contiguous().numpy().tobytes())
                else:
                    sha.update(f"{type(node).__name__} {field.name} {value!r};".encode())
        return sha.hexdigest()


def open_model(path: Path) -> Model:
    """Loads a model to verify: `.onnx` (or `.onnx.gz`), a recipe `.toml`, a Python file `.py`, or the folder of an artifact.

    Recipes are pruned as they say. A Python file has `model()` and `example_inputs()` and is executed, as a recipe's is.

    Raises:
        UserError: it is none of these, damaged, or has an operation without a relaxation or weights that are not finite.
        ToolError: what was read computes other outputs than the runtime.
    """
    if path.is_dir():
        model = _artifact(path)
    elif path.name.endswith((".onnx", ".onnx.gz")):
        model = _onnx(path)
    elif path.suffix in (".toml", ".py"):
        model = _python(path)
    else:
        raise UserError(f"{path} is neither an ONNX file, a recipe (.toml), a Python file (.py) nor an artifact's folder.")
    _check(model)
    return model


def _onnx(path: Path) -> Model:
    from edgectl.assure.verify.onnx_reader import read_onnx  # noqa: PLC0415

    graph, shape, data = read_onnx(path)
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise UserError("Counterexamples are checked by the package onnxruntime: pip install 'edgectl[verify]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"onnxruntime refuses {path}: {first_line(error)}") from error
    (given,) = session.get_inputs()
    kind = np.float64 if given.type == "tensor(double)" else np.float32

    def run(x: Array) -> Array:
        return np.asarray(session.run(None, {given.name: x.astype(kind)})[0], np.float32).reshape(-1)

    return Model(str(path), graph, shape, run, "onnxruntime")


def _python(path: Path) -> Model:
    from edgectl.compress.prune import prune_oneshot  # noqa: PLC0415
    from edgectl.lowering.compile import plain_weights  # noqa: PLC0415
    from edgectl.profile.workload import load_workload  # noqa: PLC0415

    work = load_workload(path)
    if work.recipe.quant:
        raise UserError(f"{path} quantises: what is deployed is in its artifact. Run `edgectl build`, and verify that folder.")
    if work.recipe.prune:
        prune_oneshot(work.module, work.recipe.prune)
    return _module(str(path), plain_weights(work.module), work.example[:1])


def _module(name: str, module: nn.Module, example: Tensor) -> Model:
    from edgectl.assure.verify.torch_reader import read_module  # noqa: PLC0415

    graph = read_module(module, example)

    def run(x: Array) -> Array:
        with torch.inference_mode():
            result: Any = module(torch.from_numpy(np.ascontiguousarray(x, np.float32)))
        return np.asarray(result.numpy()).reshape(-1)

    return Model(name, graph, tuple(example.shape), run, "PyTorch")


def _artifact(folder: Path) -> Model:
    from edgectl.assure.verify.artifact_reader import read_artifact  # noqa: PLC0415

    decoded = read_artifact(folder)
    single = decoded.graph.to(torch.float32)

    def run(x: Array) -> Array:
        return single.forward(torch.from_numpy(x).reshape(1, *single.input.shape)).numpy().reshape(-1)

    return Model(str(folder), decoded.graph, decoded.shape, run, "PyTorch, with the artifact's weights", decoded.note)


def _check(model: Model) -> None:
    """What was read must compute what the runtime does."""
    x = np.random.default_rng(_SEED).random(model.shape, np.float32)
    want = model.run(x)
    have = model.graph.forward(torch.from_numpy(x).double().reshape(1, *model.graph.input.shape)).numpy().reshape(-1)
    if not np.isfinite(want).all():
        raise UserError(f"{model.name} computes NaN or infinity for a random input: nothing can be proved of it.")
    if have.shape != want.shape or np.abs(have - want).max() > _TOLERANCE * max(1.0, float(np.abs(want).max())):
        raise ToolError(f"reading {model.name}", f"it computes other outputs than {model.runner} does")
