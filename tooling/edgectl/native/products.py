"""What can be built: the ExecuTorch backend, the runner with all it needs, the kernels' library, the C++ tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl.errors import UserError
from edgectl.native import executorch_sdk, toolchain
from edgectl.native.bundle import collect_with_libraries
from edgectl.native.cmake import Build, Progress, run

RunnerTarget = Literal["host", "android-arm64"]

BACKEND_LIBRARY = "libedge_executorch_backend.so"
_LOADER = "ld-linux-aarch64.so.1"
_KERNEL_SOURCES = ("runtime_kernels/CMakeLists.txt", "runtime_kernels/include", "runtime_kernels/src")
_HARNESS_SOURCES = (*_KERNEL_SOURCES, "runtime_kernels/backends/executorch", "android_harness")
_GOOGLETEST = Path("/usr/src/googletest")


@dataclass(frozen=True)
class Bundle:
    """The runner and everything it needs on a device.

    Args:
        folder: where it is on this machine.
        files: name on the device -> path here.
        command: how to start it in the folder it was pushed to; the runner's arguments follow.
    """

    folder: Path
    files: dict[str, Path]
    command: list[str]


def host_backend(progress: Progress | None = None) -> Path:
    """The shared library of the ExecuTorch backend for this machine.

    ``ctypes.CDLL(path, RTLD_GLOBAL)``, after ``executorch.runtime`` was imported, registers ``EdgeKernelsBackend``.

    Raises:
        UserError: no compiler, cmake, ninja or ExecuTorch.
        ToolError: the build failed.
    """
    return _harness("host", progress) / BACKEND_LIBRARY


def runner_bundle(target: RunnerTarget, progress: Progress | None = None) -> Bundle:
    """The runner for this machine or for arm64.

    The host's runner finds ExecuTorch's libraries where they are installed. The one for arm64 comes with its own
    loader, C library and ExecuTorch libraries, so that it needs nothing of the device but a Linux kernel. (On a real
    phone that has not been tried.)

    Raises:
        UserError: no compiler, cmake, ninja or ExecuTorch.
        ToolError: the build, or the download of ExecuTorch for arm64, failed.
    """
    folder = _harness(target, progress)
    if target == "host":
        return Bundle(folder, {"runner": folder / "runner"}, ["./runner"])
    files = {path.name: path for path in sorted(folder.iterdir())}
    return Bundle(folder, files, [f"./{_LOADER}", "--library-path", ".", "./runner"])


def kernels_library(progress: Progress | None = None) -> Path:
    """``libedge_kernels.a`` for arm64, to link into one's own program: by the NDK if there is one, else by Debian's.

    Raises:
        UserError: no compiler, cmake or ninja.
        ToolError: the build failed.
    """
    chain = toolchain.ndk() or toolchain.arm64_linux()
    folder = run(kernels(chain), progress)
    return folder / "libedge_kernels.a"


def kernels(chain: toolchain.Toolchain) -> Build:
    """The kernels alone, with any compiler."""
    return Build(
        what=f"the kernels for {chain.name}",
        name=f"kernels-{chain.name}",
        toolchain=chain,
        project="runtime_kernels",
        sources=_KERNEL_SOURCES,
        options=(),
        targets=("edge_kernels",),
        keep=lambda tree, out: _copy(tree, out, "libedge_kernels.a"),
    )


def build_tests(
    chain: toolchain.Toolchain | None = None, *, sanitize: bool = False, progress: Progress | None = None
) -> dict[str, Path]:
    """The C++ tests and the plan fuzzer: program's name -> path.

    Args:
        chain: compiles them; this machine's compiler when None.
        sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer.
        progress: told what is happening.

    Raises:
        UserError: no compiler, cmake, ninja or GoogleTest.
        ToolError: the build failed.
    """
    if not _GOOGLETEST.is_dir():
        raise UserError("GoogleTest is missing: install it with `apt-get install libgtest-dev`.")
    chain = chain or toolchain.host()
    options = ["-DEDGE_BUILD_TESTS=ON", f"-DEDGE_SANITIZE={'ON' if sanitize else 'OFF'}"]
    options += ["-DCMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE=PRE_TEST"]  # the build runs nothing
    if sanitize:
        options += ["-DCMAKE_CXX_FLAGS_RELEASE="]  # with asserts
    if chain.name != "host":
        options += [f"-DCMAKE_PROJECT_edge_kernels_INCLUDE={Path(__file__).with_name('googletest.cmake')}"]
    suffix = "-sanitized" if sanitize else ""
    build = Build(
        what=f"the C++ tests for {chain.name}" + (" with sanitizers" if sanitize else ""),
        name=f"tests-{chain.name}{suffix}",
        toolchain=chain,
        project="runtime_kernels",
        sources=(*_KERNEL_SOURCES, "runtime_kernels/tests"),
        options=tuple(options),
        targets=("all",),
        keep=lambda tree, out: _copy(tree / "tests", out, "edge_*"),
    )
    return {path.name: path for path in sorted(run(build, progress).iterdir())}


def _harness(target: RunnerTarget, progress: Progress | None) -> Path:
    if target == "host":
        chain, sdk = toolchain.host(), executorch_sdk.installed()
    else:
        chain, sdk = toolchain.arm64_linux(), executorch_sdk.fetched_arm64(progress)

    def keep(tree: Path, out: Path) -> None:
        if target == "host":
            _copy(tree, out, "runner", f"executorch_backend/{BACKEND_LIBRARY}")
        else:
            collect_with_libraries(tree / "runner", sdk / "lib", chain, out)

    build = Build(
        what=f"the runner for {target}",
        name=target,
        toolchain=chain,
        project="android_harness",
        sources=_HARNESS_SOURCES,
        options=(f"-Dexecutorch_DIR={sdk / 'lib' / 'cmake' / 'executorch'}",),
        targets=("runner", "edge_executorch_backend"),
        keep=keep,
        depends=(executorch_sdk.version(),),
    )
    return run(build, progress)


def _copy(tree: Path, out: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in sorted(tree.glob(pattern)):
            if path.is_file() and (path.suffix in {".a", ".so"} or path.stat().st_mode & 0o100):
                shutil.copy2(path, out / path.name)
