"""Devices: this machine, phones behind adb, and the emulated phone, all with the same four verbs."""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

from edgectl.device import emulator, usb
from edgectl.device.adb import AdbDevice
from edgectl.device.base import Clock, Device, DeviceInfo, Progress, PushResult, RunResult, UnusableDevice
from edgectl.device.connection import Connection, SteadyTcpTransport
from edgectl.device.host import HostDevice
from edgectl.errors import ToolError, UserError

__all__ = [
    "AdbDevice",
    "Clock",
    "Device",
    "DeviceInfo",
    "HostDevice",
    "Progress",
    "PushResult",
    "RunResult",
    "UnusableDevice",
    "list_devices",
    "open_device",
]

_TCP = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\s\[\]]+):(?P<port>\d{1,5})")


def open_device(name: str) -> Device:
    """The device a user names: `host`, `emulator`, `emulator:NAME`, `HOST:PORT`, or the serial number of a USB device.

    Connecting waits until the first verb, so an offline device is told apart by the step that met it.

    Raises:
        UserError: the emulator does not run, or the name cannot be one.
    """
    if name == "host":
        return HostDevice()
    kind, _, rest = name.partition(":")
    if kind == "emulator":
        return emulator.open_emulator(emulator.running(rest or emulator.DEFAULT))
    matched = _TCP.fullmatch(name)
    if matched:
        return _tcp(name, matched["host"].strip("[]"), int(matched["port"]))
    if not name or ":" in name or any(c.isspace() for c in name):
        raise UserError(f"{name!r} is no device: use host, emulator, HOST:PORT or a USB serial (see `edgectl devices`).")
    return _usb(name)


def list_devices() -> list[DeviceInfo | UnusableDevice]:
    """The host, every running emulator and every USB device; adb over TCP has no list, it is reached by HOST:PORT."""
    found: list[DeviceInfo | UnusableDevice] = [HostDevice().describe()]
    for state in emulator.status():
        found.append(_described(emulator.open_emulator(state), "emulator"))
    try:
        attached = usb.attached()
    except UserError as error:
        return [*found, UnusableDevice("usb", "adb", str(error))]
    for phone in attached:
        found.append(_described(_usb(phone, user_s=2.0), "adb") if isinstance(phone, str) else phone)
    return found


def _tcp(name: str, host: str, port: int) -> AdbDevice:
    if not 0 < port < 65536:
        raise UserError(f"{name} is no address: the port must be between 1 and 65535.")
    return AdbDevice(name, lambda: Connection(SteadyTcpTransport(host, port)), f"{host}:{port}")


def _usb(serial: str, user_s: float = 30.0) -> AdbDevice:
    return AdbDevice(serial, partial(usb.dial, serial), serial, user_s=user_s)


def _described(device: AdbDevice, kind: Literal["adb", "emulator"]) -> DeviceInfo | UnusableDevice:
    try:
        return device.describe()
    except (ToolError, UserError) as error:
        return UnusableDevice(device.name, kind, str(error))
    finally:
        device.close()
