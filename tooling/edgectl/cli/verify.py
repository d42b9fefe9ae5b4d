"""`edgectl verify`: what is proved of a model, and what each compressed version of it keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgectl.errors import UserError

if TYPE_CHECKING:
    from edgectl.assure.verify.report import Report, Result
    from edgectl.assure.verify.run import Loader, Question
    from edgectl.assure.verify.verifier import Options

_FALSIFIED = 3
_UNKNOWN = 4
_TIMEOUT = 120.0
_WIDEST = 60  # of a name in the table
_COLUMNS = ("model", "property", "verdict", "bound", "branches", "seconds")


def command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL...",
            help="An ONNX file, a recipe, an artifact's folder, or a Python file with `model()` and `example_inputs()`.",
        ),
    ] = None,
    *,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Samples: .npy, .npz, or a folder (X*.npy, y*.npy; images by class).")
    ] = None,
    eps: Annotated[
        float | None, typer.Option(help="With --data: how far each value of a sample may move, 8-bit ones over 255.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Labels of the samples; without any, what the model says of them.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Samples to take at most.", show_default="all")] = None,
    value_range: Annotated[
        tuple[float, float], typer.Option("--range", metavar="LOW HIGH", help="What values an input may have.")
    ] = (0.0, 1.0),
    property_file: Annotated[
        Path | None, typer.Option("--property", metavar="FILE.vnnlib", help="A VNN-LIB 1.0 property, instead of samples.")
    ] = None,
    instances: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="A benchmark, instead of MODEL: rows of an ONNX file, a VNN-LIB file, seconds."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds for each property.", show_default="120, or the row's")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DENSE", help="Count how many of DENSE's proved properties each MODEL keeps.")
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="The report, complete after every property; a later run goes on from it."),
    ] = None,
    branching: Annotated[Literal["kfsb", "fsb", "babsr", "random"], typer.Option(help="Which neuron to split.")] = "kfsb",
    threads: Annotated[int, typer.Option(min=1, help="Threads to search on.")] = 2,
    memory: Annotated[float, typer.Option(min=0.01, help="GiB of waiting subproblems; the others wait on disk.")] = 2.0,
) -> None:
    """Prove that no input near a sample changes the answer, or that a VNN-LIB property holds; else find a counterexample.

    Complete: with enough time everything is decided. Exits with 0 when all is verified, 3 when something is falsified, 4 when
    something stays unknown. A counterexample has been run in onnxruntime, or PyTorch where the model is no ONNX file.

    Example: edgectl verify out/pruned --data digits.npz --eps 0.1 --timeout 120 --against out/dense
    """
    from edgectl.cli.console import progress

    _check_usage(models or [], data, eps, property_file, instances, against)
    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.assure.verify import run as verification
        from edgectl.assure.verify.bab import Search
        from edgectl.assure.verify.report import Report
        from edgectl.assure.verify.verifier import Options

    options = Options(search=Search(branching=branching, threads=threads, memory=int(memory * (1 << 30))))
    seconds = _TIMEOUT if timeout is None else timeout
    load = verification.Loader()
    if instances is not None:
        report_file = report_file or Path(f"{instances.resolve().parent.name}-{instances.stem}.json")
    report = Report(report_file)

    def ask(model: Path) -> list[Question]:
        if property_file is not None:
            return [verification.of_files(model, property_file, seconds)]
        assert data is not None and eps is not None
        return verification.of_samples(
            model, data, eps, seconds, load=load, labels=labels, count=count, span=(value_range[0], value_range[1])
        )

    if instances is not None:
        code = _verify(verification.of_instances(instances, timeout), report, options, load)
    elif against is not None:
        code = _compare(against, models or [], ask, report, options, load)
    else:
        code = _verify([question for model in models or [] for question in ask(model)], report, options, load)
    report.finish()
    if report_file is not None:
        print(f"{report_file}: the report", file=sys.stderr)
    if code:
        raise typer.Exit(code)


def _check_usage(
    models: Sequence[Path],
    data: Path | None,
    eps: float | None,
    property_file: Path | None,
    instances: Path | None,
    against: Path | None,
) -> None:
    """Raises UserError unless it is said once, and wholly, what to prove of what."""
    if sum(given is not None for given in (data, property_file, instances)) != 1:
        raise UserError("Say what to prove: give one of --data with --eps, --property or --instances.")
    if data is not None and eps is None:
        raise UserError("--data needs --eps: how far each value of a sample may move.")
    if data is None and eps is not None:
        raise UserError("--eps is for --data: properties in VNN-LIB say themselves how far inputs may move.")
    if instances is not None and (models or against is not None):
        raise UserError("--instances names its models itself: leave MODEL and --against out.")
    if instances is None and not models:
        raise UserError("Name a MODEL to verify, or a benchmark with --instances.")


def _verify(questions: Sequence[Question], report: Report, options: Options, load: Loader) -> int:
    """Answers questions, shows the table, and returns the exit code."""
    from edgectl.cli.console import output

    results = _answers(questions, report, options, load)
    verdicts = [result.verdict for result in results]
    counts = [f"{verdicts.count(word)} {word}" for word in ("verified", "falsified", "unknown")]
    output().print(f"{', '.join(counts)} of {len(verdicts)}, in {sum(r.seconds for r in results):.1f} s", soft_wrap=True)
    _show_notes(load)
    if len(results) == 1 and results[0].counterexample is not None:
        _show_counterexample(results[0])
    return _FALSIFIED if "falsified" in verdicts else _UNKNOWN if "unknown" in verdicts else 0


def _compare(
    dense: Path,
    versions: Sequence[Path],
    ask: Callable[[Path], list[Question]],
    report: Report,
    options: Options,
    load: Loader,
) -> int:
    """Asks the dense model everything, and the versions what it has; returns the exit code."""
    from dataclasses import replace

    from edgectl.cli.console import output

    questions = ask(dense)
    answers = _answers(questions, report, options, load)
    has = [question for question, result in zip(questions, answers, strict=True) if result.verdict == "verified"]
    lines, verdicts = [f"{dense} has {len(has)} of {len(questions)} properties"], list[str]()
    for version in versions:
        of_version = [replace(question, model=version, name=str(version)) for question in has]
        mine = [result.verdict for result in _answers(of_version, report, options, load)]
        lost = [f"{mine.count(word)} {word}" for word in ("falsified", "unknown") if word in mine]
        detail = f" ({', '.join(lost)})" if lost else ""
        lines.append(f"{version} keeps {mine.count('verified')} of those {len(has)}{detail}")
        verdicts += mine
    output().print("\n".join(lines), soft_wrap=True)
    _show_notes(load)
    return _FALSIFIED if "falsified" in verdicts else _UNKNOWN if "unknown" in verdicts else 0


def _answers(questions: Sequence[Question], report: Report, options: Options, load: Loader) -> list[Result]:
    """Answers questions with a table that grows by a row each; below it, on a terminal, what is being asked."""
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    from edgectl.assure.verify.run import run
    from edgectl.cli.console import output

    console = output()
    names = zip(_COLUMNS[:2], *((question.name, question.property) for question in questions), strict=True)
    widths = [min(_WIDEST, max(map(len, column))) for column in names]
    results: list[Result] = []
    with Live(console=console, transient=True) if console.is_terminal else nullcontext() as live:

        def start(question: Question) -> None:
            if live is not None:
                asked = f"{len(results) + 1} of {len(questions)}: {question.name} {question.property}, {question.timeout:g} s"
                live.update(Spinner("dots", Text(asked[: console.width - 4], style="dim")))

        console.print(_line(_COLUMNS, widths), style="dim", soft_wrap=True)
        for result in run(questions, report, options, load=load, start=start):
            results.append(result)
            console.print(_line(_cells(result), widths), soft_wrap=True)
            console.file.flush()
    return results


def _cells(result: Result) -> tuple[str, ...]:
    import math

    bound = f"{result.bound:.4g}" if math.isfinite(result.bound) else "-"
    return result.model, result.property, result.verdict, bound, str(result.branches), f"{result.seconds:.1f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row, its first columns as wide as `widths`."""
    model, prop, verdict, *numbers = cells
    return f"{model:<{widths[0]}}  {prop:<{widths[1]}}  {verdict:<9}  {numbers[0]:>9}  {numbers[1]:>8}  {numbers[2]:>7}"


def _show_notes(load: Loader) -> None:
    for note in load.notes:
        print(f"note: {note}", file=sys.stderr)


def _show_counterexample(result: Result) -> None:
    from edgectl.cli.console import output

    assert result.counterexample is not None
    values = " ".join(f"{value:.5g}" for value in result.counterexample.output[:32])
    more = " ..." if result.counterexample.output.size > 32 else ""
    where = "its input is in the report that --json names"
    output().print(f"outputs of the counterexample: {values}{more} ({where})", soft_wrap=True)
