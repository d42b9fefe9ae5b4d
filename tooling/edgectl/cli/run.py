"""`edgectl run`: image in, image out, through an artifact on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli.options import ArtifactArgument, DeviceOption, ThreadsOption


def command(
    artifact: ArtifactArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG or JPEG of the artifact's input size.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.png", help="The image to write.")],
    device: DeviceOption = "host",
    threads: ThreadsOption = 1,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE",
            help="Also run PyTorch as RECIPE says, or the integer reference, and print the largest difference.",
        ),
    ] = None,
) -> None:
    """Run an artifact on an image, on a device, and write the image that comes out.

    Example: edgectl run out/pruned photo.png --device emulator --out large.png
    """
    from edgectl.artifact import Artifact
    from edgectl.cli.console import output, progress
    from edgectl.device import open_device
    from edgectl.errors import UserError
    from edgectl.images import check_image_name, read_input, to_image, write_image
    from edgectl.runner import execute, largest_difference
    from edgectl.runner import reference as run_reference

    opened = Artifact.open(artifact)
    check_image_name(out)
    if reference is not None and opened.manifest.golden_by is None:
        raise UserError(
            f"{artifact} was not built by edgectl, so that there is no recipe to compare it with: leave --reference out."
        )
    inputs = [read_input(image, opened.manifest.inputs[0].torch_shape)]
    target = open_device(device)
    with progress() as say:
        if reference is not None:
            say(f"running {opened.manifest.golden_by}", None)
            wanted = run_reference(opened, reference, inputs)
        outputs = execute(opened, target, inputs, threads=threads, progress=say)
    pixels = to_image(outputs[0])
    write_image(out, pixels)
    console = output()
    console.print(f"{out}: {pixels.shape[1]}x{pixels.shape[0]}, made on {target.name}", soft_wrap=True)
    if reference is not None:
        difference = largest_difference(outputs[0], wanted[0])
        by = opened.manifest.golden_by
        console.print(f"max abs difference from {by} with the same weights: {difference:.2e}", soft_wrap=True)
