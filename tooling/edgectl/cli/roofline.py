"""`edgectl roofline`: a picture of an artifact's layers beneath what the device can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli.options import ArtifactArgument, DeviceOption, JsonOption, ThreadsOption

if TYPE_CHECKING:
    from edgectl.profile.roofline import Roofline


def command(
    artifact: ArtifactArgument,
    *,
    device: DeviceOption = "host",
    threads: ThreadsOption = 1,
    runs: Annotated[int | None, typer.Option(min=1, help="Timed runs.", show_default="30, emulated 3")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.png", help="The picture.", show_default="ARTIFACT-roofline.png")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw how close each layer comes to what the device can do: its multiply-adds, or the speed of its memory.

    Example: edgectl roofline out/pruned --threads 2 --out pruned.png
    """
    from edgectl.artifact import Artifact
    from edgectl.cli.console import progress
    from edgectl.device import open_device
    from edgectl.profile.picture import check_picture, write_picture
    from edgectl.profile.roofline import draw, measure

    opened = Artifact.open(artifact)
    picture = out or Path(f"{artifact.resolve().name}-roofline.png")
    check_picture(picture, "--out")
    target = open_device(device)
    with progress() as say:
        roofline = measure(opened, target, runs=runs, threads=threads, progress=say)
    write_picture(draw(roofline), picture)
    if as_json:
        print(json.dumps(roofline.model_dump(mode="json") | {"picture": str(picture)}, indent=2))
    else:
        _print_table(roofline, picture)


def _print_table(roofline: Roofline, picture: Path) -> None:
    from edgectl.cli.console import output, table

    rows = table("layer", ">FLOP/byte", f">{roofline.performance_unit}", ">of its roof", "bound by")
    for layer in roofline.layers:
        figures = (f"{layer.intensity:.3g}", f"{layer.performance:.3g}", f"{100 * layer.of_roof:.0f} %")
        rows.add_row(layer.name, *figures, layer.bound)
    console = output()
    console.print(f"{roofline.artifact} on {roofline.where}", style="bold", soft_wrap=True)
    if roofline.emulated is not None:
        console.print(roofline.emulated, style="bold", soft_wrap=True)
    console.print(rows)
    console.print("roofs: " + ", ".join(roofline.roofs), soft_wrap=True)
    if any(layer.of_roof > 1 for layer in roofline.layers):
        console.print("above a roof: counted multiply-adds that Winograd saves, or maps that are still in a cache")
    if roofline.left_out:
        console.print(f"left out, without multiply-adds: {', '.join(roofline.left_out)}", soft_wrap=True)
    console.print(f"{picture}: the picture", soft_wrap=True)
