"""One CMake and Ninja build, cached by the content of everything that goes into it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.errors import ToolError
from edgectl.native.toolchain import Toolchain, build_tool
from edgectl.paths import cache_root, source_root

Progress = Callable[[str, float | None], None]

_STEP = re.compile(r"^\[(\d+)/(\d+)\] ")
_DETAIL_LINES = 25
_UNUSED_DAYS = 14


def silent(message: str, fraction: float | None) -> None:
    """The progress of one who does not want to know."""


@dataclass(frozen=True)
class Build:
    """What to build, and what of it to keep.

    Args:
        what: in words, for progress and errors: ``the runner for android-arm64``.
        name: begins the name of the folder in the cache.
        toolchain: compiles it.
        project: folder of its CMakeLists.txt, relative to the source root.
        sources: files and folders that its output depends on, relative to the source root.
        options: further arguments for CMake.
        targets: what Ninja builds.
        keep: makes the finished folder from the build tree: ``keep(tree, out)``.
        depends: versions of anything else that its output depends on.
    """

    what: str
    name: str
    toolchain: Toolchain
    project: str
    sources: tuple[str, ...]
    options: tuple[str, ...]
    targets: tuple[str, ...]
    keep: Callable[[Path, Path], None]
    depends: tuple[str, ...] = ()

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        return _digest([*self._settings(), *_contents(source_root(), self.sources)])

    def tree_key(self) -> str:
        """Hash of what a build tree cannot change after CMake has configured it."""
        return _digest([*self._settings(), str(source_root())])

    def _settings(self) -> list[str]:
        return [self.toolchain.identity, *self.toolchain.cmake_args, *self.options, *self.targets, *self.depends]


def run(build: Build, progress: Progress | None = None) -> Path:
    """Returns the folder with what the build keeps, building it first when anything that goes into it has changed.

    The build tree stays, so a change rebuilds only what it touches. The folder appears by one rename when it is
    complete; an interrupted build leaves none. Two processes do not build the same thing at once.

    Raises:
        ToolError: CMake or the compiler failed; the detail holds its last lines.
        UserError: cmake or ninja is missing.
    """
    report = progress or silent
    root = cache_root() / "native"
    done = root / f"{build.name}-{build.key()}"
    if _touch(done):
        return done
    root.mkdir(parents=True, exist_ok=True)
    with lock(root / f"{build.name}.lock", f"waiting for another process that builds {build.what}", report):
        tree = root / "trees" / f"{build.name}-{build.tree_key()}"
        key = build.key()
        while not _touch(root / f"{build.name}-{key}"):
            _compile(build, tree, report)
            compiled, key = key, build.key()
            if compiled == key:  # else a source was edited meanwhile
                publish(root / f"{build.name}-{key}", lambda out: build.keep(tree, out))
        done = root / f"{build.name}-{key}"
        _forget(root, build.name)
    return done


def publish(done: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder that is either complete or not there: fills a temporary one and renames it."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{done.name}-", dir=done.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        temporary.rename(done)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path, waiting: str, report: Progress) -> Iterator[None]:
    """Holds a file lock; says `waiting` once when another process holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(waiting, None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stream(command: Sequence[str], step: str, on_line: Callable[[str], None]) -> None:
    """Runs a command and hands over its output line by line; ends it when interrupted.

    Raises:
        ToolError: it failed; the detail holds its last lines.
    """
    environment = os.environ | {"NINJA_STATUS": "[%f/%t] ", "LC_ALL": "C"}
    tail: list[str] = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            on_line(line.rstrip())
            if not _STEP.match(line):
                tail = [*tail[1 - _DETAIL_LINES :], line.rstrip()]
        code = process.wait()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if code != 0:
        raise ToolError(step, "\n".join(tail) or f"{command[0]} ended with code {code}")


def _compile(build: Build, tree: Path, report: Progress) -> None:
    step = f"building {build.what}"

    def on_line(line: str) -> None:
        match = _STEP.match(line)
        if match:
            finished, total = int(match[1]), int(match[2])
            report(step, finished / total)

    if not (tree / "build.ninja").is_file():
        report(f"configuring {build.what}", None)
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        stream([build_tool("cmake"), *_configure_args(build, tree)], step, on_line)
    stream([build_tool("ninja"), "-C", str(tree), *build.targets], step, on_line)


def _configure_args(build: Build, tree: Path) -> list[str]:
    return [
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={build_tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Release",
        *build.toolchain.cmake_args,
        *build.options,
        "-S",
        str(source_root() / build.project),
        "-B",
        str(tree),
    ]


def _contents(root: Path, sources: Iterable[str]) -> Iterator[str]:
    for source in sources:
        start = root / source
        files = sorted(path for path in start.rglob("*") if path.is_file()) if start.is_dir() else [start]
        for path in files:
            if path.suffix != ".md":
                yield f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _touch(folder: Path) -> bool:
    """Marks a finished build as used now; False when there is none."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def _forget(root: Path, name: str) -> None:
    """Removes finished builds that nobody has used for two weeks."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{16}}")
    oldest = time.time() - _UNUSED_DAYS * 24 * 3600
    (root / "trees").mkdir(exist_ok=True)  # another process may just have cleared it
    for folder in [*root.iterdir(), *(root / "trees").iterdir()]:
        if pattern.fullmatch(folder.name) and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
