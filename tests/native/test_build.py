"""The cached build: it builds once, again when something changed, never half, and says what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest

from edgectl import native
from edgectl.errors import ToolError, UserError
from edgectl.native import cmake, executorch_sdk, litert_sdk, toolchain
from edgectl.paths import source_root

LISTS = """
cmake_minimum_required(VERSION 3.28)
project(hello CXX)
add_executable(hello hello.cpp)
"""
SLOW_LISTS = LISTS + "add_custom_command(TARGET hello POST_BUILD COMMAND ${CMAKE_COMMAND} -E sleep 20)\n"

Project = Callable[[], cmake.Build]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one file, and a cache of the test's own."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(LISTS)
    (folder / "hello.cpp").write_text('#include <cstdio>\nint main() { std::puts("one"); }\n')
    monkeypatch.setattr(cmake, "source_root", lambda: folder)
    monkeypatch.setenv("EDGECTL_CACHE", str(tmp_path / "cache"))
    return folder


def hello() -> cmake.Build:
    return cmake.Build(
        what="hello",
        name="hello",
        toolchain=toolchain.host(),
        project=".",
        sources=("CMakeLists.txt", "hello.cpp"),
        options=(),
        targets=("hello",),
        keep=lambda tree, out: (tree / "hello").rename(out / "hello") and None,
    )


def say(folder: Path) -> str:
    return subprocess.run([folder / "hello"], capture_output=True, text=True, check=True).stdout


def products(sources: Path) -> list[Path]:
    """Finished or half-finished folders in the cache."""
    root = sources.parent / "cache" / "native"
    return [path for path in root.glob("*hello-*")] if root.is_dir() else []


def test_a_second_build_compiles_nothing_and_says_nothing(sources: Path) -> None:
    heard: list[tuple[str, float | None]] = []
    first = cmake.run(hello(), lambda message, fraction: heard.append((message, fraction)))
    assert heard[0] == ("configuring hello", None)
    assert heard[-1] == ("building hello", 1.0)
    written = (first / "hello").stat().st_mtime_ns
    heard.clear()
    assert cmake.run(hello(), lambda message, fraction: heard.append((message, fraction))) == first
    assert not heard
    assert (first / "hello").stat().st_mtime_ns == written


def test_an_edited_source_is_built_into_another_folder(sources: Path) -> None:
    first = cmake.run(hello())
    (sources / "hello.cpp").write_text('#include <cstdio>\nint main() { std::puts("two"); }\n')
    second = cmake.run(hello())
    assert second != first
    assert (say(first), say(second)) == ("one\n", "two\n")


def test_a_compiler_error_is_reported_with_its_line_and_leaves_nothing(sources: Path) -> None:
    good = (sources / "hello.cpp").read_text()
    (sources / "hello.cpp").write_text("int main() { return fish; }\n")
    with pytest.raises(ToolError, match="building hello") as caught:
        cmake.run(hello())
    assert "'fish' was not declared" in caught.value.detail
    assert not products(sources)
    (sources / "hello.cpp").write_text(good)
    assert say(cmake.run(hello())) == "one\n"


def build_elsewhere(sources: Path) -> subprocess.Popen[bytes]:
    """The same build in another process."""
    script = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); from native import test_build; from edgectl.native import cmake;"
        "cmake.source_root = lambda: pathlib.Path(sys.argv[2]); cmake.run(test_build.hello())"
    )
    tests = str(Path(__file__).parents[1])
    return subprocess.Popen([sys.executable, "-c", script, tests, str(sources)], stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_build_that_is_killed_leaves_nothing_half_made(sources: Path) -> None:
    (sources / "CMakeLists.txt").write_text(SLOW_LISTS)
    with build_elsewhere(sources) as other:
        wait_for(lambda: bool(list((sources.parent / "cache/native/trees").glob("*/hello"))))
        other.send_signal(signal.SIGKILL)
    assert not products(sources)
    (sources / "CMakeLists.txt").write_text(LISTS)
    assert say(cmake.run(hello())) == "one\n"


def test_a_build_that_is_interrupted_ends_its_compiler(sources: Path) -> None:
    (sources / "CMakeLists.txt").write_text(SLOW_LISTS)
    with build_elsewhere(sources) as other:
        wait_for(lambda: bool(list((sources.parent / "cache/native/trees").glob("*/hello"))))
        other.send_signal(signal.SIGINT)
        other.wait(timeout=10)
    assert not products(sources)
    left = subprocess.run(["pgrep", "-f", str(sources.parent / "cache")], capture_output=True, text=True, check=False)
    assert not left.stdout


def test_two_processes_share_one_build(sources: Path) -> None:
    with build_elsewhere(sources) as other:
        wait_for((sources.parent / "cache/native/trees").is_dir)
        heard: list[str] = []
        folder = cmake.run(hello(), lambda message, fraction: heard.append(message))
        assert other.wait(timeout=60) == 0
    assert heard == ["waiting for another process that builds hello"]
    assert products(sources) == [folder]


def test_builds_that_nobody_used_for_two_weeks_are_forgotten(sources: Path) -> None:
    first = cmake.run(hello())
    long_ago = time.time() - 15 * 24 * 3600
    os.utime(first, (long_ago, long_ago))
    (sources / "hello.cpp").write_text('#include <cstdio>\nint main() { std::puts("two"); }\n')
    second = cmake.run(hello())
    assert products(sources) == [second]


def test_a_missing_compiler_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="apt-get install g\\+\\+`"):
        native.host_backend()
    with pytest.raises(UserError, match="apt-get install g\\+\\+-aarch64-linux-gnu"):
        native.runner_bundle("android-arm64")


def test_a_missing_ndk_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(UserError, match="ANDROID_NDK_HOME"):
        native.kernels_library()


@pytest.mark.parametrize(("sdk", "package"), [("executorch_sdk", "torch"), ("litert_sdk", "ai_edge_litert.interpreter")])
def test_a_framework_is_found_without_importing_it(sdk: str, package: str) -> None:
    script = f"import sys; from edgectl.native import {sdk} as s; s.installed(); print('{package}' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("sdk", "what"), [(executorch_sdk, "ExecuTorch"), (litert_sdk, "LiteRT")])
def test_the_arm64_wheel_that_pip_cannot_get_is_reported(
    sdk: ModuleType, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGECTL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolError, match=f"downloading {what}"):
        sdk.fetched_arm64()
    assert [path.name for path in (tmp_path / "native/wheels").iterdir()] == ["lock"]


def test_without_litert_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    for build in (native.host_litert_delegate, lambda: native.runner_bundle("android-arm64", "litert")):
        with pytest.raises(UserError, match=r"LiteRT is not installed: run `pip install 'edgectl\[litert\]'`"):
            build()


def test_a_runner_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, delegate = native.host_backend(), native.host_litert_delegate()
    heard: list[str] = []
    assert native.host_backend(lambda message, fraction: heard.append(message)) == backend
    for format, library in (("pte", backend), ("litert", delegate)):
        bundle = native.runner_bundle("host", format, progress=lambda message, fraction: heard.append(message))
        (runner,) = bundle.files.values()
        assert runner.parent == library.parent
    assert not heard
    assert (source_root() / "runtime_kernels").is_dir()
