"""Reads files of unknown origin whole, unpacked where their name ends in `.gz`, up to a limit."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from edgectl.errors import UserError


def read_limited(path: Path, what: str, most: int) -> bytes:
    """The bytes of a file, at most `most` of them; `what` names its kind in errors.

    Raises:
        UserError: it is missing, larger, or cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError as error:
        raise UserError(f"There is no {what} at {path}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if len(data) > most:
        raise UserError(f"{path} is larger than {most >> 20} MiB: it is refused.")
    return data
