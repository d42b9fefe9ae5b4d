"""The model zoo: every factory gives the architecture it is named after, exports, and its recipes prune what they say."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from torch import nn

from edgectl.compress.layers import prunable_layers
from edgectl.compress.prune import prune_oneshot
from edgectl.recipe import Recipe, load_model

MODELS = Path(__file__).resolve().parents[2] / "models"
PARAMETERS = {
    "wdsr/x4.toml": 58_112,
    "wdsr/x2_tiny.toml": 13_588,
    "sr_searched/recipe.toml": 31_190,
    "wdsr_a/recipe.toml": 159_152,
    "resnet18/recipe.toml": 11_689_512,
    "resnet20/recipe.toml": 272_474,
    "mobilenetv1/recipe.toml": 4_231_976,
    "mobilenetv2/recipe.toml": 3_504_872,
    "yolo_tiny/recipe.toml": 1_480_896,
    "yolov4/recipe.toml": 64_363_101,
    "pointpillars/recipe.toml": 4_834_120,
}
OUTPUTS = {
    "wdsr/x4.toml": [(1, 3, 720, 1280)],
    "wdsr/x2_tiny.toml": [(1, 3, 720, 1280)],
    "sr_searched/recipe.toml": [(1, 3, 720, 1280)],
    "wdsr_a/recipe.toml": [(1, 3, 720, 1280)],
    "resnet18/recipe.toml": [(1, 1000)],
    "resnet20/recipe.toml": [(1, 10)],
    "mobilenetv1/recipe.toml": [(1, 1000)],
    "mobilenetv2/recipe.toml": [(1, 1000)],
    "yolo_tiny/recipe.toml": [(1, 8, 20, 26), (1, 8, 10, 13)],
    "yolov4/recipe.toml": [(1, 255, 52, 52), (1, 255, 26, 26), (1, 255, 13, 13)],
    "pointpillars/recipe.toml": [(1, 18, 248, 216), (1, 42, 248, 216), (1, 12, 248, 216)],
}
SMALL = {"yolov4": (1, 3, 96, 96), "pointpillars": (1, 64, 64, 48)}
"""Smaller inputs for the tests that compute: the architectures are fully convolutional."""


def load(name: str) -> tuple[Recipe, nn.Module]:
    recipe = Recipe.load(MODELS / name)
    return recipe, load_model(recipe)


def outputs(model: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        result = model(example)
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_has_the_parameters_of_its_architecture_and_exports_with_its_output_shapes(name):
    recipe, model = load(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    program = torch.export.export(model, (torch.zeros(recipe.model.input),))
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.output_node().args[0]]
    assert shapes == OUTPUTS[name]


@pytest.mark.parametrize("name", [name for name in PARAMETERS if not name.startswith(("wdsr/", "sr_searched/"))])
def test_seeded_weights_are_reproducible_and_outputs_neither_blow_up_nor_vanish(name):
    state = torch.get_rng_state()
    recipe, model = load(name)
    assert torch.equal(torch.get_rng_state(), state)
    again = load(name)[1].state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
    for output in outputs(model, torch.rand(SMALL.get(Path(name).parent.name, recipe.model.input))):
        assert 0.05 < float(output.std()) < 20


PRUNED = [
    f"{name}/pruned.toml"
    for name in ("wdsr_a", "resnet18", "mobilenetv1", "mobilenetv2", "yolov4", "pointpillars", "resnet20", "yolo_tiny")
]


@pytest.mark.parametrize("name", [*PRUNED, "mobilenetv1/unstructured.toml"])
def test_the_pruned_recipe_reaches_its_rates_and_keeps_the_output_alive(name):
    recipe, model = load(name)
    masks = prune_oneshot(model, recipe.prune)
    layers = prunable_layers(model)
    asked = {path: [r for r in recipe.prune if fnmatchcase(path, r.match)][-1].rate for path in masks}
    for path, mask in masks.items():
        assert abs(int(mask.sum()) - mask.numel() / asked[path]) <= 32
        assert torch.equal(layers[path].weight != 0, mask)
    assert sum(asked[path] > 1 for path in masks) >= 12
    for output in outputs(model, torch.rand(SMALL.get(Path(name).parent.name, recipe.model.input))):
        assert torch.isfinite(output).all() and float(output.std()) > 0.01


def test_every_recipe_in_the_zoo_loads():
    recipes = sorted(MODELS.glob("*/*.toml"))
    assert len(recipes) >= 17
    for path in recipes:
        recipe = Recipe.load(path)
        assert recipe.beside(recipe.model.file).is_file()
        assert recipe.model.weights is None or recipe.beside(recipe.model.weights).is_file()


def test_a_model_file_may_define_dataclasses(tmp_path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
    text += "@dataclass\nclass Size:\n    kernel: int = 3\ndef net(): return nn.Conv2d(3, 3, Size().kernel)\n"
    (tmp_path / "model.py").write_text(text)
    (tmp_path / "recipe.toml").write_text('[model]\nfile = "model.py"\nfactory = "net"\ninput = [1, 3, 8, 8]\n')
    assert load_model(Recipe.load(tmp_path / "recipe.toml")).kernel_size == (3, 3)
