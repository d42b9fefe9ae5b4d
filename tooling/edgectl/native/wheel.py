"""Fetches the part of a Python wheel for another machine that is not Python."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgectl.errors import ToolError
from edgectl.native.cmake import Progress, lock, publish, silent, stream
from edgectl.paths import cache_root


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index, and what of it is wanted.

    Args:
        what: the package in words.
        package: its name on the index.
        version: which one.
        platform: pip's name of the machine it is for.
        kept: what the names of the wanted files begin with.
        proof: a file that must be among them.
    """

    what: str
    package: str
    version: str
    platform: str
    kept: tuple[str, ...]
    proof: str


def fetched(wheel: Wheel, progress: Progress | None = None) -> Path:
    """The folder with the wanted files of the wheel; downloaded with pip the first time.

    The wheel is made for one version of Python, but its C++ libraries use none.

    Raises:
        ToolError: pip failed, or the files are not in the wheel.
    """
    report = progress or silent
    wheels = cache_root() / "native" / "wheels"
    folder = wheels / f"{wheel.package}-{wheel.version}-aarch64"
    if folder.is_dir():
        return folder
    wheels.mkdir(parents=True, exist_ok=True)
    with lock(wheels / "lock", f"waiting for another process that downloads {wheel.what} for arm64", report):
        if not folder.is_dir():
            report(_step(wheel), None)
            publish(folder, lambda out: _download(wheel, out))
    return folder


def _step(wheel: Wheel) -> str:
    return f"downloading {wheel.what} {wheel.version} for arm64"


def _download(wheel: Wheel, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", f"{wheel.package}=={wheel.version}"]
        command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--platform", wheel.platform]
        stream([*command, "--progress-bar", "off", "--dest", temporary], _step(wheel), lambda line: None)
        wheels = list(Path(temporary).glob("*.whl"))
        if len(wheels) != 1:
            raise ToolError(_step(wheel), "pip left no wheel")
        try:
            with zipfile.ZipFile(wheels[0]) as archive:
                archive.extractall(out, [name for name in archive.namelist() if name.startswith(wheel.kept)])
        except zipfile.BadZipFile as error:
            raise ToolError(_step(wheel), str(error)) from error
    if not (out / wheel.proof).is_file():
        raise ToolError(_step(wheel), "the wheel has no C++ libraries")
