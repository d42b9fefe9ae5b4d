"""The files of a data set by their names: in a folder, or in a .zip of the same."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from edgectl.errors import UserError

SPLITS = ("train", "test", "val")
_DEPTH = 3
_MOST_BYTES = 1 << 28


class Files:
    """The files at most three names deep under a folder or in a .zip. Reading is safe from several threads.

    In a .zip, one folder round everything may be there or not. Hidden files are left out.

    Attributes:
        data: the folder or .zip.
        names: sorted, with `/` between their parts.

    Raises:
        UserError: there is nothing at `data`, or it is neither a folder nor a readable .zip.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self._zip: zipfile.ZipFile | None = None
        self._inside = ""
        if data.is_dir():
            names = _names(data)
        elif data.is_file():
            try:
                self._zip = zipfile.ZipFile(data)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"{data} is neither a folder nor a readable .zip: {error}.") from error
            names = [name for name in self._zip.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
            tops = {name.partition("/")[0] for name in names}
            if len(tops) == 1 and not tops & set(SPLITS):
                self._inside = f"{tops.pop()}/"
                names = [name.removeprefix(self._inside) for name in names if name.startswith(self._inside)]
        else:
            raise UserError(f"There is no data at {data}.")
        self.names = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))

    def title(self, name: str) -> str:
        """What a message calls a file."""
        return f"{name} in {self.data}" if self._zip else str(self.data / name)

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            UserError: it cannot be read, or is larger than any file of a data set should be (256 MiB).
        """
        try:
            if self._zip is None:
                path = self.data / name
                size = path.stat().st_size
            else:
                size = self._zip.getinfo(self._inside + name).file_size
            if size > _MOST_BYTES:
                raise UserError(f"{self.title(name)} is larger than {_MOST_BYTES >> 20} MiB: it is refused.")
            return path.read_bytes() if self._zip is None else self._zip.read(self._inside + name)
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.title(name)} cannot be read: {error}.") from error


def _names(folder: Path) -> list[str]:
    names: list[str] = []
    for at, folders, files in os.walk(folder, followlinks=True):
        parts = Path(at).relative_to(folder).parts
        if len(parts) == _DEPTH - 1:
            folders.clear()
        names += ["/".join((*parts, file)) for file in files]
    return names
