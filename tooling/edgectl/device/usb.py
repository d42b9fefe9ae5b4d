"""Phones on USB: which there are, and how one is opened. Needs libusb 1.0."""

from __future__ import annotations

from edgectl.device.connection import Connection
from edgectl.errors import UserError

try:
    from adb_shell.transport.usb_transport import UsbTransport
except (ImportError, OSError):  # no libusb on this machine
    UsbTransport = None

MISSING = "USB devices cannot be seen: install libusb 1.0 (Debian package libusb-1.0-0), or use HOST:PORT."


def serials() -> list[str]:
    """Serial numbers of the attached devices that offer adb over USB.

    Raises:
        UserError: libusb is missing.
    """
    if UsbTransport is None:
        raise UserError(MISSING)
    try:
        return [str(found.serial_number) for found in UsbTransport.find_all_adb_devices()]
    except Exception as error:  # libusb: no bus at all, or a device that may not be opened
        raise UserError(f"USB devices cannot be listed: {error}. Check the permissions of /dev/bus/usb.") from error


def dial(serial: str) -> Connection:
    """An unconnected connection to the USB device with this serial number.

    Raises:
        UserError: libusb is missing.
        adb_shell.exceptions.UsbDeviceNotFoundError: there is no such device.
    """
    if UsbTransport is None:
        raise UserError(MISSING)
    return Connection(UsbTransport.find_adb(serial=serial))
