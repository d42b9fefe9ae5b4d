"""`edgectl compress`: trained weights get zeros and levels while they are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli.options import (
    AcceleratorOption,
    DataOption,
    DevicesOption,
    PrecisionOption,
    RunOption,
    SetOption,
    WorkersOption,
)


def command(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="A TOML file with weights and rules to prune or quantise; `compress` says how."),
    ],
    data: DataOption,
    out: RunOption,
    changes: SetOption = None,
    accelerator: AcceleratorOption = "auto",
    devices: DevicesOption = 1,
    precision: PrecisionOption = "32-true",
    workers: WorkersOption = 1,
    force: Annotated[bool, typer.Option("--force", help="Delete another run that is in RUN.")] = False,
) -> None:
    """Prune and quantise trained weights while training on, as `compress` in RECIPE says. Killed, the same command goes on.

    RUN gets weights.safetensors with the zeros and levels, and a recipe.toml that `edgectl build` takes.

    Example: edgectl compress models/resnet20/pruned.toml --data cifar10.zip --out runs/pruned
    """
    import json

    from edgectl.cli.console import count, output, progress, table
    from edgectl.recipe import Recipe

    plan = Recipe.load(recipe, changes or ())
    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.training.folder import REPORT
        from edgectl.training.loop import Hardware
        from edgectl.training.run import compress

        score = compress(plan, data, out, Hardware(accelerator, devices, precision, workers), force=force, progress=say)
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    layers = table("layer", ">weights", ">non-zeros", ">rate")
    for layer in report["layers"]:
        rate = f"{layer['weights'] / layer['nonzeros']:.2f}" if layer["nonzeros"] else "-"
        layers.add_row(layer["name"], count(layer["weights"]), count(layer["nonzeros"]), rate)
    console = output()
    console.print(layers)
    facts = [f"{name} {value:.3g}" for name, value in report["facts"].items()]
    if facts:
        console.print(", ".join(facts), soft_wrap=True)
    console.print(f"{out}: {score}; {report['before']:.2f} {score.unit} before", soft_wrap=True)
