"""What is built for arm64 runs on arm64: the runner's bundle as it would on a phone, the kernels' own tests from zig."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgectl.native import build_tests, runner_bundle
from edgectl.native.toolchain import arm64_static

from .conftest import Model, run_program

QEMU = "qemu-aarch64"
SHARDS = os.cpu_count() or 1

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-aarch64 is not installed (apt-get install qemu-user)")


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with what is pushed to a phone and nothing else, and how to start the runner there."""
    bundle = runner_bundle("android-arm64")
    folder = tmp_path_factory.mktemp("phone")
    for name, path in bundle.files.items():
        shutil.copy2(path, folder / name)
    return folder, [QEMU, "-cpu", "cortex-a76", *bundle.command]


def test_the_bundle_runs_where_nothing_else_is(phone: tuple[Path, list[str]], mixed: Model) -> None:
    folder, command = phone
    np.save(folder / "x.npy", mixed.x)
    shutil.copy2(mixed.path, folder / "model.pte")
    arguments = ["--model", "model.pte", "--input", "x.npy", "--output", "y", "--threads", "1"]
    code, document = run_program([*command, *arguments], cwd=folder)
    assert code == 0, document
    np.testing.assert_allclose(np.load(folder / "y_0.npy"), mixed.y, atol=1e-4)


def test_the_bundle_holds_every_library_and_no_debug_symbols(phone: tuple[Path, list[str]]) -> None:
    folder, _ = phone
    names = {path.name for path in folder.iterdir()}
    assert {"runner", "ld-linux-aarch64.so.1", "libc.so.6", "libexecutorch.so"} <= names
    traced = [QEMU, "./ld-linux-aarch64.so.1", "--library-path", ".", "--list", "./runner"]
    done = subprocess.run(traced, cwd=folder, capture_output=True, text=True, check=True)
    found = [line.split("=>")[1].split()[0] for line in done.stdout.splitlines() if "=>" in line]
    assert found
    assert all(path.startswith("./") for path in found), found
    sections = subprocess.run(
        ["aarch64-linux-gnu-readelf", "--sections", "--wide", folder / "runner"], capture_output=True, text=True, check=True
    )
    assert ".debug" not in sections.stdout
    assert ".symtab" not in sections.stdout


def test_the_same_command_refuses_garbage(phone: tuple[Path, list[str]]) -> None:
    folder, command = phone
    (folder / "garbage.pte").write_bytes(bytes(range(256)) * 8)
    code, document = run_program([*command, "--model", "garbage.pte"], cwd=folder)
    assert code == 1
    assert document["error"]["step"] == "load"


def start_shard(program: Path, index: int) -> subprocess.Popen[str]:
    """Every `SHARDS`-th test of the program, emulated: they take a minute one after the other."""
    return subprocess.Popen(
        [QEMU, "-cpu", "cortex-a76", program, "--gtest_brief=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"GTEST_TOTAL_SHARDS": str(SHARDS), "GTEST_SHARD_INDEX": str(index)},
    )


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
