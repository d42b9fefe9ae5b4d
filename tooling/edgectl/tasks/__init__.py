"""What a model is for: the data, loss and metric of each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.errors import UserError

if TYPE_CHECKING:
    from edgectl.recipe import ModelSpec
    from edgectl.tasks.task import Task


def task_of(model: ModelSpec) -> Task:
    """The task of a recipe's model.

    Raises:
        UserError: the recipe names none, or one that cannot be trained, or the model's input is not of it.
    """
    if model.task == "classify":
        from edgectl.tasks.classify import Classify  # noqa: PLC0415

        return Classify(model.input)
    if model.task == "sr":
        from edgectl.tasks.sr import SuperResolution  # noqa: PLC0415

        return SuperResolution(model.input, model.scale)
    if model.task == "detect2d":
        from edgectl.tasks.detect2d import Detect2d  # noqa: PLC0415

        return Detect2d(model.input)
    if model.task is None:
        raise UserError('The recipe does not say what its model is for: write `task = "classify"` under [model].')
    raise UserError(f"There is no training for the task {model.task} yet.")
