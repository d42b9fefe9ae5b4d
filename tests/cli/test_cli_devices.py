"""The main job on the host and on the emulated phone: push, run, bench, as a user does them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from edgectl.artifact import Artifact
from edgectl.device import Device
from edgectl.profile.history import History
from edgectl.runner import Session

from .conftest import PRUNED_LAYERS, SMALL, WDSR, Edgectl, Small, write_recipe

DIFFERENCE = re.compile(r"max abs difference from PyTorch with the same weights: (\S+)")


def check_the_photograph(edgectl: Edgectl, pruned: Small, photo: Path, out: Path, device: str) -> None:
    said = edgectl("run", pruned.artifact, photo, "--out", out, "--device", device, "--reference", pruned.recipe)
    assert said.code == 0, said.err
    found = DIFFERENCE.search(said.out)
    assert found is not None
    assert float(found[1]) <= 1e-3
    with Image.open(out) as image:
        assert image.size == (4 * SMALL[1], 4 * SMALL[0])


def test_the_photograph_upscaled_on_the_host_agrees_with_pytorch(
    edgectl: Edgectl, pruned: Small, photo: Path, tmp_path: Path
) -> None:
    check_the_photograph(edgectl, pruned, photo, tmp_path / "large.png", "host")


@pytest.mark.device
def test_the_photograph_upscaled_on_the_emulated_phone_agrees_with_pytorch(
    edgectl: Edgectl, emulator: Device, pruned: Small, photo: Path, tmp_path: Path
) -> None:
    check_the_photograph(edgectl, pruned, photo, tmp_path / "large.png", emulator.name)


@pytest.mark.device
def test_a_pruned_model_takes_fewer_instructions_in_every_pruned_layer_of_the_emulated_phone(
    edgectl: Edgectl, emulator: Device, dense: Small, pruned: Small, history: Path
) -> None:
    options = ("--device", emulator.name, "--runs", 1, "--warmup", 1, "--json")
    said = edgectl("bench", pruned.artifact, "--against", dense.artifact, *options)
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert document["clock"] == document["against"]["clock"] == "emulated-instructions"
    assert isinstance(document["total"]["min"], int)
    ratios = document["ratio"]["layers"]
    assert {name for name in PRUNED_LAYERS if ratios[name] <= 1} == set()
    assert document["ratio"]["total"] > 1
    assert [entry.report.clock for entry in History(history).entries()] == ["emulated-instructions"] * 2


@pytest.mark.device
def test_figures_of_the_emulated_phone_are_never_shown_as_milliseconds(
    edgectl: Edgectl, emulator: Device, pruned: Small, history: Path
) -> None:
    said = edgectl("bench", pruned.artifact, "--device", emulator.name, "--runs", 1, "--warmup", 0)
    assert said.code == 0, said.err
    assert "emulated-instructions" in said.out
    assert re.search(r"\bms\b", said.out) is None
    listed = edgectl("history", "--device", emulator.name)
    assert "emulated-instructions" in listed.out
    assert re.search(r"\bms\b", listed.out) is None


@pytest.mark.slow
@pytest.mark.device
def test_mobilenetv2_answers_on_the_emulated_phone_as_pytorch_does(edgectl: Edgectl, emulator: Device, tmp_path: Path) -> None:
    recipe = tmp_path / "mobilenetv2.toml"
    model = WDSR.parent / "mobilenetv2/model.py"
    recipe.write_text(f'[model]\nfile = "{model}"\nfactory = "model"\ninput = [1, 3, 64, 64]\n')
    assert edgectl("build", recipe, "--out", tmp_path / "mobilenetv2").code == 0
    session = Session.open(Artifact.open(tmp_path / "mobilenetv2"), emulator)
    assert session.check(session.run(want_outputs=True)[1]) <= 1e-3


def test_a_reference_of_another_recipe_or_of_changed_weights_is_refused(
    edgectl: Edgectl, pruned: Small, dense: Small, photo: Path, tmp_path: Path
) -> None:
    said = edgectl("run", pruned.artifact, photo, "--out", tmp_path / "x.png", "--reference", dense.recipe)
    assert said.code == 2
    assert "was not built from" in said.err
    model = tmp_path / "model.py"
    model.write_text((WDSR / "model.py").read_text())
    recipe = write_recipe(tmp_path / "recipe.toml", model=str(model))
    assert edgectl("build", recipe, "--out", tmp_path / "artifact").code == 0
    model.write_text(model.read_text().replace("return x + self.conv", "return x - self.conv"))
    said = edgectl("run", tmp_path / "artifact", photo, "--out", tmp_path / "x.png", "--reference", recipe)
    assert said.code == 2
    assert "has changed since" in said.err
    assert not (tmp_path / "x.png").exists()
