"""What layers took on devices: the table of measurements that latency models are fitted on, in the history's file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edgectl.profile.history import History
from edgectl.profile.points import Point
from edgectl.profile.report import Clock

WHOLE, REST = -1, -2
"""Positions of what is no layer: the whole network, and what of it is outside of its layers."""
_KEPT = 5
_SETTLED = 1.05


@dataclass(frozen=True)
class Setting:
    """Where and how something was measured. What was measured in different settings is never mixed."""

    device: str
    clock: Clock
    threads: int
    isa: str


@dataclass(frozen=True)
class Measured:
    """What one layer of a network took, or the whole network, or the rest.

    Attributes:
        network: its name; layers of one network ran one after the other.
        position: of the layer in the order of execution. `WHOLE`: the network, measured without a profiler; `REST`: what its
            runs with the profiler took beyond their layers.
        point: the layer; None of the other two.
        lowest: the lowest times of all its runs, rising, in ns of the clock.
        settled: whether the lowest ones agree, see `agree`.
    """

    setting: Setting
    network: str
    position: int
    point: Point | None
    lowest: tuple[int, ...]
    runs: int
    rounds: int
    settled: bool

    @property
    def ns(self) -> int:
        """The least time of all runs: what other work on a device does to a run only adds."""
        return self.lowest[0]


def agree(lowest: Sequence[int]) -> bool:
    """The third lowest time is within 5 % of the lowest, which is then no accident (instruction counts: of any number)."""
    return lowest[min(2, len(lowest) - 1)] <= _SETTLED * lowest[0]


class Measurements:
    """The measurements in a history. A round is written at once, so that a kill loses at most the round in flight."""

    def __init__(self, history: History | None = None) -> None:
        self.history = history or History()

    def add(
        self,
        setting: Setting,
        network: str,
        whole: Sequence[int],
        rest: Sequence[int],
        layers: Sequence[tuple[Point, Sequence[int]]],
    ) -> list[Measured]:
        """Adds a round of a network: the times of its undisturbed runs, of the rest, and of its layers as they are executed.

        Returns what is now known of the network.

        Raises:
            ToolError: the file cannot be written.
            UserError: the file is not a history, or a newer edgectl's.
        """
        key = (setting.device, setting.clock, setting.threads, setting.isa, network)
        series: list[tuple[int, Point | None, Sequence[int]]] = [(REST, None, rest), (WHOLE, None, whole)]
        series += [(position, point, times) for position, (point, times) in enumerate(layers)]
        known = []
        with self.history.transaction() as db:
            for position, point, times in series:
                before = db.execute(f"SELECT * FROM measurement WHERE {_KEY} AND position = ?", (*key, position)).fetchone()
                former = _measured(before) if before else Measured(setting, network, position, point, (), 0, 0, False)
                lowest = tuple(sorted([*former.lowest, *times])[:_KEPT])
                now = Measured(
                    setting, network, position, point, lowest, former.runs + len(times), former.rounds + 1, agree(lowest)
                )
                _put(db, now)
                known.append(now)
        return known

    def copy(self, rows: Iterable[Measured]) -> None:
        """Takes over what was measured elsewhere (`read`), in place of what is known of the same.

        Raises:
            ToolError: the file cannot be written.
            UserError: the file is not a history, or a newer edgectl's.
        """
        with self.history.transaction() as db:
            for row in rows:
                _put(db, row)

    def read(self, *, device: str | None = None, clock: str | None = None, threads: int | None = None) -> list[Measured]:
        """All measurements, or those of a device, a clock, a number of threads; by network, then in execution order.

        Raises:
            ToolError: the file cannot be read.
            UserError: the file is not a history, or a newer edgectl's.
        """
        if not self.history.path.exists():
            return []
        asked = {"device_name": device, "clock": clock, "threads": threads}
        where = " AND ".join(f"(:{name} IS NULL OR {name} = :{name})" for name in asked)
        with self.history.transaction() as db:
            rows = db.execute(f"SELECT * FROM measurement WHERE {where} ORDER BY network, position", asked)
            return [_measured(row) for row in rows.fetchall()]


_KEY = "device_name = ? AND clock = ? AND threads = ? AND isa = ? AND network = ?"


def layers_in(rows: Iterable[Measured]) -> int:
    """How many of the rows are layers."""
    return sum(row.point is not None for row in rows)


def networks(rows: Iterable[Measured]) -> dict[str, list[Measured]]:
    """The rows of each network: the rest, the whole, then its layers in execution order."""
    found: dict[str, list[Measured]] = {}
    for row in rows:
        found.setdefault(row.network, []).append(row)
    return found


def _put(db: sqlite3.Connection, row: Measured) -> None:
    setting = row.setting
    text = row.point.model_dump_json(exclude_defaults=True) if row.point else None
    key = (setting.device, setting.clock, setting.threads, setting.isa, row.network, row.position)
    db.execute(
        "INSERT OR REPLACE INTO measurement VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, text, json.dumps(row.lowest), row.runs, row.rounds, int(row.settled), _now()),
    )


def _measured(row: Mapping[str, object]) -> Measured:
    clock: Clock = "wall" if row["clock"] == "wall" else "emulated-instructions"
    return Measured(
        Setting(str(row["device_name"]), clock, int(str(row["threads"])), str(row["isa"])),
        str(row["network"]),
        int(str(row["position"])),
        None if row["point"] is None else Point.model_validate_json(str(row["point"])),
        tuple(json.loads(str(row["lowest"]))),
        int(str(row["runs"])),
        int(str(row["rounds"])),
        bool(row["settled"]),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
