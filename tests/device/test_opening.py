"""Device names, the adb key, and what the list of devices shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from adb_shell.exceptions import UsbDeviceNotFoundError, UsbReadFailedError, UsbWriteFailedError

from edgectl.device import AdbDevice, DeviceInfo, UnusableDevice, list_devices, open_device, usb
from edgectl.device.adb_errors import cause
from edgectl.device.keys import key_path, signer
from edgectl.errors import ToolError, UserError


@pytest.mark.parametrize("name", ["", "two words", "host:port", "1.2.3.4:", "a:b:c"])
def test_what_cannot_name_a_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="use host, emulator, HOST:PORT or a USB serial"):
        open_device(name)


@pytest.mark.parametrize("name", ["127.0.0.1:0", "phone:70000"])
def test_ports_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="the port must be between 1 and 65535"):
        open_device(name)


@pytest.mark.parametrize("name", ["192.168.1.20:5555", "phone.local:5555", "[::1]:5555", "R58M123ABC"])
def test_opening_does_not_connect_yet(name: str) -> None:
    device = open_device(name)
    assert isinstance(device, AdbDevice)
    assert device.name == name


def test_an_emulator_that_does_not_run_says_how_to_start_it() -> None:
    with pytest.raises(UserError, match=r"^The emulator default does not run: start it with `edgectl emulator start`\.$"):
        open_device("emulator")


def test_the_list_holds_the_host_and_a_word_on_usb() -> None:
    found = list_devices()
    assert isinstance(found[0], DeviceInfo)
    assert found[0].name == "host"
    for device in found[1:]:
        assert isinstance(device, DeviceInfo) or device.reason


def test_missing_libusb_is_said_and_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb, "UsbTransport", None)
    found = list_devices()
    assert found[0].name == "host"
    assert isinstance(found[-1], UnusableDevice)
    assert "libusb-1.0-0" in found[-1].reason
    with pytest.raises(UserError, match=r"libusb-1\.0-0"):
        open_device("R58M123ABC").describe()


def test_a_usb_device_that_is_not_attached_is_told() -> None:
    if usb.UsbTransport is None:
        pytest.skip("no libusb on this machine")
    with pytest.raises(ToolError, match="no USB device R58M123ABC with USB debugging on"):
        open_device("R58M123ABC").describe()


@pytest.mark.parametrize(
    ("error", "connecting", "words"),
    [
        (UsbReadFailedError("x", Exception("LIBUSB_ERROR_BUSY [-6]")), True, "adb kill-server"),
        (UsbWriteFailedError("LIBUSB_ERROR_ACCESS [-3]"), True, "no permission to open the USB device"),
        (UsbReadFailedError("x", Exception("LIBUSB_ERROR_TIMEOUT [-7]")), False, "stopped answering in time"),
        (UsbReadFailedError("x", Exception("LIBUSB_ERROR_NO_DEVICE [-4]")), False, "was the cable unplugged?"),
        (UsbDeviceNotFoundError("none"), True, "no USB device SERIAL"),
    ],
)
def test_usb_errors_say_what_to_do(error: Exception, connecting: bool, words: str) -> None:
    assert words in cause(error, "SERIAL", connecting=connecting, asked=False)


def test_the_key_is_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path / "android"))
    first = signer().GetPublicKey()
    assert key_path() == tmp_path / "android/adbkey"
    assert key_path().stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in key_path().parent.iterdir()) == ["adbkey", "adbkey.pub"]
    assert signer().GetPublicKey() == first


def test_a_key_without_its_public_half_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path))
    first = signer().GetPublicKey()
    (tmp_path / "adbkey.pub").unlink()
    assert signer().GetPublicKey().split()[0] == first.split()[0]


def test_the_key_stands_in_the_home_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_USER_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_path() == tmp_path / ".android/adbkey"


def test_a_damaged_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path))
    (tmp_path / "adbkey").write_text("not a key")
    (tmp_path / "adbkey.pub").write_text("not a key")
    with pytest.raises(ToolError, match="move it away, a new one will be made"):
        signer()
