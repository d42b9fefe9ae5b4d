"""push, run, pull and describe do the same on every device."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from edgectl.device import Device
from edgectl.errors import ToolError, UserError

from .conftest import MakeFile


def names_in(device: Device, folder: str) -> list[str]:
    return sorted(device.run(["ls", "-A"], folder=folder).stdout.split("\n")[:-1])


def test_a_pushed_file_comes_back_as_it_was(device: Device, folder: str, make_file: MakeFile, tmp_path: Path) -> None:
    sent = make_file("weights.bin", 3_000_001)
    result = device.push({"weights.bin": sent}, folder)
    assert result.pushed == ["weights.bin"]
    assert result.bytes == 3_000_001
    device.pull("weights.bin", tmp_path / "back/weights.bin", folder)
    assert (tmp_path / "back/weights.bin").read_bytes() == sent.read_bytes()


def test_an_empty_file_can_be_pushed_and_pulled(device: Device, folder: str, make_file: MakeFile, tmp_path: Path) -> None:
    device.push({"empty": make_file("empty", "")}, folder)
    device.pull("empty", tmp_path / "empty", folder)
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_push_leaves_only_the_final_names(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"a": make_file("a", 1000), "b c": make_file("b", 1000)}, folder)
    assert names_in(device, folder) == ["a", "b c"]


def test_files_whose_hash_matches_are_not_sent_again(device: Device, folder: str, make_file: MakeFile) -> None:
    files = {"same": make_file("same", 5000), "changed": make_file("changed", 5000)}
    device.push(files, folder)
    make_file("changed", 5000)
    again = device.push(files, folder)
    assert again.skipped == ["same"]
    assert again.pushed == ["changed"]
    assert again.bytes == 5000


def test_a_file_that_was_damaged_on_the_device_is_sent_again(device: Device, folder: str, make_file: MakeFile) -> None:
    files = {"model": make_file("model", "the weights")}
    device.push(files, folder)
    device.run(["sh", "-c", "printf 'the Weights' > model"], folder=folder)
    assert device.push(files, folder).pushed == ["model"]
    assert device.run(["cat", "model"], folder=folder).stdout == "the weights"


def test_names_with_spaces_and_quotes_and_subfolders_work(device: Device, folder: str, make_file: MakeFile) -> None:
    name = 'sub folder/it\'s a "name" $HOME.txt'
    device.push({name: make_file("x", "hello")}, folder)
    assert device.run(["cat", name], folder=folder).stdout == "hello"
    assert device.push({name: make_file("x", "hello")}, folder).skipped == [name]


def test_progress_runs_up_to_one(device: Device, folder: str, make_file: MakeFile) -> None:
    told: list[tuple[str, float | None]] = []
    device.push({"big": make_file("big", 2_000_000)}, folder, progress=lambda *args: told.append(args))
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any("big" in message for message, _ in told)


def test_an_executable_stays_executable_and_its_exit_code_and_streams_arrive(
    device: Device, folder: str, make_file: MakeFile
) -> None:
    script = make_file("tool", '#!/bin/sh\necho "out $1"\necho "err $2" >&2\nexit 7\n', executable=True)
    if device.target == "android-arm64":  # Android has no /bin/sh
        script = make_file("tool", script.read_text().replace("/bin/sh", "/system/bin/sh"), executable=True)
    device.push({"a tool": script}, folder)
    result = device.run(["./a tool", "x  y", "it's $PATH"], folder=folder)
    assert (result.code, result.stdout, result.stderr) == (7, "out x  y\n", "err it's $PATH\n")


def test_a_command_runs_in_its_folder_and_without_input(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    assert device.run(["pwd"], folder=folder).stdout == f"{device.workdir}/{folder}\n"
    assert device.run(["cat"], folder=folder, timeout=20).stdout == ""


def test_much_output_on_both_streams_arrives_whole(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    result = device.run(["sh", "-c", "seq 1 50000; seq 50001 99999 >&2"], folder=folder, timeout=60)
    assert result.stdout == "".join(f"{i}\n" for i in range(1, 50001))
    assert result.stderr == "".join(f"{i}\n" for i in range(50001, 100000))


def test_a_command_ended_by_a_signal_has_the_shells_code(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    assert device.run(["sh", "-c", "kill -SEGV $$"], folder=folder).code == 128 + signal.SIGSEGV


def test_a_command_that_is_not_there_is_127(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    result = device.run(["./no-such-runner"], folder=folder)
    assert result.code == 127
    assert "no-such-runner" in result.stderr


def test_a_command_that_takes_too_long_is_killed_with_what_it_started(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"^running the nap on .* failed: it did not finish within 1 s and was stopped$"):
        device.run(["sh", "-c", "sleep 4321 & sleep 4321; true"], folder=folder, timeout=1, label="the nap")
    assert time.monotonic() - started < 30
    alive = device.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"], folder=folder).stdout
    assert "sleep 4321" not in alive


def test_what_a_command_left_in_the_background_ends_with_the_timeout(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    with pytest.raises(ToolError, match="did not finish within 1 s"):
        device.run(["sh", "-c", "sleep 4322 & true"], folder=folder, timeout=1)
    alive = device.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"], folder=folder).stdout
    assert "sleep 4322" not in alive


def test_several_threads_may_use_one_device(device: Device, folder: str, make_file: MakeFile) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    said: dict[int, str] = {}

    def ask(i: int) -> None:
        said[i] = device.run(["echo", str(i)], folder=folder).stdout

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == {i: f"{i}\n" for i in range(6)}


def test_running_in_a_folder_that_is_not_there_says_so(device: Device) -> None:
    with pytest.raises(ToolError, match=r"^running true on .* failed: there is no folder .*/nowhere.*push to it first$"):
        device.run(["true"], folder="nowhere")


def test_pulling_a_file_that_is_not_there_says_so_and_leaves_the_local_file_alone(
    device: Device, folder: str, make_file: MakeFile
) -> None:
    device.push({"here": make_file("here", "x")}, folder)
    old = make_file("old", "precious")
    with pytest.raises(ToolError, match=r"^pulling nothing from .* failed: there is no file nothing in tests/"):
        device.pull("nothing", old, folder)
    assert old.read_text() == "precious"


def test_pushing_a_local_file_that_is_not_there_is_the_users_mistake(device: Device, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*missing\.bin to push"):
        device.push({"x": tmp_path / "missing.bin"}, "tests/x")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "", "a/../../b", "two\nlines"])
def test_names_that_leave_the_work_folder_are_refused(device: Device, make_file: MakeFile, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a name on a device"):
        device.push({name: make_file("x", "x")}, "tests/x")
    with pytest.raises(UserError, match="cannot be a name on a device"):
        device.run(["true"], folder=name)


def test_a_device_describes_itself(device: Device) -> None:
    info = device.describe()
    assert info.name == device.name
    assert info.cores >= 1
    assert info.kernel.startswith("Linux ")
    if device.target == "host":
        assert (info.kind, info.emulated, info.clock) == ("host", False, "wall")
    else:
        assert (info.kind, info.emulated, info.clock) == ("emulator", True, "emulated-instructions")
        assert (info.abi, info.soc, info.cores) == ("arm64-v8a", "Cortex-A76", 1)
    assert info.require_latency_clock() == info.clock
