"""WDSR: it starts as bicubic interpolation, training resumes exactly, and the committed weights score as the README says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data

from edgectl.compress.layers import filters_first, prunable_layers
from edgectl.compress.quantizers import quantise
from edgectl.compress.schemes import SCHEMES, SchemeConfig
from edgectl.images import read_image, to_image
from edgectl.lowering.builder import compress
from edgectl.recipe import Recipe, load_model
from edgectl.tasks.sr import bicubic, evaluate, image_files, upscale

WDSR = Path(__file__).resolve().parents[2] / "models" / "wdsr"
DATA = Path(os.environ.get("EDGECTL_DATA") or WDSR.parents[2] / "shared" / "data") / "sr"
needs_data = pytest.mark.skipif(not (DATA / "Set5").is_dir(), reason="no Set5: set EDGECTL_DATA to a folder with sr/Set5")

SET5 = {"x4": 30.635, "x4_pruned": 30.486, "x2": 36.980}
"""Mean Y-PSNR of the committed weights on Set5, dB, as in models/wdsr/README.md."""
BETTER_THAN_BICUBIC = {"x4": 1.0, "x4_pruned": 0.7, "x2": 1.0}


def network(name):
    recipe = Recipe.load(WDSR / f"{name}.toml")
    return load_model(recipe), recipe.model.scale


def untrained(scale):
    spec = importlib.util.spec_from_file_location("wdsr_model", WDSR / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.wdsr(scale=scale)


@pytest.fixture(scope="module")
def packaged():
    """Photographs of a package, uint8 [H, W, 3]."""
    return {kind: getattr(data, kind)()[..., :3] for kind in ("astronaut", "coffee", "chelsea", "rocket")}


def mean(scores, kind):
    return float(np.mean([getattr(score, kind) for score in scores]))


@needs_data
@pytest.mark.parametrize("name", SET5)
def test_the_committed_weights_score_on_set5_as_the_readme_says(name):
    model, scale = network(name)
    photographs = {file.stem: read_image(file) for file in image_files(DATA / "Set5" / f"x{scale}")}
    scores = evaluate(model, photographs, scale)
    assert mean(scores, "model") == pytest.approx(SET5[name], abs=0.01)
    assert mean(scores, "model") - mean(scores, "bicubic") >= BETTER_THAN_BICUBIC[name]


@pytest.mark.parametrize("name", SET5)
def test_the_committed_weights_beat_bicubic_on_photographs_of_a_package(name, packaged):
    model, scale = network(name)
    scores = evaluate(model, packaged, scale)
    assert mean(scores, "model") - mean(scores, "bicubic") >= BETTER_THAN_BICUBIC[name] * 0.6
    assert all(score.model > score.bicubic for score in scores)


def test_in_int8_the_dense_weights_lose_less_than_a_seventh_of_a_decibel(packaged):
    recipe = Recipe.load(WDSR / "x4_int8.toml")
    model = load_model(recipe)
    quantised = compress(recipe, load_model(recipe), torch.rand(recipe.model.input))
    before, after = (mean(evaluate(network, packaged, 4), "model") for network in (model, quantised))
    assert before - 1 / 7 < after < before


def test_trained_sp2_weights_are_on_their_grids_and_lose_less_than_half_a_decibel(packaged):
    recipe = Recipe.load(WDSR / "x4_sp2.toml")
    trained = load_model(recipe)
    for path, layer in prunable_layers(trained).items():
        weights, bits = ("fixed", 8) if path == "skip" else ("sp2", 4)
        assert torch.equal(quantise(layer.weight.detach(), weights, bits).weight(), layer.weight), path
    quantised = compress(recipe, trained, torch.rand(recipe.model.input))
    before, after = (mean(evaluate(network, packaged, 4), "model") for network in (network("x4")[0], quantised))
    assert before - 0.5 < after < before


def test_the_pruned_weights_are_exactly_block_punched_four_times():
    model, _ = network("x4_pruned")
    pruned = [layer for layer in prunable_layers(model).values() if layer.kernel_size == (3, 3)]
    assert len(pruned) == 6
    for layer in pruned:
        weight = filters_first(layer)
        assert torch.equal(SCHEMES["block_punched"](weight, 4.0, SchemeConfig()), weight != 0)
        assert abs(int((weight != 0).sum()) - weight.numel() / 4) <= 32


def test_all_weights_together_are_under_a_megabyte_and_need_no_training_code():
    files = list(WDSR.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 1e6
    for file in files:
        names = set(load_file(file))
        assert {name.rsplit(".", 1)[1] for name in names} == {"weight", "bias"}


@pytest.mark.parametrize("scale", [2, 4])
def test_an_untrained_network_is_bicubic_interpolation_inside(scale):
    model = untrained(scale)
    with torch.no_grad():
        model.tail.weight.zero_()
        model.tail.bias.copy_(-model.centre.flatten().repeat_interleave(scale**2))
    image = read_image(WDSR / "photo.png")[:40, :60]
    inner = slice(4 * scale, -4 * scale)
    difference = upscale(model, image).astype(int) - bicubic(image, 40 * scale, 60 * scale)
    assert np.abs(difference[inner, inner]).max() <= 2


def test_the_demo_photograph_fits_the_recipe_and_is_upscaled_to_720p():
    model, scale = network("x4")
    image = read_image(WDSR / "photo.png")
    assert list(image.transpose(2, 0, 1).shape) == Recipe.load(WDSR / "x4.toml").model.input[1:]
    assert upscale(model, image).shape == (720, 1280, 3)
    with torch.inference_mode():
        assert to_image(model(torch.full((1, 3, 8, 8), 2.0)).numpy()).shape == (8 * scale, 8 * scale, 3)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    large = bicubic(read_image(WDSR / "photo.png"), 120, 200)
    for index, crop in enumerate((large[:, :120], large[:, 80:])):
        Image.fromarray(crop).save(folder / f"{index}.png")
    return folder


def train(out, *options):
    command = [sys.executable, str(WDSR / "train.py"), "--out", str(out), *map(str, options)]
    command += ["--batch", "2", "--patch", "12", "--every", "2"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_training_resumed_from_a_checkpoint_ends_with_the_same_weights_as_one_run(photographs, tmp_path):
    options = ("--data", photographs, "--steps", 4)
    whole, halves, checkpoint = (tmp_path / name for name in ("whole.safetensors", "halves.safetensors", "state.ckpt"))
    assert "step 4" in train(whole, *options, "--checkpoint", checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 4
    checkpoint.unlink()
    train(halves, *options, "--checkpoint", checkpoint, "--stop", 2)
    assert "step 2 of 4" in train(halves, *options, "--checkpoint", checkpoint)
    one, two = load_file(whole), load_file(halves)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_fine_tuning_a_pruned_network_keeps_its_zeros_and_moves_the_rest(photographs, tmp_path):
    out = tmp_path / "pruned.safetensors"
    options = ("--start", WDSR / "x4.safetensors", "--prune", "body.*.conv", "--prune-rate", 4, "--test", photographs)
    assert "Y-PSNR" in train(out, "--data", photographs, "--steps", 2, *options)
    before, after = load_file(WDSR / "x4.safetensors"), load_file(out)
    for name, weight in after.items():
        pruned = name.startswith("body.") and name.endswith(".conv.weight")
        zeros = float((weight == 0).float().mean())
        assert zeros == pytest.approx(0.75, abs=0.01) if pruned else zeros < 0.01
        assert not torch.equal(weight, before[name])
