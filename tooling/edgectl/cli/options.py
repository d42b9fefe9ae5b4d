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
