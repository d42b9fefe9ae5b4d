"""The artifact's folder appears whole or not at all, one that stood there is not lost, and quantised layers are recorded."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from edgectl.artifact import Artifact
from edgectl.errors import UserError
from edgectl.lowering import build
from edgectl.lowering.builder import _publish
from edgectl.recipe import Recipe, load_model
from edgectl.runner import reference


def test_a_folder_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    out = tmp_path / "new" / "artifact"

    def fill(partial: Path) -> None:
        partial.mkdir(parents=True)
        (partial / "file").write_text("whole")

    def fill_until_the_disk_is_full(partial: Path) -> None:
        partial.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    _publish(out, fill)
    with pytest.raises(OSError, match="No space"):
        _publish(out, fill_until_the_disk_is_full)
    assert (out / "file").read_text() == "whole"
    _publish(out, fill)
    assert [path.name for path in out.parent.iterdir()] == ["artifact"]


NET = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*layers).eval()
"""

RECIPE = """
[model]
file = "net.py"
factory = "net"
input = [1, 3, 8, 8]

[[quant]]
match = "*"
weights = "fixed"
bits = 8

[[quant]]
match = "2"
weights = "msq"
bits = 4

[calibrate]
images = "random"
count = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


@pytest.fixture
def quantised(recipe: Path) -> Artifact:
    return build(Recipe.load(recipe), recipe.parent / "out").artifact


def test_bits_and_codebook_of_every_layer_are_recorded(quantised: Artifact) -> None:
    recorded = {layer.name: (layer.bits, layer.quant) for layer in quantised.manifest.layers if layer.name in "024"}
    assert recorded == {"0": (8, "fixed"), "2": (4, "msq"), "4": (8, "fixed")}
    assert all(layer.bits == 32 and not layer.quant for layer in quantised.manifest.layers if layer.name not in recorded)


def test_the_golden_output_is_the_quantised_models_and_can_be_computed_again(recipe: Path, quantised: Artifact) -> None:
    inputs, (golden,) = quantised.golden()
    with torch.no_grad():
        plain = load_model(Recipe.load(recipe))(torch.from_numpy(inputs[0])).numpy()
    error = np.sqrt(np.mean((golden - plain) ** 2) / np.mean(plain**2))
    assert 0.001 < error < 0.2
    (again,) = reference(quantised, recipe, inputs)
    assert np.array_equal(again, golden)


def test_an_artifact_calibrated_on_other_images_is_not_taken_for_the_recipes(recipe: Path, quantised: Artifact) -> None:
    from PIL import Image

    folder = recipe.parent / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8), (9, 99, 199)).save(folder / "a.png")
    other = build(Recipe.load(recipe), recipe.parent / "other", images=folder).artifact
    assert other.manifest.recipe["calibrate"] == {"images": str(folder), "count": 2}
    assert not np.array_equal(other.golden()[1][0], quantised.golden()[1][0])
    with pytest.raises(UserError, match="was not built from"):
        reference(other, recipe, other.golden()[0])
