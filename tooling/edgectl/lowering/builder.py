"""`build`: a recipe to an artifact on disk, all of it or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

import edgectl
from edgectl.artifact import Artifact, Layer, Manifest, TensorSpec, sha256
from edgectl.compress.prune import prune_oneshot
from edgectl.errors import ToolError, UserError
from edgectl.lowering import plan
from edgectl.lowering.executorch import Compiled, Placement, compile_module
from edgectl.lowering.layout import LayerRecord
from edgectl.lowering.partitioner import unique_name
from edgectl.recipe import Recipe, load_model

_SEED = 0


@dataclass(frozen=True)
class BuildResult:
    """The artifact, what became of each layer that our backend runs, and who runs each operation of the model and why."""

    artifact: Artifact
    layers: list[LayerRecord]
    explain: list[Placement]


def build(
    recipe: Recipe,
    out: Path,
    *,
    model: nn.Module | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> BuildResult:
    """Compresses and compiles what the recipe names, and writes the artifact folder `out`.

    `model` replaces the recipe's own (its prune rules still apply). An artifact already at `out` is replaced with `force`.
    The folder appears whole, under its name, or not at all.

    Raises:
        UserError: anything about the recipe, its files or `out` that the user can mend.
        ToolError: the folder cannot be written.
    """
    say = progress or (lambda _: None)
    check_target(out, force)
    say("loading the model")
    module = load_model(recipe) if model is None else model.eval()
    if recipe.prune:
        say("pruning")
        prune_oneshot(module, recipe.prune)
    example = torch.rand(recipe.model.input, generator=torch.Generator().manual_seed(_SEED))
    outputs = _forward(module, example)
    compiled = compile_module(module, example, say, cpu=recipe.target.cpu)
    say("writing the artifact")
    try:
        _publish(out, lambda partial: _write(partial, recipe, compiled, example, outputs))
    except OSError as error:
        raise ToolError(f"writing {out}", f"{error.filename or out}: {error.strerror or error}") from error
    return BuildResult(Artifact.open(out), compiled.layers, compiled.placements)


def _publish(out: Path, fill: Callable[[Path], None]) -> None:
    """Fills a folder beside `out`, then renames it to `out`; what stood there stays until that has succeeded."""
    whole = out.resolve()
    partial = whole.with_name(f".{whole.name}.partial-{os.getpid()}")
    former = whole.with_name(f".{whole.name}.former-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        fill(partial)
        if whole.exists():
            whole.rename(former)
        partial.rename(whole)
    except BaseException:
        if former.exists() and not whole.exists():
            former.rename(whole)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if whole.exists():
            shutil.rmtree(former, ignore_errors=True)


def check_target(out: Path, force: bool) -> None:
    """Raises UserError when `out` holds something that must not be replaced."""
    if not out.exists():
        return
    if not (out / "manifest.json").is_file():
        if out.is_dir() and not any(out.iterdir()):
            return
        raise UserError(f"{out} exists and is not an artifact: choose another --out.")
    if not force:
        raise UserError(f"{out} exists already: pass --force to replace it.")


def _forward(module: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    try:
        with torch.no_grad():
            result = module(example)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"The model does not run on an input of shape {list(example.shape)}: {first}") from error
    outputs = [result] if isinstance(result, torch.Tensor) else list(result) if isinstance(result, tuple | list) else []
    if not outputs or any(not isinstance(o, torch.Tensor) or o.dtype != torch.float32 for o in outputs):
        raise UserError("The model must return one float32 tensor or a tuple of them.")
    if not all(torch.isfinite(o).all() for o in outputs):
        raise UserError("The model's output for a random input holds NaN or infinity: check its weights.")
    return outputs


def _write(folder: Path, recipe: Recipe, compiled: Compiled, example: torch.Tensor, outputs: list[torch.Tensor]) -> None:
    golden = folder / "golden"
    golden.mkdir(parents=True)
    (folder / "model.pte").write_bytes(compiled.pte)
    np.save(golden / "input_0.npy", example.numpy())
    for i, output in enumerate(outputs):
        np.save(golden / f"output_{i}.npy", np.ascontiguousarray(output.numpy()))
    files = [Path("model.pte"), *(path.relative_to(folder) for path in sorted(golden.iterdir()))]
    manifest = Manifest(
        edgectl=edgectl.__version__,
        plan_version=plan.VERSION,
        format=recipe.target.format,
        model="model.pte",
        recipe=recipe.model_dump(mode="json"),
        git_revision=_git_revision(recipe.path.parent),
        sha256={path.as_posix(): sha256(folder / path) for path in files},
        inputs=[TensorSpec(shape=list(example.shape), dtype="float32")],
        outputs=[TensorSpec(shape=list(output.shape), dtype="float32") for output in outputs],
        layers=_layers(compiled),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _layers(compiled: Compiled) -> list[Layer]:
    layers = [
        Layer(
            name=record.name,
            op=record.op,
            runner="edge",
            input_shape=list(record.input_shape),
            output_shape=list(record.output_shape),
            scheme=record.scheme,
            rate=record.weights / record.nonzeros if record.nonzeros else 1.0,
            weights=record.weights,
            nonzeros=record.nonzeros,
            macs=record.macs,
            effective_macs=record.effective_macs,
            bytes=record.bytes,
            block=record.block,
            fused=record.fused,
        )
        for record in compiled.layers
    ]
    taken = {layer.name for layer in layers}  # a report is matched by names: none twice
    for placement in compiled.placements:
        if placement.runner != "edge":
            runner: Literal["xnnpack", "executorch"] = "xnnpack" if placement.runner == "xnnpack" else "executorch"
            name = unique_name(placement.layer, taken)
            layers.append(Layer(name=name, op=placement.op, runner=runner, input_shape=[], output_shape=[]))
    return layers


def _git_revision(folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
