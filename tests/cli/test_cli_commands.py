"""What the commands print, and that they are quick to explain themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgectl.profile.history import History
from edgectl.profile.report import LatencyReport

from .conftest import PRUNED_LAYERS, Edgectl, Small, write_recipe

COMMANDS = ["build", "push", "run", "bench", "roofline", "compare", "profile-space", "devices", "history"]
COMMANDS += ["emulator start", "emulator stop", "emulator status"]


@pytest.mark.parametrize("command", ["", *COMMANDS, "emulator"])
def test_every_help_carries_an_example(edgectl: Edgectl, command: str) -> None:
    said = edgectl(*command.split(), "--help")
    assert said.code == 0
    assert f"Example: edgectl {command}" in said.out


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = "import sys\nfrom edgectl.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'numpy', 'executorch', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_build_shows_every_layer_with_what_was_found_in_it(edgectl: Edgectl, pruned: Small, tmp_path: Path) -> None:
    said = edgectl("build", pruned.recipe, "--out", tmp_path / "again", "--explain")
    assert said.code == 0
    found, packing = said.out.split("How layers are packed")
    rows, packed = ({line.split()[0]: line for line in part.splitlines() if line.strip()} for part in (found, packing))
    for name in PRUNED_LAYERS:
        assert "block_punched" in rows[name]
        assert "direct" in packed[name]
    assert "dense" in rows["head"]
    assert "Who runs it, and why" in said.out
    assert all(len(line) <= 100 for line in said.out.splitlines() if "/" not in line)


def test_push_skips_what_is_there_already(edgectl: Edgectl, dense: Small) -> None:
    assert edgectl("push", dense.artifact).code == 0
    again = edgectl("push", dense.artifact)
    assert again.code == 0
    assert "0 files sent" in again.out


def test_bench_json_is_one_document_and_nothing_else(edgectl: Edgectl, dense: Small, history: Path) -> None:
    said = edgectl("bench", dense.artifact, "--runs", 3, "--json")
    assert said.code == 0, said.err
    report = LatencyReport.model_validate(json.loads(said.out))
    assert (report.clock, report.threads, report.total.n) == ("wall", 1, 3)
    assert report.device["kind"] == "host"
    (entry,) = History(history).entries()
    assert entry.report == report


def test_a_report_is_in_the_history_before_it_is_shown(
    edgectl: Edgectl, dense: Small, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*reports: LatencyReport) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["edgectl.cli.bench"], "_print_report", interrupted)
    said = edgectl("bench", dense.artifact, "--runs", 1)
    assert said.code == 130
    assert said.err.splitlines()[-1] == "interrupted"
    assert len(History(history).entries()) == 1


def test_bench_table_reads_well_in_100_columns(edgectl: Edgectl, pruned: Small, history: Path) -> None:
    said = edgectl("bench", pruned.artifact, "--runs", 2)
    assert said.code == 0, said.err
    assert all(len(line) <= 100 for line in said.out.splitlines())
    (header,) = [line for line in said.out.splitlines() if line.startswith("layer")]
    for column in ("op", "shape", "scheme", "non-zeros", "MACs", "ms", "share"):
        assert column in header
    for name in PRUNED_LAYERS:
        assert any(line.startswith(name) and "block_punched" in line for line in said.out.splitlines())


def test_bench_against_puts_layers_side_by_side(edgectl: Edgectl, dense: Small, pruned: Small, history: Path) -> None:
    said = edgectl("bench", pruned.artifact, "--against", dense.artifact, "--runs", 2)
    assert said.code == 0, said.err
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    for name in PRUNED_LAYERS:
        assert rows[name].rstrip().endswith("x")
    assert [entry.report.model for entry in History(history).entries()] == ["dense", "pruned"]


def test_history_lists_what_was_benched(edgectl: Edgectl, dense: Small, history: Path) -> None:
    assert "No bench" in edgectl("history").out
    assert edgectl("bench", dense.artifact, "--runs", 1).code == 0
    said = edgectl("history", "--model", "dense")
    assert said.code == 0
    assert "dense" in said.out
    assert "ms" in said.out
    documents = json.loads(edgectl("history", "--json").out)
    assert [document["report"]["model"] for document in documents] == ["dense"]
    assert json.loads(edgectl("history", "--model", "other", "--json").out) == []


def test_devices_lists_this_machine(edgectl: Edgectl) -> None:
    assert "host" in edgectl("devices").out
    documents = json.loads(edgectl("devices", "--json").out)
    assert documents[0]["name"] == "host"
    assert documents[0]["clock"] == "wall"


def test_debug_shows_the_traceback_wherever_it_stands(edgectl: Edgectl, tmp_path: Path) -> None:
    for arguments in (["--debug", "bench", tmp_path], ["bench", tmp_path, "--debug"]):
        said = edgectl(*arguments)
        assert said.code == 2
        assert "Traceback" in said.err
        assert said.err.splitlines()[-1].startswith("error: ")


def test_an_unexpected_failure_is_one_sentence_that_asks_for_debug(edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("the sky\nfell down")

    monkeypatch.setattr("edgectl.device.list_devices", broken)
    said = edgectl("devices")
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("error: unexpected RuntimeError: the sky fell down")
    assert "--debug" in said.err
    assert "Traceback" not in said.err


def test_interrupting_a_build_ends_it_with_one_line_and_no_artifact(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml")
    command = [sys.executable, "-m", "edgectl", "build", str(recipe), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    assert process.stderr.readline().strip() == "starting PyTorch"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


SPACE = """
maps = [[24, 32]]
channels = [4, 8]
blocks = ["wdsr_b"]
length = [2, 2]
schemes = ["none", "filter"]
scale = 2
"""


@pytest.mark.slow
def test_profile_space_measures_and_says_how_well_it_predicts(edgectl: Edgectl, tmp_path: Path, history: Path) -> None:
    space = tmp_path / "tiny.toml"
    space.write_text(SPACE)
    options = ("--space", space, "--rounds", 1)
    few = edgectl("profile-space", *options, "--count", 6)
    assert few.code == 2
    assert "layers of 1 networks are too few to fit a latency model on" in few.err
    said = edgectl("profile-space", *options, "--count", 44, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert (document["device"], document["clock"]) == ("host", "wall")
    assert document["layers"] >= 44
    assert document["held_out"][document["regressor"]]["networks"] >= 5
    assert edgectl("profile-space", *options, "--count", 44).out.startswith("host (")


def test_profile_space_refuses_a_space_that_is_not_there(edgectl: Edgectl) -> None:
    said = edgectl("profile-space", "--space", "sr2")
    assert said.code == 2
    assert said.err.startswith("error: There is no space sr2: choose one of sr, wdsr")
