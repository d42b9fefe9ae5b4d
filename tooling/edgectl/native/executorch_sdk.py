"""Where ExecuTorch's headers and libraries are: in the installed wheel for this machine, in a fetched one for arm64."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from edgectl.errors import UserError
from edgectl.native.cmake import Progress
from edgectl.native.wheel import Wheel, fetched


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

    Raises:
        ToolError: pip failed.
    """
    kept = ("executorch/include/", "executorch/lib/", "executorch/share/")
    proof = "executorch/lib/libexecutorch.so"
    return fetched(Wheel("ExecuTorch", "executorch", version(), "manylinux_2_28_aarch64", kept, proof), progress) / "executorch"
