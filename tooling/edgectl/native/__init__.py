"""Builds the C++ parts with CMake and Ninja, cached by content: ExecuTorch backend, runner, kernels, tests."""

from edgectl.native.cmake import Progress
from edgectl.native.products import (
    Bundle,
    RunnerTarget,
    build_tests,
    host_backend,
    kernels_library,
    runner_bundle,
)

__all__ = ["Bundle", "Progress", "RunnerTarget", "build_tests", "host_backend", "kernels_library", "runner_bundle"]
