"""Commands take an artifact of either format without being told which, and .tflite files that others made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.artifact import Artifact
from edgectl.images import read_image
from edgectl.profile.report import LatencyReport

from .conftest import PRUNE, PRUNED_LAYERS, SMALL, Edgectl, Small, write_recipe
from .test_cli_mistakes import assert_one_sentence


@pytest.fixture(scope="module")
def channels_last(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A recipe that asks for a .tflite with channels-last images."""
    folder = tmp_path_factory.mktemp("litert")
    recipe = write_recipe(folder / "recipe.toml", PRUNE + '[target]\nformat = "litert"\nlayout = "nhwc"\n')
    return Small(recipe, folder / "tflite")


@pytest.fixture
def artifact(edgectl: Edgectl, channels_last: Small) -> Path:
    if not channels_last.artifact.exists():
        said = edgectl("build", channels_last.recipe, "--out", channels_last.artifact)
        assert said.code == 0, said.err
    return channels_last.artifact


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tflite of standard operations alone, by litert-torch."""
    import litert_torch

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 5)]
    path = tmp_path_factory.mktemp("stock") / "stock.tflite"
    litert_torch.convert(nn.Sequential(*layers, nn.Softmax(1)).eval(), (torch.rand(1, 3, 8, 8),)).export(str(path))
    return path


def test_an_image_goes_through_a_channels_last_model(
    edgectl: Edgectl, artifact: Path, channels_last: Small, photo: Path
) -> None:
    manifest = Artifact.open(artifact).manifest
    assert (manifest.format, manifest.model) == ("litert", "model.tflite")
    assert manifest.inputs[0].shape == [1, *SMALL, 3]
    assert manifest.outputs[0].shape == [1, 4 * SMALL[0], 4 * SMALL[1], 3]
    out = artifact.parent / "large.png"
    said = edgectl("run", artifact, photo, "--out", out, "--reference", channels_last.recipe)
    assert said.code == 0, said.err
    assert float(said.out.rsplit(":", 1)[1]) < 1e-4
    assert read_image(out).shape == (4 * SMALL[0], 4 * SMALL[1], 3)


def test_bench_and_push_ask_nobody_for_the_format(edgectl: Edgectl, artifact: Path, pruned: Small, history: Path) -> None:
    assert edgectl("push", artifact).code == 0
    assert "0 files sent" in edgectl("push", artifact).out
    said = edgectl("bench", artifact, "--against", pruned.artifact, "--runs", 2, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert {layers[name]["runner"] for name in PRUNED_LAYERS} == {"edge"}
    assert all(layers[name]["median"] > 0 for name in PRUNED_LAYERS)
    assert set(document["ratio"]["layers"]) >= PRUNED_LAYERS
    assert any(layer["runner"] != "edge" for layer in layers.values())  # what makes the images channels-last


def test_a_recipes_format_can_be_overruled(edgectl: Edgectl, pruned: Small, channels_last: Small, tmp_path: Path) -> None:
    assert edgectl("build", pruned.recipe, "--out", tmp_path / "a", "--format", "litert").code == 0
    assert Artifact.open(tmp_path / "a").manifest.format == "litert"
    assert edgectl("build", channels_last.recipe, "--out", tmp_path / "b", "--format", "pte").code == 0
    assert Artifact.open(tmp_path / "b").manifest.inputs[0].shape == [1, 3, *SMALL]
    assert_one_sentence(edgectl("build", pruned.recipe, "--out", tmp_path / "c", "--format", "onnx"), "onnx", "pte, litert")


def test_a_layout_is_for_litert(edgectl: Edgectl, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", '[target]\nlayout = "nhwc"\n')
    assert_one_sentence(edgectl("build", recipe, "--out", tmp_path / "out"), "target", "nhwc", "litert", "remove it")


def test_any_tflite_is_benched_operation_by_operation(edgectl: Edgectl, stock: Path, history: Path) -> None:
    said = edgectl("bench", stock, "--runs", 3, "--json")
    assert said.code == 0, said.err
    report = LatencyReport.model_validate(json.loads(said.out))
    assert report.model == "stock.tflite"
    assert len(report.layers) >= 5
    assert {layer.runner for layer in report.layers} <= {"xnnpack", "litert"}
    assert sum(layer.median or 0 for layer in report.layers) <= 1.5 * report.profiled.median + 0.1
    assert edgectl("push", stock).code == 0


def test_a_damaged_tflite_is_a_mistake(edgectl: Edgectl, stock: Path, tmp_path: Path, history: Path) -> None:
    content = stock.read_bytes()
    for name, bad, words in (
        ("cut", content[: len(content) // 3], "damaged or cut short"),
        ("other", b"PK\3\4" + content[4:8].swapcase() + content[8:], "not a .tflite model"),
    ):
        file = tmp_path / f"{name}.tflite"
        file.write_bytes(bad)
        assert_one_sentence(edgectl("bench", file), words)
    (tmp_path / "model.onnx").write_bytes(content)
    assert_one_sentence(edgectl("bench", tmp_path / "model.onnx"), "not an artifact", "edgectl build")
    assert not list(tmp_path.glob("**/*.json"))


def test_an_operation_that_nobody_knows_is_named(edgectl: Edgectl, tmp_path: Path, history: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model = schema.ModelT()
    code, tensor, other, operator, graph = (
        schema.OperatorCodeT(),
        schema.TensorT(),
        schema.TensorT(),
        schema.OperatorT(),
        schema.SubGraphT(),
    )
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, "Wavelet"
    for one, name in ((tensor, "x"), (other, "y")):
        one.shape, one.name, one.type = np.array([1, 4], np.int32), name, schema.TensorType.FLOAT32
    operator.inputs, operator.outputs = np.array([0], np.int32), np.array([1], np.int32)
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [tensor, other], [operator], operator.inputs, operator.outputs
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    (tmp_path / "wavelet.tflite").write_bytes(bytes(builder.Output()))
    assert_one_sentence(edgectl("bench", tmp_path / "wavelet.tflite"), "Wavelet")
