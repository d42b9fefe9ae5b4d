"""`edgectl emulator start|stop|status`: emulated arm64 phones on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Emulated arm64 phones on this machine, whose clock counts instructions.\n\nExample: edgectl emulator start",
    no_args_is_help=True,
)
NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="Several can run under different names.")]


@app.command()
def start(
    name: NameOption = "default",
    port: Annotated[int | None, typer.Option(help="Port of its adb on 127.0.0.1.", show_default="a free one")] = None,
    memory: Annotated[int, typer.Option(metavar="MIB", help="Memory of the emulated phone.")] = 1024,
    disk: Annotated[int, typer.Option(metavar="MIB", help="Size of its /data, which is part of its memory.")] = 512,
    cpu: Annotated[
        str, typer.Option(metavar="NAME", help="Its processor: cortex-a76, or max, which also has i8mm.")
    ] = "cortex-a76",
) -> None:
    """Boot an emulated phone; the first time, its image is built from Debian packages.

    Example: edgectl emulator start --name second
    """
    from edgectl.cli.console import output, progress
    from edgectl.device import emulator

    with progress() as say:
        state = emulator.start(name, port=port, memory_mb=memory, disk_mb=disk, cpu=cpu, progress=say)
    output().print(f"emulator:{state.name} is ready: --device emulator:{state.name}, adb at 127.0.0.1:{state.port}")


@app.command()
def stop(name: NameOption = "default") -> None:
    """Stop an emulated phone. Nothing of it is left behind.

    Example: edgectl emulator stop --name second
    """
    from edgectl.cli.console import output
    from edgectl.device import emulator

    emulator.stop(name)
    output().print(f"emulator:{name} is stopped")


@app.command()
def status() -> None:
    """List the emulated phones that run.

    Example: edgectl emulator status
    """
    from edgectl.cli.console import output, table
    from edgectl.device import emulator

    running = emulator.status()
    if not running:
        output().print("No emulator runs: start one with `edgectl emulator start`.")
        return
    rows = table("device", "adb", "processor", ">process", ">memory", ">/data")
    for state in running:
        sizes = (f"{state.memory_mb} MiB", f"{state.disk_mb} MiB")
        rows.add_row(f"emulator:{state.name}", f"127.0.0.1:{state.port}", state.cpu, str(state.pid), *sizes)
    output().print(rows)
