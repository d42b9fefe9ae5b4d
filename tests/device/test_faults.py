"""A device that goes away, is full or says no: the error names the step and the cause, and a second try works."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edgectl.device import Device, connection, open_device
from edgectl.device import emulator as emulators
from edgectl.device.adb import AdbDevice
from edgectl.device.connection import Connection, SteadyTcpTransport
from edgectl.errors import ToolError

from .adb_gate import Gate
from .conftest import MakeFile

pytestmark = pytest.mark.device

MIB = 1 << 20
VICTIM = "victim"


@pytest.fixture(scope="module")
def victim() -> Iterator[emulators.EmulatorState]:
    """An emulator with a small disk that the tests may kill; `emulators.start` brings it back."""
    yield emulators.start(VICTIM, disk_mb=32)
    if any(state.name == VICTIM for state in emulators.status()):
        emulators.stop(VICTIM)


def through(gate: Gate, user_s: float = 0.5) -> AdbDevice:
    """The device behind a gate, with little patience for the dialog."""
    return AdbDevice(
        f"127.0.0.1:{gate.port}",
        lambda: Connection(SteadyTcpTransport("127.0.0.1", gate.port)),
        f"127.0.0.1:{gate.port}",
        user_s=user_s,
    )


def backend(device: Device) -> int:
    return emulators.running(device.name.partition(":")[2]).port


def names_in(device: Device, folder: str) -> list[str]:
    return sorted(device.run(["ls", "-A"], folder=folder).stdout.split("\n")[:-1])


def test_an_emulator_killed_during_a_push_names_the_step_and_a_second_try_works(
    victim: emulators.EmulatorState, make_file: MakeFile
) -> None:
    device = open_device(f"emulator:{VICTIM}")
    big = make_file("big.bin", 20 * MIB)

    def kill() -> None:
        os.kill(emulators.running(VICTIM).pid, signal.SIGKILL)

    with pytest.raises(ToolError, match=r"^pushing big\.bin to emulator:victim failed: the connection was lost$"):
        device.push({"big.bin": big}, "models", progress=_Once(0.3, kill))
    with pytest.raises(ToolError, match=r"^pushing big\.bin to emulator:victim failed: the device is offline"):
        device.push({"big.bin": big}, "models")
    emulators.start(VICTIM, disk_mb=32)
    again = open_device(f"emulator:{VICTIM}")
    assert again.push({"big.bin": big}, "models").pushed == ["big.bin"]
    assert names_in(again, "models") == ["big.bin"]


def test_an_emulator_killed_during_a_run_names_the_step_and_a_second_try_works(
    victim: emulators.EmulatorState, make_file: MakeFile
) -> None:
    device = open_device(f"emulator:{VICTIM}")
    device.push({"here": make_file("here", "x")}, "runs")
    timer = threading.Timer(1.0, lambda: os.kill(emulators.running(VICTIM).pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(ToolError, match=r"^running sleep on emulator:victim failed: the connection was lost$"):
        device.run(["sleep", "600"], folder="runs")
    timer.join()
    emulators.start(VICTIM, disk_mb=32)
    again = open_device(f"emulator:{VICTIM}")
    again.push({"here": make_file("here", "x")}, "runs")
    assert again.run(["cat", "here"], folder="runs").stdout == "x"


def test_a_device_that_hangs_during_a_push_is_given_up_and_works_when_it_is_back(
    victim: emulators.EmulatorState, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REPLY_S", 2.0)
    state = emulators.running(VICTIM)
    device = emulators.open_emulator(state, reply_s=1.0)
    big = make_file("big.bin", 6 * MIB)
    try:
        with pytest.raises(
            ToolError, match=r"^pushing big\.bin to emulator:victim failed: the device stopped answering in time$"
        ):
            device.push({"big.bin": big}, "hangs", progress=_Once(0.2, lambda: os.kill(state.pid, signal.SIGSTOP)))
    finally:
        os.kill(state.pid, signal.SIGCONT)
    monkeypatch.undo()
    again = open_device(f"emulator:{VICTIM}")
    assert again.push({"big.bin": big}, "hangs").pushed == ["big.bin"]
    assert names_in(again, "hangs") == ["big.bin"]


def test_a_file_too_big_for_the_device_says_what_is_needed_and_free(
    victim: emulators.EmulatorState, make_file: MakeFile
) -> None:
    device = open_device(f"emulator:{VICTIM}")
    device.push({"small": make_file("small", 1000)}, "full")
    with pytest.raises(ToolError, match=r"^pushing huge to .* No space left on device: 40\.0 MiB are needed, .* MiB are free$"):
        device.push({"huge": make_file("huge", 40 * MIB)}, "full")
    assert names_in(device, "full") == ["small"]


def test_a_disk_that_fills_up_during_a_push_is_told_and_a_second_try_works_once_there_is_room(
    victim: emulators.EmulatorState, make_file: MakeFile
) -> None:
    device, other = open_device(f"emulator:{VICTIM}"), open_device(f"emulator:{VICTIM}")
    device.push({"here": make_file("here", "x")}, "filled")
    big = make_file("big.bin", 6 * MIB)

    def fill() -> None:
        other.run(["dd", "if=/dev/zero", "of=filler", "bs=1M"], folder="filled")

    with pytest.raises(ToolError, match=r"^pushing big\.bin to .* No space left on device: 6\.0 MiB are needed, .* are free$"):
        device.push({"big.bin": big}, "filled", progress=_Once(0.2, fill))
    assert names_in(device, "filled") == ["filler", "here"]
    device.run(["rm", "filler"], folder="filled")
    assert device.push({"big.bin": big}, "filled").pushed == ["big.bin"]


def test_a_line_cut_during_a_push_leaves_nothing_half_written(emulator: Device, make_file: MakeFile) -> None:
    big = make_file("big.bin", 4 * MIB)
    with Gate(backend(emulator), cut_after=2 * MIB) as gate:
        device = through(gate)
        with pytest.raises(ToolError, match=r"^pushing big\.bin to .* failed: the connection was lost$"):
            device.push({"big.bin": big}, "cut")
        assert names_in(device, "cut") == []
        assert device.push({"big.bin": big}, "cut").pushed == ["big.bin"]
        assert names_in(device, "cut") == ["big.bin"]


def test_a_line_cut_while_an_old_version_is_replaced_leaves_the_old_version(emulator: Device, make_file: MakeFile) -> None:
    emulator.push({"model": make_file("model", "the old version")}, "replaced")
    with Gate(backend(emulator), cut_after=MIB) as gate, pytest.raises(ToolError, match="the connection was lost"):
        through(gate).push({"model": make_file("model", 3 * MIB)}, "replaced")
    assert emulator.run(["cat", "model"], folder="replaced").stdout == "the old version"


def test_what_a_dead_push_left_is_cleared_by_the_next_one(emulator: Device, make_file: MakeFile) -> None:
    emulator.push({"here": make_file("here", "x")}, "left over")
    gone = _pid_of_a_dead_process()
    emulator.run(["sh", "-c", f"echo half > model.partial-{gone}; echo half > model.partial-1"], folder="left over")
    emulator.push({"here": make_file("here", "y")}, "left over")
    assert names_in(emulator, "left over") == ["here", "model.partial-1"]


def test_a_command_dies_with_the_line_it_was_started_over(emulator: Device, make_file: MakeFile) -> None:
    emulator.push({"here": make_file("here", "x")}, "orphan")
    with Gate(backend(emulator)) as gate:
        cutter = threading.Thread(target=lambda: (_wait_for(lambda: _sleeps(emulator)), gate.__exit__()))
        cutter.start()
        with pytest.raises(ToolError, match=r"^running sleep on .* failed: the connection was lost$"):
            through(gate).run(["sleep", "9876"], folder="orphan")
        cutter.join()
    _wait_for(lambda: not _sleeps(emulator))


def test_a_phone_that_does_not_know_this_computer_asks_for_the_dialog_and_works_after_it(
    emulator: Device, make_file: MakeFile
) -> None:
    file = make_file("model.pte", 1000)
    with Gate(backend(emulator), secure=True) as gate:
        device = through(gate)
        with pytest.raises(ToolError, match=r"^pushing model\.pte to .* not authorised this computer: .*accept its dialog"):
            device.push({"model.pte": file}, "secure")
        assert gate.asked
        gate.accept()
        assert device.push({"model.pte": file}, "secure").pushed == ["model.pte"]


def test_an_offline_device_is_told_apart() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        device = open_device(address)
        with pytest.raises(ToolError, match=rf"^describing {address} failed: the device is offline: nothing listens"):
            device.describe()


def test_a_device_that_answers_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        device = AdbDevice(
            address, lambda: Connection(SteadyTcpTransport("127.0.0.1", silent.getsockname()[1])), address, reply_s=0.5
        )
        with pytest.raises(ToolError, match="offline or hangs: no answer from"):
            device.run(["true"], folder="x")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "does not speak adb"),
        (b"STLS" + b"\0" * 16 + b"\xac\xab\xb3\xb3", "wireless debugging, which wants pairing"),
        (b"", "hung up at once"),
    ],
)
def test_what_is_no_adbd_is_told_apart(answer: bytes, cause: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            link.recv(1 << 16)
            link.sendall(answer)
            link.close()

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ToolError, match=cause):
            open_device(f"127.0.0.1:{server.getsockname()[1]}").describe()


def test_a_host_that_has_no_address_is_told_apart() -> None:
    with pytest.raises(ToolError, match=r"there is no host named in no-such-phone\.invalid:5555"):
        open_device("no-such-phone.invalid:5555").describe()


class _Once:
    """A progress callback that acts once, when a fraction is passed: a failing device is not failed again."""

    def __init__(self, at: float, act: Callable[[], object]) -> None:
        self._at, self._act, self._done = at, act, False

    def __call__(self, _message: str, fraction: float | None) -> None:
        if fraction is not None and self._at < fraction < 1 and not self._done:
            self._done = True
            self._act()


def _sleeps(device: Device) -> bool:
    return "sleep\0009876" in device.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"], folder="orphan").stdout


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _pid_of_a_dead_process() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
