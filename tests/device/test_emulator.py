"""The emulated phone: started, listed, stopped, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.device import Device, DeviceInfo, list_devices, open_device
from edgectl.device import emulator as emulators
from edgectl.device.image import Image
from edgectl.errors import ToolError, UserError

from .conftest import MakeFile

SECOND = "second"


@pytest.fixture
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test's own; what still runs in it at the end is stopped."""
    monkeypatch.setenv("EDGECTL_HOME", str(tmp_path / "state"))
    yield tmp_path / "state/emulators"
    for state in emulators.status():
        emulators.stop(state.name)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.device
def test_two_run_side_by_side_and_stopping_one_leaves_nothing_of_it(emulator: Device, make_file: MakeFile) -> None:
    second = emulators.start(SECOND, memory_mb=512, disk_mb=64)
    try:
        assert second.port not in range(5555, 5586)
        for name in (emulator.name, f"emulator:{SECOND}"):
            open_device(name).push({"who": make_file("who", name)}, "two")
        for name in (emulator.name, f"emulator:{SECOND}"):
            assert open_device(name).run(["cat", "who"], folder="two").stdout == name
        with pytest.raises(UserError, match=rf"^The emulator {SECOND} runs already, at 127\.0\.0\.1:{second.port}"):
            emulators.start(SECOND)
        listed = {device.name: device for device in list_devices()}
        assert {"host", emulator.name, f"emulator:{SECOND}"} <= set(listed)
        described = listed[f"emulator:{SECOND}"]
        assert isinstance(described, DeviceInfo)
        assert described.kind == "emulator"
    finally:
        emulators.stop(SECOND)
    state_root = Path(os.environ["EDGECTL_HOME"])
    assert not [path for path in state_root.rglob("*") if SECOND in path.name]
    assert not Path(f"/proc/{second.pid}/cmdline").exists() or not Path(f"/proc/{second.pid}/cmdline").read_bytes()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", second.port)) != 0
    with pytest.raises(UserError, match=f"No emulator named {SECOND} runs"):
        emulators.stop(SECOND)
    with pytest.raises(UserError, match=f"start it with `edgectl emulator start --name {SECOND}`"):
        open_device(f"emulator:{SECOND}")
    assert emulator.run(["echo", "alive"], folder="two").stdout == "alive\n"


@pytest.mark.device
def test_an_idle_one_costs_its_host_next_to_nothing(emulator: Device) -> None:
    emulator.describe()
    pid = emulators.running("shared").pid
    time.sleep(0.5)
    before = cpu_ticks(pid)
    time.sleep(2)
    assert cpu_ticks(pid) - before <= 0.1 * 2 * os.sysconf("SC_CLK_TCK")


@pytest.mark.device
def test_its_clock_counts_instructions(emulator: Device, make_file: MakeFile) -> None:
    emulator.push({"here": make_file("here", "x")}, "clock")

    def spent(loops: int) -> int:
        loop = f"i=0; while [ $i -lt {loops} ]; do i=$((i+1)); done; cat /proc/$$/schedstat"
        return int(emulator.run(["sh", "-c", loop], folder="clock").stdout.split()[0])

    base, once, twice = (min(spent(loops) for _ in range(3)) for loops in (0, 2_000, 4_000))
    assert (twice - base) / (once - base) == pytest.approx(2, rel=0.1)


@pytest.mark.device
def test_the_ordinary_adb_client_works_too(emulator: Device, tmp_path: Path) -> None:
    adb = shutil.which("adb")
    if adb is None:
        pytest.skip("no adb on this machine (Debian package adb)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server_port = probe.getsockname()[1]
    environment = dict(os.environ, HOME=str(tmp_path), ANDROID_ADB_SERVER_PORT=str(server_port))
    address = f"127.0.0.1:{emulators.running('shared').port}"

    def call(*arguments: str) -> str:
        done = subprocess.run([adb, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    try:
        assert f"connected to {address}" in call("connect", address)
        assert call("-s", address, "shell", "uname -m; exit 3") == "aarch64\n"
    finally:
        call("kill-server")


@pytest.mark.device
def test_it_is_our_emulator_however_it_is_reached(emulator: Device) -> None:
    by_address = open_device(f"127.0.0.1:{emulators.running('shared').port}").describe()
    assert (by_address.kind, by_address.clock) == ("emulator", "emulated-instructions")


def test_what_a_dead_one_left_is_recognised_and_removed(state_folder: Path) -> None:
    (state_folder / "gone").mkdir(parents=True)
    (state_folder / "gone/serial.log").write_text("...")
    # The pid is alive, but it is this test's: it started at another time than the emulator did.
    state = {"name": "gone", "pid": os.getpid(), "started": 1, "port": 50000, "memory_mb": 512, "disk_mb": 64}
    (state_folder / "gone.json").write_text(json.dumps(state))
    assert emulators.status() == []
    assert [path.name for path in state_folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', "null"])
def test_a_damaged_state_file_is_no_emulator(state_folder: Path, content: str) -> None:
    state_folder.mkdir(parents=True)
    (state_folder / "broken.json").write_text(content)
    assert emulators.status() == []
    with pytest.raises(UserError, match="does not run"):
        open_device("emulator:broken")


def test_a_guest_that_does_not_boot_ends_with_what_qemu_said_and_leaves_nothing(
    state_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulators, "ensure_image", lambda _: Image(tmp_path / "no-kernel", tmp_path / "no-initramfs"))
    with pytest.raises(ToolError, match=r"^booting emulator:broken failed: qemu ended with code 1.*no-kernel") as failed:
        emulators.start("broken")
    assert "serial line was silent" in str(failed.value)
    assert emulators.status() == []
    assert [path.name for path in state_folder.iterdir()] == [".lock"]


@pytest.mark.device
def test_a_guest_that_panics_ends_with_the_end_of_its_serial_line(
    state_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = emulators.ensure_image(lambda *_: None)
    (tmp_path / "empty.cpio").write_bytes(b"")
    monkeypatch.setattr(emulators, "ensure_image", lambda _: Image(image.kernel, tmp_path / "empty.cpio"))
    with pytest.raises(ToolError, match=r"(?s)^booting emulator:panics failed: .*Kernel panic"):
        emulators.start("panics")
    assert [path.name for path in state_folder.iterdir()] == [".lock"]


def test_missing_qemu_names_the_package(state_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install qemu-system-arm"):
        emulators.start("x")


@pytest.mark.device
def test_a_port_that_is_taken_is_refused(state_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} is taken"):
            emulators.start("x", port=port)
    assert [path.name for path in state_folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["", "../x", "A", "x" * 33, ".x", "a b"])
def test_names_that_cannot_be_are_refused(state_folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name an emulator"):
        emulators.start(name)
    with pytest.raises(UserError, match="No emulator named"):
        emulators.stop(name)


@pytest.mark.parametrize("port", [0, 80, 5555, 5585, 65536])
def test_ports_that_cannot_be_are_refused(state_folder: Path, port: int) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        emulators.start("x", port=port)


@pytest.mark.parametrize(("memory_mb", "disk_mb"), [(64, 16), (512, 512), (512, 0)])
def test_sizes_that_cannot_be_are_refused(state_folder: Path, memory_mb: int, disk_mb: int) -> None:
    with pytest.raises(UserError, match="at least 256 MiB"):
        emulators.start("x", memory_mb=memory_mb, disk_mb=disk_mb)


def test_a_processor_that_it_does_not_have_is_refused(state_folder: Path) -> None:
    with pytest.raises(UserError, match="no processor 'i486': choose from cortex-a76, max"):
        emulators.start("x", cpu="i486")
