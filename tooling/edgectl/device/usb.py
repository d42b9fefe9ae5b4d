"""Phones on USB: which there are, and how one is opened. Needs libusb 1.0."""

from __future__ import annotations

from edgectl.device.adb_errors import CONNECTION_ERRORS, cause
from edgectl.device.base import UnusableDevice
from edgectl.device.connection import Connection
from edgectl.errors import UserError

try:
    from adb_shell.transport.usb_transport import UsbTransport
except (ImportError, OSError):  # no libusb on this machine
    UsbTransport = None

MISSING = "USB devices cannot be seen: install libusb 1.0 (Debian package libusb-1.0-0), or use HOST:PORT."


def attached() -> list[str | UnusableDevice]:
    """Serial numbers of the attached devices that offer adb over USB; for those that cannot be asked, the reason.

    Raises:
        UserError: libusb is missing, or the bus cannot be read.
    """
    if UsbTransport is None:
        raise UserError(MISSING)
    try:
        transports = list(UsbTransport.find_all_adb_devices())
    except CONNECTION_ERRORS as error:
        raise UserError(f"USB devices cannot be listed ({error}): check the permissions of /dev/bus/usb.") from error
    found: list[str | UnusableDevice] = []
    for transport in transports:
        try:
            found.append(str(transport.serial_number))
        except CONNECTION_ERRORS as error:
            place = "usb:" + "-".join(str(number) for number in transport.port_path)
            found.append(UnusableDevice(place, "adb", cause(error, place, connecting=True, asked=False)))
    return found


def dial(serial: str) -> Connection:
    """An unconnected connection to the USB device with this serial number.

    Raises:
        UserError: libusb is missing.
        adb_shell.exceptions.UsbDeviceNotFoundError: there is no such device.
    """
    if UsbTransport is None:
        raise UserError(MISSING)
    return Connection(UsbTransport.find_adb(serial=serial))
