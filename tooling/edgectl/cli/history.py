"""`edgectl history`: the reports of past benches."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgectl.cli.options import JsonOption


def command(
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only this artifact's (its folder's name).")] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="Only this device's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List past benches, newest first.

    Example: edgectl history --device emulator --limit 5
    """
    from edgectl.cli.console import count, milliseconds, output, table
    from edgectl.profile.history import History

    entries = History().entries(model=model, device=device, limit=limit)
    if as_json:
        documents = [
            {"id": entry.id, "taken_at": entry.taken_at, "report": entry.report.model_dump(mode="json")} for entry in entries
        ]
        print(json.dumps(documents, indent=2))
        return
    if not entries:
        output().print("No bench has been recorded here yet: run `edgectl bench ARTIFACT`.", markup=False)
        return
    rows = table(">id", "taken at", "model", "device", ">threads", ">runs", ">total", "")
    for entry in entries:
        report = entry.report
        figure = report.quoted(report.total)
        rows.add_row(
            str(entry.id),
            entry.taken_at.replace("+00:00", "Z"),
            report.model,
            str(report.device.get("name", "")),
            str(report.threads),
            str(report.total.n),
            milliseconds(figure) if report.clock == "wall" else count(figure),
            f"{report.unit} ({report.statistic})",
        )
    output().print(rows)
