"""`edgectl roofline`: figures that follow from the manifest, a picture, and a sentence for each mistake."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgectl.artifact import Artifact
from edgectl.cli import main
from edgectl.device import Device
from edgectl.lowering import build
from edgectl.recipe import Recipe

RECIPE = Path(__file__).parents[2] / "models/wdsr/x4_pruned.toml"
SMALL = [1, 3, 45, 80]


class Said(NamedTuple):
    """How a command ended and what it wrote."""

    code: object
    out: str
    err: str


PictureOf = Callable[[Path], dict[str, str]]
Roofline = Callable[..., Said]


@pytest.fixture
def roofline(capfd: pytest.CaptureFixture[str]) -> Roofline:
    def call(*arguments: object) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            main(["roofline", *map(str, arguments)])
        sys.stdout.flush()
        return Said(done.value.code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.load(RECIPE)
    small = recipe.model.model_copy(update={"input": SMALL})
    return build(recipe.model_copy(update={"model": small}), tmp_path_factory.mktemp("built") / "pruned").artifact.folder


def checked(document: dict[str, Any], artifact: Path) -> None:
    """Every figure of the document follows from the manifest, the times, and the two roofs."""
    manifest = Artifact.open(artifact).manifest
    worked = {layer.name: layer for layer in manifest.layers if layer.effective_macs}
    assert [layer["name"] for layer in document["layers"]] == list(worked)
    assert document["left_out"] == [layer.name for layer in manifest.layers if not layer.effective_macs]
    ns = 1e6 if document["time_unit"] == "ms" else 1
    for layer in document["layers"]:
        facts = worked[layer["name"]]
        moved = 4 * (math.prod(facts.input_shape) + math.prod(facts.output_shape)) + facts.bytes
        assert layer["flop"] == 2 * facts.effective_macs
        assert layer["bytes"] == moved
        assert layer["intensity"] == pytest.approx(2 * facts.effective_macs / moved)
        assert layer["performance"] == pytest.approx(layer["flop"] / (layer["time"] * ns))
        assert layer["performance"] < 1.5 * document["peak"]
        assert layer["roof"] == pytest.approx(min(document["peak"], document["bandwidth"] * layer["intensity"]))
        assert layer["of_roof"] == pytest.approx(layer["performance"] / layer["roof"])
        assert layer["bound"] == ("arithmetic" if layer["roof"] == document["peak"] else "memory")
    assert 0 < sum(layer["share"] for layer in document["layers"]) <= 1.2


@pytest.mark.parametrize("threads", [1, 2])
def test_figures_follow_from_the_manifest_and_a_picture_is_drawn(
    roofline: Roofline, pruned: Path, tmp_path: Path, threads: int, picture_of: PictureOf
) -> None:
    out = tmp_path / "new" / "picture.png"
    said = roofline(pruned, "--runs", 3, "--threads", threads, "--out", out, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    checked(document, pruned)
    assert (document["artifact"], document["threads"], document["runs"]) == ("pruned", threads, 3)
    assert (document["clock"], document["emulated"]) == ("wall", None)
    assert (document["performance_unit"], document["bandwidth_unit"]) == ("GFLOP/s", "GB/s")
    assert document["picture"] == str(out)
    assert "pruned on host" in picture_of(out)["Title"]
    assert [path.name for path in out.parent.iterdir()] == ["picture.png"]


def test_a_table_says_what_bounds_each_layer(
    roofline: Roofline, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture_of: PictureOf
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pruned-roofline.png").write_text("an older picture")
    said = roofline(pruned, "--runs", 1)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    for words in ("FLOP/byte", "GFLOP/s", "of its roof", "bound by", "GB/s", "pruned on host", "1 thread"):
        assert words in said.out
    for name in ("head", "body.0.conv", "tail", "skip"):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split()[-1] in ("memory", "arithmetic")
    assert "emulated" not in said.out
    assert all(len(line) <= 100 for line in lines)
    picture_of(tmp_path / "pruned-roofline.png")


@pytest.mark.device
def test_an_emulated_device_is_never_taken_for_a_phone(
    roofline: Roofline, pruned: Path, tmp_path: Path, emulator: Device, picture_of: PictureOf
) -> None:
    options = ("--device", emulator.name, "--runs", 1, "--out", tmp_path / "emulated.png")
    said = roofline(pruned, *options, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    checked(document, pruned)
    assert "emulated" in document["emulated"]
    assert document["time_unit"] == "emulated-instructions"
    assert document["performance_unit"] == "FLOP/emulated-instruction"
    assert document["bandwidth_unit"] == "byte/emulated-instruction"
    assert document["emulated"] in picture_of(tmp_path / "emulated.png")["Description"]
    table = roofline(pruned, *options)
    assert document["emulated"] in table.out
    for unit in ("FLOP/s", "GB/s", " ms"):
        assert unit not in said.out + table.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "picture.jpg"], ["picture.jpg", ".png"]),
        (["--out", "."], ["--out", ".png"]),
        (["--device", "emulator:nobody"], ["nobody", "edgectl emulator start"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    roofline: Roofline, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(roofline(pruned, *options), *words)
    assert not list(tmp_path.iterdir())


def test_what_is_no_artifact_or_has_no_multiply_adds_is_refused(roofline: Roofline, pruned: Path, tmp_path: Path) -> None:
    refused(roofline(tmp_path), "is not an artifact")
    idle = Path(shutil.copytree(pruned, tmp_path / "idle"))
    manifest = json.loads((idle / "manifest.json").read_text())
    for layer in manifest["layers"]:
        layer["effective_macs"] = 0
    (idle / "manifest.json").write_text(json.dumps(manifest))
    refused(roofline(idle), "idle", "multiply-adds")


def test_without_matplotlib_the_extra_is_named(roofline: Roofline, pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(roofline(pruned), "pip install edgectl[plots]")


def test_a_folder_that_cannot_be_made_fails_with_the_step(roofline: Roofline, pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "picture.png"
    refused(roofline(pruned, "--runs", 1, "--out", out), f"writing {out}", code=1)


def refused(said: Said, *words: str, code: int = 2) -> None:
    """The command ended with this code and one sentence that holds these words."""
    assert (said.code, said.out) == (code, ""), said
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert said.err.splitlines()[-1] == error
    assert all(word in error for word in words), error
    assert "Traceback" not in said.err
