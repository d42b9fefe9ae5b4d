"""`build`: a recipe to an artifact on disk, all of it or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import edgectl
from edgectl.artifact import MODEL_FILES, Artifact, Layer, Manifest, TensorSpec, sha256
from edgectl.compress.activations import Progress, quantise
from edgectl.compress.prune import prune_oneshot
from edgectl.errors import ToolError, UserError, first_line
from edgectl.lowering import half, plan
from edgectl.lowering.compile import Compiled, compile_module, plain_weights
from edgectl.lowering.golden import Golden, golden
from edgectl.lowering.layout import LayerRecord
from edgectl.lowering.partitioner import Placement, unique_name
from edgectl.quiet import quiet
from edgectl.recipe import CalibrateSpec, Format, QuantRule, Recipe, load_model
from edgectl.tasks.calibration import calibration_images

_SEED = 0
_LAYERS = ("aten.convolution.default", "aten.linear.default")


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
    images: Path | None = None,
    format: Format | None = None,
    force: bool = False,
    progress: Progress = lambda message, fraction: None,
) -> BuildResult:
    """Compresses and compiles what the recipe names, and writes the artifact folder `out`.

    `model` replaces the recipe's own (its rules still apply), the folder `images` the recipe's images for calibration, and
    `format` its target's.
    An artifact already at `out` is replaced with `force`. The folder appears whole, under its name, or not at all.

    Raises:
        UserError: anything about the recipe, its files or `out` that the user can mend.
        ToolError: the folder cannot be written.
    """
    check_target(out, force)
    if images is not None:
        recipe = _calibrated_on(recipe, images)
    if format is not None:
        recipe = recipe.to_format(format)
    progress("loading the model", None)
    module = load_model(recipe) if model is None else model.eval()
    example = torch.rand(recipe.model.input, generator=torch.Generator().manual_seed(_SEED))
    module = compress(recipe, module, example, progress)
    _forward(module, example)
    if recipe.target.precision == "fp16":
        _check_range(module, example)
    compiled = compile_module(module, example, lambda message: progress(message, None), target=recipe.target)
    progress("computing the golden output", None)
    expected = golden(compiled, module)
    outputs = expected.forward([example.numpy()])
    progress("writing the artifact", None)
    try:
        _publish(out, lambda partial: _write(partial, recipe, compiled, example, outputs, expected))
    except OSError as error:
        raise ToolError(f"writing {out}", f"{error.filename or out}: {error.strerror or error}") from error
    return BuildResult(Artifact.open(out), compiled.layers, compiled.placements)


def compress(
    recipe: Recipe, module: nn.Module, example: torch.Tensor, progress: Progress = lambda message, fraction: None
) -> nn.Module:
    """The module pruned (in place) and quantised (a new one) as the recipe says: what the device computes, in PyTorch.

    Raises:
        UserError: a rule is wrong, or the images for calibration are missing or unreadable.
    """
    if recipe.prune:
        progress("pruning", None)
        prune_oneshot(module, recipe.prune)
    if not recipe.quant:
        return module
    if recipe.calibrate is None:
        raise UserError(
            f'{recipe.path} has [[quant]] rules but no [calibrate]: add it, with `images = "FOLDER"` of photographs or '
            '`images = "random"`, or pass --images.'
        )
    images = calibration_images(recipe.calibrate, recipe.path.parent, recipe.model)
    plain = plain_weights(module)
    _forward(plain, example)
    with quiet():
        return quantise(plain, example, recipe.quant, images, progress)


def _calibrated_on(recipe: Recipe, images: Path) -> Recipe:
    if not recipe.quant:
        raise UserError(f"{recipe.path} has no [[quant]] rules, so that there is nothing to calibrate: leave --images out.")
    count = {} if recipe.calibrate is None else {"count": recipe.calibrate.count}
    return recipe.model_copy(update={"calibrate": CalibrateSpec(images=str(images.resolve()), **count)})


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
        raise UserError(f"The model does not run on an input of shape {list(example.shape)}: {first_line(error)}") from error
    outputs = [result] if isinstance(result, torch.Tensor) else list(result) if isinstance(result, tuple | list) else []
    if not outputs or any(not isinstance(o, torch.Tensor) or o.dtype != torch.float32 for o in outputs):
        raise UserError("The model must return one float32 tensor or a tuple of them.")
    if not all(torch.isfinite(o).all() for o in outputs):
        raise UserError("The model's output for a random input holds NaN or infinity: check its weights.")
    return outputs


def _check_range(module: nn.Module, example: torch.Tensor) -> None:
    """Raises UserError where a value between two modules is larger than float16 can be."""
    largest: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                largest[name] = max(largest.get(name, 0.0), float(output.detach().abs().max()))

        return look

    hooks = [child.register_forward_hook(watch(name)) for name, child in module.named_modules() if name]
    try:
        _forward(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    for name, most in largest.items():
        if most > half.LARGEST:
            raise UserError(
                f"{name} gives {most:.3g} for a random input and float16 ends at {half.LARGEST:.0f}: "
                'build it with precision = "fp32".'
            )


def _write(
    folder: Path,
    recipe: Recipe,
    compiled: Compiled,
    example: torch.Tensor,
    outputs: list[npt.NDArray[np.float32]],
    expected: Golden,
) -> None:
    pair = folder / "golden"
    pair.mkdir(parents=True)
    model = MODEL_FILES[recipe.target.format]
    (folder / model).write_bytes(compiled.program)
    channels_last = recipe.target.layout == "nhwc"
    inputs = [TensorSpec.of(example.shape, channels_last)]
    results = [TensorSpec.of(output.shape, channels_last) for output in outputs]
    np.save(pair / "input_0.npy", inputs[0].from_nchw(example.numpy()))
    for i, (spec, output) in enumerate(zip(results, outputs, strict=True)):
        np.save(pair / f"output_{i}.npy", spec.from_nchw(output))
    files = [Path(model), *(path.relative_to(folder) for path in sorted(pair.iterdir()))]
    manifest = Manifest(
        edgectl=edgectl.__version__,
        plan_version=plan.VERSION,
        format=recipe.target.format,
        model=model,
        recipe=recipe.model_dump(mode="json"),
        git_revision=_git_revision(recipe.path.parent),
        sha256={path.as_posix(): sha256(folder / path) for path in files},
        inputs=inputs,
        outputs=results,
        golden_by=expected.by,
        golden_tolerance=expected.tolerance,
        layers=_layers(compiled, recipe.quant),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _layers(compiled: Compiled, rules: Sequence[QuantRule]) -> list[Layer]:
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
            activation=record.activation,
            residual=record.residual,
            **_weights(record, rules),
        )
        for record in compiled.layers
    ]
    taken = {layer.name for layer in layers}  # a report is matched by names: none twice
    for placement in compiled.placements:
        if placement.runner != "edge":
            name = unique_name(placement.layer, taken)
            weights = _codebook(name, rules) if placement.op in _LAYERS else {}
            layers.append(
                Layer(name=name, op=placement.op, runner=placement.runner, input_shape=[], output_shape=[], **weights)
            )
    return layers


def _weights(record: LayerRecord, rules: Sequence[QuantRule]) -> dict[str, Any]:
    """Bits and codebook of a layer's weights."""
    if record.weights and record.bits == 16:
        return {"bits": 16}
    return _codebook(record.name, rules) if record.weights else {}


def _codebook(name: str, rules: Sequence[QuantRule]) -> dict[str, Any]:
    """Bits and codebook of a layer's weights, if a rule matches it; the name of a layer's second use ends in `#2`."""
    matching = [rule for rule in rules if fnmatchcase(name.partition("#")[0], rule.match)]
    return {"bits": matching[-1].bits, "quant": matching[-1].weights} if matching else {}


def _git_revision(folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
