"""Builds the C++ parts with CMake and Ninja, cached by content: backends of ExecuTorch and LiteRT, runners, kernels."""

from edgectl.native.cmake import Progress
from edgectl.native.products import (
    Bundle,
    RunnerTarget,
    build_tests,
    host_backend,
    host_litert_delegate,
    kernels_library,
    runner_bundle,
)

__all__ = [
    "Bundle",
    "Progress",
    "RunnerTarget",
    "build_tests",
    "host_backend",
    "host_litert_delegate",
    "kernels_library",
    "runner_bundle",
]
