"""`edgectl compare` at the prompt: a table, one JSON document, and a sentence for each mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Edgectl, write_recipe

NETWORK = """
import torch
from torch import nn

def model():
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1)]
    return nn.Sequential(*body)

def example_inputs():
    return (torch.rand(1, 3, 24, 20),)
"""


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(NETWORK)
    return path


def test_json_is_one_document_and_nothing_else(edgectl: Edgectl, network: Path) -> None:
    runtimes = ["edgectl", "torch"]
    said = edgectl("compare", network, "--runtimes", ",".join(runtimes), "--variant", "pattern@3:0", "--runs", 2, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    rows = document.pop("rows")
    assert document == {"model": str(network), "threads": 1}
    assert [row["runtime"] for row in rows] == ["edgectl", *runtimes]
    assert [row["variant"] for row in rows] == ["dense", "pattern@3:0", "dense"]
    for row in rows:
        assert set(row) == {"runtime", "variant", "median_ms", "p10_ms", "p90_ms", "max_rel_err"}
        assert row["median_ms"] > 0
        assert row["max_rel_err"] < 1e-5


def test_a_recipe_is_compared_dense_and_as_it_prunes(edgectl: Edgectl, tmp_path: Path) -> None:
    rule = '[[prune]]\nmatch = "body.*.conv"\nscheme = "block_punched"\nrate = 4.0\n'
    recipe = write_recipe(tmp_path / "small.toml", rule, size=(12, 16))
    said = edgectl("compare", recipe, "--runtimes", "edgectl,torch", "--runs", 2, "--threads", 2)
    assert said.code == 0, said.err
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[:2] for row in rows if row[0] in ("edgectl", "torch")] == [
        ["edgectl", "dense"],
        ["edgectl", "recipe"],
        ["torch", "dense"],
    ]
    assert "2 threads" in said.out
    assert all(len(line) <= 100 for line in said.out.splitlines() if "/" not in line)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtimes", "tensorflow"], ["tensorflow", "onnxruntime"]),
        (["--variant", "magic@4"], ["magic@4", "block_punched"]),
        (["--variant", "pattern@0.5"], ["pattern@0.5", "RATE"]),
        (["--variant", "pattern"], ["SCHEME@RATE"]),
        (["--variant", "pattern@3+int7"], ["pattern@3+int7", "int8, fixed7, fixed4, sp2_4, msq4"]),
        (["--variant", "pattern@3:nose.*"], ["nose.*", "fits no layer"]),
        (["--variant", "pattern@3", "--runtimes", "torch"], ["--runtimes", "--variant"]),
        (["--picture", "curves.png"], ["--variant SCHEME@RATE"]),
        (["--picture", "curves.png", "--variant", "int8"], ["--variant SCHEME@RATE"]),
        (["--picture", "curves.jpg", "--variant", "pattern@3"], ["curves.jpg", "--picture", ".png"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence(edgectl: Edgectl, network: Path, options: list[str], words: list[str]) -> None:
    said = edgectl("compare", network, *options)
    assert (said.code, said.out) == (2, "")
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in words)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_a_picture_is_drawn_beside_the_figures(edgectl: Edgectl, network: Path, tmp_path: Path, as_json: bool) -> None:
    picture = tmp_path / "new" / "curves.png"
    options = ["--runtimes", "edgectl", "--variant", "block_punched@2:0", "--runs", 1, "--picture", picture]
    said = edgectl("compare", network, *options, *["--json"] * as_json)
    assert said.code == 0, said.err
    if as_json:
        document = json.loads(said.out)
        assert document["picture"] == str(picture)
        assert [row["variant"] for row in document["rows"]] == ["dense", "block_punched@2:0"]
    else:
        assert said.out.splitlines()[-1] == f"{picture}: the picture"
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.info["Title"].endswith("small.py on this machine, 1 thread")


def test_a_picture_that_cannot_be_written_costs_no_figures(edgectl: Edgectl, network: Path) -> None:
    picture = network / "curves.png"
    said = edgectl("compare", network, "--runtimes", "edgectl", "--variant", "pattern@3", "--runs", 1, "--picture", picture)
    assert said.code == 1
    assert "pattern@3" in said.out
    assert f"writing {picture}" in said.err


def test_a_picture_without_matplotlib_names_the_extra(
    edgectl: Edgectl, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = edgectl("compare", network, "--variant", "pattern@3", "--picture", tmp_path / "curves.png")
    assert (said.code, said.out) == (2, "")
    assert "pip install edgectl[plots]" in said.err


def test_a_runtime_that_is_not_installed_names_the_extra(
    edgectl: Edgectl, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgectl.profile.worker import PEERS

    monkeypatch.setattr(PEERS["mnn"], "needs", ("a_module_that_nobody_has",))
    said = edgectl("compare", network, "--runtimes", "mnn")
    assert said.code == 2
    assert "pip install edgectl[peers]" in said.err


def test_a_model_of_another_kind_is_refused(edgectl: Edgectl, tmp_path: Path) -> None:
    said = edgectl("compare", tmp_path / "model.onnx")
    assert said.code == 2
    assert ".toml" in said.err
