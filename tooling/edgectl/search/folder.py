"""What a search keeps in its folder: what it was asked, what its workers must know, what it measured and tried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgectl.artifact import sha256
from edgectl.errors import ToolError, UserError
from edgectl.search.settings import Settings
from edgectl.training.folder import WEIGHTS
from edgectl.training.loop import Hardware

ASKED, PLAN, REPORT, STUDY, MEASUREMENTS = "search.json", "plan.json", "report.json", "study.db", "measurements.db"
SUPERNET = "supernet"
VERSION = 1


@dataclass(frozen=True)
class Asked:
    """What a user asks a search for.

    Attributes:
        budget: as it was written: `33ms`, `120M`, `50%`.
        storage: of the trials; None for an SQLite file in `out`.
        workers: processes that try networks.
        baseline: train the space's baseline too, to see what the budget costs.
    """

    settings: Settings
    data: Path
    device: str
    threads: int
    budget: str
    out: Path
    hardware: Hardware
    storage: str | None = None
    workers: int = 1
    baseline: bool = False


@dataclass(frozen=True)
class Plan:
    """What every worker of a search must know: written once, read by those that join.

    Attributes:
        budget, baseline: ns of the device's clock; the latter is the space's baseline, measured.
    """

    version: int
    settings: dict[str, Any]
    data: str
    device: str
    clock: str
    threads: int
    budget: float
    baseline: float
    precision: str
    accelerator: str


def check(asked: Asked) -> None:
    """Writes what is asked into the folder of the search.

    Raises:
        UserError: the folder holds anything else, or a search that was asked otherwise.
        ToolError: it cannot be written.
    """
    out, file = asked.out, asked.out / ASKED
    wanted = {
        "settings": asked.settings.model_dump(mode="json"),
        "data": str(asked.data.resolve()),
        **{"device": asked.device, "threads": asked.threads, "budget": asked.budget, "precision": asked.hardware.precision},
    }
    if file.is_file():
        try:
            former = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is damaged: choose another --out.") from error
        differ = [name for name, value in wanted.items() if former.get(name) != value]
        if differ:
            raise UserError(f"{out} holds a search with other {' and '.join(differ)}: choose another --out, or ask the same.")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a search: choose another --out.")
    write_json(file, wanted)


def read_plan(out: Path) -> Plan | None:
    """The plan in a search's folder, or None where the search has not come so far.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        raw = json.loads((out / PLAN).read_text(encoding="utf-8"))
        plan = Plan(**raw)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{out / PLAN} is no plan of a search: choose another --out.") from error
    if plan.version != VERSION:
        raise UserError(f"{out / PLAN} was written by another version of edgectl: choose another --out.")
    return plan


def facts(plan: Plan, out: Path) -> dict[str, Any]:
    """What all workers of a study must agree on."""
    trained = sha256(out / SUPERNET / WEIGHTS)
    settings = hashlib.sha256(json.dumps(plan.settings, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "settings": settings,
        "supernet": trained[:16],
        "device": plan.device,
        "budget": plan.budget,
        "threads": plan.threads,
    }


def sqlite(out: Path) -> str:
    """The URL of the storage that a search has by default."""
    return f"sqlite:///{(out / STUDY).resolve()}"


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Writes a file whole or not at all. Raises ToolError."""
    write_text(file, json.dumps(document, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes a file whole or not at all. Raises ToolError."""
    new = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise ToolError(f"writing {file}", error.strerror or str(error)) from error
