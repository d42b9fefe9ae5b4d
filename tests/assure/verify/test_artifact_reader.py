"""What an artifact's plan says is the network that was built: pruned, and of quantised layers levels times scales."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from edgectl.assure.verify.artifact_reader import read_artifact
from edgectl.assure.verify.graph import Conv, Linear
from edgectl.assure.verify.models import open_model
from edgectl.errors import UserError
from edgectl.lowering import build
from edgectl.lowering.builder import compress
from edgectl.recipe import Recipe, load_model

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 64, 1)
        self.square = nn.Conv2d(64, 64, 3, padding=1)
        self.depth = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.groups = nn.Conv2d(64, 32, 3, stride=2, padding=1, groups=2)
        self.short = nn.Conv2d(64, 32, 1, stride=2)
        self.point = nn.Conv2d(64, 20, 3)
        self.out = nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.wide(x))
        x = F.relu(self.square(x) + x)
        x = F.relu6(self.depth(x))
        y = F.relu(self.groups(x))
        x = torch.cat([y, self.short(x)], 1)
        x = F.max_pool2d(x, 3, 2, 1)
        x = F.relu(self.point(x))
        return self.out(x.mean((2, 3)))

def network(seed):
    torch.manual_seed(seed)
    model = Network()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model

def upscaler():
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

def gate():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 1, 3))
"""
RECIPE = """
[model]
file = "model.py"
factory = "{factory}"
args = {{ {args} }}
input = [1, 3, 24, 24]
"""
PRUNE = """
[[prune]]
match = "square"
scheme = "{scheme}"
rate = {rate}

[[prune]]
match = "s[th]*"
scheme = "unstructured"
rate = 2.0
"""
QUANT = """
[[quant]]
match = "*"
weights = "{weights}"
bits = {bits}

[calibrate]
images = "random"
"""


class Built(NamedTuple):
    """A recipe and its artifact."""

    recipe: Recipe
    folder: Path


def make(folder: Path, more: str, factory: str = "network", args: str = "seed = 0") -> Built:
    (folder / "model.py").write_text(MODEL)
    (folder / "recipe.toml").write_text(RECIPE.format(factory=factory, args=args) + more)
    recipe = Recipe.load(folder / "recipe.toml")
    build(recipe, folder / "out")
    return Built(recipe, folder / "out")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make(tmp_path_factory.mktemp("pruned"), PRUNE.format(scheme="pattern", rate=4.0))


def error(built: Built) -> float:
    """How far the decoded network is from the recipe's in PyTorch, over the largest output."""
    graph = read_artifact(built.folder).graph
    x = torch.rand(built.recipe.model.input)
    with torch.no_grad():
        want = compress(built.recipe, load_model(built.recipe), x)(x).reshape(-1)
    have = graph.forward(x.double().reshape(1, *graph.input.shape)).reshape(-1)
    return float((have - want).abs().max() / want.abs().max())


def test_a_pruned_network_is_the_one_that_was_built(pruned: Built) -> None:
    assert error(pruned) < 1e-5


def test_pruned_weights_are_zero_in_it(pruned: Built) -> None:
    kernels = {node.name: node.weight for node in read_artifact(pruned.folder).graph.nodes if isinstance(node, Conv | Linear)}
    assert int(kernels["square"].count_nonzero()) <= 64 * 64 * 9 / 4
    assert int(kernels["stem"].count_nonzero()) <= 3 * 8 * 25 / 2


@pytest.mark.parametrize("scheme", ["dense", "block_punched"])
def test_any_packing_is_unpacked(scheme: str, tmp_path: Path) -> None:
    """Dense 3x3 kernels are packed in Winograd's domain."""
    assert error(make(tmp_path, "" if scheme == "dense" else PRUNE.format(scheme=scheme, rate=2.0))) < 1e-5


@pytest.mark.parametrize(("weights", "bits"), [("fixed", 8), ("sp2", 4)])
def test_a_quantised_network_has_levels_times_scales_for_weights(weights: str, bits: int, tmp_path: Path) -> None:
    built = make(tmp_path, PRUNE.format(scheme="pattern", rate=4.0) + QUANT.format(weights=weights, bits=bits))
    decoded = read_artifact(built.folder)
    assert "int8" in decoded.note and "not rounded" in decoded.note
    assert error(built) < 0.05  # what PyTorch's graph rounds
    for node in decoded.graph.nodes:
        if isinstance(node, Conv) and node.groups == 1:
            for kernel in node.weight.reshape(len(node.weight), -1)[:4]:
                magnitudes = kernel.abs().unique()
                assert len(magnitudes) <= 2 ** (bits - 1) + 1


def test_it_is_verified_with_pytorch_and_the_stored_weights(pruned: Built) -> None:
    model = open_model(pruned.folder)
    assert (model.shape, model.outputs, model.note) == ((1, 3, 24, 24), 10, "")
    x = np.load(pruned.folder / "golden/input_0.npy")
    assert np.abs(model.run(x) - np.load(pruned.folder / "golden/output_0.npy")).max() < 1e-4


@pytest.mark.parametrize(
    ("factory", "words"), [("upscaler", ["pixel_shuffle", "no relaxation"]), ("gate", ["not run by our kernels"])]
)
def test_what_has_no_relaxation_is_named(factory: str, words: list[str], tmp_path: Path) -> None:
    built = make(tmp_path, "", factory, "")
    with pytest.raises(UserError) as refused:
        read_artifact(built.folder)
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_plan_that_does_not_give_the_golden_output_is_refused(pruned: Built, tmp_path: Path) -> None:
    import hashlib

    folder = Path(shutil.copytree(pruned.folder, tmp_path / "copy"))
    golden = folder / "golden/output_0.npy"
    np.save(golden, np.load(golden) + 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["golden/output_0.npy"] = hashlib.sha256(golden.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="golden output"):
        read_artifact(folder)


def test_a_program_whose_plan_is_damaged_is_refused_however_its_hash_fits(pruned: Built, tmp_path: Path) -> None:
    import hashlib

    folder = Path(shutil.copytree(pruned.folder, tmp_path / "copy"))
    pte = folder / "model.pte"
    whole = pte.read_bytes()
    at = whole.find(b"EDGEPLAN")
    for place in range(at + 8, at + 128, 4):
        pte.write_bytes(whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :])
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["sha256"]["model.pte"] = hashlib.sha256(pte.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        try:
            read_artifact(folder)  # some fields of the header are not needed here
        except UserError as refused:
            assert "build the artifact again" in str(refused)
