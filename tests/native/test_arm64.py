"""What is built for arm64 runs on arm64: the runners' bundles as they would on a phone, the kernels' own tests from zig."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgectl.device import Device
from edgectl.native import build_tests, runner_bundle
from edgectl.native.toolchain import arm64_static

from .conftest import Model, run_program

QEMU = "qemu-aarch64"
SHARDS = os.cpu_count() or 1

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-aarch64 is not installed (apt-get install qemu-user)")


CPUINFO = """processor\t: 0
BogoMIPS\t: 125.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


class Phone(NamedTuple):
    """A folder with what is pushed to a phone and nothing else, how to start the runner there, and what that is."""

    folder: Path
    command: list[str]
    program: str
    library: str
    ending: str


@pytest.fixture(scope="module", params=["pte", "litert"])
def phone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Phone:
    bundle = runner_bundle("android-arm64", request.param)
    folder = tmp_path_factory.mktemp("phone")
    for name, path in bundle.files.items():
        shutil.copy2(path, folder / name)
    root = tmp_path_factory.mktemp("root")  # LiteRT reads what the processor can do, and qemu shows this machine's
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(CPUINFO)
    command = [QEMU, "-L", str(root), "-cpu", "cortex-a76", *bundle.command]
    if request.param == "pte":
        return Phone(folder, command, "runner", "libexecutorch.so", ".pte")
    return Phone(folder, command, "litert_runner", "libLiteRt.so", ".tflite")


def test_the_bundle_runs_where_nothing_else_is(phone: Phone, mixed: Model, mixed_tflite: Model) -> None:
    model = mixed if phone.ending == ".pte" else mixed_tflite
    np.save(phone.folder / "x.npy", model.x)
    shutil.copy2(model.path, phone.folder / "model")
    arguments = ["--model", "model", "--input", "x.npy", "--output", "y", "--threads", "1"]
    code, document = run_program([*phone.command, *arguments], cwd=phone.folder)
    assert code == 0, document
    np.testing.assert_allclose(np.load(phone.folder / "y_0.npy"), model.y, atol=1e-4)


def test_the_bundle_holds_every_library_and_no_debug_symbols(phone: Phone) -> None:
    names = {path.name for path in phone.folder.iterdir()}
    assert {phone.program, "ld-linux-aarch64.so.1", "libc.so.6", phone.library} <= names
    traced = [QEMU, "./ld-linux-aarch64.so.1", "--library-path", ".", "--list", f"./{phone.program}"]
    done = subprocess.run(traced, cwd=phone.folder, capture_output=True, text=True, check=True)
    found = [line.split("=>")[1].split()[0] for line in done.stdout.splitlines() if "=>" in line]
    assert found
    assert all(path.startswith("./") for path in found), found
    sections = subprocess.run(
        ["aarch64-linux-gnu-readelf", "--sections", "--wide", phone.folder / phone.program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ".debug" not in sections.stdout
    assert ".symtab" not in sections.stdout


def test_the_same_command_refuses_garbage(phone: Phone) -> None:
    (phone.folder / "garbage").write_bytes(bytes(range(256)) * 8)
    code, document = run_program([*phone.command, "--model", "garbage"], cwd=phone.folder)
    assert code == 1
    assert document["error"]["step"] == "load"


def test_a_tflite_runs_and_is_profiled_on_the_emulated_phone(emulator: Device, mixed_tflite: Model, tmp_path: Path) -> None:
    bundle = runner_bundle("android-arm64", "litert")
    emulator.push(bundle.files, "litert")
    np.save(tmp_path / "x.npy", mixed_tflite.x)
    emulator.push({"model.tflite": mixed_tflite.path, "x.npy": tmp_path / "x.npy"}, "litert")
    arguments = ["--model", "model.tflite", "--input", "x.npy", "--output", "y", "--profile", "profile.json"]
    result = emulator.run([*bundle.command, *arguments], folder="litert", timeout=300)
    assert result.code == 0, result
    for name in ("y_0.npy", "profile.json"):
        emulator.pull(name, tmp_path / name, "litert")
    np.testing.assert_allclose(np.load(tmp_path / "y_0.npy"), mixed_tflite.y, atol=1e-4)
    (run,) = json.loads((tmp_path / "profile.json").read_text())["runs"]
    assert {event["runner"] for event in run["events"]} == {"edge", "xnnpack", "litert"}
    assert all(event["ns"] > 0 for event in run["events"])


def start_shard(program: Path, index: int) -> subprocess.Popen[str]:
    """Every `SHARDS`-th test of the program, emulated: they take a minute one after the other."""
    return subprocess.Popen(
        [QEMU, "-cpu", "cortex-a76", program, "--gtest_brief=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"GTEST_TOTAL_SHARDS": str(SHARDS), "GTEST_SHARD_INDEX": str(index)},
    )


@pytest.mark.slow
def test_the_kernels_pass_their_own_tests_in_a_static_program_with_musl() -> None:
    programs = build_tests(arm64_static())
    for name in ("edge_tests", "edge_conv_tests"):
        kind = subprocess.run(
            ["aarch64-linux-gnu-readelf", "--program-headers", programs[name]], capture_output=True, text=True, check=True
        )
        assert "INTERP" not in kind.stdout, f"{name} needs a loader, so it is not static"
        shards = [start_shard(programs[name], index) for index in range(SHARDS)]
        try:
            for shard in shards:
                output, _ = shard.communicate(timeout=300)
                assert shard.returncode == 0, output[-4000:]
        finally:
            for shard in shards:
                shard.kill()
