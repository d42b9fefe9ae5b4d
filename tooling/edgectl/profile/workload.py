"""What is compared: a recipe's model, or that of a Python file with `model()` and `example_inputs()`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgectl.errors import UserError
from edgectl.recipe import ModelSpec, Recipe, load_function, load_model

_SEED = 0


@dataclass(frozen=True)
class Workload:
    """A network and the tensor it runs on.

    Attributes:
        recipe: what to build, its prune rules included; of a Python file, one without any.
        module: the network in eval mode, before the recipe's pruning.
        example: its float32 input.
    """

    recipe: Recipe
    module: nn.Module
    example: torch.Tensor


def load_workload(path: Path) -> Workload:
    """Loads a recipe (`.toml`) or a Python file (`.py`), whose code is executed.

    Raises:
        UserError: the file is neither, or it, its functions or what they return are not as they must be.
    """
    if path.suffix == ".toml":
        recipe = Recipe.load(path)
        example = torch.rand(recipe.model.input, generator=torch.Generator().manual_seed(_SEED))
    elif path.suffix == ".py":
        example = _example(path)
        spec = ModelSpec(file=str(path.resolve()), factory="model", input=list(example.shape))
        recipe = Recipe(model=spec)
    else:
        raise UserError(f"{path} is neither a recipe (.toml) nor a Python file (.py).")
    return Workload(recipe, load_model(recipe), example)


def _example(path: Path) -> torch.Tensor:
    try:
        inputs = load_function(path, "example_inputs")()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"example_inputs() in {path} failed: {error}") from error
    if not isinstance(inputs, tuple) or len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise UserError(f"example_inputs() in {path} must return a tuple of one tensor.")
    (example,) = inputs
    if example.dtype != torch.float32 or not 1 <= example.dim() <= 4 or not example.numel():
        raise UserError(f"The tensor of example_inputs() in {path} must be float32, of 1 to 4 dimensions, and not empty.")
    return example.detach().contiguous()
