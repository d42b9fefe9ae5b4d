"""The compilers: this machine's own, Debian's and zig's for arm64 Linux, and Android's NDK."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.errors import ToolError, UserError

ARM64_TRIPLE = "aarch64-linux-gnu"


@dataclass(frozen=True)
class Toolchain:
    """How to compile for one kind of machine.

    Args:
        name: the target in words and in folder names, for example ``android-arm64``.
        compiler: the C++ compiler's command line, without flags of its own choosing.
        cmake_args: what CMake must be told besides the compiler.
        identity: what decides whether its output is the same: the compiler's version and the machine it compiles for.
    """

    name: str
    compiler: tuple[str, ...]
    cmake_args: tuple[str, ...]
    identity: str

    def print_file(self, file: str) -> Path | None:
        """Where the compiler keeps one of its libraries, for example ``libstdc++.so.6``; None when it has none such."""
        found = Path(_output([*self.compiler, f"-print-file-name={file}"]))
        return found.resolve() if found.is_absolute() and found.exists() else None


def host() -> Toolchain:
    """This machine's compiler: ``$CXX``, or g++.

    Raises:
        UserError: it is not installed.
    """
    compiler = _find(os.environ.get("CXX") or "g++", "g++")
    return Toolchain("host", (compiler,), (f"-DCMAKE_CXX_COMPILER={compiler}",), _identity([compiler]))


def arm64_linux() -> Toolchain:
    """Debian's cross compiler for arm64 Linux (glibc).

    Raises:
        UserError: it is not installed.
    """
    compiler = _find(f"{ARM64_TRIPLE}-g++", f"g++-{ARM64_TRIPLE}")
    return _cross("android-arm64", [compiler])


def arm64_static() -> Toolchain:
    """Zig's compiler with musl, for static arm64 programs: proof that the kernels lean on nothing of glibc or Debian.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    zig = Path(spec.origin).with_name("zig") if spec and spec.origin else None
    if zig is None or not zig.is_file():
        raise UserError("zig is missing: install it with `pip install ziglang`.")
    return _cross("arm64-static", [str(zig), "c++", "-target", "aarch64-linux-musl"], "-DCMAKE_EXE_LINKER_FLAGS=-static")


def _cross(name: str, compiler: Sequence[str], *args: str) -> Toolchain:
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    chosen = f"-DCMAKE_CXX_COMPILER={';'.join(compiler)}"
    return Toolchain(name, tuple(compiler), (*system, chosen, *args), _identity(compiler))


def ndk() -> Toolchain | None:
    """Android's NDK when ``$ANDROID_NDK_HOME`` names one, for API level 28 (Android 9) and up; else None.

    Not tried: no NDK can be had where this was written. It can build the kernels alone: the libraries in ExecuTorch's
    wheel are made for glibc and do not link with Android's own C library, so the runner is always built with Debian's
    compiler and carries its glibc along.

    Raises:
        UserError: the variable is set, but there is no NDK.
    """
    home = os.environ.get("ANDROID_NDK_HOME")
    if not home:
        return None
    file = Path(home) / "build" / "cmake" / "android.toolchain.cmake"
    if not file.is_file():
        raise UserError(f"ANDROID_NDK_HOME is {home}, but there is no NDK: it lacks build/cmake/android.toolchain.cmake.")
    properties = Path(home) / "source.properties"
    identity = f"NDK {properties.read_text(encoding='utf-8') if properties.is_file() else home}"
    args = (f"-DCMAKE_TOOLCHAIN_FILE={file}", "-DANDROID_ABI=arm64-v8a", "-DANDROID_PLATFORM=android-28")
    return Toolchain("ndk-arm64", (), args, identity)


def build_tool(name: str) -> str:
    """The path of ``cmake`` or ``ninja``: the one next to this Python first (they come from PyPI), then on ``$PATH``.

    Raises:
        UserError: it is not there.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(name)
    if found is None:
        raise UserError(f"{name} is missing: install it with `pip install cmake ninja`.")
    return found


def _find(command: str, package: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise UserError(f"The C++ compiler {command} is missing: install it with `apt-get install {package}`.")
    return found


def _identity(compiler: Sequence[str]) -> str:
    version = _output([*compiler, "--version"]).splitlines()[:1]
    machine = _output([*compiler, "-dumpmachine"])
    return " ".join([*version, machine])


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"asking {command[0]} for its version", str(error)) from error
    return done.stdout.strip()
