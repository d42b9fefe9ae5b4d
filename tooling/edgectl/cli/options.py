"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A folder made by `edgectl build`, or a .tflite file.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        "-d",
        metavar="DEVICE",
        help="`host`, `emulator[:NAME]`, a phone's serial number, or HOST:PORT. `edgectl devices` lists them.",
    ),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads to run on.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
DataOption = Annotated[
    Path,
    typer.Option("--data", metavar="DATA", help="Folder or .zip in the task's layout (README.md, Train and compress)."),
]
RunOption = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The folder of the run, made or gone on with.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: `train.epochs=6`, `prune.rate=8` (every rule)."),
]
AcceleratorOption = Annotated[str, typer.Option("--accelerator", metavar="auto|cpu|gpu", help="What to train on.")]
DevicesOption = Annotated[int, typer.Option("--devices", min=1, help="How many GPUs, or processes on the CPU.")]
PrecisionOption = Annotated[
    str, typer.Option("--precision", metavar="32-true|bf16-mixed|16-mixed", help="Of the arithmetic, as Fabric names it.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Threads that read and augment the data.")]
