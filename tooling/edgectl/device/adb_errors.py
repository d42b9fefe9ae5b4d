"""What went wrong on an adb connection, in words that say what to do."""

from __future__ import annotations

import socket

from adb_shell import exceptions

from edgectl.device.connection import ConnectionLost

CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    exceptions.AdbCommandFailureException,
    exceptions.AdbConnectionError,
    exceptions.AdbTimeoutError,
    exceptions.DeviceAuthError,
    exceptions.InvalidChecksumError,
    exceptions.InvalidCommandError,
    exceptions.InvalidResponseError,
    exceptions.TcpTimeoutException,
    exceptions.UsbDeviceNotFoundError,
    exceptions.UsbReadFailedError,
    exceptions.UsbWriteFailedError,
)
_USB_ERRORS: tuple[type[Exception], ...] = (exceptions.UsbReadFailedError, exceptions.UsbWriteFailedError)
try:
    import usb1
except (ImportError, OSError):
    pass
else:
    CONNECTION_ERRORS += (usb1.USBError,)
    _USB_ERRORS += (usb1.USBError,)

_TIMEOUTS = (TimeoutError, exceptions.AdbTimeoutError, exceptions.TcpTimeoutException)
_LOST = (ConnectionLost, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, exceptions.AdbConnectionError)
_UNAUTHORISED = (
    "the device has not authorised this computer: unlock the phone, accept its dialog "
    "`Allow USB debugging?`, and run the same command again"
)


def cause(error: Exception, address: str, *, connecting: bool, asked: bool) -> str:
    """One sentence on why an adb operation failed.

    Args:
        error: one of CONNECTION_ERRORS.
        address: what was connected to: `HOST:PORT`, or a USB serial number.
        connecting: no connection stood yet.
        asked: the device was waiting for its user to accept our key.
    """
    if asked or isinstance(error, exceptions.DeviceAuthError):
        return _UNAUTHORISED
    if isinstance(error, exceptions.UsbDeviceNotFoundError):
        return f"no USB device {address} with USB debugging on: see `edgectl devices`"
    if isinstance(error, _USB_ERRORS):
        return _usb(error, connecting)
    if isinstance(error, socket.gaierror):
        return f"there is no host named in {address}"
    if isinstance(error, ConnectionRefusedError):
        return f"the device is offline: nothing listens at {address}"
    if isinstance(error, _TIMEOUTS):
        silent = f"the device is offline or hangs: no answer from {address} in time"
        return silent if connecting else "the device stopped answering in time"
    if isinstance(error, _LOST):
        return f"the device is offline: {address} hung up at once" if connecting else "the connection was lost"
    if isinstance(error, exceptions.InvalidCommandError) and "STLS" in str(error):
        return f"{address} is Android's wireless debugging, which wants pairing: use USB, or `adb tcpip 5555` once"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else f"{reason} ({address})"
    if connecting:
        return f"what answers at {address} does not speak adb: {error}"
    return str(error)


def _usb(error: Exception, connecting: bool) -> str:
    usb_error = getattr(error, "usb_error", None) or error
    text = f"{usb_error} {error}"
    if "BUSY" in text:
        return "another program holds the USB device, probably the adb server: run `adb kill-server` and try again"
    if "ACCESS" in text:
        return "no permission to open the USB device: install Debian's android-sdk-platform-tools-common, or be root"
    if "TIMEOUT" in text:
        return "the device did not answer over USB in time" if connecting else "the device stopped answering in time"
    return "the USB device cannot be opened" if connecting else "the connection was lost: was the cable unplugged?"
