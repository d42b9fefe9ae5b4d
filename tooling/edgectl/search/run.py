"""A search from beginning to end: supernet, latency model, trials, the network that is found. Killed, the same call goes on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from edgectl.artifact import sha256
from edgectl.device import Device, open_device
from edgectl.errors import ToolError, UserError
from edgectl.lowering import build
from edgectl.profile.history import History
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.measurements import Measurements
from edgectl.profile.picture import write_picture
from edgectl.search.finish import Finisher, Trained
from edgectl.search.front import Dot, Front, page, picture
from edgectl.search.held_out import SearchTask
from edgectl.search.judge import Judge
from edgectl.search.latency import Latencies, cpu_of, in_turns, measure, parse_budget, profile, recipe_of
from edgectl.search.network import network
from edgectl.search.settings import Settings
from edgectl.search.space import Candidate
from edgectl.search.storage import check_storage, open_study, storage_errors
from edgectl.search.supernet import Supernet, train_supernet
from edgectl.search.trials import Objective
from edgectl.tasks.sr import image_files, photographs_of
from edgectl.tasks.task import Progress
from edgectl.training.folder import WEIGHTS
from edgectl.training.loop import Hardware

ASKED, PLAN, REPORT, STUDY, MEASUREMENTS = "search.json", "plan.json", "report.json", "study.db", "measurements.db"
_VERSION = 1


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


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        ns, baseline_ns: of the found network and of the baseline, dense, measured in turns, in ns of the device's clock.
        budget: in the same.
        shown: writes such a time for people.
    """

    trained: Trained
    ns: float
    baseline_ns: float
    budget: float
    baseline: Trained | None
    trials: int
    latencies: Latencies


def search(asked: Asked, progress: Progress) -> Found:
    """Finds the network of the highest quality within a budget of latency on a device.

    In turns: the supernet is trained; layers are measured on the device until latency can be predicted; networks are tried; the
    best gets rates of its own, is trained to its end, built and measured (2108.08910's three stages). In the folder `out`
    everything is kept, so that the same call goes on where the last one stopped.

    Raises:
        UserError: the data, the budget or the storage cannot be what was meant, or `out` holds another search.
        ToolError: the device or the storage fails; what was found is kept.
    """
    device = open_device(asked.device)
    settings, out = asked.settings, asked.out
    clock = device.describe().require_latency_clock()
    parse_budget(asked.budget, "wall" if clock == "wall" else "emulated-instructions")  # mistakes are told before any work
    for part in ("train", "test"):
        image_files(photographs_of(asked.data, part))
    if asked.storage is not None:
        check_storage(asked.storage)
    _check(asked)
    task = SearchTask(settings.space)
    with _pausing(asked):
        supernet = train_supernet(
            settings.space, settings.supernet, task, asked.data, out / "supernet", asked.hardware, progress
        )
        latencies = _latencies(asked, device, progress)
        plan = _plan(asked, device, latencies, progress)
        objective = Objective(settings, latencies, plan.budget, plan.baseline)
        study = _study(asked, objective, out)
        judge = _judge(asked.hardware, supernet, task, asked.data, settings, progress)
        with _workers(asked), storage_errors("keeping trials in", asked.storage or _sqlite(out)):
            objective.run(study, judge, progress, lambda candidate: _measured(candidate, asked, device, progress))
        best = objective.best(study)
        finisher = Finisher(settings, supernet, latencies, device, asked.data, out, asked.hardware, progress)
        trained = finisher.pruned(best.candidate, "found", plan.budget)
        baseline = finisher.dense(settings.space.dense(), "baseline") if asked.baseline else None
        found = _compared(trained, baseline, plan, asked, objective, device, study, progress)
        _write_json(out / REPORT, document(asked, found))
        _write_front(asked, objective, study)
    return found


def document(asked: Asked, found: Found) -> dict[str, Any]:
    """What a search found, as JSON: times in ms, or in executed instructions of an emulated device."""
    wall = found.latencies.clock == "wall"

    def quoted(ns: float) -> float:
        return round(ns / 1e6, 4) if wall else round(ns)

    def trained(each: Trained, ns: float) -> dict[str, Any]:
        score = asdict(each.score)
        return {"network": str(each.candidate), "folder": str(each.folder), "latency": quoted(ns), "score": score}

    layers = found.trained.artifact.manifest.layers
    return {
        "version": _VERSION,
        "device": asked.device,
        "clock": found.latencies.clock,
        "unit": "ms" if wall else found.latencies.clock,
        "threads": asked.threads,
        "budget": quoted(found.budget),
        "trials": found.trials,
        "found": trained(found.trained, found.ns),
        "baseline": {"network": str(asked.settings.space.dense()), "latency": quoted(found.baseline_ns)}
        | (trained(found.baseline, found.baseline_ns) if found.baseline else {}),
        "layers": [
            {"name": layer.name, "scheme": layer.scheme, "rate": round(layer.rate, 3), "nonzeros": layer.nonzeros}
            for layer in layers
            if layer.weights
        ],
    }


def work(out: Path, storage: str | None, data: Path | None, seed: int, progress: Progress) -> int:
    """Tries networks of a search that was begun in `out`, until it has enough; returns how many it has.

    Raises:
        UserError: no search has come as far as its trials in `out`, or the storage is another's.
        ToolError: the storage fails.
    """
    plan = _read(out)
    if plan is None:
        raise UserError(f"{out} holds no search that has begun its trials: start it with `edgectl search sr --out {out}`.")
    settings = Settings.model_validate(plan.settings)
    photographs = data or Path(plan.data)
    hardware = Hardware(plan.accelerator, 1, plan.precision)
    task = SearchTask(settings.space)
    supernet = train_supernet(settings.space, settings.supernet, task, Path(plan.data), out / "supernet", hardware, progress)
    store = Measurements(History(out / MEASUREMENTS))
    latencies = Latencies(settings.space, LatencyModel.of(store, plan.device, plan.clock), plan.threads)
    objective = Objective(settings, latencies, plan.budget, plan.baseline)
    url = storage or _sqlite(out)
    study = open_study(url, _name(out), objective.sampler(seed), _facts(plan, out))
    with storage_errors("keeping trials in", url):
        objective.run(study, _judge(hardware, supernet, task, photographs, settings, progress), progress)
    return len(objective.tried(study))


def _check(asked: Asked) -> None:
    """Writes what is asked into the folder of the search; raises UserError where it holds anything else."""
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
    _write_json(file, wanted)


def _plan(asked: Asked, device: Device, latencies: Latencies, progress: Progress) -> Plan:
    """The budget in ns, measured where it is a fraction; the plan that is there already, or a new one.

    Raises:
        UserError: the budget is below what the smallest network needs.
    """
    known = _read(asked.out)
    if known is not None:
        return known
    space, out = asked.settings.space, asked.out
    progress("measuring the baseline", None)
    baseline = _measured(space.dense(), asked, device, progress)
    latencies.correct({space.dense(): baseline})
    number, fraction = parse_budget(asked.budget, latencies.clock)
    budget = number * baseline if fraction else number
    if budget < latencies.predicted(space.smallest()):
        least = _measured(space.smallest(), asked, device, progress)
        if budget < least:
            raise UserError(
                f"The budget of {asked.budget} is below what the smallest network of the space needs on {device.name}: "
                f"{latencies.shown(least)}, or {100 * least / baseline:.0f}% of the baseline."
            )
    settings, hardware = asked.settings.model_dump(mode="json"), asked.hardware
    plan = Plan(
        _VERSION, settings, str(asked.data.resolve()), device.name, latencies.clock, asked.threads,
        budget, baseline, hardware.precision, hardware.accelerator,
    )  # fmt: skip
    _write_json(out / PLAN, asdict(plan))
    return plan


def _read(out: Path) -> Plan | None:
    try:
        raw = json.loads((out / PLAN).read_text(encoding="utf-8"))
        plan = Plan(**raw)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{out / PLAN} is no plan of a search: choose another --out.") from error
    if plan.version != _VERSION:
        raise UserError(f"{out / PLAN} was written by another version of edgectl: choose another --out.")
    return plan


def _measured(candidate: Candidate, asked: Asked, device: Device, progress: Progress) -> float:
    """What a network takes; its weights make no difference to that."""
    space = asked.settings.space
    recipe = recipe_of(space, candidate, candidate.rules(), cpu_of(device))
    module = network(space.scale, candidate.features, candidate.blocks)
    return measure(recipe, module, device, asked.threads, progress)


def _latencies(asked: Asked, device: Device, progress: Progress) -> Latencies:
    """Measures layers and fits the model, on what is copied into the search's folder: all its workers predict the same."""
    file, space = asked.out / MEASUREMENTS, asked.settings.space
    if not file.exists():
        store, partial = Measurements(), file.with_name(f".{file.name}.new")
        profile(space, device, asked.threads, asked.settings.layers, store, progress)
        partial.unlink(missing_ok=True)
        Measurements(History(partial)).copy(store.read(device=device.name))
        partial.replace(file)
    progress("fitting the latency model", None)
    clock = device.describe().require_latency_clock()
    return Latencies(space, LatencyModel.of(Measurements(History(file)), device.name, clock), asked.threads)


def _judge(
    hardware: Hardware, supernet: Supernet, task: SearchTask, data: Path, settings: Settings, progress: Progress
) -> Judge:
    return Judge(hardware.launch(), supernet, task, data, settings.fine_tune, settings.steps, progress)


def _study(asked: Asked, objective: Objective, out: Path) -> optuna.Study:
    plan = _read(out)
    assert plan is not None
    return open_study(asked.storage or _sqlite(out), _name(out), objective.sampler(asked.settings.seed), _facts(plan, out))


def _facts(plan: Plan, out: Path) -> dict[str, Any]:
    """What all workers of a study must agree on."""
    trained = sha256(out / "supernet" / WEIGHTS)
    settings = hashlib.sha256(json.dumps(plan.settings, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "settings": settings,
        "supernet": trained[:16],
        "device": plan.device,
        "budget": plan.budget,
        "threads": plan.threads,
    }


def _name(out: Path) -> str:
    return f"edgectl {out.resolve().name}"


def _sqlite(out: Path) -> str:
    return f"sqlite:///{(out / STUDY).resolve()}"


@contextmanager
def _workers(asked: Asked) -> Iterator[None]:
    """More processes that try networks, beside this one; they end with it."""
    command = [sys.executable, "-c", "from edgectl.cli import main; main()", "search", "worker", str(asked.out)]
    if asked.storage is not None:
        command += ["--storage", asked.storage]
    started = [
        subprocess.Popen([*command, "--seed", str(asked.settings.seed + 1 + number)], stdout=subprocess.DEVNULL)
        for number in range(asked.workers - 1)
    ]
    try:
        yield
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.terminate()
            process.wait()


@contextmanager
def _pausing(asked: Asked) -> Iterator[None]:
    """Says of a failure that the search has only paused."""
    try:
        yield
    except ToolError as error:
        detail = (error.detail or "it gave no reason").rstrip(".")
        raise ToolError(
            error.step,
            f"{detail}; the search has paused, {asked.out} keeps what it has, and the same command goes on from there",
        ) from error


def _compared(
    trained: Trained,
    baseline: Trained | None,
    plan: Plan,
    asked: Asked,
    objective: Objective,
    device: Device,
    study: optuna.Study,
    progress: Progress,
) -> Found:
    """The network that was found and the dense baseline, measured in turns."""
    space = asked.settings.space
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        if baseline is None:
            dense = space.dense()
            module = network(space.scale, dense.features, dense.blocks)
            recipe = recipe_of(space, dense, [], cpu_of(device))
            beside = build(recipe, Path(folder) / "baseline", model=module).artifact
        else:
            beside = baseline.artifact
        ns, baseline_ns = in_turns([trained.artifact, beside], device, asked.threads, progress)
    return Found(trained, ns, baseline_ns, plan.budget, baseline, len(objective.tried(study)), objective.latencies)


def _write_front(asked: Asked, objective: Objective, study: optuna.Study) -> None:
    """The front of all that was tried, as a page and, where matplotlib is installed, as a picture."""
    unit = 1e6 if objective.latencies.clock == "wall" else 1.0
    dots = [
        Dot(tried.ns / unit, tried.quality, str(tried.candidate), "measured" if tried.measured else "predicted")
        for tried in objective.tried(study)
    ]
    name = "ms" if objective.latencies.clock == "wall" else objective.latencies.clock
    front = Front(dots, f"{name} on {asked.device}", "held-out Y-PSNR, dB", objective.budget / unit)
    title = f"{len(dots)} networks of the search {asked.out.name}"
    _write_text(asked.out / "front.html", page(front, title))
    if importlib.util.find_spec("matplotlib") is not None:
        write_picture(picture(front, title), asked.out / "front.png")


def _write_json(file: Path, document: Mapping[str, Any]) -> None:
    _write_text(file, json.dumps(document, indent=1) + "\n")


def _write_text(file: Path, text: str) -> None:
    """Writes a file whole or not at all. Raises ToolError."""
    new = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise ToolError(f"writing {file}", error.strerror or str(error)) from error
