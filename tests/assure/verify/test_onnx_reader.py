"""ONNX files are read as onnxruntime runs them, or refused in a sentence that names what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgectl.assure.verify.models import open_model
from edgectl.assure.verify.onnx_reader import read_onnx
from edgectl.errors import UserError

IMAGE = (1, 4, 7, 6)
GENERATOR = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def node(kind: str, *inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def model(nodes: list[Any], constants: dict[str, np.ndarray], shape: Any = IMAGE, opset: int = 13) -> onnx.ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


W = {"w": random(8, 4, 3, 3), "b": random(8)}
CASES: dict[str, tuple[list[Any], dict[str, np.ndarray], Any, int]] = {
    "gemm": (
        [node("Gemm", "x", "w", "b", transB=1, alpha=0.5, beta=2.0)], {"w": random(3, 5), "b": random(3)}, (1, 5), 13
    ),
    "gemm without bias": ([node("Gemm", "x", "w")], {"w": random(5, 3)}, (1, 5), 13),
    "a batch of any size": ([node("Gemm", "x", "w")], {"w": random(5, 3)}, ("n", 5), 13),
    "row times matrix": ([node("MatMul", "x", "w")], {"w": random(5, 3)}, (1, 1, 5), 13),
    "matrix times column": ([node("MatMul", "w", "x")], {"w": random(3, 5)}, (1, 5, 1), 13),
    "convolution": ([node("Conv", "x", "w", "b", strides=[2, 1], dilations=[1, 2], pads=[1, 2, 1, 2])], W, IMAGE, 13),
    "uneven padding": ([node("Conv", "x", "w", pads=[0, 1, 2, 1])], W, IMAGE, 13),
    "padding to the same size": ([node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2])], W, IMAGE, 13),
    "padding to the same size, before": ([node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2])], W, IMAGE, 13),
    "groups": ([node("Conv", "x", "w", group=2)], {"w": random(6, 2, 3, 2)}, IMAGE, 13),
    "batch norm": (
        [node("BatchNormalization", "x", "g", "b", "m", "v", epsilon=1e-3)],
        {"g": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4)) + 0.1}, IMAGE, 13,
    ),
    "leaky relu": ([node("LeakyRelu", "x", alpha=0.2)], {}, IMAGE, 13),
    "clip": ([node("Clip", "x", "low", "high")], {"low": np.float32(-0.5), "high": np.float32(0.7)}, IMAGE, 13),
    "clip from above": ([node("Clip", "x", "", "high")], {"high": np.float32(0.3)}, IMAGE, 13),
    "clip of an old version": ([node("Clip", "x", min=0.0, max=6.0)], {}, IMAGE, 9),
    "a constant less the input": ([node("Sub", "c", "x")], {"c": random(1, 4, 1, 1)}, IMAGE, 13),
    "the input less a constant": ([node("Sub", "x", "c")], {"c": random(6)}, IMAGE, 13),
    "arithmetic": (
        [node("Mul", "x", "c", output="a"), node("Div", "a", "d", output="q"), node("Add", "d", "q", output="n"),
         node("Neg", "n")],
        {"c": random(4, 1, 1), "d": random(1) + 3}, IMAGE, 13,
    ),
    "residual": (
        [node("Conv", "x", "w", pads=[1, 1, 1, 1], output="c"), node("Relu", "c", output="r"),
         node("Add", "r", "x", output="s"), node("Sub", "s", "c")],
        {"w": random(4, 4, 3, 3)}, IMAGE, 13,
    ),
    "concatenation": (
        [node("Relu", "x", output="r"), node("Concat", "r", "x", axis=1, output="c"), node("Concat", "c", "c", axis=-1)],
        {}, IMAGE, 13,
    ),
    "flatten": ([node("Flatten", "x", axis=2)], {}, (1, 1, 7, 6), 13),
    "reshape": ([node("Reshape", "x", "s", output="f"), node("Gemm", "f", "w")],
                {"s": integers(0, -1), "w": random(168, 3)}, IMAGE, 13),
    "a shape that is computed": (
        [node("Shape", "x", output="all"), node("Gather", "all", "zero", output="n"),
         node("Unsqueeze", "n", "axis", output="batch"), node("Concat", "batch", "rest", axis=0, output="shape"),
         node("Reshape", "x", "shape")],
        {"zero": np.array(0, np.int64), "axis": integers(0), "rest": integers(-1)}, IMAGE, 13,
    ),
    "squeeze and unsqueeze": (
        [node("Squeeze", "x", "a", output="s"), node("Relu", "s", output="r"), node("Unsqueeze", "r", "b")],
        {"a": integers(1, 3), "b": integers(0, 2)}, (1, 1, 5, 1), 13,
    ),
    "transpose": ([node("Transpose", "x", perm=[0, 2, 3, 1])], {}, IMAGE, 13),
    "a transpose that moves the batch": ([node("Transpose", "x", perm=[2, 0, 1])], {}, (1, 3, 5), 13),
    "pad": ([node("Pad", "x", "p", "v")],
            {"p": integers(0, 0, 1, 2, 0, 0, 0, 3), "v": np.float32(0.5)}, IMAGE, 13),
    "average pool": ([node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])], {}, IMAGE, 13),
    "average pool that counts its padding": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 0, 0, 1], count_include_pad=1)], {}, IMAGE, 13
    ),
    "mean of all pixels": ([node("GlobalAveragePool", "x")], {}, IMAGE, 13),
    "mean over axes": ([node("ReduceMean", "x", axes=[2, 3], keepdims=0)], {}, IMAGE, 13),
    "max pool": ([node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 1])], {}, IMAGE, 13),
    "what training leaves": ([node("Dropout", "x", output="d"), node("Identity", "d", output="i"), node("Relu", "i")],
                             {}, IMAGE, 13),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    nodes, constants, shape, opset = CASES[name]
    path = tmp_path / "model.onnx"
    onnx.save(model(nodes, constants, shape, opset), path)
    graph, _, data = read_onnx(path)
    x = random(*[1 if size == "n" else size for size in shape])
    (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    have = graph.forward(torch.from_numpy(x).double().reshape(1, *graph.input.shape)).numpy()
    assert have.size == want.size
    assert np.abs(have.reshape(want.shape) - want).max() < 1e-5


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        open_model(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        ([node("Softmax", "x")], {}, ["Softmax", "no relaxation"]),
        ([helper.make_node("Sigmoid", ["x"], ["y"], name="gate")], {}, ["Sigmoid", "gate"]),
        ([node("Mul", "x", "x")], {}, ["Mul", "computed"]),
        ([node("Conv", "x", "w", name="first")], {"w": np.full((1, 4, 1, 1), np.nan, np.float32)}, ["not finite", "first"]),
        ([node("MatMul", "x", "w")], {"w": random(6, 2)}, ["MatMul", "more than one row"]),
        ([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, ["MaxPool", "cut off"]),
        ([node("ConstantOfShape", "s", output="c"), node("Add", "x", "c")], {"s": integers(1 << 40)}, ["ConstantOfShape"]),
        ([node("Pad", "x", "p")], {"p": integers(0, 0, 0, 0, 0, 0, 1 << 40, 0)}, ["Pad"]),
        ([node("Identity", "x")], {}, ["nothing to verify"]),
        ([node("Relu", "missing")], {}, ["damaged"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_what_cannot_be_verified_is_named(nodes: list[Any], constants: Any, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, constants).SerializeToString())
    said = refusal(path)
    assert str(path) in said or "not finite" in said
    assert all(word in said for word in words), said


def test_weights_in_another_file_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model([node("Conv", "x", "w")], W), path, save_as_external_data=True, size_threshold=0, location="w.bin")
    (tmp_path / "w.bin").unlink()
    assert "another file" in refusal(path)


@pytest.mark.parametrize("shape", [(1, "c", 5, 5), (5,), (2, 5)], ids=str)
def test_an_input_without_one_fixed_sample_is_refused(shape: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model([node("Relu", "x")], {}, shape), path)
    assert "input" in refusal(path)


@pytest.mark.parametrize("damage", [b"", b"not a model", None], ids=["empty", "text", "cut short"])
def test_a_damaged_file_is_refused(damage: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([node("Conv", "x", "w", "b")], W).SerializeToString()[:700] if damage is None else damage)
    assert "is not a readable ONNX file" in refusal(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "There is no ONNX file" in refusal(tmp_path / "none.onnx")
