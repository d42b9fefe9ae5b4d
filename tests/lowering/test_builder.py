"""The artifact's folder appears whole or not at all, one that stood there is not lost, and quantised layers are recorded."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.artifact import Artifact
from edgectl.compress.activations import quantise
from edgectl.device import open_device
from edgectl.errors import ToolError, UserError
from edgectl.lowering import build
from edgectl.lowering.builder import _publish
from edgectl.recipe import QuantRule, Recipe, load_model
from edgectl.runner import Session, reference, relative_difference


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


def on_the_host(artifact: Artifact) -> tuple[Session, np.ndarray]:
    """What this machine answers to the golden input."""
    session = Session.open(artifact, open_device("host"))
    _, (output,) = session.run(want_outputs=True)
    return session, output


def test_a_quantised_network_is_held_to_the_integer_reference(quantised: Artifact) -> None:
    manifest, (golden,) = quantised.manifest, quantised.golden()[1]
    assert (manifest.golden_by, manifest.golden_tolerance) == ("the integer reference", 1e-3)
    session, output = on_the_host(quantised)
    assert np.array_equal(output, golden)
    with pytest.raises(
        ToolError, match=r"differs from its golden output, that of the integer reference, by .* 1e-03 is allowed"
    ):
        session.check([golden + 0.01 * golden.max()])


def test_two_outputs_are_held_to_the_reference_in_their_order(recipe: Path) -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.large, self.small = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            large = self.large(torch.relu(self.body(x)))
            return self.small(torch.relu(self.body(x))), large

    recipe.write_text(recipe.read_text().replace('match = "2"', 'match = "large"'))
    artifact = build(Recipe.load(recipe), recipe.parent / "out", model=TwoHeads().eval()).artifact
    _, outputs = Session.open(artifact, open_device("host")).run(want_outputs=True)
    assert artifact.manifest.golden_by == "the integer reference"
    for output, golden in zip(outputs, artifact.golden()[1], strict=True):
        assert np.array_equal(output, golden)


@pytest.mark.parametrize(("between", "by"), [(nn.Sigmoid(), "the integer reference"), (nn.Tanh(), "PyTorch")])
def test_where_last_bits_are_rounded_or_others_compute_more_is_allowed(recipe: Path, between: nn.Module, by: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), between, nn.Conv2d(8, 4, 1)).eval()
    artifact = build(Recipe.load(recipe), recipe.parent / "out", model=model).artifact
    assert (artifact.manifest.golden_by, artifact.manifest.golden_tolerance) == (by, 0.05)
    session, output = on_the_host(artifact)
    assert session.check([output]) == relative_difference(output, artifact.golden()[1][0])


def test_a_network_that_is_quantised_already_is_built_as_it_is(recipe: Path) -> None:
    model, example = load_model(Recipe.load(recipe)), torch.rand(1, 3, 8, 8)
    converted = quantise(model, example, [QuantRule(match="*", weights="fixed", bits=8)], [example])
    plain = Recipe.load(recipe).model_copy(update={"quant": [], "calibrate": None})
    artifact = build(plain, recipe.parent / "out", model=converted).artifact
    assert artifact.manifest.golden_by == "the integer reference"
    assert np.array_equal(on_the_host(artifact)[1], artifact.golden()[1][0])


def test_quantisation_is_neither_an_operation_of_the_model_nor_sparsity(recipe: Path) -> None:
    result = build(Recipe.load(recipe), recipe.parent / "out")
    assert [(placement.layer, placement.op) for placement in result.explain] == [
        ("0", "aten.convolution.default"),
        ("1", "aten.relu.default"),
        ("2", "aten.convolution.default"),
        ("3", "aten.relu.default"),
        ("4", "aten.convolution.default"),
    ]
    (four_bits,) = [layer for layer in result.layers if layer.name == "2"]
    assert four_bits.nonzeros < 0.98 * four_bits.weights
    assert {layer.scheme for layer in result.layers} == {"dense"}


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
