"""Where LiteRT's library is: in the installed wheel for this machine, in a fetched one for arm64."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from edgectl.errors import UserError
from edgectl.native.cmake import Progress
from edgectl.native.wheel import Wheel, fetched

LIBRARY = "libLiteRt.so"
_PACKAGE = "ai-edge-litert"
_FOLDER = "ai_edge_litert"


def version() -> str:
    """Version of the installed LiteRT.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError("LiteRT is not installed: run `pip install 'edgectl[litert]'`.") from error


def installed() -> Path:
    """The folder of the installed package, which holds its library; found without importing it.

    Raises:
        UserError: it is not installed, or carries no library.
    """
    version()
    spec = importlib.util.find_spec(_FOLDER)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / LIBRARY).is_file():
            return Path(folder)
    raise UserError("The installed LiteRT has no C library: install ai-edge-litert 2.3.0 or later from PyPI.")


def fetched_arm64(progress: Progress | None = None) -> Path:
    """The same folder for arm64 Linux, of the installed version; downloaded with pip the first time.

    Raises:
        ToolError: pip failed.
    """
    wheel = Wheel("LiteRT", _PACKAGE, version(), "manylinux_2_27_aarch64", (f"{_FOLDER}/{LIBRARY}",), f"{_FOLDER}/{LIBRARY}")
    return fetched(wheel, progress) / _FOLDER
