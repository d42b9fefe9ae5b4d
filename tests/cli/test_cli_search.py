"""`search sr`: from photographs and a budget to a recipe that builds; what was found is kept, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from .conftest import Edgectl
from .test_cli_mistakes import assert_one_sentence

SETTINGS = """
layers = 40
trials = 6
steps = 3

[space]
input = [24, 32]
features = [8, 12]
cells = 2
blocks = ["a1", "b3"]
baseline = "b3"
rates = [2.0, 3.0]

[supernet]
epochs = 2
batch = 8

[fine_tune]
batch = 8

[train]
epochs = 2
batch = 8
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "settings.toml"
    file.write_text(SETTINGS, encoding="utf-8")
    return file


def trials_of(run: Path) -> list[tuple[float, dict]]:
    """(score, parameters) of the finished trials."""
    storage = f"sqlite:///{run / 'study.db'}"
    study = optuna.load_study(study_name=None, storage=storage)
    return [(trial.value, trial.params) for trial in study.trials if trial.state.name == "COMPLETE"]


def test_a_search_ends_in_a_recipe_that_builds_a_network_within_the_budget(
    edgectl: Edgectl,
    settings: Path,
    photographs: Path,
    tmp_path: Path,
):
    command = (
        "search",
        "sr",
        settings,
        "--data",
        photographs,
        "--budget",
        "60%",
        "--out",
        tmp_path / "run",
        "--baseline",
        "--json",
    )
    said = edgectl(*command)
    assert said.code == 0, said.err
    report = json.loads(said.out)
    assert report["trials"] >= 1 and report["unit"] == "ms"
    assert report["found"]["score"]["metric"] == report["baseline"]["score"]["metric"] == "Y-PSNR"
    assert {layer["name"] for layer in report["layers"]} >= {"head", "tail", "skip"}
    assert "on host" in (tmp_path / "run/front.html").read_text(encoding="utf-8")
    assert (tmp_path / "run/front.png").read_bytes().startswith(b"\x89PNG")

    found = tmp_path / "elsewhere"  # the folder of what was found is all that a build needs
    found.mkdir()
    for name in ("recipe.toml", "network.py", "weights.safetensors"):
        shutil.copyfile(tmp_path / "run/found" / name, found / name)
    assert edgectl("build", found / "recipe.toml", "--out", tmp_path / "built").code == 0

    trials = trials_of(tmp_path / "run")
    again = edgectl(*command)
    assert again.code == 0 and json.loads(again.out)["found"]["network"] == report["found"]["network"]
    assert trials_of(tmp_path / "run") == trials

    other = edgectl(*command[:-2], "--set", "trials=7")
    assert_one_sentence(other, "other settings")


def test_a_budget_below_the_smallest_network_says_what_that_needs(
    edgectl: Edgectl,
    settings: Path,
    photographs: Path,
    tmp_path: Path,
):
    said = edgectl("search", "sr", settings, "--data", photographs, "--budget", "1us", "--out", tmp_path / "run")
    assert_one_sentence(said, "below what the smallest network")
    assert " ms" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--budget", "fast"], "is no budget"),
        (["--budget", "120M"], "device's clock"),
        (["--budget", "50%", "--set", "space.cells=none"], "space.cells"),
        (["--budget", "50%", "--device", "emulator:nobody"], "emulator"),
        (["--budget", "50%", "--storage", "nowhere"], "is no storage"),
    ],
)
def test_a_mistake_is_one_sentence_and_begins_nothing(
    edgectl: Edgectl,
    photographs: Path,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
):
    said = edgectl("search", "sr", "--data", photographs, "--out", tmp_path / "run", *arguments)
    assert_one_sentence(said, sentence)
    assert not (tmp_path / "run/supernet").exists()


def test_a_folder_without_photographs_or_with_something_else_is_refused(edgectl: Edgectl, photographs: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    said = edgectl("search", "sr", "--data", tmp_path / "empty", "--budget", "50%", "--out", tmp_path / "run")
    assert_one_sentence(said, "no images")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine", encoding="utf-8")
    said = edgectl("search", "sr", "--data", photographs, "--budget", "50%", "--out", tmp_path / "other")
    assert_one_sentence(said, "is not a search")
    assert_one_sentence(edgectl("search", "worker", tmp_path / "other"), "holds no search")


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_loses_no_finished_trial(
    settings: Path,
    photographs: Path,
    tmp_path: Path,
):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "edgectl",
        "search",
        "sr",
        settings,
        "--data",
        photographs,
        "--budget",
        "60%",
        "--out",
        run,
    ]
    command += ["--set", "trials=12", "--set", "steps=20", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial 6 "):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)
    before = trials_of(run)
    assert len(before) >= 4
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    after = trials_of(run)
    assert after[: len(before)] == before
    assert len(after) >= 12
