"""`edgectl search`: architecture and pruning, searched under a budget of latency on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgectl.cli.options import AcceleratorOption, DeviceOption, JsonOption, PrecisionOption, ThreadsOption

app = typer.Typer(no_args_is_help=True, help="Search the network that is best within a budget of latency on a device.")

OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The folder of the search, made or gone on with.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Where trials are kept: postgresql://user@host/database for workers on many machines. By default SQLite in RUN.",
    ),
]


@app.command("sr")
def sr(
    *,
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS]", help="A TOML file that changes what is searched, and how.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option("--budget", metavar="33ms|120M|50%", help="Time; of an emulated phone, instructions; or of the baseline."),
    ],
    data: Annotated[Path, typer.Option("--data", metavar="DATA", help="Photographs: in `train` and `test`, or in one folder.")],
    out: OutOption,
    device: DeviceOption = "host",
    threads: ThreadsOption = 1,
    storage: StorageOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that try networks at once, on this machine.")] = 1,
    baseline: Annotated[bool, typer.Option("--baseline", help="Also train the dense baseline: what the budget costs.")] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: `trials=100`, `space.scale=4`.")
    ] = None,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "32-true",
    as_json: JsonOption = False,
) -> None:
    """Search a super-resolution network: WDSR blocks, widths, and how each layer is pruned, within a budget of latency.

    RUN gets `found`, with a recipe that `edgectl build` takes, the front of all networks as a picture and a page, and a report.
    Killed, the same command goes on; no finished trial is lost.

    Example: edgectl search sr --data photographs --budget 33ms --device emulator --out runs/sr
    """
    from edgectl.cli.console import progress
    from edgectl.search.settings import Settings

    chosen = Settings.load(settings, changes or ())
    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.search.folder import Asked
        from edgectl.search.report import document
        from edgectl.search.run import search
        from edgectl.training.loop import Hardware

        asked = Asked(
            chosen, data, device, threads, budget, out, Hardware(accelerator, 1, precision), storage, workers, baseline
        )
        found = search(asked, say)
    report = document(asked, found)
    if as_json:
        import json

        print(json.dumps(report, indent=2))
        return
    _print(report)


@app.command("worker")
def worker(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a search that has begun its trials, or a copy.")],
    storage: StorageOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DATA", help="The photographs, where they are elsewhere on this machine.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what this worker proposes.")] = 1,
) -> None:
    """Try networks of a search that was started elsewhere, until it has enough.

    Example: edgectl search worker runs/sr --storage postgresql://me@server/searches
    """
    from edgectl.cli.console import progress

    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.search.run import work

        finished = work(run, storage, data, seed, say)
    print(f"{run}: {finished} networks have been tried")


def _print(report: dict[str, Any]) -> None:
    """The network that was found, layer by layer, and what it is beside the baseline."""
    from edgectl.cli.console import count, milliseconds, output, table

    console = output()
    rows = table("layer", "scheme", ">rate", ">non-zeros")
    for layer in report["layers"]:
        rows.add_row(layer["name"], layer["scheme"], f"{layer['rate']:.2f}", count(layer["nonzeros"]))
    console.print(rows)
    shown = milliseconds if report["unit"] == "ms" else count
    for name in ("found", "baseline"):
        each = report[name]
        score = each.get("score")
        quality = f", {score['metric']} {score['value']:.2f} {score['unit']}" if score else ""
        console.print(f"{name}: {each['network']}: {shown(each['latency'])} {report['unit']}{quality}", soft_wrap=True)
    console.print(
        f"the budget was {shown(report['budget'])} {report['unit']} on {report['device']}, {report['trials']} networks were "
        f"tried; build it with `edgectl build {report['found']['folder']}/recipe.toml`",
        soft_wrap=True,
    )
