"""The history: what was measured stays, whoever else writes at the same time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl.errors import ToolError, UserError
from edgectl.profile.history import SCHEMA_VERSION, History
from edgectl.profile.report import Latency, LatencyReport, LayerLatency

WRITER = """
import sys
from pathlib import Path
from edgectl.profile.history import History
from edgectl.profile.report import LatencyReport
report = LatencyReport.model_validate_json(sys.stdin.read())
history = History(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    history.record(report)
"""


def report(model: str = "wdsr", device: str = "host", clock: str = "wall") -> LatencyReport:
    spread = Latency.of([1_000_000, 2_000_000], clock)
    facts = {"name": "body.0", "op": "conv2d", "runner": "edge", "shape": [1, 8, 4, 4], "nonzeros": 7}
    return LatencyReport(
        model=model,
        sha256="a" * 64,
        device={"name": device, "cores": 2},
        clock=clock,
        threads=1,
        warmup=2,
        peak_rss_kb=4321,
        total=spread,
        profiled=spread,
        layers=[LayerLatency.measured(facts, spread), LayerLatency.measured(facts | {"name": "body.1"}, None)],
    )


@pytest.mark.parametrize("clock", ["wall", "emulated-instructions"])
def test_a_report_comes_back_as_it_was_recorded(tmp_path: Path, clock: str) -> None:
    history = History(tmp_path / "deep" / "history.sqlite")
    number = history.record(report(clock=clock))
    (entry,) = history.entries()
    assert entry.id == number
    assert entry.report == report(clock=clock)
    assert isinstance(entry.report.layers[0].min, float if clock == "wall" else int)


def test_reports_are_found_by_model_and_by_device_newest_first(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite")
    for model, device in (("a", "host"), ("a", "phone"), ("b", "phone")):
        history.record(report(model, device))
    assert [e.report.model for e in history.entries()] == ["b", "a", "a"]
    assert [e.report.device["name"] for e in history.entries(model="a")] == ["phone", "host"]
    assert [e.report.model for e in history.entries(device="phone")] == ["b", "a"]
    assert len(history.entries(limit=2)) == 2
    assert history.entries(model="nothing") == []


def test_a_history_that_was_never_written_is_empty_and_is_not_made_by_reading(tmp_path: Path) -> None:
    assert History(tmp_path / "history.sqlite").entries() == []
    assert list(tmp_path.iterdir()) == []


def test_many_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), "10"], stdin=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(report().model_dump_json())
        writer.stdin.close()
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    entries = History(path).entries()
    assert len(entries) == 40
    assert all(entry.report == report() for entry in entries)


def test_a_report_that_fails_to_be_written_leaves_no_part_behind(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite")
    history.record(report())
    with sqlite3.connect(history.path) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON layer WHEN NEW.position = 1 BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(ToolError, match="full"):
        history.record(report())
    assert len(history.entries()) == 1


def test_a_history_of_the_first_version_is_kept_and_goes_on(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite")
    history.record(report("old"))
    with sqlite3.connect(history.path) as db:
        db.execute("ALTER TABLE report DROP COLUMN peak_rss_kb")
        db.execute("DROP TABLE measurement")
        db.execute("PRAGMA user_version=1")
    history.record(report("new"))
    assert [(e.report.model, e.report.peak_rss_kb) for e in history.entries()] == [("new", 4321), ("old", None)]


def test_a_history_of_a_newer_edgectl_is_refused_and_left_alone(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite")
    history.record(report())
    with sqlite3.connect(history.path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(UserError, match="newer edgectl"):
        history.record(report())


def test_a_file_that_is_no_history_is_named_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"holiday pictures" * 100)
    with pytest.raises(UserError, match=r"history\.sqlite is not a history"):
        History(path).record(report())
    assert path.read_bytes() == b"holiday pictures" * 100


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="using the history"):
        History(tmp_path / "file" / "history.sqlite").record(report())
