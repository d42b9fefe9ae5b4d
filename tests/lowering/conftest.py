"""Compiling a module and running it in this process through the real ExecuTorch runtime with the host's backend library."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgectl.lowering.compile import Compiled, compile_module
from edgectl.lowering.plan import OpKind
from edgectl.native import host_backend
from edgectl.recipe import TargetSpec

Runner = Callable[[bytes, torch.Tensor], list[torch.Tensor]]


@pytest.fixture(scope="session")
def run_pte(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """run_pte(bytes, input) -> outputs."""
    ctypes.CDLL(str(host_backend()), ctypes.RTLD_GLOBAL)
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    folder = tmp_path_factory.mktemp("pte")

    def run(pte: bytes, example: torch.Tensor) -> list[torch.Tensor]:
        path: Path = folder / "model.pte"
        path.write_bytes(pte)
        method = runtime.load_program(path).load_method("forward")
        return [output.clone() for output in method.execute([example])]

    return run


class Batch(nn.Module):
    """Many modules in one, each on its own piece of one flat input: exporting has a high fixed cost."""

    def __init__(self, cases: dict[str, tuple[nn.Module, torch.Tensor]]):
        super().__init__()
        self.cases = nn.ModuleList(module for module, _ in cases.values())
        self.shapes = [example.shape for _, example in cases.values()]
        self.example = torch.cat([example.flatten() for _, example in cases.values()])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs, at = [], 0
        for module, shape in zip(self.cases, self.shapes, strict=True):
            output = module(x[at : at + shape.numel()].reshape(shape))
            outputs += [output] if isinstance(output, torch.Tensor) else list(output)
            at += shape.numel()
        return tuple(outputs)


@pytest.fixture(scope="session")
def check(run_pte: Runner) -> Callable[..., Compiled]:
    """check(module, input) compiles, runs, compares with PyTorch and returns what was compiled."""

    def agree(
        model: nn.Module,
        example: torch.Tensor,
        tolerance: float = 1e-4,
        owned: bool = True,
        target: TargetSpec = TargetSpec(),  # noqa: B008
    ) -> Compiled:
        model = model.eval()
        compiled = compile_module(model, example, target=target)
        if owned:
            others = [p for p in compiled.placements if p.runner != "edge" and "slice" not in p.op]
            assert not others
        with torch.no_grad():
            expected = model(example)
        expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
        outputs = run_pte(compiled.program, example)
        assert [tuple(got.shape) for got in outputs] == [tuple(want.shape) for want in expected]
        errors = {i: relative_error(got, want) for i, (got, want) in enumerate(zip(outputs, expected, strict=True))}
        assert {i: error for i, error in errors.items() if not error <= tolerance} == {}
        return compiled

    return agree


@pytest.fixture(scope="session")
def check_all(check: Callable[..., Compiled]) -> Callable[..., Compiled]:
    """check_all({name: (module, input)}): the same for many modules at once."""

    def agree(cases: dict[str, tuple[nn.Module, torch.Tensor]], **options: Any) -> Compiled:
        batch = Batch(cases)
        return check(batch, batch.example, **options)

    return agree


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    return float((got - want).abs().max()) / max(float(want.abs().max()), 1e-6)


@pytest.fixture
def kinds() -> Callable[[Compiled], list[OpKind]]:
    """The operations of a module's plan, in the order they run."""
    n_ops, ops, op_size = 16, 48, 160  # where the plan's header has them (plan_format.h)

    def read(compiled: Compiled) -> list[OpKind]:
        plan = compiled.program[compiled.program.index(b"EDGEPLAN") :]
        (count,), (at,) = struct.unpack_from("<I", plan, n_ops), struct.unpack_from("<Q", plan, ops)
        return [OpKind(struct.unpack_from("<I", plan, at + i * op_size)[0]) for i in range(count)]

    return read
