"""A task's score of a recipe in PyTorch, or of an artifact on a device: accuracy as it is deployed."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from edgectl.artifact import Artifact
from edgectl.device import Device
from edgectl.errors import UserError
from edgectl.lowering.builder import compress
from edgectl.recipe import ModelSpec, Recipe, load_model
from edgectl.runner import Session
from edgectl.tasks import task_of
from edgectl.tasks.task import Output, Predict, Progress, Score
from edgectl.training.loop import score_model

_CHUNK = 1 << 24  # bytes of inputs that a device is given at once


def score_recipe(recipe: Recipe, data: Path, progress: Progress) -> Score:
    """Scores in PyTorch what the recipe says, pruned and quantised.

    Raises:
        UserError: the recipe or the data is wrong, or the recipe names no weights.
    """
    task = task_of(recipe.model)
    if recipe.model.weights is None:
        raise UserError(f"{recipe.path} names no `weights` under [model], so that there is nothing to evaluate: train first.")
    example = torch.rand(recipe.model.input, generator=torch.Generator().manual_seed(0))
    model = compress(recipe, load_model(recipe), example, progress)
    if recipe.quant:  # a graph of one shape
        graph = _in_batches(recipe.model.input[0], model)
        return task.score(graph, data, fixed=recipe.model.input, progress=progress)
    return score_model(model, task, data, progress)


def score_artifact(artifact: Artifact, data: Path, device: Device, *, threads: int = 1, progress: Progress) -> Score:
    """Scores what an artifact answers on a device.

    Raises:
        UserError: the artifact was not built from a recipe with a task, or the data is wrong.
        ToolError: the device or the runner fails.
    """
    try:
        model = ModelSpec.model_validate(artifact.manifest.recipe.get("model"))
    except ValidationError as error:
        raise UserError(f"{artifact.folder} does not say what its task is: build it from a recipe that does.") from error
    task = task_of(model)
    session = Session.open(artifact, device, progress)
    batch, *shape = artifact.manifest.inputs[0].torch_shape
    size = 4 * batch * torch.Size(shape).numel()
    fixed = [batch * max(1, min(256, _CHUNK // size)), *shape]
    return task.score(_in_batches(batch, _deployed(session, threads)), data, fixed=fixed, progress=progress)


def _in_batches(batch: int, model: Predict) -> Predict:
    """Takes any number of inputs to a model that takes multiples of `batch`: zeros fill up the last."""

    @torch.no_grad()
    def predict(inputs: Tensor) -> Output:
        lack = -len(inputs) % batch
        output = model(torch.cat([inputs, inputs.new_zeros(lack, *inputs.shape[1:])]))
        return output[: len(inputs)] if isinstance(output, Tensor) else [each[: len(inputs)] for each in output]

    return predict


def _deployed(session: Session, threads: int) -> Predict:
    """Inputs [K*N, ...] -> outputs of the same many, N being the artifact's batch; one start of the runner a call."""
    spec, results = session.artifact.manifest.inputs[0], session.artifact.manifest.outputs

    def predict(inputs: Tensor) -> Output:
        examples = len(inputs) // spec.torch_shape[0]
        given = spec.from_nchw(inputs.numpy()).reshape(examples, *spec.shape)
        _, answers = session.run([given], want_outputs=True, examples=examples, threads=threads)
        outputs = [
            torch.from_numpy(result.to_nchw(answer.reshape(-1, *result.shape[1:])))
            for result, answer in zip(results, answers, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else outputs

    return predict
