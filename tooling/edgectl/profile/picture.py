"""A picture that a command leaves: whether it can be made, its blank sheet, and its PNG file."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.errors import ToolError, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def check_picture(path: Path, option: str) -> None:
    """Refuses what cannot be drawn or written, before any work is done for it.

    Args:
        option: the one that named the file.

    Raises:
        UserError: matplotlib is missing, or the name does not end in .png, or is a folder's.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("Pictures are drawn by matplotlib, which is not installed: run `pip install edgectl[plots]`.")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError(f"{path} cannot be the picture: give {option} a file name that ends in .png.")


def sheet() -> tuple[Figure, Axes]:
    """An empty picture with a faint grid."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 6.5), dpi=120, layout="constrained")  # of its own, so on Agg, whatever the backend is
    axes = figure.add_subplot()
    axes.grid(which="both", color="gainsboro", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Figure, title: str, description: str) -> bytes:
    """A figure as PNG, with what it says of itself in the file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Title": title, "Description": description})
    return file.getvalue()


def write_picture(picture: bytes, path: Path) -> None:
    """Writes a picture into a file, whose folder is made; what stood there stays until the new one is whole.

    Raises:
        ToolError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(picture)
        partial.replace(path)
    except OSError as error:
        raise ToolError(f"writing {path}", error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
