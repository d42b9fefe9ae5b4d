"""Gathers a program for another machine with every shared library it needs, stripped."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from edgectl.errors import ToolError
from edgectl.native.toolchain import ARM64_TRIPLE, Toolchain

_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[([^\]/]+)\]")


def collect_with_libraries(program: Path, libraries: Path, chain: Toolchain, out: Path) -> None:
    """Copies `program` and, transitively, the libraries it needs into `out`.

    They come from the folder `libraries`, else from the compiler's own.

    Raises:
        ToolError: a library is in neither place.
    """
    pending = {program.name: program}
    while pending:
        name, path = pending.popitem()
        shutil.copy2(path, out / name)
        _tool("strip", "--strip-unneeded", str(out / name))
        for needed in _NEEDED.findall(_tool("readelf", "--dynamic", "--wide", str(path))):
            if needed in pending or (out / needed).exists():
                continue
            own = libraries / needed
            found = own if own.is_file() else chain.print_file(needed)
            if found is None:
                raise ToolError(f"gathering the libraries of {program.name}", f"{needed}, which {name} needs, is not there")
            pending[needed] = found
    for path in out.iterdir():
        path.chmod(0o755)


def _tool(name: str, *args: str) -> str:
    command = [f"{ARM64_TRIPLE}-{name}", *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except OSError as error:
        raise ToolError(f"running {command[0]}", str(error)) from error
    except subprocess.CalledProcessError as error:
        raise ToolError(f"running {command[0]}", error.stderr) from error
