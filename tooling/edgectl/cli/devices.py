"""`edgectl devices`: what there is to run on."""

from __future__ import annotations

import json

from edgectl.cli.options import JsonOption


def command(as_json: JsonOption = False) -> None:
    """List the devices that can be run on, and those that cannot, with the reason.

    Example: edgectl devices
    """
    import dataclasses

    from edgectl.cli.console import output, progress, table
    from edgectl.device import DeviceInfo, list_devices

    with progress() as say:
        say("looking for devices", None)
        found = list_devices()
    if as_json:
        print(json.dumps([dataclasses.asdict(device) for device in found], indent=2))
        return
    rows = table("device", "model", "SoC", "ABI", ">cores", "governor", "clock")
    for device in found:
        if isinstance(device, DeviceInfo):
            rows.add_row(
                device.name,
                device.model,
                device.soc,
                device.abi,
                str(device.cores),
                device.governor or "-",
                device.clock,
            )
    console = output()
    console.print(rows)
    for device in found:
        if not isinstance(device, DeviceInfo):
            console.print(f"{device.name} cannot be used: {device.reason}", soft_wrap=True)
