"""`train`, `compress`, `evaluate`: from images to an artifact whose accuracy on a device is known; kills lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgectl.device import Device
from edgectl.recipe import Recipe

from .conftest import Edgectl
from .test_cli_mistakes import assert_one_sentence

PYTHON = """
from torch import nn

def model(width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    )
"""
RECIPE = """
[model]
file = "model.py"
factory = "model"
input = [1, 3, 16, 16]
task = "classify"

[train]
epochs = 8
batch = 16
rate = 0.05
"""
COMPRESS = """
[[prune]]
match = "3"
scheme = "block_punched"
rate = 4.0

[[quant]]
match = "*"
weights = "msq"
bits = 4

[calibrate]
images = "data/train/bars"
count = 8

[compress]
method = "admm"
teacher = "dense/weights.safetensors"
train = { epochs = 8, rate = 0.02 }
"""
FILES = ("weights.safetensors", "recipe.toml", "report.json")


def write_data(root: Path) -> Path:
    """Horizontal bars, vertical bars and dots, noisy."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    for name, shape in {"bars": rows % 4 < 2, "stripes": columns % 4 < 2, "dots": (rows % 4 < 2) & (columns % 4 < 2)}.items():
        for split, count in (("train", 48), ("test", 16)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.roll(shape, rng.integers(4), rng.integers(2))[..., None] * 150 + rng.normal(50, 30, (16, 16, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model and two recipes: `dense.toml` and `small.toml`, which compresses what the former trained."""
    home = tmp_path_factory.mktemp("training")
    write_data(home / "data")
    (home / "model.py").write_text(PYTHON)
    (home / "dense.toml").write_text(RECIPE)
    (home / "small.toml").write_text(RECIPE.replace("[train]", 'weights = "dense/weights.safetensors"\n\n[train]') + COMPRESS)
    run(home, "train", "dense.toml", "--data", "data", "--out", "dense")
    return home


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgectl", *arguments, "--accelerator", "cpu"]


def run(home: Path, *arguments: str) -> None:
    done = subprocess.run(command(*arguments), cwd=home, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt(home: Path, number: signal.Signals, *arguments: str, out: Path) -> int:
    """Starts a run, and ends it by a signal as soon as it has left a checkpoint on its way; returns its exit code."""
    process = subprocess.Popen(command(*arguments), cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint, seen = out / "checkpoint.ckpt", set()
    while len(seen) < 2 and process.poll() is None:  # the first is of step 0
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(120)


def test_a_trained_model_is_scored_built_and_scored_again_on_a_device(edgectl: Edgectl, home: Path, tmp_path: Path) -> None:
    report = json.loads((home / "dense/report.json").read_text())
    assert report["score"]["value"] > 90
    assert report["history"][-1]["step"] == report["steps"] == 72
    assert list((home / "dense/logs").glob("events*"))
    assert edgectl("build", home / "dense/recipe.toml", "--out", tmp_path / "artifact").code == 0
    scores = {}
    for target in (home / "dense", tmp_path / "artifact"):
        said = edgectl("evaluate", target, "--data", home / "data", "--json")
        assert said.code == 0, said.err
        scores[target.name] = json.loads(said.out)
    assert scores["dense"]["value"] == scores["artifact"]["value"] == report["score"]["value"]
    assert scores["artifact"]["on"] == "host"
    assert scores["artifact"]["interval"][0] < scores["artifact"]["value"] <= scores["artifact"]["interval"][1]


def test_compression_keeps_accuracy_and_what_it_leaves_is_built_as_it_was_trained(
    edgectl: Edgectl, home: Path, tmp_path: Path
) -> None:
    said = edgectl("compress", home / "small.toml", "--data", home / "data", "--out", home / "small", "--accelerator", "cpu")
    assert said.code == 0, said.err
    assert "admm residual" in said.out
    assert " before" in said.out
    kept = weights(home / "small")["3.weight"]
    blocks = kept.reshape(4, 8, 4, 4, 3, 3).abs().sum(dim=(1, 3)) > 0
    assert 0.24 < float(blocks.float().mean()) <= 0.26
    assert 0.18 < float((kept != 0).float().mean()) <= 0.25  # some of the weights that are left round to the level 0
    artifact = tmp_path / "artifact"
    assert edgectl("build", home / "small/recipe.toml", "--out", artifact).code == 0
    layers = {layer["name"]: layer for layer in json.loads((artifact / "manifest.json").read_text())["layers"]}
    assert layers["3"]["scheme"] == "block_punched"
    assert layers["3"]["nonzeros"] == int((kept != 0).sum())
    assert (layers["3"]["bits"], layers["3"]["quant"]) == (4, "msq")
    said = edgectl("evaluate", artifact, "--data", home / "data", "--json")
    assert json.loads(said.out)["value"] > 85


@pytest.mark.device
def test_an_artifact_is_as_accurate_on_the_emulated_phone(
    edgectl: Edgectl, home: Path, tmp_path: Path, emulator: Device
) -> None:
    assert edgectl("build", home / "dense/recipe.toml", "--out", tmp_path / "artifact").code == 0
    on = [
        json.loads(edgectl("evaluate", tmp_path / "artifact", "--data", home / "data", "--on", device, "--json").out)["value"]
        for device in ("host", emulator.name)
    ]
    assert on[0] == on[1] > 90


def test_a_run_killed_and_resumed_gives_the_weights_of_an_unbroken_one(home: Path, tmp_path: Path) -> None:
    arguments = ("compress", "small.toml", "--data", "data", "--out")
    run(home, *arguments, str(tmp_path / "whole"))
    assert interrupt(home, signal.SIGKILL, *arguments, str(tmp_path / "broken"), out=tmp_path / "broken") == -signal.SIGKILL
    assert not (tmp_path / "broken/weights.safetensors").exists()
    run(home, *arguments, str(tmp_path / "broken"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    run(home, *arguments, str(tmp_path / "broken"))  # a run that is done stays as it is
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_an_interrupted_run_ends_with_130_and_a_whole_checkpoint(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert interrupt(home, signal.SIGINT, "train", "dense.toml", "--data", "data", "--out", str(out), out=out) == 130
    step = torch.load(out / "checkpoint.ckpt", weights_only=True)["step"]
    assert 0 < step < 72


def test_a_recipe_is_changed_as_the_prompt_says(home: Path) -> None:
    changes = ["train.epochs=0.5", "prune.rate=8", "prune.scheme=filter", 'compress.method="gradual"', "compress.train.batch=4"]
    recipe = Recipe.load(home / "small.toml", changes)
    assert recipe.train.epochs == 0.5
    assert [(rule.rate, rule.scheme) for rule in recipe.prune] == [(8, "filter")]
    assert recipe.compress.method == "gradual"
    assert (recipe.compress_train.batch, recipe.compress_train.rate) == (4, 0.02)


@pytest.mark.slow
def test_two_processes_train_one_model(home: Path, tmp_path: Path) -> None:
    run(home, "train", "dense.toml", "--data", "data", "--out", str(tmp_path / "two"), "--devices", "2")
    report = json.loads((tmp_path / "two/report.json").read_text())
    assert report["hardware"]["devices"] == 2
    assert report["score"]["value"] > 80


def test_mistakes_are_one_sentence_and_leave_checkpoints_alone(edgectl: Edgectl, home: Path, tmp_path: Path) -> None:
    before = {name: os.stat(home / "dense" / name).st_mtime_ns for name in ("checkpoint.ckpt", *FILES)}
    (tmp_path / "empty").mkdir()
    other = home / "other.toml"
    cases = {
        "another --out, or --force": ("train", other, "--data", home / "data", "--out", home / "dense"),
        "more are of another shape.": ("compress", home / "wide.toml", "--data", home / "data", "--out", tmp_path / "a"),
        "more are missing, stem.weight is not the model's.": (
            *("train", home / "dense.toml", "--data", home / "data", "--out", tmp_path / "a"),
            *("--start", tmp_path / "strange.safetensors"),
        ),
        "no `weights`": ("compress", home / "dense.toml", "--data", home / "data", "--out", tmp_path / "a"),
        "nothing to compress": ("compress", home / "plain.toml", "--data", home / "data", "--out", tmp_path / "a"),
        str(tmp_path / "empty"): ("train", home / "dense.toml", "--data", tmp_path / "empty", "--out", tmp_path / "a"),
        "`epochs`": ("compress", home / "never.toml", "--data", home / "data", "--out", tmp_path / "a"),
        "budget": ("compress", home / "budget.toml", "--data", home / "data", "--out", tmp_path / "a"),
        "lower `rate`": ("train", home / "hot.toml", "--data", home / "data", "--out", tmp_path / "hot"),
        "task": ("train", home / "aimless.toml", "--data", home / "data", "--out", tmp_path / "a"),
        "`train.epoch`": ("train", home / "dense.toml", "--data", "x", "--out", tmp_path / "a", "--set", "train.epoch=3"),
        "is no change": ("train", home / "dense.toml", "--data", "x", "--out", tmp_path / "a", "--set", "train.epochs"),
        "changes nothing": ("train", home / "dense.toml", "--data", "x", "--out", tmp_path / "a", "--set", "model.task.x=1"),
    }
    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "strange.safetensors")
    small = (home / "small.toml").read_text()
    other.write_text(RECIPE.replace("0.05", "0.06"))
    (home / "wide.toml").write_text(small.replace('"model"\n', '"model"\nargs = { width = 8 }\n', 1))
    (home / "plain.toml").write_text(small.split("[[prune]]")[0])
    (home / "never.toml").write_text(small.replace("epochs = 8, rate = 0.02", "epochs = 0"))
    (home / "budget.toml").write_text(small.replace('"admm"', '"reweighted"\nkeep = 1e-6'))
    (home / "hot.toml").write_text(RECIPE.replace("0.05", "1e30"))
    (home / "aimless.toml").write_text(RECIPE.replace('task = "classify"', ""))
    for sentence, arguments in cases.items():
        said = edgectl(*arguments, "--accelerator", "cpu")
        assert_one_sentence(said, sentence)
    assert not (tmp_path / "a").exists()
    assert {name: os.stat(home / "dense" / name).st_mtime_ns for name in before} == before
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "checkpoint.ckpt").write_bytes((home / "dense/checkpoint.ckpt").read_bytes()[:1000])
    said = edgectl("train", home / "dense.toml", "--data", home / "data", "--out", damaged)
    assert_one_sentence(said, "no readable checkpoint")
