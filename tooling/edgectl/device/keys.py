"""The RSA key that phones know this computer by, in the place adb keeps it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from adb_shell.auth.keygen import keygen, write_public_keyfile
from adb_shell.auth.sign_pythonrsa import PythonRSASigner

from edgectl.errors import ToolError


def key_path() -> Path:
    """`adbkey` in `$ANDROID_USER_HOME`, or in `.android` under `$HOME`: the same file that adb uses."""
    chosen = os.environ.get("ANDROID_USER_HOME")
    return (Path(chosen) if chosen else Path.home() / ".android") / "adbkey"


def signer() -> PythonRSASigner:
    """Signs a device's challenge with this computer's key, which is made when there is none.

    Raises:
        ToolError: the key cannot be read or written.
    """
    path = key_path()
    public = path.with_name("adbkey.pub")
    try:
        if not path.exists():
            _make(path)
        if not public.exists():
            write_public_keyfile(str(path), str(public))
        return PythonRSASigner(public.read_text(encoding="utf-8"), path.read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ToolError(f"reading the adb key {path}", f"{error}: move it away, a new one will be made") from error


def _make(path: Path) -> None:
    """Writes a new key pair; of two processes doing so at once, the first one's key is kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / "adbkey"
        keygen(str(fresh))
        fresh.chmod(0o600)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return
        fresh.with_name("adbkey.pub").replace(path.with_name("adbkey.pub"))
