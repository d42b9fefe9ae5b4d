"""Reads the profile that the LiteRT runner writes into the nanoseconds of every layer in every run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from edgectl.errors import ToolError
from edgectl.profile.events import Profile, Series


class _Event(BaseModel):
    name: str
    runner: Literal["edge", "xnnpack", "litert"]
    ns: int = Field(ge=0)


class _Run(BaseModel):
    total_ns: int = Field(ge=0)
    events: list[_Event]


class _Document(BaseModel):
    version: Literal[1]
    runs: list[_Run] = Field(min_length=1)


def read(path: Path | str) -> Profile:
    """Reads a profile written by the LiteRT runner.

    Raises:
        ToolError: the file cannot be read or is damaged, or holds no run.
    """
    path = Path(path)
    step = f"reading the profile {path.name}"
    try:
        document = _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ToolError(step, str(error)) from error
    except ValidationError as error:
        raise ToolError(step, f"the file is damaged ({error.errors()[0]['msg']})") from error
    series = Series(len(document.runs))
    for number, run in enumerate(document.runs):
        times = Counter[tuple[str, str]]()  # an operation of the runtime is known by its name and which of that name it is
        for event in run.events:
            kind = (event.runner, event.name)
            times[kind] += 1
            key = kind if event.runner == "edge" else (*kind, times[kind])
            series.add(key, event.name, event.runner, number, event.ns)
    profile = Profile([run.total_ns for run in document.runs])
    series.fill(profile)
    return profile
