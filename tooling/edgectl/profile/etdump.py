"""Reads an ETDump, ExecuTorch's profile of a method, into the nanoseconds of every layer in every run.

The file is a FlatBuffer (executorch/devtools/etdump/etdump_schema_flatcc.fbs). It is read directly: importing
ExecuTorch's own reader takes several seconds, because it brings PyTorch along.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgectl.errors import ToolError
from edgectl.flatbuffer import Table, read_number
from edgectl.profile.events import Profile, Series

_IDENTIFIER = b"ED00"
_EDGE_MARK = b"edge"  # the metadata that EdgeKernelsBackend puts into its events
_RUN = "Method::execute"
_NATIVE_CALL = "native_call_"
_NUMBER = re.compile(r" #\d+$")  # XNNPACK numbers the ops of each delegate
_NOT_SET = -1


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


def _collect(runs: list[list[_Event]]) -> Profile:
    """Events come in the order in which they ended: what a call contains comes before the call."""
    complete = [events for events in runs if any(event.name == _RUN for event in events)]
    series = Series(len(complete))
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


def _add_operator(series: Series, run: int, call: _Event, inside: list[_Event]) -> None:
    names = [event.name.removeprefix(_NATIVE_CALL) for event in inside if event.name.startswith(_NATIVE_CALL)]
    series.add(("op", call.step), names[-1] if names else "operator", "executorch", run, call.ns)


def _add_delegate(series: Series, run: int, call: _Event, inside: list[_Event]) -> None:
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


def _runs(data: bytes) -> Iterator[Iterator[_Event]]:
    if len(data) < 12 or data[8:12] != _IDENTIFIER:
        raise ValueError("it is not an ETDump")
    if read_number(data, "<I", 0) != len(data) - 4:
        raise ValueError("its length is not the one that it states")
    root = Table(data, 4 + read_number(data, "<I", 4))
    for run in root.tables(1):
        yield _events(run)


def _events(run: Table) -> Iterator[_Event]:
    for event in run.tables(3):
        profile = event.table(0)
        if profile is None:
            continue
        start, end = profile.number(6, "<Q"), profile.number(7, "<Q")
        if end < start:
            raise ValueError("an event ends before it starts")
        step = profile.number(1, "<i"), profile.number(2, "<i", _NOT_SET)
        yield _Event(profile.text(0), profile.text(4), profile.bytes(5), step, end - start)
