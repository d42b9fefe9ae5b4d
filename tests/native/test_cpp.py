"""The C++ tests and the plan fuzzer, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgectl.native import build_tests


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    return build_tests(sanitize=True)


@pytest.mark.parametrize("name", ["edge_tests", "edge_conv_tests"])
def test_the_kernels_pass_their_own_tests_under_the_sanitizers(programs: dict[str, Path], name: str) -> None:
    done = subprocess.run([programs[name], "--gtest_brief=1"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
