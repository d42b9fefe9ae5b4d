"""`edgectl bench`: latency layer by layer, and two artifacts side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli.options import ArtifactArgument, DeviceOption, JsonOption, ThreadsOption

if TYPE_CHECKING:
    from edgectl.profile.report import LatencyReport


def command(
    artifact: ArtifactArgument,
    *,
    device: DeviceOption = "host",
    runs: Annotated[int | None, typer.Option(min=1, help="Timed runs.", show_default="30, emulated 3")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Runs before those.", show_default="5, emulated 1")] = None,
    threads: ThreadsOption = 1,
    cpu_mask: Annotated[str | None, typer.Option(metavar="HEX", help="Cores to run on, as a hexadecimal mask.")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="ARTIFACT", help="Bench this one too, and show both side by side.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an artifact on a device: in total, undisturbed, and layer by layer, with the profiler on.

    Example: edgectl bench out/pruned --device emulator --against out/dense
    """
    from edgectl.artifact import Artifact
    from edgectl.cli.console import progress
    from edgectl.device import open_device
    from edgectl.profile.bench import bench
    from edgectl.profile.history import History

    opened = [Artifact.open(folder) for folder in (artifact, against) if folder is not None]
    target = open_device(device)
    reports = []
    with progress() as say:
        for one in opened:
            report = bench(one, target, runs=runs, warmup=warmup, threads=threads, cpu_mask=cpu_mask, progress=say)
            History().record(report)
            reports.append(report)
    if as_json:
        _print_json(*reports)
    elif against is None:
        _print_report(reports[0])
    else:
        _print_comparison(*reports)


def _print_json(report: LatencyReport, against: LatencyReport | None = None) -> None:
    document = report.model_dump(mode="json")
    if against is not None:
        from edgectl.profile.report import compare, total_ratio

        document["against"] = against.model_dump(mode="json")
        document["ratio"] = {
            "total": total_ratio(report, against),
            "layers": {pair.name: pair.ratio for pair in compare(report, against)},
        }
    print(json.dumps(document, indent=2))


def _print_report(report: LatencyReport) -> None:
    from edgectl.cli.console import count, output, shape, table

    heading = f"{report.model} on {_device(report)}"
    rows = table("layer", "op", "shape", "scheme", ">non-zeros", ">MACs", f">{report.unit}", ">share")
    whole = report.quoted(report.profiled) or 1
    for layer in report.layers:
        value = report.quoted(layer)
        rows.add_row(
            layer.name,
            layer.op,
            shape(layer.shape),
            layer.scheme if layer.nonzeros else "",
            count(layer.nonzeros) if layer.nonzeros else "",
            count(layer.macs) if layer.macs else "",
            _figure(report, value),
            "" if value is None else f"{100 * value / whole:.1f} %",
        )
    outside = report.outside_layers()
    rows.add_row("(between layers)", "", "", "", "", "", _figure(report, outside), f"{100 * outside / whole:.1f} %")
    console = output()
    console.print(heading, style="bold", soft_wrap=True)
    console.print(rows)
    console.print(_total(report))


def _print_comparison(report: LatencyReport, against: LatencyReport) -> None:
    from edgectl.cli.console import count, output, shape, table
    from edgectl.profile.report import compare, total_ratio

    heading = f"{report.model} against {against.model} on {_device(report)}, in {report.unit}"
    columns = ("layer", "shape", "scheme", ">non-zeros", f">{report.model}", f">{against.model}", ">ratio")
    rows = table(*columns)
    for pair in compare(report, against):
        layer = pair.this or pair.against
        assert layer is not None
        rows.add_row(
            pair.name,
            shape(layer.shape),
            layer.scheme if layer.nonzeros else "",
            count(layer.nonzeros) if layer.nonzeros else "",
            _figure(report, report.quoted(pair.this) if pair.this else None),
            _figure(against, against.quoted(pair.against) if pair.against else None),
            f"{pair.ratio:.2f}x" if pair.ratio is not None else "",
        )
    console = output()
    console.print(heading, style="bold", soft_wrap=True)
    console.print(rows)
    console.print(_total(report))
    console.print(_total(against))
    ratio = total_ratio(report, against)
    if ratio:
        what = "time" if report.clock == "wall" else report.unit
        console.print(f"{against.model} takes {ratio:.2f} times the {what} of {report.model} in total", style="bold")


def _device(report: LatencyReport) -> str:
    facts = report.device
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    return f"{facts.get('name')} ({facts.get('soc') or facts.get('model')}), {threads}"


def _total(report: LatencyReport) -> str:
    from edgectl.cli.console import count

    total = report.total
    spread = ", ".join(f"{name} {_figure(report, getattr(total, name))}" for name in ("min", "p10", "median", "p90"))
    runs = "1 run" if total.n == 1 else f"{total.n} runs"
    memory = f", peak memory {count(1024 * report.peak_rss_kb)}B" if report.peak_rss_kb else ""
    return f"{report.model} in total: {spread} {report.unit}, {runs}{memory}"


def _figure(report: LatencyReport, value: float | None) -> str:
    from edgectl.cli.console import count, milliseconds

    return milliseconds(value) if report.clock == "wall" else count(value)
