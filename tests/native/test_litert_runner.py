"""The runner of .tflite files: what it prints of a good run, and what it says is wrong with a bad one."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Model, RunRunner, refused
from .tflite_writer import TfliteWriter, plans_in, schema

OPS = schema.BuiltinOperator


@pytest.fixture(scope="module")
def input_file(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "x.npy"
    np.save(path, small.x)
    return path


def test_a_run_agrees_with_pytorch_and_describes_itself(
    litert_runner: RunRunner, small_tflite: Model, input_file: Path, tmp_path: Path
) -> None:
    arguments = ["--input", input_file, "--output", tmp_path / "y", "--warmup", "2", "--runs", "3", "--threads", "2"]
    code, document = litert_runner("--model", small_tflite.path, *arguments)
    assert code == 0, document
    assert (document["version"], document["threads"], document["warmup"]) == (1, 2, 2)
    assert len(document["runs_ns"]) == 3
    assert min(document["load_ns"], *document["runs_ns"], document["peak_rss_kb"]) > 0
    assert document["inputs"] == [{"shape": [1, 3, 16, 16], "dtype": "float32"}]
    assert document["outputs"] == [{"shape": [1, 4], "dtype": "float32", "path": str(tmp_path / "y_0.npy")}]
    np.testing.assert_allclose(np.load(tmp_path / "y_0.npy"), small_tflite.y, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_model_with_three_kinds_of_operators_agrees_with_pytorch(
    litert_runner: RunRunner, mixed_tflite: Model, input_file: Path, tmp_path: Path, threads: int
) -> None:
    arguments = ["--input", input_file, "--output", tmp_path / "y", "--runs", "2", "--threads", threads]
    code, document = litert_runner("--model", mixed_tflite.path, *arguments)
    assert code == 0, document
    np.testing.assert_allclose(np.load(tmp_path / "y_0.npy"), mixed_tflite.y, atol=1e-4)


def test_inputs_that_are_not_given_are_zeros_and_one_thread_is_used(
    litert_runner: RunRunner, small_tflite: Model, tmp_path: Path
) -> None:
    zeros = tmp_path / "zeros.npy"
    np.save(zeros, np.zeros_like(small_tflite.x))
    code, document = litert_runner("--model", small_tflite.path, "--output", tmp_path / "a")
    assert (code, document["threads"]) == (0, 1)
    assert litert_runner("--model", small_tflite.path, "--input", zeros, "--output", tmp_path / "b").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a_0.npy"), np.load(tmp_path / "b_0.npy"))


def test_the_profile_lists_what_ran_in_order_and_who_ran_it(
    litert_runner: RunRunner, mixed_tflite: Model, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.json"
    code, document = litert_runner("--model", mixed_tflite.path, "--runs", "3", "--warmup", "2", "--profile", profile)
    assert code == 0, document
    recorded = json.loads(profile.read_text())
    assert recorded["version"] == 1
    assert [run["total_ns"] for run in recorded["runs"]] == document["runs_ns"]
    for run in recorded["runs"]:
        ran = list(dict.fromkeys((event["name"], event["runner"]) for event in run["events"]))
        assert ran == [("stem", "edge"), ("TanH (NC)", "xnnpack"), ("CUMSUM", "litert"), ("head", "edge")]
        assert 0 < sum(event["ns"] for event in run["events"]) <= run["total_ns"]


def test_a_model_without_an_op_of_ours_runs_and_is_profiled(litert_runner: RunRunner, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = TfliteWriter()
    x, y, z = writer.tensor([1, 8, 8, 4]), writer.tensor([1, 8, 8, 6]), writer.tensor([1, 8, 8, 6])
    weights = writer.tensor([6, 3, 3, 4], data=rng.standard_normal((6, 3, 3, 4)))
    bias = writer.tensor([6], data=np.zeros(6))
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    writer.op(OPS.CONV_2D, [x, weights, bias], [y], options)
    writer.op(OPS.CUMSUM, [y, writer.tensor([], "int32", np.array(1))], [z], schema.CumsumOptionsT())
    path = writer.write(tmp_path / "foreign.tflite", [x], [z, y])
    profile = tmp_path / "profile.json"
    code, document = litert_runner("--model", path, "--profile", profile)
    assert code == 0, document
    assert [output["shape"] for output in document["outputs"]] == [[1, 8, 8, 6], [1, 8, 8, 6]]
    (run,) = json.loads(profile.read_text())["runs"]
    (conv, *others) = run["events"]
    assert conv["runner"] == "xnnpack"
    assert conv["name"].startswith("Convolution (NHWC, F32)")
    assert [(event["name"], event["runner"]) for event in others] == [("CUMSUM", "litert")]


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8", "bool"])
def test_tensors_of_other_types_are_zeros_in_and_npy_out(
    litert_runner: RunRunner, input_file: Path, tmp_path: Path, dtype: str
) -> None:
    writer = TfliteWriter()
    x, y = writer.tensor([2, 3], dtype), writer.tensor([3, 2], dtype)
    writer.op(OPS.TRANSPOSE, [x, writer.tensor([2], "int32", np.array([1, 0]))], [y], schema.TransposeOptionsT())
    path = writer.write(tmp_path / "types.tflite", [x], [y])
    code, document = litert_runner("--model", path, "--output", tmp_path / "y")
    assert code == 0, document
    assert document["inputs"] == [{"shape": [2, 3], "dtype": dtype}]
    written = np.load(tmp_path / "y_0.npy")
    assert (written.dtype, written.shape, written.any()) == (np.dtype(dtype), (3, 2), False)
    refused(litert_runner("--model", path, "--input", input_file), "inputs", f"is {dtype}; only float32")


def test_a_wrong_command_line_input_or_output_is_refused(
    litert_runner: RunRunner, small_tflite: Model, input_file: Path, tmp_path: Path
) -> None:
    model = ["--model", small_tflite.path]
    refused(litert_runner("--modle", "x"), "usage", "--modle")
    refused(litert_runner(*model, "--etdump", "x"), "usage", "--etdump")
    refused(litert_runner(*model, "--input", input_file, "--input", input_file), "inputs", "takes 1 input")
    refused(litert_runner(*model, "--input", tmp_path / "none.npy"), "inputs", "No such file")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    refused(litert_runner(*model, "--input", tmp_path / "x.npy"), "inputs", "(1, 3, 8, 8)")
    refused(litert_runner(*model, "--output", tmp_path / "none" / "y"), "output", "cannot be created")
    refused(litert_runner(*model, "--profile", "/dev/full"), "output", "cannot be written")


def test_what_is_not_a_model_is_refused(litert_runner: RunRunner, small: Model, small_tflite: Model, tmp_path: Path) -> None:
    not_one = "is not a model that LiteRT can read"
    refused(litert_runner("--model", tmp_path / "none.tflite"), "load", "no readable model")
    refused(litert_runner("--model", tmp_path), "load", not_one)
    refused(litert_runner("--model", small.path), "load", not_one)
    whole = small_tflite.path.read_bytes()
    path = tmp_path / "model.tflite"
    for length in [*range(0, 200, 7), *range(200, len(whole), 509), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(litert_runner("--model", path), "load", not_one)


def test_an_op_that_neither_side_knows_is_named(litert_runner: RunRunner, tmp_path: Path) -> None:
    for code, name in (("FishOp", "FishOp"), (OPS.STABLEHLO_CBRT, "STABLEHLO_CBRT"), (5000, "5000")):
        writer = TfliteWriter()
        x, y = writer.tensor([4]), writer.tensor([4])
        writer.op(code, [x], [y])
        path = writer.write(tmp_path / "unknown.tflite", [x], [y])
        refused(litert_runner("--model", path), "load", name)


def test_a_plan_of_another_version_is_refused(litert_runner: RunRunner, small: Model, tmp_path: Path) -> None:
    (plan,) = plans_in(small.path.read_bytes())
    writer = TfliteWriter()
    x, y = writer.tensor(small.x.shape), writer.tensor(small.y.shape)
    writer.plan(plan[:8] + b"\x63" + plan[9:], [x], [y])
    refused(litert_runner("--model", writer.write(tmp_path / "newer.tflite", [x], [y])), "load", "another format version")


def test_an_op_that_does_not_fit_its_plan_is_refused(litert_runner: RunRunner, small: Model, tmp_path: Path) -> None:
    (plan,) = plans_in(small.path.read_bytes())
    for x_shape, y_shape, words in (
        ([1, 3, 16, 15], [1, 4], "input 0 has 720 elements"),
        ([1, 3, 16, 16], [1, 5], "output 0 has 5 elements"),
    ):
        writer = TfliteWriter()
        x, y = writer.tensor(x_shape), writer.tensor(y_shape)
        writer.plan(plan, [x], [y])
        refused(litert_runner("--model", writer.write(tmp_path / "other.tflite", [x], [y])), "load", words)


Change = Callable[[TfliteWriter], Any]


def outside(writer: TfliteWriter) -> None:
    writer.model.buffers[1].data = None
    writer.model.buffers[1].offset, writer.model.buffers[1].size = 1 << 40, 64


def signature(subgraph: int, tensor: int) -> Change:
    def add(writer: TfliteWriter) -> None:
        made, name = schema.SignatureDefT(), schema.TensorMapT()
        made.signatureKey, made.subgraphIndex, made.inputs, made.outputs = "s", subgraph, [name], []
        name.name, name.tensorIndex = "x", tensor
        writer.model.signatureDefs = [made]

    return add


def metadata(writer: TfliteWriter) -> None:
    made = schema.MetadataT()
    made.name, made.buffer = "edgectl", 77
    writer.model.metadata = [made]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: setattr(w.graph.operators[0], "inputs", [0, 99]), "tensor that is not there"),
        (lambda w: setattr(w.graph.operators[0], "inputs", [0, -2]), "tensor that is not there"),
        (lambda w: setattr(w.graph.operators[0], "inputs", [-1, 2]), "lacks its first input"),
        (lambda w: setattr(w.graph.operators[0], "outputs", [-1]), "tensor that is not there"),
        (lambda w: setattr(w.graph.operators[0], "outputs", [2]), "writes over a constant"),
        (lambda w: setattr(w.graph.operators[0], "opcodeIndex", 9), "code that is not there"),
        (lambda w: setattr(w.graph.tensors[1], "buffer", 9), "buffer that is not there"),
        (lambda w: setattr(w.model, "subgraphs", []), "no graph"),
        (outside, "lies outside"),
        (signature(3, 0), "graph that is not there"),
        (signature(0, 77), "names other tensors"),
        (signature(0, 1), "names other tensors"),
        (metadata, "metadata"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(
    litert_runner: RunRunner, small: Model, tmp_path: Path, change: Change, words: str
) -> None:
    (plan,) = plans_in(small.path.read_bytes())
    writer = TfliteWriter()
    x, y = writer.tensor(small.x.shape), writer.tensor(small.y.shape)
    writer.plan(plan, [x], [y])
    change(writer)
    refused(litert_runner("--model", writer.write(tmp_path / "model.tflite", [x], [y])), "load", words)


def corrupt(rng: random.Random, data: bytes) -> bytes:
    """Cut short, noise, changed bytes, or 32-bit words changed as an attacker would."""
    turn, changed = rng.randrange(5), bytearray(data)
    if turn == 0:
        return data[: rng.randrange(len(data))]
    if turn == 1:
        return data[:8] + rng.randbytes(rng.randrange(4000))
    if turn == 2:
        for _ in range(rng.choice([1, 4, 16])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    else:
        for _ in range(rng.choice([1, 2])):
            value = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), rng.randrange(-64, 64), rng.randrange(len(data))])
            struct.pack_into("<i", changed, 4 * rng.randrange(len(data) // 4), value)
    return bytes(changed)


def test_damaged_models_never_crash_the_runner(
    litert_runner: RunRunner, small_tflite: Model, mixed_tflite: Model, tmp_path: Path
) -> None:
    rng = random.Random(7)
    path = tmp_path / "damaged.tflite"
    whole: Sequence[bytes] = [model.path.read_bytes() for model in (small_tflite, mixed_tflite)]
    for turn in range(100):
        path.write_bytes(corrupt(rng, rng.choice(whole)))
        code, document = litert_runner("--model", path, "--warmup", "0")
        if code == 0:
            assert "outputs" in document
        else:
            assert code == 1, (turn, code)
            assert document["error"]["message"], (turn, document)
