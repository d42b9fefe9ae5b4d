"""What a device is: four verbs (push, run, pull, describe) and the facts it tells about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from edgectl.errors import UserError

Progress = Callable[[str, float | None], None]
"""Called with a message and the fraction done in [0, 1], or None when it is not known."""

Clock = Literal["wall", "emulated-instructions", "emulated-wall"]
"""What a device's nanoseconds are.

`wall`: time on real silicon. `emulated-instructions`: the guest clock of our emulator counts executed instructions, one per
nanosecond. `emulated-wall`: any other emulated device (Android's own emulator, another virtual machine), whose time says
nothing about a phone: no latency may be reported from it.
"""


@dataclass(frozen=True)
class DeviceInfo:
    """Facts about a device. `governor` and `thermal` (zone type to degrees Celsius) are None where not readable."""

    name: str
    kind: Literal["host", "adb", "emulator"]
    model: str
    soc: str
    abi: str
    cores: int
    governor: str | None
    thermal: dict[str, float] | None
    kernel: str
    emulated: bool
    clock: Clock

    def require_latency_clock(self) -> Clock:
        """The clock to label measurements with.

        Raises:
            UserError: the device is emulated without an instruction clock, so its times must not be shown as latency.
        """
        if self.clock == "emulated-wall":
            raise UserError(
                f"{self.name} is an emulated device without an instruction clock, so its times say nothing about a phone: "
                "measure on a real device, on the host, or on `edgectl emulator start`."
            )
        return self.clock


@dataclass(frozen=True)
class UnusableDevice:
    """A device that was found but cannot be used, and the sentence that says why."""

    name: str
    kind: Literal["host", "adb", "emulator"]
    reason: str


@dataclass(frozen=True)
class PushResult:
    """Remote names of the files that were sent and that were there already, and the number of bytes sent."""

    pushed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True)
class RunResult:
    """How a command ended: exit code (128 + signal number when a signal ended it) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Device(Protocol):
    """Somewhere a model runs. All methods raise ToolError, naming the step, when the device fails or goes away."""

    name: str
    target: Literal["host", "android-arm64"]
    workdir: str
    """The folder on the device that edgectl owns; every `folder` below is relative to it."""

    def describe(self) -> DeviceInfo:
        """Asks the device about itself."""
        ...

    def push(self, files: Mapping[str, Path], folder: str, progress: Progress | None = None) -> PushResult:
        """Copies files (remote name to local path), skipping those whose SHA-256 already matches.

        A file is sent under a temporary name, verified, and only then renamed: what stands under its own name is whole.

        Raises:
            UserError: a local file is not there, or a name leaves the folder.
            ToolError: the device is offline, unauthorised, full, too slow, or went away.
        """
        ...

    def run(self, argv: Sequence[str], *, folder: str, timeout: float | None = None, label: str | None = None) -> RunResult:
        """Runs a command in a folder and waits for it; `label` names it in errors (default: its file name).

        Raises:
            ToolError: there is no such folder, the device went away, or `timeout` seconds passed (the command is killed).
        """
        ...

    def pull(self, remote: str, local: Path, folder: str) -> None:
        """Copies one file from a folder of the device; `local` is replaced only by a whole file."""
        ...


def checked_name(name: str) -> str:
    """A remote file or folder name that stays inside the work folder.

    Raises:
        UserError: it is empty, absolute, climbs with `..`, or holds a control character.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(ord(c) < 32 for c in name):
        raise UserError(f"{name!r} cannot be a name on a device: use a relative path without `..` or control characters.")
    return str(PurePosixPath(name))


def checked_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files to push with checked remote names.

    Raises:
        UserError: a local file is not there, or a remote name is refused.
    """
    for local in files.values():
        if not Path(local).is_file():
            raise UserError(f"There is no file {local} to push.")
    return {checked_name(name): Path(local) for name, local in files.items()}


def size_text(count: float) -> str:
    """Bytes for people: `12.3 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
