"""The C++ tests and the plan fuzzer, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgectl.native import build_tests

from .conftest import Model


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    return build_tests(sanitize=True)


@pytest.mark.parametrize("name", ["edge_tests", "edge_conv_tests"])
def test_the_kernels_pass_their_own_tests_under_the_sanitizers(programs: dict[str, Path], name: str) -> None:
    done = subprocess.run([programs[name], "--gtest_brief=1"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_20000_damaged_plans_are_refused_or_run_but_never_crash(programs: dict[str, Path]) -> None:
    done = subprocess.run(
        [programs["edge_fuzz_plan"], "--self", "20000", "1"], capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_damaged_plans_of_a_compiled_model_are_refused_or_run(programs: dict[str, Path], small: Model, tmp_path: Path) -> None:
    data = small.path.read_bytes()
    start = data.index(b"EDGEPLAN")
    size = int.from_bytes(data[start + 32 : start + 40], "little")  # Header::total_size
    plan = tmp_path / "small.plan"
    plan.write_bytes(data[start : start + size])
    done = subprocess.run(
        [programs["edge_fuzz_plan"], plan, "2000", "2"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
