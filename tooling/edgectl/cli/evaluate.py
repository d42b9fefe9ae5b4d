"""`edgectl evaluate`: accuracy of a recipe in PyTorch, or of an artifact on the device that runs it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli.options import DataOption, JsonOption, ThreadsOption


def command(
    target: Annotated[
        Path, typer.Argument(metavar="ARTIFACT|RECIPE", help="A folder made by `build`, a recipe, or a folder made by `train`.")
    ],
    data: DataOption,
    on: Annotated[
        str,
        typer.Option("--on", "--device", "-d", metavar="DEVICE", help="Where an artifact runs; `edgectl devices` lists them."),
    ] = "host",
    threads: ThreadsOption = 1,
    json: JsonOption = False,
) -> None:
    """Score a model on test data: an artifact as it runs on a device, a recipe in PyTorch.

    Example: edgectl evaluate out/pruned --data cifar10.zip --on emulator
    """
    import json as document

    from edgectl.artifact import Artifact
    from edgectl.cli.console import output, progress
    from edgectl.device import open_device
    from edgectl.recipe import Recipe

    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.training.evaluate import score_artifact, score_recipe

        inside = target / "recipe.toml"
        if target.suffix == ".toml" or inside.is_file():
            where = "PyTorch"
            score = score_recipe(Recipe.load(inside if inside.is_file() else target), data, say)
        else:
            device = open_device(on)
            where = device.name
            score = score_artifact(Artifact.open(target), data, device, threads=threads, progress=say)
    console = output()
    if json:
        console.print(document.dumps({"version": 1, "target": str(target), "on": where, **asdict(score)}), soft_wrap=True)
        return
    console.print(f"{target} in {where}: {score}" if where == "PyTorch" else f"{target} on {where}: {score}", soft_wrap=True)
    for name, value in score.details.items():
        console.print(f"  {name} {value:.4g}", soft_wrap=True)
