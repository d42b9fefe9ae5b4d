"""`train` and `compress`: from a recipe and data to a folder with weights, and a recipe that builds from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import edgectl
from edgectl.artifact import sha256
from edgectl.compress.layers import prunable_layers
from edgectl.compress.pruning import Budget, pruning_strategy
from edgectl.compress.qat import plain_weights, quantisation_strategy
from edgectl.compress.strategy import Phases, Strategy
from edgectl.errors import UserError
from edgectl.recipe import Recipe, TrainSpec, load_model, load_weights
from edgectl.tasks import task_of
from edgectl.tasks.task import Progress, Score
from edgectl.training.batches import Order
from edgectl.training.folder import RunFolder
from edgectl.training.loop import Hardware, Training, multiply_adds, score_model


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    hardware: Hardware,
    *,
    start: Path | None = None,
    force: bool = False,
    progress: Progress = lambda message, fraction: None,
) -> Score:
    """Trains the recipe's model as `[train]` says, from random weights or those of the file `start`.

    The folder `out` gets checkpoints on the way, from which the same call goes on; then weights.safetensors, report.json and
    recipe.toml.

    Raises:
        UserError: the recipe, the data, `start` or `out` is wrong, or the loss diverges.
        ToolError: `out` cannot be written.
    """
    model = recipe.model.model_copy(update={"weights": None})
    plainly = recipe.model_copy(update={"model": model, "prune": [], "quant": [], "calibrate": None})
    return _run(plainly, recipe.train, start, data, out, hardware, None, force, progress)


def compress(
    recipe: Recipe,
    data: Path,
    out: Path,
    hardware: Hardware,
    *,
    budget: Budget | None = None,
    force: bool = False,
    progress: Progress = lambda message, fraction: None,
) -> Score:
    """Trains the recipe's weights on, with the zeros of `[[prune]]` and the levels of `[[quant]]`, as `[compress]` says.

    The weights in `out` have the zeros and lie on the levels; the recipe beside them builds from that. See `train`.
    `budget` chooses the rates of `reweighted` instead of what the recipe says.

    Raises:
        UserError: the recipe names no weights or has no rule, the rest as `train` does.
        ToolError: `out` cannot be written.
    """
    if recipe.model.weights is None:
        raise UserError(f"{recipe.path} names no `weights` under [model]: train first, then compress what came out.")
    if not recipe.prune and not recipe.quant:
        raise UserError(f"{recipe.path} has neither [[prune]] nor [[quant]] rules, so that there is nothing to compress.")
    return _run(recipe, recipe.compress_train, None, data, out, hardware, budget, force, progress)


def _run(
    recipe: Recipe,
    spec: TrainSpec,
    start: Path | None,
    data: Path,
    out: Path,
    hardware: Hardware,
    budget: Budget | None,
    force: bool,
    progress: Progress,
) -> Score:
    task = task_of(recipe.model)
    torch.manual_seed(spec.seed)
    model = load_model(recipe)
    if start is not None:
        load_weights(model, start)
    teacher = _teacher(recipe) if recipe.prune or recipe.quant else None
    folder = RunFolder(out, _asked(recipe, spec, start, data, hardware))
    folder.check(force)
    fabric = hardware.launch()
    progress("reading the data", None)
    examples = task.examples(data, progress)
    order = Order(len(examples), min(spec.batch, len(examples)), spec.seed, fabric.global_rank, fabric.world_size)
    model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if teacher is not None:
        teacher.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(fabric, task, model, spec, data, order, folder, teacher=teacher, distil=recipe.compress.distil)
    if recipe.prune or recipe.quant:
        if not folder.begun:
            training.before = score_model(model, task, data, progress).value
        training.strategies = _strategies(recipe, model, training.steps, budget)
    score = training.run(examples, hardware.workers, progress)
    if fabric.is_global_zero:
        report = {
            "version": 1,
            "edgectl": edgectl.__version__,
            "recipe": recipe.model_dump(mode="json"),
            "data": str(data),
            "hardware": {**asdict(hardware), "device": str(fabric.device)},
            "steps": training.steps,
            "seconds": round(training.seconds, 1),
            "before": training.before,
            "score": asdict(score),
            "history": training.history,
            "facts": training.facts(),
            "layers": _layers(training.model),
        }
        folder.finish(recipe, {name: tensor.cpu() for name, tensor in plain_weights(training.model).items()}, report)
    fabric.barrier()
    return score


def _asked(recipe: Recipe, spec: TrainSpec, start: Path | None, data: Path, hardware: Hardware) -> dict[str, Any]:
    """What decides which numbers a run computes."""
    files = [start, *(recipe.beside(name) for name in (recipe.model.weights, recipe.compress.teacher) if name)]
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"target", "calibrate", "train"}),
        "train": spec.model_dump(mode="json"),
        "files": [sha256(path) for path in files if path is not None],
        "data": str(data.resolve()),
        "processes": hardware.devices,
        "precision": hardware.precision,
    }


def _teacher(recipe: Recipe) -> nn.Module | None:
    """The dense model that `[compress] teacher` names, frozen, or None."""
    if recipe.compress.teacher is None:
        return None
    model = recipe.model.model_copy(update={"weights": recipe.compress.teacher})
    return load_model(recipe.model_copy(update={"model": model})).requires_grad_(False)


def _strategies(recipe: Recipe, model: nn.Module, steps: int, budget: Budget | None) -> Sequence[Strategy]:
    spec = recipe.compress
    search = round(spec.search * steps)
    phases = Phases(steps, search, max(1, search // spec.refreshes))
    made: list[Strategy] = []
    if recipe.prune:
        example = torch.rand(recipe.model.input, device=next(model.parameters()).device)
        if budget is None and spec.of == "latency":
            from edgectl.profile.budget import predicted_budget  # noqa: PLC0415

            budget = predicted_budget(recipe, model)
        made.append(pruning_strategy(model, recipe.prune, spec, phases, multiply_adds(model, example), budget))
    if recipe.quant:
        made.append(quantisation_strategy(model, recipe.quant, spec, phases))
    return made


def _layers(model: nn.Module) -> list[dict[str, Any]]:
    """Weights and those that are not zero, of every convolution and linear layer."""
    return [
        {"name": path, "weights": layer.weight.numel(), "nonzeros": int(layer.weight.count_nonzero())}
        for path, layer in prunable_layers(model).items()
    ]
