"""A search from beginning to end: supernet, latency model, trials, the network that is found. Killed, the same call goes on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from edgectl.device import Device, open_device
from edgectl.errors import ToolError, UserError
from edgectl.lowering import build
from edgectl.profile.history import History
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.measurements import Measurements
from edgectl.search.finish import Finisher, Trained
from edgectl.search.folder import (
    MEASUREMENTS,
    PLAN,
    REPORT,
    SUPERNET,
    VERSION,
    Asked,
    Plan,
    check,
    facts,
    read_plan,
    sqlite,
    write_json,
)
from edgectl.search.held_out import SearchTask
from edgectl.search.judge import Judge
from edgectl.search.latency import Latencies, cpu_of, in_turns, measure, parse_budget, profile, recipe_of
from edgectl.search.network import network
from edgectl.search.report import Found, document, write_front
from edgectl.search.settings import Settings
from edgectl.search.space import Candidate
from edgectl.search.storage import check_storage, open_study, storage_errors
from edgectl.search.supernet import Supernet, train_supernet
from edgectl.search.trials import Objective
from edgectl.tasks.sr import image_files, photographs_of
from edgectl.tasks.task import Progress
from edgectl.training.loop import Hardware

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
    check(asked)
    task = SearchTask(settings.space)
    with _pausing(asked):
        supernet = train_supernet(settings.space, settings.supernet, task, asked.data, out / SUPERNET, asked.hardware, progress)
        latencies = _latencies(asked, device, progress)
        plan = _plan(asked, device, latencies, progress)
        objective = Objective(settings, latencies, plan.budget, plan.baseline)
        storage = asked.storage or sqlite(out)
        study = _study(storage, objective, plan, out, settings.seed)
        judge = Judge(asked.hardware.launch(), supernet, task, asked.data, settings.fine_tune, settings.steps, progress)
        with _workers(asked), storage_errors(storage, "keeping trials in"):
            objective.run(study, judge, progress, lambda candidate: _measured(candidate, asked, device, progress))
        best = objective.best(study)
        finisher = Finisher(settings, supernet, latencies, device, asked.data, out, asked.hardware, progress)
        trained = finisher.pruned(best.candidate, "found", plan.budget)
        baseline = finisher.dense(settings.space.dense(), "baseline") if asked.baseline else None
        found = _compared(trained, baseline, plan, asked, objective, device, study, progress)
        write_json(out / REPORT, document(asked, found))
        write_front(asked, objective, objective.tried(study))
    return found


def work(out: Path, storage: str | None, data: Path | None, seed: int, progress: Progress) -> int:
    """Tries networks of a search that was begun in `out`, until it has enough; returns how many it has.

    Raises:
        UserError: no search has come as far as its trials in `out`, or the storage is another's.
        ToolError: the storage fails.
    """
    joint = joined(out, data, progress)
    url = storage or sqlite(out)
    study = _study(url, joint.objective, joint.plan, out, seed)
    judge = Judge(
        joint.fabric, joint.supernet, SearchTask(joint.settings.space), joint.data, joint.settings.fine_tune,
        joint.settings.steps, progress,
    )  # fmt: skip
    with storage_errors(url, "keeping trials in"):
        joint.objective.run(study, judge, progress)
    return len(joint.objective.tried(study))


@dataclass(frozen=True)
class Joined:
    """All that a worker needs of a search that another began."""

    plan: Plan
    settings: Settings
    data: Path
    supernet: Supernet
    objective: Objective
    fabric: Fabric


def joined(out: Path, data: Path | None, progress: Progress) -> Joined:
    """Reads a search that has begun its trials from its folder, or a copy of it; `data` is where its photographs are now.

    Raises:
        UserError: there is none.
    """
    plan = read_plan(out)
    if plan is None:
        raise UserError(f"{out} holds no search that has begun its trials: start it with `edgectl search sr --out {out}`.")
    settings, hardware = Settings.model_validate(plan.settings), Hardware(plan.accelerator, 1, plan.precision)
    task = SearchTask(settings.space)
    supernet = train_supernet(settings.space, settings.supernet, task, Path(plan.data), out / SUPERNET, hardware, progress)
    model = LatencyModel.of(Measurements(History(out / MEASUREMENTS)), plan.device, plan.clock)
    objective = Objective(settings, Latencies(settings.space, model, plan.threads), plan.budget, plan.baseline)
    objective.latencies.correct({settings.space.dense(): plan.baseline})
    return Joined(plan, settings, data or Path(plan.data), supernet, objective, hardware.launch())


def _plan(asked: Asked, device: Device, latencies: Latencies, progress: Progress) -> Plan:
    """The budget in ns, measured where it is a fraction; the plan that is there already, or a new one.

    Raises:
        UserError: the budget is below what the smallest network needs.
    """
    known = read_plan(asked.out)
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
        VERSION, settings, str(asked.data.resolve()), device.name, latencies.clock, asked.threads,
        budget, baseline, hardware.precision, hardware.accelerator,
    )  # fmt: skip
    write_json(out / PLAN, asdict(plan))
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


def _study(storage: str, objective: Objective, plan: Plan, out: Path, seed: int) -> optuna.Study:
    return open_study(storage, f"edgectl {out.resolve().name}", objective.sampler(seed), facts(plan, out))


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
