"""What can be built: the backends of ExecuTorch and LiteRT, the runners with all they need, the kernels, the C++ tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl.errors import UserError
from edgectl.native import executorch_sdk, litert_sdk, toolchain
from edgectl.native.bundle import collect_with_libraries
from edgectl.native.cmake import Build, Progress, run
from edgectl.recipe import Format

RunnerTarget = Literal["host", "android-arm64"]

BACKEND_LIBRARY = "libedge_executorch_backend.so"
DELEGATE_LIBRARY = "libedge_litert_delegate.so"
_RUNNERS: dict[Format, str] = {"pte": "runner", "litert": "litert_runner"}
_LOADER = "ld-linux-aarch64.so.1"
_KERNEL_SOURCES = ("runtime_kernels/CMakeLists.txt", "runtime_kernels/include", "runtime_kernels/src")
_HARNESS_SOURCES = (*_KERNEL_SOURCES, "runtime_kernels/backends", "android_harness")
_GOOGLETEST = Path("/usr/src/googletest")


@dataclass(frozen=True)
class Bundle:
    """A runner and everything it needs on a device.

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
    return _harness("host", "pte", progress) / BACKEND_LIBRARY


def host_litert_delegate(progress: Progress | None = None) -> Path:
    """The shared library of the LiteRT delegate for this machine, for ``ai_edge_litert.interpreter.load_delegate``.

    Its one option is ``{"threads": "1"}``, up to 256.

    Raises:
        UserError: no compiler, cmake, ninja or LiteRT.
        ToolError: the build failed.
    """
    return _harness("host", "litert", progress) / DELEGATE_LIBRARY


def runner_bundle(target: RunnerTarget, format: Format = "pte", progress: Progress | None = None) -> Bundle:
    """The runner of models in a format, for this machine or for arm64.

    The host's runner finds the libraries of ExecuTorch or LiteRT where they are installed. The one for arm64 comes with
    its own loader, C library and framework, so that it needs nothing of the device but a Linux kernel. (On a real phone
    that has not been tried.)

    Raises:
        UserError: no compiler, cmake, ninja, or ExecuTorch or LiteRT.
        ToolError: the build, or the download of ExecuTorch or LiteRT for arm64, failed.
    """
    folder = _harness(target, format, progress)
    runner = _RUNNERS[format]
    if target == "host":
        return Bundle(folder, {runner: folder / runner}, [f"./{runner}"])
    files = {path.name: path for path in sorted(folder.iterdir())}
    return Bundle(folder, files, [f"./{_LOADER}", "--library-path", ".", f"./{runner}"])


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


def _harness(target: RunnerTarget, format: Format, progress: Progress | None) -> Path:
    """One build holds the runner and, on this machine, the library for the framework's Python package."""
    host = target == "host"
    chain = toolchain.host() if host else toolchain.arm64_linux()
    runner = _RUNNERS[format]
    if format == "pte":
        libraries = (executorch_sdk.installed() if host else executorch_sdk.fetched_arm64(progress)) / "lib"
        framework = f"-Dexecutorch_DIR={libraries / 'cmake' / 'executorch'}"
        version, product = executorch_sdk.version(), f"executorch_backend/{BACKEND_LIBRARY}"
    else:
        libraries = litert_sdk.installed() if host else litert_sdk.fetched_arm64(progress)
        framework = f"-DLITERT_LIBRARY={libraries / litert_sdk.LIBRARY}"
        version, product = litert_sdk.version(), f"litert_delegate/{DELEGATE_LIBRARY}"

    def keep(tree: Path, out: Path) -> None:
        if host:
            _copy(tree, out, runner, product)
        else:
            collect_with_libraries(tree / runner, libraries, chain, out)

    build = Build(
        what=f"the {runner} for {target}",
        name=target if format == "pte" else f"litert-{target}",
        toolchain=chain,
        project="android_harness",
        sources=_HARNESS_SOURCES,
        options=(f"-DEDGE_FORMAT={format}", framework),
        targets=(runner, product) if host else (runner,),
        keep=keep,
        depends=(version,),
    )
    return run(build, progress)


def _copy(tree: Path, out: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in sorted(tree.glob(pattern)):
            if path.is_file() and (path.suffix in {".a", ".so"} or path.stat().st_mode & 0o100):
                shutil.copy2(path, out / path.name)
