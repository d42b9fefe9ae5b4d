"""Who works on a trial: a process that others on the same machine can tell the death of."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def this_worker() -> str:
    """This process: where it runs, its number, and when it began, since numbers are used again."""
    return f"{_place()} {os.getpid()} {_began(os.getpid())}"


def is_gone(worker: str) -> bool | None:
    """Whether a process that called itself `worker` has ended; None where that cannot be known from here."""
    place, _, process = worker.rpartition(" ")[0].partition(" ")
    if not place or place != _place():
        return None
    return _began(int(process)) != worker.rpartition(" ")[2]


def _place() -> str:
    """The machine since it was started, and the processes that can be seen on it; empty where there is no way to know."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _began(process: int) -> str:
    """When a process began, in clock ticks since the machine did; empty when it is no more, or a zombie."""
    try:
        state, *fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
