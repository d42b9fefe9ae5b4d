"""Where edgectl finds its C++ sources and keeps what it builds."""

from __future__ import annotations

import os
from pathlib import Path


def source_root() -> Path:
    """The folder that holds ``runtime_kernels`` and ``android_harness``: the checkout, or what the wheel carries."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1]
    return checkout if (checkout / "runtime_kernels").is_dir() else package / "_sources"


def cache_root() -> Path:
    """``$EDGECTL_CACHE``, or ``edgectl`` under ``$XDG_CACHE_HOME`` or ``~/.cache``. Everything in it can be rebuilt."""
    chosen = os.environ.get("EDGECTL_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgectl"


def state_root() -> Path:
    """``$EDGECTL_HOME``, or ``edgectl`` under ``$XDG_STATE_HOME`` or ``~/.local/state``: history, running emulators."""
    chosen = os.environ.get("EDGECTL_HOME")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgectl"


def owner_is_gone(name: str) -> bool:
    """Whether the process whose number ends a temporary file's or folder's name, after a `-`, has ended."""
    pid = name.rpartition("-")[2]
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError, OverflowError):
        return False
    return False
