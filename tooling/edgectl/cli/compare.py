"""`edgectl compare`: one network on our kernels and on every other runtime that is installed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli.options import JsonOption, ThreadsOption
from edgectl.errors import UserError

if TYPE_CHECKING:
    from edgectl.profile.compare import Comparison


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A recipe, or a Python file with `model()` and `example_inputs()`.")
    ],
    *,
    runtimes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Which runtimes.", show_default="all that are installed; int8 where ours is"),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCHEME@RATE[:GLOB][+QUANT]",
            help="Also run it pruned and quantised like this on our kernels, or QUANT alone: int8, fixed7, fixed4, sp2_4 or "
            "msq4; may be repeated.",
        ),
    ] = None,
    threads: ThreadsOption = 1,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each row.")] = 30,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the speed-up of the variants against their rates.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a network on our kernels, dense and pruned, and on every other runtime installed here, side by side.

    Where one of our rows is quantised, or they are named, the other runtimes run in int8 too. All are calibrated on the very
    input that is run: what is compared is speed.

    Example: edgectl compare models/wdsr_a/recipe.toml --variant block_punched@6 --threads 2
    """
    from edgectl.cli.console import output, progress
    from edgectl.profile.picture import check_picture, write_picture

    if picture is not None:
        check_picture(picture, "--picture")
        if not any("@" in text for text in variant or ()):
            raise UserError("A picture is of pruned versions: name at least one with --variant SCHEME@RATE.")
    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.profile.compare import compare

        named = None if runtimes is None else [name.strip() for name in runtimes.split(",")]
        result = compare(model, runtimes=named, variants=variant or (), threads=threads, runs=runs, progress=say)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if as_json:
        _print_json(result, model, threads, picture)
    else:
        _print_table(result, model, threads)
    if picture is not None:  # after the figures: they took minutes, and are not lost where it cannot be written
        from edgectl.profile.curves import curves, draw

        write_picture(draw(curves(result), model, threads), picture)
        if not as_json:
            output().print(f"{picture}: the picture", soft_wrap=True)


def _print_json(result: Comparison, model: Path, threads: int, picture: Path | None) -> None:
    rows = [
        {
            "runtime": row.runtime,
            "variant": row.variant,
            "median_ms": row.latency.median,
            "p10_ms": row.latency.p10,
            "p90_ms": row.latency.p90,
            "max_rel_err": row.max_rel_err if math.isfinite(row.max_rel_err) else None,
        }
        for row in result.rows
    ]
    document = {"model": str(model), "threads": threads, "rows": rows}
    print(json.dumps(document if picture is None else document | {"picture": str(picture)}, indent=2))


def _print_table(result: Comparison, model: Path, threads: int) -> None:
    from edgectl.cli.console import milliseconds, output, table

    fastest = result.fastest_peer()
    rows = table("runtime", "variant", ">median", ">p10", ">p90", ">speed", ">max error")
    for row in result.rows:
        times = (row.latency.median, row.latency.p10, row.latency.p90)
        speed = f"{fastest / row.latency.median:.2f}x" if fastest else ""
        rows.add_row(row.runtime, row.variant, *map(milliseconds, times), speed, f"{row.max_rel_err:.1e}")
    console = output()
    console.print(f"{model} on this machine, {threads} thread{'s' * (threads > 1)}, in ms", style="bold", soft_wrap=True)
    console.print(rows)
    if fastest:
        console.print("speed: times as fast as the fastest other runtime; max error: against float32 PyTorch, same weights")
