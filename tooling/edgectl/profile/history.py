"""The history: every LatencyReport ever taken, and measurements, in one SQLite file that many processes may write at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from edgectl.errors import ToolError, UserError
from edgectl.paths import state_root
from edgectl.profile.report import Latency, LatencyReport, LayerLatency

SCHEMA_VERSION = 3
_BUSY_SECONDS = 60.0

_FIRST_SCHEMA = """
CREATE TABLE report (
  id INTEGER PRIMARY KEY,
  taken_at TEXT NOT NULL,
  model TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  device_name TEXT NOT NULL,
  device TEXT NOT NULL,
  clock TEXT NOT NULL,
  threads INTEGER NOT NULL,
  cpu_mask TEXT,
  warmup INTEGER NOT NULL,
  total TEXT NOT NULL,
  profiled TEXT NOT NULL
) STRICT;
CREATE INDEX report_by_model ON report (model, device_name);
CREATE TABLE layer (
  report_id INTEGER NOT NULL REFERENCES report (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  name TEXT NOT NULL,
  op TEXT NOT NULL,
  scheme TEXT NOT NULL,
  rate REAL NOT NULL,
  bits INTEGER NOT NULL,
  nonzeros INTEGER NOT NULL,
  macs INTEGER NOT NULL,
  effective_macs INTEGER NOT NULL,
  input_shape TEXT NOT NULL,
  shape TEXT NOT NULL,
  runner TEXT NOT NULL,
  min ANY,
  p10 ANY,
  median ANY,
  p90 ANY,
  PRIMARY KEY (report_id, position)
) STRICT;
"""
_LAYER_MEASUREMENTS = """
CREATE TABLE measurement (
  device_name TEXT NOT NULL,
  clock TEXT NOT NULL,
  threads INTEGER NOT NULL,
  isa TEXT NOT NULL,
  network TEXT NOT NULL,
  position INTEGER NOT NULL,
  point TEXT,
  lowest TEXT NOT NULL,
  runs INTEGER NOT NULL,
  rounds INTEGER NOT NULL,
  settled INTEGER NOT NULL,
  taken_at TEXT NOT NULL,
  PRIMARY KEY (device_name, clock, threads, isa, network, position)
) STRICT;
"""
_MIGRATIONS = (_FIRST_SCHEMA, "ALTER TABLE report ADD COLUMN peak_rss_kb INTEGER;", _LAYER_MEASUREMENTS)
"""What makes a file of each version out of one of the version before."""
_LAYER_FIELDS = tuple(LayerLatency.model_fields)
_JSON_FIELDS = ("input_shape", "shape")


class Entry(NamedTuple):
    """A report in the history, and when it was taken (UTC, ISO 8601)."""

    id: int
    taken_at: str
    report: LatencyReport


class History:
    """The history in one file, by default `history.sqlite` under the state folder. Safe for concurrent writers."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or state_root() / "history.sqlite"

    def record(self, report: LatencyReport) -> int:
        """Writes a report, durably, and returns its id. Show a report only after this.

        Raises:
            ToolError: the file cannot be written.
            UserError: the file is not a history, or a newer edgectl's.
        """
        row: dict[str, Any] = {
            "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": report.model,
            "sha256": report.sha256,
            "device_name": str(report.device.get("name", "")),
            "device": json.dumps(report.device),
            "clock": report.clock,
            "threads": report.threads,
            "cpu_mask": report.cpu_mask,
            "warmup": report.warmup,
            "total": report.total.model_dump_json(),
            "profiled": report.profiled.model_dump_json(),
            "peak_rss_kb": report.peak_rss_kb,
        }
        with self.transaction() as db:
            number = _insert(db, "report", row)
            for position, layer in enumerate(report.layers):
                _insert(db, "layer", {"report_id": number, "position": position, **_layer_row(layer)})
        return number

    def entries(self, *, model: str | None = None, device: str | None = None, limit: int | None = None) -> list[Entry]:
        """Reports, newest first; only those of a model or of a device where asked.

        Raises:
            ToolError: the file cannot be read.
            UserError: the file is not a history, or a newer edgectl's.
        """
        if not self.path.exists():
            return []
        query = "SELECT * FROM report WHERE (? IS NULL OR model = ?) AND (? IS NULL OR device_name = ?) ORDER BY id DESC"
        with self.transaction() as db:
            rows = db.execute(f"{query} LIMIT ?", (model, model, device, device, -1 if limit is None else limit))
            return [_entry(db, row) for row in rows.fetchall()]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The file, locked for one writer; what is done within is written whole or, after an exception, not at all.

        Raises:
            ToolError: the file cannot be used.
            UserError: the file is not a history, or a newer edgectl's.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA foreign_keys=ON")
                db.execute("BEGIN IMMEDIATE")
                try:
                    _migrate(db, self.path)
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # sqlite3's own word for a file that is no database
                raise UserError(f"{self.path} is not a history ({error}): move it away to begin a new one.") from error
            raise ToolError(f"using the history {self.path}", str(error)) from error
        except OSError as error:
            raise ToolError(f"using the history {self.path}", error.strerror or str(error)) from error


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise UserError(f"{path} was written by a newer edgectl (schema {version}): update edgectl to use it.")
    for migration in _MIGRATIONS[version:]:
        for statement in filter(str.strip, migration.split(";")):
            db.execute(statement)
    if version < SCHEMA_VERSION:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    marks = ", ".join("?" * len(row))
    cursor = db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    return cursor.lastrowid or 0


def _layer_row(layer: LayerLatency) -> dict[str, Any]:
    row = layer.model_dump()
    return row | {field: json.dumps(row[field]) for field in _JSON_FIELDS}


def _entry(db: sqlite3.Connection, row: sqlite3.Row) -> Entry:
    layers = db.execute("SELECT * FROM layer WHERE report_id = ? ORDER BY position", (row["id"],)).fetchall()
    report = LatencyReport(
        **{field: row[field] for field in ("model", "sha256", "clock", "threads", "cpu_mask", "warmup", "peak_rss_kb")},
        device=json.loads(row["device"]),
        total=Latency.model_validate_json(row["total"]),
        profiled=Latency.model_validate_json(row["profiled"]),
        layers=[_layer(layer) for layer in layers],
    )
    return Entry(row["id"], row["taken_at"], report)


def _layer(row: sqlite3.Row) -> LayerLatency:
    fields = {field: row[field] for field in _LAYER_FIELDS}
    return LayerLatency(**fields | {field: json.loads(row[field]) for field in _JSON_FIELDS})
