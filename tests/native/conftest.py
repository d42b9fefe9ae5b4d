"""The runners built for this machine, and small real models compiled once for all native tests, in both formats."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.native import runner_bundle

from .tflite_writer import TfliteWriter, plans_in, schema


class Model(NamedTuple):
    """A compiled model with one input and what PyTorch makes of it."""

    path: Path
    x: np.ndarray
    y: np.ndarray


class Ended(NamedTuple):
    """How the runner ended: exit code and the document it printed."""

    code: int
    document: dict[str, Any]


RunRunner = Callable[..., Ended]


class Small(nn.Module):
    """Everything of it is ours; two layers, an activation and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid())
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(torch.relu(self.stem(x))).mean((2, 3)))


class Mixed(nn.Module):
    """Convolutions for our backend, a tanh for XNNPACK, a cumulative sum for ExecuTorch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cumsum(torch.tanh(self.stem(x)), 2))


def compile_to(path: Path, model: nn.Module) -> Model:
    from edgectl.lowering.compile import compile_module

    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    path.write_bytes(compile_module(model.eval(), x).program)
    with torch.no_grad():
        return Model(path, x.numpy(), model(x).numpy())


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    return compile_to(tmp_path_factory.mktemp("small") / "small.pte", Small())


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    return compile_to(tmp_path_factory.mktemp("mixed") / "mixed.pte", Mixed())


@pytest.fixture(scope="session")
def small_tflite(small: Model) -> Model:
    """`small` with its plan in a .tflite."""
    (plan,) = plans_in(small.path.read_bytes())
    writer = TfliteWriter()
    x, y = writer.tensor(small.x.shape), writer.tensor(small.y.shape)
    writer.plan(plan, [x], [y])
    return small._replace(path=writer.write(small.path.with_suffix(".tflite"), [x], [y]))


@pytest.fixture(scope="session")
def mixed_tflite(mixed: Model) -> Model:
    """`mixed` with its two plans in a .tflite, a tanh for XNNPACK and a cumulative sum for LiteRT between them."""
    stem, head = sorted(plans_in(mixed.path.read_bytes()), key=lambda plan: b"stem" not in plan)
    writer = TfliteWriter()
    x = writer.tensor(mixed.x.shape)
    a, b, c, y = (writer.tensor(mixed.y.shape) for _ in range(4))
    writer.plan(stem, [x], [a])
    writer.op(schema.BuiltinOperator.TANH, [a], [b])
    axis = writer.tensor([], "int32", np.array(2))
    writer.op(schema.BuiltinOperator.CUMSUM, [b, axis], [c], schema.CumsumOptionsT())
    writer.plan(head, [c], [y])
    return mixed._replace(path=writer.write(mixed.path.with_suffix(".tflite"), [x], [y]))


def run_program(command: Sequence[str | Path], cwd: Path | None = None) -> Ended:
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=120, check=False)
    return Ended(done.returncode, json.loads(done.stdout))


@pytest.fixture(scope="session")
def runner() -> RunRunner:
    """`runner("--model", path, ...)` on this machine."""
    program = runner_bundle("host").files["runner"]
    return lambda *arguments: run_program([program, *map(str, arguments)])


@pytest.fixture(scope="session")
def litert_runner() -> RunRunner:
    """`litert_runner("--model", path, ...)` on this machine."""
    program = runner_bundle("host", "litert").files["litert_runner"]
    return lambda *arguments: run_program([program, *map(str, arguments)])


def refused(ended: Ended, step: str, words: str) -> None:
    """The run failed at this step, with one sentence that holds these words."""
    assert ended.code == (2 if step == "usage" else 1), ended
    error = ended.document["error"]
    assert error["step"] == step, error
    assert words in error["message"], error
    assert error["message"].endswith("."), error
    assert "\n" not in error["message"], error
