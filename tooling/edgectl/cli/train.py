"""`edgectl train`: a recipe's model, trained on a folder of data."""

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
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file whose `model` has a task; `train` says how.")],
    data: DataOption,
    out: RunOption,
    start: Annotated[
        Path | None, typer.Option("--start", metavar="FILE.safetensors", help="Weights to start from, instead of random ones.")
    ] = None,
    changes: SetOption = None,
    accelerator: AcceleratorOption = "auto",
    devices: DevicesOption = 1,
    precision: PrecisionOption = "32-true",
    workers: WorkersOption = 1,
    force: Annotated[bool, typer.Option("--force", help="Delete another run that is in RUN.")] = False,
) -> None:
    """Train a model as `train` in RECIPE says. Killed, the same command goes on.

    RUN gets weights.safetensors, a recipe.toml that builds from them, report.json, and TensorBoard's logs.

    Example: edgectl train models/resnet20/recipe.toml --data cifar10.zip --out runs/dense
    """
    from edgectl.cli.console import output, progress
    from edgectl.recipe import Recipe

    plan = Recipe.load(recipe, changes or ())
    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.training.loop import Hardware
        from edgectl.training.run import train

        hardware = Hardware(accelerator, devices, precision, workers)
        score = train(plan, data, out, hardware, start=start, force=force, progress=say)
    output().print(f"{out}: {score}", soft_wrap=True)
