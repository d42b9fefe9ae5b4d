"""`edgectl verify` at the prompt: verdicts, exit codes, a report that outlives a killed run, a sentence for each mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from .conftest import Edgectl, Said
from .test_cli_mistakes import assert_one_sentence

PYTHON = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

def example_inputs():
    return (torch.rand(1, 1, 6, 6),)
"""


def write_sum(path: Path, threshold: float = 1.5) -> Path:
    """A network of two inputs with the outputs relu(x0 + x1) and `threshold`."""
    weights = {
        "w": np.array([[1, 1]], np.float32),
        "v": np.array([[1], [0]], np.float32),
        "b": np.array([0, threshold], np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "b"], ["y"], transB=1),
    ]
    return save(path, nodes, weights, 2, 2)


def write_hard(path: Path) -> Path:
    """A network too deep for any bound to decide at once what `hard.vnnlib` asks."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(64, 24)).astype(np.float32) / 5
    deep = [rng.normal(size=(64, 64)).astype(np.float32) / 8 for _ in range(3)]
    weights = {"w0": wide, **{f"w{i + 1}": w for i, w in enumerate(deep)}}
    weights["v"] = np.stack([np.zeros(64), rng.normal(size=64) / 8]).astype(np.float32)
    weights["b"] = np.array([0, -100], np.float32)
    nodes, last = [], "x"
    for i in range(4):
        nodes += [
            helper.make_node("Gemm", [last, f"w{i}"], [f"h{i}"], transB=1),
            helper.make_node("Relu", [f"h{i}"], [f"r{i}"]),
        ]
        last = f"r{i}"
    nodes.append(helper.make_node("Gemm", [last, "v", "b"], ["y"], transB=1))
    return save(path, nodes, weights, 24, 2)


def save(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], inputs: int, outputs: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, inputs))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, outputs))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def write_property(path: Path, upper: float, condition: str = "(>= Y_0 Y_1)", inputs: int = 2, lower: float = 0.0) -> Path:
    """Inputs in [lower, upper], of which `condition` makes a counterexample."""
    names = [f"X_{i}" for i in range(inputs)]
    lines = [f"(declare-const {name} Real)" for name in [*names, "Y_0", "Y_1"]]
    lines += [f"(assert (>= {name} {lower}))\n(assert (<= {name} {upper}))" for name in names]
    path.write_text("\n".join([*lines, f"(assert {condition})"]))
    return path


def instances(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["instances"])


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write_sum(tmp_path / "sum.onnx")


def test_a_property_that_holds_is_verified(edgectl: Edgectl, network: Path, tmp_path: Path) -> None:
    prop, report = write_property(tmp_path / "holds.vnnlib", 0.7), tmp_path / "new" / "report.json"
    said = edgectl("verify", network, "--property", prop, "--json", report)
    assert said.code == 0, said.err
    assert "1 verified, 0 falsified, 0 unknown of 1" in said.out
    (row,) = instances(report)
    assert {key: row[key] for key in ("model", "property", "verdict")} == {
        "model": str(network), "property": str(prop), "verdict": "verified",
    }  # fmt: skip
    assert 0 < row["bound"] <= 0.1 + 1e-6
    assert row["branches"] == 0
    assert row["seconds"] > 0


def test_one_that_does_not_is_falsified_by_an_input_that_onnxruntime_agrees_on(
    edgectl: Edgectl, network: Path, tmp_path: Path
) -> None:
    prop, report = write_property(tmp_path / "fails.vnnlib", 0.8), tmp_path / "report.json"
    said = edgectl("verify", network, "--property", prop, "--json", report)
    assert said.code == 3
    assert "outputs of the counterexample" in said.out
    (row,) = instances(report)
    x = np.array(row["counterexample"]["input"], np.float32)
    (y,) = onnxruntime.InferenceSession(network).run(None, {"x": x[None]})
    assert ((x >= 0) & (x.astype(np.float64) <= 0.8)).all()
    assert y[0, 0] >= y[0, 1]
    assert row["counterexample"]["output"] == pytest.approx(y[0].tolist())


def test_what_the_time_does_not_suffice_for_is_unknown(edgectl: Edgectl, tmp_path: Path) -> None:
    model = write_hard(tmp_path / "hard.onnx")
    prop = write_property(tmp_path / "hard.vnnlib", 1.0, "(>= Y_1 -99.2)", inputs=24, lower=-1.0)
    said = edgectl("verify", model, "--property", prop, "--timeout", "0.5", "--json", tmp_path / "r.json")
    assert said.code == 4, said
    (row,) = instances(tmp_path / "r.json")
    assert row["verdict"] == "unknown"
    assert row["bound"] <= 0


def test_samples_are_verified_around_their_labels(edgectl: Edgectl, network: Path, tmp_path: Path) -> None:
    samples = np.array([[0.25, 0.25], [0.6, 0.6], [0.9, 0.9]], np.float32)
    np.savez(tmp_path / "data.npz", x=samples, y=np.array([1, 1, 1]))  # the last one's label is wrong
    said = edgectl("verify", network, "--data", tmp_path / "data.npz", "--eps", "0.2", "--json", tmp_path / "r.json")
    assert said.code == 3
    rows = instances(tmp_path / "r.json")
    assert [row["verdict"] for row in rows] == ["verified", "falsified", "falsified"]
    assert [row["property"] for row in rows] == [f"data.npz[{i}] eps 0.2" for i in range(3)]
    only = edgectl("verify", network, "--data", tmp_path / "data.npz", "--eps", "0", "--count", 2)
    assert only.code == 0
    assert "2 verified" in only.out


@pytest.mark.parametrize("kind", ["py", "toml"])
def test_models_in_pytorch_are_verified_with_the_answers_they_give(edgectl: Edgectl, kind: str, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(PYTHON)
    (tmp_path / "small.toml").write_text('[model]\nfile = "small.py"\nfactory = "model"\ninput = [1, 1, 6, 6]\n')
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2, 6, 6)))
    said = edgectl("verify", tmp_path / f"small.{kind}", "--data", tmp_path / "x.npy", "--eps", "0.001")
    assert said.code == 0, said.err
    assert "2 verified" in said.out


def write_benchmark(folder: Path) -> Path:
    """Three instances: one verified, one falsified, one hard."""
    write_sum(folder / "sum.onnx")
    write_hard(folder / "hard.onnx")
    write_property(folder / "holds.vnnlib", 0.7)
    write_property(folder / "fails.vnnlib", 0.8)
    write_property(folder / "hard.vnnlib", 1.0, "(>= Y_1 -99.2)", inputs=24, lower=-1.0)
    rows = ["sum.onnx,holds.vnnlib,60", "sum.onnx, fails.vnnlib, 60", "", "hard.onnx,hard.vnnlib,300"]
    (folder / "instances.csv").write_text("\n".join(rows))
    return folder / "instances.csv"


def test_a_killed_run_loses_at_most_the_instance_in_flight(edgectl: Edgectl, tmp_path: Path) -> None:
    benchmark, report = write_benchmark(tmp_path), tmp_path / "report.json"
    command = [sys.executable, "-m", "edgectl", "verify", "--instances", str(benchmark), "--json", str(report)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not (report.exists() and len(instances(report)) == 2):
            assert running.poll() is None
            time.sleep(0.1)
        os.kill(running.pid, signal.SIGKILL)
    before = instances(report)
    said = edgectl("verify", "--instances", benchmark, "--json", report, "--timeout", "0.5")
    assert said.code == 3
    after = instances(report)
    assert after[:2] == before
    assert [row["verdict"] for row in after] == ["verified", "falsified", "unknown"]
    assert [row["model"] for row in after] == ["sum.onnx", "sum.onnx", "hard.onnx"]


def test_a_network_that_changed_is_asked_again(edgectl: Edgectl, network: Path, tmp_path: Path) -> None:
    prop, report = write_property(tmp_path / "holds.vnnlib", 0.7), tmp_path / "report.json"
    assert edgectl("verify", network, "--property", prop, "--json", report).code == 0
    write_sum(network, 1.2)
    assert edgectl("verify", network, "--property", prop, "--json", report).code == 3
    assert [row["verdict"] for row in instances(report)] == ["falsified"]


def test_versions_are_asked_what_the_dense_model_has(edgectl: Edgectl, network: Path, tmp_path: Path) -> None:
    samples = np.array([[0.1, 0.1], [0.4, 0.4], [0.7, 0.7]], np.float32)
    np.savez(tmp_path / "data.npz", x=samples, y=np.array([1, 1, 1]))
    worse, same = write_sum(tmp_path / "worse.onnx", 1.0), write_sum(tmp_path / "same.onnx")
    options = ["--data", tmp_path / "data.npz", "--eps", "0.2", "--against", network]
    said = edgectl("verify", worse, same, *options)
    assert said.code == 3
    lines = said.out.splitlines()[-3:]
    assert lines == [
        f"{network} has 2 of 3 properties",
        f"{worse} keeps 1 of those 2 (1 falsified)",
        f"{same} keeps 2 of those 2",
    ]


def bad(edgectl: Edgectl, folder: Path, *arguments: object) -> Said:
    return edgectl("verify", *(folder / a if isinstance(a, str) and "." in a else a for a in arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sum.onnx"], ["--data", "--property", "--instances"]),
        (["sum.onnx", "--data", "data.npz"], ["--eps"]),
        (["sum.onnx", "--data", "data.npz", "--eps", -1], ["--eps", "-1"]),
        (["sum.onnx", "--property", "holds.vnnlib", "--eps", 1], ["--eps", "--data"]),
        (["--property", "holds.vnnlib"], ["MODEL"]),
        (["sum.onnx", "--instances", "instances.csv"], ["--instances", "MODEL"]),
        (["sum.onnx", "--property", "hard.vnnlib"], ["hard.vnnlib", "24 inputs", "model has 2"]),
        (["sum.onnx", "--property", "none.vnnlib"], ["none.vnnlib"]),
        (["none.onnx", "--property", "holds.vnnlib"], ["none.onnx"]),
        (["holds.vnnlib", "--property", "holds.vnnlib"], ["neither an ONNX file"]),
        (["sum.onnx", "--data", "wide.npz", "--eps", 0], ["[3]", "[2]"]),
        (["sum.onnx", "--data", "none.npz", "--eps", 0], ["none.npz"]),
        (["sum.onnx", "--property", "holds.vnnlib", "--json", "sum.onnx"], ["no report", "sum.onnx"]),
        (["sum.onnx", "--property", "holds.vnnlib", "--json", "sum.onnx/report.json"], ["No report", "sum.onnx"]),
        (["--instances", "none.csv"], ["none.csv"]),
        (["--instances", "columns.csv"], ["columns.csv", "row 1"]),
        (["--instances", "gone.csv"], ["gone.csv", "row 2", "gone.onnx"]),
        (["--instances", "empty.csv"], ["empty.csv", "no rows"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_mistake_is_one_sentence(edgectl: Edgectl, arguments: list[object], words: list[str], tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    np.savez(tmp_path / "data.npz", x=np.zeros((1, 2)), y=np.array([1]))
    np.savez(tmp_path / "wide.npz", x=np.zeros((1, 3)), y=np.array([1]))
    (tmp_path / "columns.csv").write_text("sum.onnx,holds.vnnlib")
    (tmp_path / "gone.csv").write_text("sum.onnx,holds.vnnlib,1\ngone.onnx,holds.vnnlib,1")
    (tmp_path / "empty.csv").write_text("\n")
    files = sorted(tmp_path.iterdir())
    assert_one_sentence(bad(edgectl, tmp_path, *arguments), *words)
    assert sorted(tmp_path.iterdir()) == files


def test_without_onnx_the_extra_is_named(
    edgectl: Edgectl, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prop = write_property(tmp_path / "holds.vnnlib", 0.7)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_one_sentence(edgectl("verify", network, "--property", prop), "pip install 'edgectl[verify]'")
