"""Verifies instances one after the other: loads, asks, checks counterexamples by running the model, and keeps what was found."""

from __future__ import annotations

import csv
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgectl.assure.verify.models import Network, load_network
from edgectl.assure.verify.properties import Property, check_eps, check_sizes, robustness
from edgectl.assure.verify.report import Answer, Counterexample, Report, Result
from edgectl.assure.verify.samples import Sample, read_samples
from edgectl.assure.verify.vnnlib import read_vnnlib
from edgectl.errors import UserError

_MOST_ROWS = 100_000


@dataclass(frozen=True)
class Question:
    """One instance: a property of a model, and how long to try.

    Attributes:
        model: the model's file or folder.
        name: what the report calls the model.
        property: what it calls the property.
        timeout: seconds.
        ask: the properties, all of which must hold, for the network once it is loaded.
    """

    model: Path
    name: str
    property: str
    timeout: float
    ask: Callable[[Network], list[Property]]


def of_files(model: Path, properties: Path, timeout: float) -> Question:
    """A question of a VNN-LIB file."""
    return Question(model, str(model), str(properties), timeout, _asking(properties))


def of_instances(path: Path, timeout: float | None) -> list[Question]:
    """The questions of an `instances.csv`: rows of a model, a VNN-LIB file and seconds, which `timeout` overrides.

    Names are relative to the file's folder, and may lack the `.gz` of the files.

    Raises:
        UserError: the file is missing or not such a table, or files it names are missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row, _ in zip(csv.reader(file), range(_MOST_ROWS + 1), strict=False)]
    except FileNotFoundError as error:
        raise UserError(f"There are no instances at {path}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    questions = []
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() for cell in row]
        try:
            model, prop, seconds = cells
            limit = float(seconds) if timeout is None else timeout
            if not (math.isfinite(limit) and limit > 0):
                raise ValueError
        except ValueError:
            raise UserError(f"{path}, row {number}: it must be a model, a VNN-LIB file and a number of seconds.") from None
        found = [_beside(path, number, name) for name in (model, prop)]
        questions.append(Question(found[0], model, prop, limit, _asking(found[1])))
    if not questions or len(rows) > _MOST_ROWS:
        raise UserError(f"{path} has {'no' if not questions else 'too many'} rows.")
    return questions


def of_samples(
    model: Path,
    data: Path,
    eps: float,
    timeout: float,
    *,
    load: Callable[[Path], Network] = load_network,
    labels: Path | None = None,
    count: int | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> list[Question]:
    """Questions of robustness around samples; without labels, of keeping the outputs that the model gives them.

    Raises:
        UserError: eps is negative, or the samples are missing, damaged or do not fit the model.
    """
    check_eps(eps)
    network = load(model)
    if network.outputs < 2:
        raise UserError(f"{model} has one output: robustness is of which output is the largest. Give a --property.")
    samples = read_samples(data, network.graph.input.shape, labels=labels, count=count, span=span)
    questions = []
    for sample in samples:
        name = f"{data.name}[{sample.name}] eps {eps:g}"
        label = _label(network, sample)
        prop = robustness(name, sample.values, label, network.outputs, eps, span)
        questions.append(Question(model, str(model), name, timeout, _given([prop])))
    return questions


def _asking(path: Path) -> Callable[[Network], list[Property]]:
    return lambda network: read_vnnlib(path, network.graph.input.size, network.outputs)


def _given(properties: list[Property]) -> Callable[[Network], list[Property]]:
    def ask(network: Network) -> list[Property]:
        check_sizes(properties, network.graph.input.size, network.outputs, properties[0].name)
        return properties

    return ask


def _label(network: Network, sample: Sample) -> int:
    if sample.label is not None:
        return sample.label
    return int(network.run(sample.values.numpy().astype(np.float32).reshape(network.shape)).argmax())


def _beside(path: Path, row: int, name: str) -> Path:
    for candidate in (path.parent / name, path.parent / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise UserError(f"{path}, row {row}: there is no {path.parent / name}.")


class Loader:
    """Loads networks, and keeps the last one: instances come sorted by model."""

    def __init__(self) -> None:
        self._last: tuple[Path, Network] | None = None

    def __call__(self, path: Path) -> Network:
        """The network at a path; see edgectl.assure.verify.models.load_network."""
        if self._last is None or self._last[0] != path:
            self._last = (path, load_network(path))
        return self._last[1]


def run(
    questions: Sequence[Question],
    report: Report,
    options: Options,
    *,
    load: Callable[[Path], Network],
    start: Callable[[Question], None] = lambda question: None,
) -> Iterator[Result]:
    """Answers questions in turn, each on disk in the report before it is yielded; those the report knows are not asked again.

    Args:
        questions: what to ask.
        report: where results go, and those of earlier runs are.
        options: how to search.
        load: gives the network at a path.
        start: called with each question before it is asked.

    Raises:
        UserError: a model or a property is missing, damaged, or they do not belong together.
        ToolError: the report cannot be written.
    """
    for question in questions:
        start(question)
        network = load(question.model)
        properties = question.ask(network)
        digest = _digest(network, properties)
        result = report.known(question.name, question.property, digest, question.timeout)
        if result is None:
            result = _answer(question, network, properties, digest, options)
        report.add(result)
        yield result


def _answer(question: Question, network: Network, properties: list[Property], digest: str, options: Options) -> Result:
    """Asks for the properties one after the other: all must hold, and one that does not is enough."""
    began = time.monotonic()
    bound, branches, verdict = math.inf, 0, "verified"
    example = None
    for prop in properties:
        left = max(0.0, question.timeout - (time.monotonic() - began))

        def confirms(x: Tensor, prop: Property = prop) -> bool:
            return _confirm(network, prop, x) is not None

        found = verify(network.graph, prop, options, timeout=left, confirm=confirms)
        branches += found.branches
        bound = min(bound, found.bound)
        if found.counterexample is not None:
            example = _confirm(network, prop, found.counterexample)
        if example is not None:
            verdict = "falsified"
            break
        if found.verdict != "verified":
            verdict = "unknown"
    seconds = time.monotonic() - began
    answer: Answer = verdict
    return Result(question.name, question.property, answer, bound, branches, seconds, question.timeout, digest, example)


def _confirm(network: Network, prop: Property, x: Tensor) -> Counterexample | None:
    """Runs the model on a suspected counterexample, in float32 and inside of the box; None where it is none."""
    point = inside(x, prop)
    output = network.run(point.reshape(network.shape))
    if not np.isfinite(output).all() or not prop.violated(torch.from_numpy(output)):
        return None
    return Counterexample(point, output)


def inside(x: Tensor, prop: Property) -> np.ndarray:
    """The float32 input nearest to x that lies in the property's box, flat.

    Where a side of the box is so short that no float32 number is in it, the nearest to it is taken.
    """
    low, high = prop.lower.numpy(), prop.upper.numpy()
    lowest, highest = low.astype(np.float32), high.astype(np.float32)
    lowest = np.where(lowest < low, np.nextafter(lowest, np.float32(np.inf)), lowest)
    highest = np.where(highest > high, np.nextafter(highest, np.float32(-np.inf)), highest)
    point = np.clip(x.detach().cpu().double().reshape(-1).numpy().astype(np.float32), lowest, highest)
    return np.where(lowest > highest, ((low + high) / 2).astype(np.float32), point)


def _digest(network: Network, properties: list[Property]) -> str:
    sha = hashlib.sha256(network.digest().encode())
    for prop in properties:
        for tensor in (prop.lower, prop.upper, *(t for clause in prop.clauses for t in (clause.rows, clause.bound))):
            sha.update(f"{tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
