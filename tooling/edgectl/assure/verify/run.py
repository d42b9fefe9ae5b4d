"""Verifies instances one after the other: opens models, asks, runs them on counterexamples, and keeps what was found."""

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

from edgectl.assure.verify.models import Model, open_model
from edgectl.assure.verify.properties import Property, check_eps, check_sizes, robustness
from edgectl.assure.verify.report import FALSIFIED, UNKNOWN, VERIFIED, Answer, Counterexample, Report, Result
from edgectl.assure.verify.samples import Sample, read_samples
from edgectl.assure.verify.verifier import Options, verify
from edgectl.assure.verify.vnnlib import read_vnnlib
from edgectl.errors import UserError
from edgectl.quiet import quiet

_MOST_ROWS = 100_000


@dataclass(frozen=True)
class Question:
    """One instance: a property of a model, and how long to try.

    Attributes:
        model: its file or folder.
        name: what the report calls the model.
        property: what it calls the property.
        timeout: seconds.
        ask: the properties, all of which must hold, for the model once it is open.
    """

    model: Path
    name: str
    property: str
    timeout: float
    ask: Callable[[Model], list[Property]]


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
    load: Callable[[Path], Model] = open_model,
    labels: Path | None = None,
    count: int | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> list[Question]:
    """Questions of robustness around samples; without labels, of keeping the outputs that the model gives them.

    Raises:
        UserError: eps is negative, or the samples are missing, damaged or do not fit the model.
    """
    check_eps(eps)
    opened = load(model)
    if opened.outputs < 2:
        raise UserError(f"{model} has one output: robustness is of which output is the largest. Give a --property.")
    samples = read_samples(data, opened.graph.input.shape, labels=labels, count=count, span=span)
    questions = []
    for sample in samples:
        name = f"{data.name}[{sample.name}] eps {eps:g}"
        label = _label(opened, sample)
        prop = robustness(name, sample.values, label, opened.outputs, eps, span)
        questions.append(Question(model, str(model), name, timeout, _given([prop])))
    return questions


def _asking(path: Path) -> Callable[[Model], list[Property]]:
    return lambda model: read_vnnlib(path, model.graph.input.size, model.outputs)


def _given(properties: list[Property]) -> Callable[[Model], list[Property]]:
    def ask(model: Model) -> list[Property]:
        check_sizes(properties, model.graph.input.size, model.outputs, properties[0].name)
        return properties

    return ask


def _label(model: Model, sample: Sample) -> int:
    if sample.label is not None:
        return sample.label
    return int(model.run(sample.values.numpy().astype(np.float32).reshape(model.shape)).argmax())


def _beside(path: Path, row: int, name: str) -> Path:
    for candidate in (path.parent / name, path.parent / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise UserError(f"{path}, row {row}: there is no {path.parent / name}.")


class Loader:
    """Opens models, and keeps the last one: instances come sorted by model. `notes` are what their users must know."""

    def __init__(self) -> None:
        self._last: tuple[Path, Model] | None = None
        self.notes: list[str] = []

    def __call__(self, path: Path) -> Model:
        """The model at a path; see edgectl.assure.verify.models.open_model."""
        if self._last is None or self._last[0] != path:
            self._last = (path, open_model(path))
            note = self._last[1].note
            if note and note not in self.notes:
                self.notes.append(note)
        return self._last[1]


def run(
    questions: Sequence[Question],
    report: Report,
    options: Options,
    *,
    load: Callable[[Path], Model],
    start: Callable[[Question], None] = lambda question: None,
) -> Iterator[Result]:
    """Answers questions in turn, each on disk in the report before it is yielded; those the report knows are not asked again.

    Args:
        questions: what to ask.
        report: where results go, and those of earlier runs are.
        options: how hard to try; its time is not looked at, the questions' are.
        load: gives the model at a path.
        start: called with each question before it is asked.

    Raises:
        UserError: a model or a property is missing, damaged, or they do not belong together.
        ToolError: the report cannot be written.
    """
    for question in questions:
        start(question)
        model = load(question.model)
        properties = question.ask(model)
        digest = _digest(model, properties)
        result = report.known(question.name, question.property, digest, question.timeout)
        if result is None:
            result = _answer(question, model, properties, digest, options)
        report.add(result)
        yield result


def _answer(question: Question, model: Model, properties: list[Property], digest: str, options: Options) -> Result:
    """Asks for the properties one after the other: all must hold, and one that does not is enough."""
    began = time.monotonic()
    bound, branches = math.inf, 0
    verdict: Answer = VERIFIED
    example = None
    for prop in properties:
        left = max(0.0, question.timeout - (time.monotonic() - began))
        with quiet():
            found = verify(model.graph, prop, replace(options, timeout=left), model.normal_form)
        branches += found.branches
        bound = min(bound, found.bound)
        if found.counterexample is not None:
            example = _confirm(model, prop, found.counterexample)
        if example is not None:
            verdict = FALSIFIED
            break
        if found.verdict != VERIFIED:
            verdict = UNKNOWN
    seconds = time.monotonic() - began
    return Result(question.name, question.property, verdict, bound, branches, seconds, question.timeout, digest, example)


def _confirm(model: Model, prop: Property, x: Tensor) -> Counterexample | None:
    """Runs the model on a suspected counterexample, in float32 and inside of the box; None where it is none."""
    point = inside(x, prop)
    output = model.run(point.reshape(model.shape))
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


def _digest(model: Model, properties: list[Property]) -> str:
    sha = hashlib.sha256(model.digest.encode())
    for prop in properties:
        for tensor in (prop.lower, prop.upper, *(t for clause in prop.clauses for t in (clause.rows, clause.bound))):
            sha.update(f"{tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
