"""Emulated arm64 phones: a real Linux and the real adbd under qemu, whose clock counts executed instructions."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from edgectl.device.adb import AdbDevice
from edgectl.device.base import Progress
from edgectl.device.connection import Connection, SteadyTcpTransport
from edgectl.device.image import Image, ensure_image
from edgectl.errors import ToolError, UserError
from edgectl.paths import state_root

DEFAULT = "default"
CPUS = {"cortex-a76": "cortex-a76", "max": "max,pauth-impdef=on"}
"""The processors to choose from, and qemu's options for them. `max` has all that qemu knows, i8mm among it."""
READY_S = 120.0
"""How long a boot may take on a busy machine; on an idle one it takes about four seconds."""

_QEMU = "qemu-system-aarch64"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PF_EXITING = 0x4  # in the flags of /proc/PID/stat
_ADB_SERVER_PORTS = range(5555, 5586)
"""An adb server scans these and would show the device twice."""


@dataclass(frozen=True)
class EmulatorState:
    """A started emulator: its qemu process (known by pid and start time, so that a reused pid is told apart) and port."""

    name: str
    pid: int
    started: int
    port: int
    memory_mb: int
    disk_mb: int
    cpu: str = "cortex-a76"


def start(
    name: str = DEFAULT,
    *,
    port: int | None = None,
    memory_mb: int = 1024,
    disk_mb: int = 512,
    cpu: str = "cortex-a76",
    progress: Progress | None = None,
) -> EmulatorState:
    """Boots an emulator and waits until adb answers; the image is built first when there is none.

    Args:
        name: several may run under different names.
        port: loopback port of its adb; a free one when None.
        memory_mb: the guest's memory in MiB.
        disk_mb: size of the guest's /data in MiB; it lives in the guest's memory.
        cpu: one of `CPUS`.
        progress: told what is being done.

    Raises:
        UserError: it runs already, the name or port cannot be used, qemu is missing.
        ToolError: the image cannot be built, or the guest does not come up.
    """
    _check(name, port, memory_mb, disk_mb, cpu)
    report = progress or (lambda message, fraction: None)
    image = ensure_image(report)
    report(f"booting emulator:{name}", None)
    for attempts_left in (2, 1, 0):
        with _locked():
            if running_state := _alive(name):
                raise UserError(_runs_already(running_state))
            left = _recorded(name)
            if left is not None:
                _kill(left)  # on its way out: it may still hold the port
            _forget(name)
            state, process = _spawn(name, port or _free_port(), memory_mb, disk_mb, cpu, image)
        try:
            _wait_until_ready(state, process)
        except _PortTaken:
            _end(state)
            if port is not None or not attempts_left:
                raise UserError(f"Port {state.port} is taken: choose another one, or none.") from None
        except BaseException:
            _end(state)
            raise
        else:
            break
    report(f"emulator:{name} is ready", 1.0)
    return state


def stop(name: str = DEFAULT) -> None:
    """Ends an emulator and removes all it left: process, state file, logs.

    Raises:
        UserError: no such emulator runs.
    """
    with _locked():
        state = _alive(name) if _NAME.fullmatch(name) else None
        if state is None:
            if _NAME.fullmatch(name):
                _forget(name)
            raise UserError(f"No emulator named {name} runs: see `edgectl emulator status`.")
    _end(state)


def status() -> list[EmulatorState]:
    """The emulators that run. What a dead one left behind is removed."""
    found = []
    for path in sorted(_root().glob("*.json")):
        state = _alive(path.stem)
        if state is None:
            with _locked():
                if _alive(path.stem) is None:
                    _forget(path.stem)
        else:
            found.append(state)
    return found


def running(name: str = DEFAULT) -> EmulatorState:
    """A running emulator's state.

    Raises:
        UserError: it does not run.
    """
    state = _alive(name) if _NAME.fullmatch(name) else None
    if state is None:
        argument = "" if name == DEFAULT else f" --name {name}"
        raise UserError(f"The emulator {name} does not run: start it with `edgectl emulator start{argument}`.")
    return state


def open_emulator(state: EmulatorState, reply_s: float = 10.0) -> AdbDevice:
    """The device that an emulator is."""
    address = f"127.0.0.1:{state.port}"
    return AdbDevice(
        f"emulator:{state.name}",
        lambda: Connection(SteadyTcpTransport("127.0.0.1", state.port)),
        address,
        reply_s=reply_s,
    )


class _PortTaken(Exception):
    """Another process took the port between choosing it and qemu's listening."""


def _check(name: str, port: int | None, memory_mb: int, disk_mb: int, cpu: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name an emulator: use up to 32 lower-case letters, digits, - and _.")
    if state := _alive(name):
        raise UserError(_runs_already(state))
    if port is not None and (not 1024 <= port < 65536 or port in _ADB_SERVER_PORTS):
        raise UserError(f"Port {port} cannot be used: choose one from 1024 to 65535 outside 5555-5585, which adb scans.")
    if memory_mb < 256 or not 1 <= disk_mb <= memory_mb - 128:
        raise UserError("The emulator needs at least 256 MiB of memory, of which the disk leaves 128 MiB.")
    if cpu not in CPUS:
        raise UserError(f"The emulator has no processor {cpu!r}: choose from {', '.join(CPUS)}.")
    if shutil.which(_QEMU) is None:
        raise UserError(f"{_QEMU} is missing: install Debian's package qemu-system-arm (apt-get install qemu-system-arm).")


def _runs_already(state: EmulatorState) -> str:
    return f"The emulator {state.name} runs already, at 127.0.0.1:{state.port} (process {state.pid})."


def _root() -> Path:
    return state_root() / "emulators"


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    try:
        _root().mkdir(parents=True, exist_ok=True)
        lock = (_root() / ".lock").open("w")
    except OSError as error:
        raise ToolError("keeping the emulators' state", f"{error.filename}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _ADB_SERVER_PORTS:
            return port


def _spawn(
    name: str, port: int, memory_mb: int, disk_mb: int, cpu: str, image: Image
) -> tuple[EmulatorState, subprocess.Popen[bytes]]:
    """Starts qemu in a session of its own and writes its state file."""
    logs = _root() / name
    logs.mkdir(parents=True, exist_ok=True)
    command = [
        *(_QEMU, "-M", "virt", "-cpu", CPUS[cpu], "-smp", "1", "-m", str(memory_mb)),
        *("-icount", "shift=0,sleep=on"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"),
        *("-serial", f"file:{_option(logs / 'serial.log')}"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", f"console=ttyAMA0 quiet panic=-1 nokaslr norandmaps cryptomgr.notests edgectl.disk_mb={disk_mb}"),
        *("-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:5555"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
    ]
    with (logs / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
    started = _process(process.pid)
    state = EmulatorState(name, process.pid, started[0] if started else 0, port, memory_mb, disk_mb, cpu)
    fresh = _root() / f".{name}.json.new"
    fresh.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
    fresh.replace(_root() / f"{name}.json")
    return state, process


def _option(path: Path) -> str:
    """A path inside a qemu option: a comma is doubled."""
    return str(path.absolute()).replace(",", ",,")


def _wait_until_ready(state: EmulatorState, process: subprocess.Popen[bytes]) -> None:
    """Waits for the init script's word on the serial line, then for adb to answer."""
    step = f"booting emulator:{state.name}"
    logs = _root() / state.name
    deadline = time.monotonic() + READY_S
    while b"EDGECTL-READY" not in _content(logs / "serial.log"):
        if process.poll() is not None:
            said = _content(logs / "qemu.log").decode(errors="replace").strip()
            if "host forwarding rule" in said:
                raise _PortTaken
            raise ToolError(step, f"qemu ended with code {process.returncode}. {said}\n{_serial_end(logs)}")
        if time.monotonic() > deadline:
            raise ToolError(step, f"it did not come up within {READY_S:g} s.\n{_serial_end(logs)}")
        time.sleep(0.05)
    device = open_emulator(state, reply_s=1.0)
    while True:
        try:
            device.describe()
            break
        except ToolError as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise ToolError(step, f"adb does not answer: {error.detail}.\n{_serial_end(logs)}") from error
            time.sleep(0.05)
        finally:
            device.close()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _serial_end(logs: Path) -> str:
    text = _content(logs / "serial.log").decode(errors="replace").strip()
    return "The serial line was silent." if not text else "The serial line's end:\n" + "\n".join(text.splitlines()[-30:])


def _recorded(name: str) -> EmulatorState | None:
    """What the state file says, whether or not the process still runs."""
    try:
        return EmulatorState(**json.loads((_root() / f"{name}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _alive(name: str) -> EmulatorState | None:
    """The state of an emulator that runs and has not been killed, else None."""
    state = _recorded(name)
    return state if state is not None and _process(state.pid) == (state.started, False) else None


def _process(pid: int) -> tuple[int, bool] | None:
    """When a process started, in clock ticks since boot, and whether it is ending; None when it is gone.

    A killed process holds its port until its last thread has ended, which takes a while on a busy machine.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours, when this very process started it
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        zombie = fields[0] in "ZX"
        if zombie and len(os.listdir(f"/proc/{pid}/task")) <= 1:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19]), zombie or bool(int(fields[6]) & _PF_EXITING)


def _end(state: EmulatorState) -> None:
    """Ends an emulator's process and removes its files."""
    _kill(state)
    with _locked():
        if _recorded(state.name) == state:
            _forget(state.name)


def _kill(state: EmulatorState) -> None:
    """Kills an emulator's process, if it still is that one, and waits until it is gone."""
    deadline = time.monotonic() + 30
    while (found := _process(state.pid)) and found[0] == state.started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ToolError(f"stopping emulator:{state.name}", f"process {state.pid} does not end")
        time.sleep(0.02)


def _forget(name: str) -> None:
    (_root() / f"{name}.json").unlink(missing_ok=True)
    shutil.rmtree(_root() / name, ignore_errors=True)
