"""What devices say about themselves, and what may be reported from them."""

from __future__ import annotations

import pytest

from edgectl.device.facts import device_info
from edgectl.errors import UserError

PHONE = """prop.model=Pixel 7
prop.soc=GS201
prop.abi=arm64-v8a
prop.hardware=panther
prop.qemu=
machine=aarch64
kernel=Linux 5.10.157-android13
cores=8
governor=sched_pixel
thermal=BIG:43000
thermal=battery:31
thermal=broken:
board=
cpu=
part=0xd05 0xd41 0xd44
"""


def test_a_phone_is_real_silicon_with_a_wall_clock() -> None:
    info = device_info("SERIAL", "adb", PHONE)
    assert (info.kind, info.model, info.soc, info.abi, info.cores) == ("adb", "Pixel 7", "GS201", "arm64-v8a", 8)
    assert info.governor == "sched_pixel"
    assert info.thermal == {"BIG": 43.0, "battery": 31.0}
    assert (info.emulated, info.clock) == (False, "wall")
    assert info.require_latency_clock() == "wall"


def test_cores_are_named_when_the_phone_names_no_soc() -> None:
    info = device_info("SERIAL", "adb", PHONE.replace("prop.soc=GS201", "prop.soc="))
    assert info.soc == "Cortex-A55 + Cortex-A78 + Cortex-X1"


@pytest.mark.parametrize(
    ("line", "instead"),
    [("prop.qemu=", "prop.qemu=1"), ("prop.hardware=panther", "prop.hardware=ranchu"), ("board=", "board=linux,dummy-virt")],
)
def test_other_emulated_devices_have_no_clock_to_report_latency_from(line: str, instead: str) -> None:
    info = device_info("127.0.0.1:5557", "adb", PHONE.replace(line + "\n", instead + "\n"))
    assert (info.emulated, info.clock) == (True, "emulated-wall")
    with pytest.raises(UserError, match=r"^127\.0\.0\.1:5557 is an emulated device without an instruction clock"):
        info.require_latency_clock()


def test_a_device_that_says_nothing_is_still_described() -> None:
    info = device_info("x", "adb", "")
    assert (info.model, info.soc, info.cores, info.thermal, info.governor) == ("unknown", "unknown", 1, None, None)
