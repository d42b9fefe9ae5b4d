"""Reads an ETDump, ExecuTorch's profile of a method, into the nanoseconds of every layer in every run.

The file is a FlatBuffer (executorch/devtools/etdump/etdump_schema_flatcc.fbs). It is read directly: importing
ExecuTorch's own reader takes several seconds, because it brings PyTorch along.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl.errors import ToolError

Runner = Literal["edge", "xnnpack", "executorch"]

_IDENTIFIER = b"ED00"
_EDGE_MARK = b"edge"  # the metadata that EdgeKernelsBackend puts into its events
_RUN = "Method::execute"
_NATIVE_CALL = "native_call_"
_NUMBER = re.compile(r" #\d+$")  # XNNPACK numbers the ops of each delegate
_NOT_SET = -1


class Profile(dict[str, list[int]]):
    """All runs of an ETDump: layer's name -> nanoseconds of each run, in execution order.

    The name is the PyTorch module path for layers that our backend ran (several events of one run with one module path
    are summed), and the operator's name, made unique, for the others. Nanoseconds are ticks of the device's clock:
    instructions where that clock counts them. A layer that a run left out has 0 there.

    Attributes:
        runners: layer's name -> who ran it.
        totals: nanoseconds of each whole run, with profiling on.
    """

    def __init__(self, totals: list[int]) -> None:
        super().__init__()
        self.runners: dict[str, Runner] = {}
        self.totals = totals


def read(path: Path | str) -> Profile:
    """Reads an ETDump written by the runner.

    The time of an XNNPACK delegate that none of its events explains is listed as ``delegate call``.

    Raises:
        ToolError: the file cannot be read, is damaged, or holds no complete run.
    """
    path = Path(path)
    step = f"reading the profile {path.name}"
    try:
        runs = [list(events) for events in _runs(path.read_bytes())]
        profile = _collect(runs)
    except OSError as error:
        raise ToolError(step, str(error)) from error
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ToolError(step, f"the file is damaged or cut short ({error})") from error
    if not profile.totals:
        raise ToolError(step, "it holds no complete run")
    return profile


@dataclass(frozen=True)
class _Event:
    name: str  # of an operator or a phase; empty for a delegate's event
    delegate_name: str
    metadata: bytes
    step: tuple[int, int]  # chain and instruction of the method
    ns: int


class _Series:
    """Collects times by key; the keys keep the order in which they first came."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.names: dict[tuple[object, ...], tuple[str, Runner]] = {}
        self.times: dict[tuple[object, ...], list[int]] = {}

    def add(self, key: tuple[object, ...], name: str, runner: Runner, run: int, ns: int) -> None:
        self.names.setdefault(key, (name, runner))
        self.times.setdefault(key, [0] * self.runs)[run] += ns

    def fill(self, profile: Profile) -> None:
        """Module paths keep their names; the names of other operators are numbered where they are taken."""
        taken = {name for name, runner in self.names.values() if runner == "edge"}
        for key, (name, runner) in self.names.items():
            unique = name
            if runner != "edge":
                numbers = itertools.count(2)
                while unique in taken:
                    unique = f"{name} #{next(numbers)}"
                taken.add(unique)
            profile[unique] = self.times[key]
            profile.runners[unique] = runner


def _collect(runs: list[list[_Event]]) -> Profile:
    """Events come in the order in which they ended: what a call contains comes before the call."""
    complete = [events for events in runs if any(event.name == _RUN for event in events)]
    series = _Series(len(complete))
    for run, events in enumerate(complete):
        inside: list[_Event] = []
        for event in events:
            if event.name == "OPERATOR_CALL":
                _add_operator(series, run, event, inside)
            elif event.name == "DELEGATE_CALL":
                _add_delegate(series, run, event, inside)
            else:
                inside.append(event)
                continue
            inside = []
    profile = Profile([sum(event.ns for event in events if event.name == _RUN) for events in complete])
    series.fill(profile)
    return profile


def _add_operator(series: _Series, run: int, call: _Event, inside: list[_Event]) -> None:
    names = [event.name.removeprefix(_NATIVE_CALL) for event in inside if event.name.startswith(_NATIVE_CALL)]
    series.add(("op", call.step), names[-1] if names else "operator", "executorch", run, call.ns)


def _add_delegate(series: _Series, run: int, call: _Event, inside: list[_Event]) -> None:
    parts = [event for event in inside if event.delegate_name]
    for part in parts:
        if part.metadata == _EDGE_MARK:
            series.add(("edge", part.delegate_name), part.delegate_name, "edge", run, part.ns)
        else:
            name = _NUMBER.sub("", part.delegate_name)
            series.add(("xnnpack", call.step, part.delegate_name), name, "xnnpack", run, part.ns)
    if not any(part.metadata == _EDGE_MARK for part in parts):
        rest = max(0, call.ns - sum(part.ns for part in parts))
        series.add(("xnnpack", call.step), "delegate call", "xnnpack", run, rest)


class _Table:
    """A FlatBuffer table. Reading outside the file raises struct.error or ValueError."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        self.vtable = at - _number(data, "<i", at)
        self.vtable_size = _number(data, "<H", self.vtable)

    def _where(self, slot: int) -> int:
        entry = 4 + 2 * slot
        if entry + 2 > self.vtable_size:
            return 0
        offset = _number(self.data, "<H", self.vtable + entry)
        return self.at + offset if offset else 0

    def number(self, slot: int, kind: str, default: int = 0) -> int:
        where = self._where(slot)
        return _number(self.data, kind, where) if where else default

    def table(self, slot: int) -> _Table | None:
        where = self._where(slot)
        return _Table(self.data, where + _number(self.data, "<I", where)) if where else None

    def bytes(self, slot: int) -> bytes:
        where = self._where(slot)
        if not where:
            return b""
        start = where + _number(self.data, "<I", where)
        size = _number(self.data, "<I", start)
        if start + 4 + size > len(self.data):
            raise ValueError("a text is longer than the file")
        return self.data[start + 4 : start + 4 + size]

    def text(self, slot: int) -> str:
        return self.bytes(slot).decode()

    def tables(self, slot: int) -> Iterator[_Table]:
        where = self._where(slot)
        if not where:
            return
        start = where + _number(self.data, "<I", where)
        count = _number(self.data, "<I", start)
        if start + 4 + 4 * count > len(self.data):
            raise ValueError("a list is longer than the file")
        for i in range(count):
            entry = start + 4 + 4 * i
            yield _Table(self.data, entry + _number(self.data, "<I", entry))


def _number(data: bytes, kind: str, at: int) -> int:
    if at < 0:
        raise ValueError("something lies before the file's start")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


def _runs(data: bytes) -> Iterator[Iterator[_Event]]:
    if len(data) < 12 or data[8:12] != _IDENTIFIER:
        raise ValueError("it is not an ETDump")
    if _number(data, "<I", 0) != len(data) - 4:
        raise ValueError("its length is not the one that it states")
    root = _Table(data, 4 + _number(data, "<I", 4))
    for run in root.tables(1):
        yield _events(run)


def _events(run: _Table) -> Iterator[_Event]:
    for event in run.tables(3):
        profile = event.table(0)
        if profile is None:
            continue
        start, end = profile.number(6, "<Q"), profile.number(7, "<Q")
        if end < start:
            raise ValueError("an event ends before it starts")
        step = profile.number(1, "<i"), profile.number(2, "<i", _NOT_SET)
        yield _Event(profile.text(0), profile.text(4), profile.bytes(5), step, end - start)
