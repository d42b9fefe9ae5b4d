"""Builds what the tests run, with progress, as part of setting up: runners for this machine and for arm64, the C++ tests."""

from __future__ import annotations

import sys

from edgectl.native import build_tests, host_backend, host_litert_delegate, runner_bundle
from edgectl.native.toolchain import arm64_static


def report(message: str, fraction: float | None) -> None:
    """One line that is overwritten on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message} {100 * (fraction or 0):3.0f} %", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    host_backend(report)
    host_litert_delegate(report)
    runner_bundle("android-arm64", "pte", report)
    runner_bundle("android-arm64", "litert", report)
    build_tests(sanitize=True, progress=report)
    build_tests(arm64_static(), progress=report)
    report("native builds are ready", 1.0)
    print(file=sys.stderr)
