"""EdgeKernelsBackend inside ExecuTorch's Python runtime."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgectl.native import host_backend

from .conftest import Model


@pytest.fixture(scope="module")
def runtime() -> Any:
    """ExecuTorch's runtime with the backend's library loaded."""
    from executorch.runtime import Runtime

    ctypes.CDLL(str(host_backend()), ctypes.RTLD_GLOBAL)
    return Runtime.get()


def test_loading_the_library_registers_the_backend(runtime: Any) -> None:
    assert "EdgeKernelsBackend" in runtime.backend_registry.registered_backend_names


def test_a_model_agrees_with_pytorch(runtime: Any, small: Model) -> None:
    method = runtime.load_program(small.path).load_method("forward")
    for _ in range(2):
        (y,) = method.execute([torch.from_numpy(small.x)])
        np.testing.assert_allclose(y.numpy(), small.y, atol=1e-5)


def test_two_models_run_side_by_side(runtime: Any, small: Model, mixed: Model) -> None:
    first = runtime.load_program(small.path).load_method("forward")
    second = runtime.load_program(mixed.path).load_method("forward")
    for _ in range(2):
        for method, model in ((first, small), (second, mixed)):
            (y,) = method.execute([torch.from_numpy(model.x)])
            np.testing.assert_allclose(y.numpy(), model.y, atol=1e-4)


@pytest.mark.parametrize(("at", "value"), [(0, 0), (8, 99), (12, 0xFF), (40, 7)])
def test_a_damaged_plan_is_refused(runtime: Any, small: Model, tmp_path: Path, at: int, value: int) -> None:
    data = bytearray(small.path.read_bytes())
    data[data.index(b"EDGEPLAN") + at] = value
    path = tmp_path / "damaged.pte"
    path.write_bytes(data)
    with pytest.raises(RuntimeError):
        runtime.load_program(path).load_method("forward")


@pytest.mark.parametrize("threads", ["3", "6", "0", "fish"])
def test_edge_threads_chooses_the_number_of_threads(
    runtime: Any, small: Model, threads: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_THREADS", threads)
    before = set(os.listdir("/proc/self/task"))
    method = runtime.load_program(small.path).load_method("forward")
    started = set(os.listdir("/proc/self/task")) - before
    (y,) = method.execute([torch.from_numpy(small.x)])
    np.testing.assert_allclose(y.numpy(), small.y, atol=1e-5)
    if threads in {"3", "6"}:
        assert len(started) == int(threads) - 1
    else:
        assert "EDGE_THREADS" in capfd.readouterr().err
