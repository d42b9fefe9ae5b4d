"""Models compiled to .tflite answer as PyTorch does, in LiteRT's own interpreter with our delegate; viewers can read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, load_delegate
from flatbuffers import flexbuffers
from torch import nn

from edgectl.compress.activations import quantise
from edgectl.errors import UserError
from edgectl.lowering import plan
from edgectl.lowering.compile import Compiled, compile_module
from edgectl.native import host_litert_delegate
from edgectl.recipe import QuantRule, TargetSpec
from edgectl.tflite import inputs_and_outputs

NCHW, NHWC = TargetSpec(format="litert"), TargetSpec(format="litert", layout="nhwc")

Run = Callable[[bytes, torch.Tensor], list[np.ndarray]]


class Mixed(nn.Module):
    """Three subgraphs of ours, between operations of which LiteRT has kernels; two outputs, a parameter that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.cumsum(torch.tanh(self.stem(x)), 2)
        y = y.permute(0, 1, 3, 2).reshape(1, 8, -1)[:, :, 8:].reshape(1, 8, -1, 11)
        return self.head(y * self.scale), y.sum(1)


@pytest.fixture(scope="module")
def run() -> Run:
    """run(bytes, input) -> outputs, in LiteRT's interpreter for Python."""
    delegate = str(host_litert_delegate())

    def outputs(content: bytes, example: torch.Tensor) -> list[np.ndarray]:
        interpreter = Interpreter(model_content=content, experimental_delegates=[load_delegate(delegate, {"threads": "2"})])
        interpreter.allocate_tensors()
        (taken,) = interpreter.get_input_details()
        interpreter.set_tensor(taken["index"], example.contiguous().numpy())
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]

    return outputs


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Mixed().eval(), torch.rand(1, 3, 16, 17)


def near(got: np.ndarray, want: torch.Tensor) -> None:
    assert got.shape == tuple(want.shape)
    assert np.abs(got - want.detach().numpy()).max() <= 1e-4 * float(want.detach().abs().max())


def runners(compiled: Compiled) -> dict[str, str]:
    return {placement.layer: placement.runner for placement in compiled.placements}


def test_what_the_backend_does_not_take_runs_in_litert(run: Run, mixed: tuple[nn.Module, torch.Tensor]) -> None:
    model, x = mixed
    compiled = compile_module(model, x, target=NCHW)
    assert {"stem": "edge", "tanh": "litert", "cumsum": "litert", "head": "edge", "sum": "litert"}.items() <= runners(
        compiled
    ).items()
    for got, want in zip(run(compiled.program, x), model(x), strict=True):
        near(got, want)


def test_images_can_be_channels_last(run: Run, mixed: tuple[nn.Module, torch.Tensor]) -> None:
    model, x = mixed
    image, other = run(compile_module(model, x, target=NHWC).program, x.permute(0, 2, 3, 1))
    near(image.transpose(0, 3, 1, 2), model(x)[0])
    near(other, model(x)[1])


def test_both_formats_have_the_same_layers(mixed: tuple[nn.Module, torch.Tensor]) -> None:
    model, x = mixed
    assert compile_module(model, x, target=NCHW).layers == compile_module(model, x).layers


def test_quantised_layers_run_around_what_litert_does(run: Run) -> None:
    """LiteRT reflects the border, in the middle of a quantised network."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    ]
    model, x = nn.Sequential(*layers).eval(), torch.rand(1, 3, 12, 12)
    rules = [QuantRule(match="*", weights="fixed", bits=8)]
    quantised = quantise(model, x, rules, [x])
    compiled = compile_module(quantised, x, target=NCHW)
    assert {placement.runner for placement in compiled.placements} == {"edge", "litert"}
    (got,) = run(compiled.program, x)
    want = quantised(x)
    assert np.abs(got - want.detach().numpy()).max() <= 0.05 * float(want.detach().abs().max())


def test_a_viewer_sees_the_layers_and_the_plans_version(tmp_path: Path, mixed: tuple[nn.Module, torch.Tensor]) -> None:
    model, x = mixed
    content = compile_module(model, x, target=NCHW).program
    file = schema.ModelT.InitFromPackedBuf(bytearray(content))
    (graph,) = file.subgraphs
    ours = [op for op in graph.operators if file.operatorCodes[op.opcodeIndex].customCode == b"EdgeKernels"]
    options = [flexbuffers.Loads(bytes(op.customOptions)) for op in ours]
    assert [option["plan_version"] for option in options] == [plan.VERSION] * len(ours)
    assert {"stem", "head"} <= {layer for option in options for layer in option["layers"]}
    (entry,) = [entry for entry in file.metadata if entry.name == b"edgectl"]
    assert json.loads(bytes(file.buffers[entry.buffer].data))["subgraphs"] == options
    at = [i for i in range(0, len(content), 64) if content[i : i + 8] == b"EDGEPLAN"]
    assert len(at) == content.count(b"EDGEPLAN") == len(ours)  # where they can be used in place
    (tmp_path / "model.tflite").write_bytes(content)
    inputs, outputs = inputs_and_outputs(tmp_path / "model.tflite")
    assert [tensor.shape for tensor in inputs] == [[1, 3, 16, 17]]
    assert [tensor.shape for tensor in outputs] == [list(output.shape) for output in model(x)]


class Counting(nn.Module):
    """Counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return x + self.runs


class Unknown(nn.Module):
    """An operation that LiteRT has no kernel for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_what_litert_cannot_do_is_one_sentence() -> None:
    x = torch.rand(1, 3, 4, 4)
    with pytest.raises(UserError, match="changes its own buffers"):
        compile_module(Counting().eval(), x, target=NCHW)
    with pytest.raises(UserError, match=r"LiteRT cannot run the model: .*bessel_j0"):
        compile_module(Unknown(), x, target=NCHW)


def damaged(content: bytes) -> list[bytes]:
    return [
        b"",
        content[:7],
        content[:40],
        content[: len(content) // 2],
        b"\0" * 64,
        content[:8] + b"\xff" * (len(content) - 8),
    ]


def test_a_damaged_file_is_one_sentence(tmp_path: Path, mixed: tuple[nn.Module, torch.Tensor]) -> None:
    content = compile_module(*mixed, target=NCHW).program
    for i, bad in enumerate(damaged(content)):
        file = tmp_path / f"{i}.tflite"
        file.write_bytes(bad)
        with pytest.raises(UserError, match=r"is not a \.tflite model|is damaged or cut short"):
            inputs_and_outputs(file)
