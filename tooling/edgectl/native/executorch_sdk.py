"""Where ExecuTorch's headers and libraries are: in the installed wheel for this machine, in a fetched one for arm64."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

from edgectl.errors import ToolError, UserError
from edgectl.native.cmake import Progress, lock, publish, silent, stream
from edgectl.paths import cache_root

_ARM64_PLATFORM = "manylinux_2_28_aarch64"
_KEPT = ("executorch/include/", "executorch/lib/", "executorch/share/")


def version() -> str:
    """Version of the installed ExecuTorch.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError("ExecuTorch is not installed: run `pip install edgectl`.") from error


def installed() -> Path:
    """The installed package's folder, found without importing it.

    Raises:
        UserError: it is not installed, or carries no C++ libraries.
    """
    version()
    spec = importlib.util.find_spec("executorch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "lib" / "libexecutorch.so").is_file():
            return Path(folder)
    raise UserError("The installed ExecuTorch has no C++ libraries: install version 1.5.1 or later from PyPI.")


def fetched_arm64(progress: Progress | None = None) -> Path:
    """The package's folder for arm64 Linux, of the installed version; downloaded with pip (18 MB) the first time.

    The wheel is made for one version of Python, but its C++ libraries use none.

    Raises:
        ToolError: pip failed.
    """
    report = progress or silent
    wanted = version()
    wheels = cache_root() / "native" / "wheels"
    folder = wheels / f"executorch-{wanted}-aarch64"
    if folder.is_dir():
        return folder / "executorch"
    wheels.mkdir(parents=True, exist_ok=True)
    with lock(wheels / "lock", "waiting for another process that downloads ExecuTorch for arm64", report):
        if not folder.is_dir():
            report(f"downloading ExecuTorch {wanted} for arm64", None)
            publish(folder, lambda out: _download(wanted, out))
    return folder / "executorch"


def _download(wanted: str, out: Path) -> None:
    step = f"downloading ExecuTorch {wanted} for arm64"
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", f"executorch=={wanted}"]
        command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--platform", _ARM64_PLATFORM]
        stream([*command, "--progress-bar", "off", "--dest", temporary], step, lambda line: None)
        wheels = list(Path(temporary).glob("*.whl"))
        if len(wheels) != 1:
            raise ToolError(step, "pip left no wheel")
        try:
            with zipfile.ZipFile(wheels[0]) as archive:
                archive.extractall(out, [name for name in archive.namelist() if name.startswith(_KEPT)])
        except zipfile.BadZipFile as error:
            raise ToolError(step, str(error)) from error
    if not (out / "executorch" / "lib" / "libexecutorch.so").is_file():
        raise ToolError(step, "the wheel has no C++ libraries")
