"""The models of the zoo compute on the host what PyTorch computes, dense and pruned by every scheme."""

from __future__ import annotations

from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from torch import nn

from edgectl.compress.layers import filters_first, prunable_layers
from edgectl.compress.prune import prune_oneshot
from edgectl.recipe import PruneRule, Recipe, load_model

MODELS = Path(__file__).resolve().parents[2] / "models"
RECIPES = {
    "wdsr": "wdsr/x4.toml",
    "wdsr_a": "wdsr_a/recipe.toml",
    "resnet18": "resnet18/recipe.toml",
    "mobilenetv2": "mobilenetv2/recipe.toml",
    "yolov4": "yolov4/recipe.toml",
    "pointpillars": "pointpillars/recipe.toml",
}
SCHEMES = ["unstructured", "filter", "pattern", "block_punched", "block_column"]


def load(name: str) -> tuple[nn.Module, torch.Tensor]:
    recipe = Recipe.load(MODELS / RECIPES[name])
    return load_model(recipe), torch.rand(recipe.model.input, generator=torch.Generator().manual_seed(3))


def applies(scheme: str, layer: nn.Module) -> bool:
    """Whether a scheme is meant for a layer: 3x3 kernels for patterns, 1x1 and linear for columns, not one-tap filters."""
    filters, channels, *kernel = filters_first(layer).shape
    if channels == 1 or filters < 8:
        return False
    return {"pattern": kernel == [3, 3], "block_column": kernel == [1, 1], "block_punched": kernel != [1, 1]}.get(scheme, True)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "yolov4" else name for name in RECIPES])
def test_a_model_pruned_by_all_schemes_at_once_agrees_with_pytorch(name, check):
    model, example = load(name)
    kinds = cycle([(scheme, rate) for rate in (2.0, 6.0) for scheme in SCHEMES])
    rules = []
    for path, layer in prunable_layers(model).items():
        scheme, rate = next(kind for kind in kinds if kind[0] == "unstructured" or applies(kind[0], layer))
        rules.append(PruneRule(match=path, scheme=scheme, rate=rate if applies(scheme, layer) else 1.0))
    prune_oneshot(model, rules)
    compiled = check(model, example, tolerance=1e-3)
    assert len({layer.scheme for layer in compiled.layers}) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "rate"), [(None, 1.0), *product(SCHEMES, [2.0, 6.0])])
@pytest.mark.parametrize("name", RECIPES)
def test_a_model_pruned_by_one_scheme_agrees_with_pytorch(name, scheme, rate, check):
    model, example = load(name)
    layers = [path for path, layer in prunable_layers(model).items() if scheme and applies(scheme, layer)]
    if scheme and not layers:
        pytest.skip(f"{name} has no layer for {scheme}")
    prune_oneshot(model, [PruneRule(match=path, scheme=scheme, rate=rate) for path in layers])
    compiled = check(model, example, tolerance=1e-3)
    found = {layer.scheme for layer in compiled.layers}
    assert scheme is None or scheme in found
