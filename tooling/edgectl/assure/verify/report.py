"""The report of a verification: one JSON file, whole after every instance, that a later run goes on from."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgectl.errors import ToolError, UserError

Answer = Literal["verified", "falsified", "unknown"]
VERIFIED: Final = "verified"
FALSIFIED: Final = "falsified"
UNKNOWN: Final = "unknown"
_MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class Counterexample:
    """An input that the model's runtime was run on, and the outputs it gave: both flat, float32."""

    input: npt.NDArray[np.float32]
    output: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """What became of one instance.

    Attributes:
        model: the model's name, as the user wrote it.
        property: the property's.
        verdict: `verified`, `falsified`, or `unknown` when the time was up.
        bound: a proven lower bound of how far all inputs are from violating the property: above 0 when verified.
        branches: how many domains were bounded.
        seconds: what it took.
        timeout: what it was given.
        digest: of the network and the property.
        counterexample: where it is falsified.
    """

    model: str
    property: str
    verdict: Answer
    bound: float
    branches: int
    seconds: float
    timeout: float
    digest: str
    counterexample: Counterexample | None = None

    def settles(self, timeout: float) -> bool:
        """Whether asking again with so much time would tell no more."""
        return self.verdict != UNKNOWN or self.timeout >= timeout


class Report:
    """The results of a run on disk; without a path they are only kept in memory.

    A killed run loses at most the instance in flight: the file is replaced whole after each.

    Raises:
        UserError: there is another file at the path, or none can be written there.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.results: list[Result] = []
        self._former = {} if path is None or not path.exists() else _read(path)
        if path is not None:
            _check_writable(path)

    def known(self, model: str, name: str, digest: str, timeout: float) -> Result | None:
        """What an earlier run found out of the same network and property, if asking again would tell no more."""
        result = self._former.get((model, name, digest))
        return result if result is not None and result.settles(timeout) else None

    def add(self, result: Result) -> None:
        """Appends a result, which is on disk when this returns.

        Raises:
            ToolError: the file cannot be written.
        """
        self.results.append(result)
        if self.path is None:
            return
        kept = {(r.model, r.property, r.digest) for r in self.results}
        later = [former for key, former in self._former.items() if key not in kept]
        self._write([*self.results, *later])

    def finish(self) -> None:
        """Forgets results of earlier runs that this one did not ask for."""
        if self.path is not None:
            self._write(self.results)

    def _write(self, results: list[Result]) -> None:
        assert self.path is not None
        partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                json.dump({"instances": [_document(result) for result in results]}, file, indent=1, allow_nan=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ToolError(f"writing {self.path}", error.strerror or str(error)) from error


def _check_writable(path: Path) -> None:
    """Raises UserError where no report can be written: before hours are spent on what it would hold."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"No report can be written to {path}: {folder} is not a folder that you may write to.")


def _document(result: Result) -> dict[str, Any]:
    made: dict[str, Any] = {
        "model": result.model,
        "property": result.property,
        "verdict": result.verdict,
        "bound": result.bound if math.isfinite(result.bound) else None,
        "branches": result.branches,
        "seconds": round(result.seconds, 3),
        "timeout": result.timeout,
        "digest": result.digest,
    }
    if result.counterexample is not None:
        sides = (("input", result.counterexample.input), ("output", result.counterexample.output))
        # the shortest decimals that are these float32 numbers
        made["counterexample"] = {key: [float(str(value)) for value in array.reshape(-1)] for key, array in sides}
    return made


def _read(path: Path) -> dict[tuple[str, str, str], Result]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        rows = json.loads(path.read_text(encoding="utf-8"))["instances"]
        results = [_result(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} exists, but is no report of `edgectl verify`: choose another file.") from error
    return {(result.model, result.property, result.digest): result for result in results}


def _result(row: dict[str, Any]) -> Result:
    if row["verdict"] not in (VERIFIED, FALSIFIED, UNKNOWN):
        raise ValueError(row["verdict"])
    found = row.get("counterexample")
    example = None
    if found is not None:
        example = Counterexample(np.array(found["input"], np.float32), np.array(found["output"], np.float32))
    bound = -math.inf if row["bound"] is None else float(row["bound"])
    numbers = int(row["branches"]), float(row["seconds"]), float(row["timeout"])
    return Result(str(row["model"]), str(row["property"]), row["verdict"], bound, *numbers, str(row["digest"]), example)
