"""One shell script that asks a device about itself, and what its answers mean. The same for host, phone and emulator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from edgectl.device.base import Clock, DeviceInfo

MARKER = "/etc/edgectl-emulator"
"""A file that only our emulator's image has."""

SCRIPT = rf"""
say() {{ echo "$1=$2"; }}
if command -v getprop >/dev/null 2>&1; then
  say prop.model "$(getprop ro.product.model)"; say prop.soc "$(getprop ro.soc.model)"
  say prop.abi "$(getprop ro.product.cpu.abi)"; say prop.hardware "$(getprop ro.hardware)"
  say prop.qemu "$(getprop ro.kernel.qemu)$(getprop ro.boot.qemu)"
fi
say machine "$(uname -m)"; say kernel "$(uname -sr)"
say cores "$(nproc 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
say governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
for zone in /sys/class/thermal/thermal_zone*; do
  [ -r "$zone/temp" ] && say thermal "$(cat "$zone/type" 2>/dev/null):$(cat "$zone/temp" 2>/dev/null)"
done
say board "$(tr -d '\0' 2>/dev/null </sys/firmware/devicetree/base/model)"
say cpu "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)"
say part "$(sed -n 's/^CPU part[^:]*: *//p' /proc/cpuinfo | sort -u | tr '\n' ' ')"
[ -f {MARKER} ] && say marker "$(cat {MARKER})"
exit 0
"""

_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}
_EMULATED_HARDWARE = ("ranchu", "goldfish", "cutf")
_EMULATED_BOARDS = ("dummy-virt", "qemu")
_ABIS = {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a", "armv8l": "armeabi-v7a", "i686": "x86"}


def device_info(name: str, kind: Literal["host", "adb"], answer: str) -> DeviceInfo:
    """Reads what SCRIPT printed. A device that carries our marker is the emulator, however it was reached."""
    facts: dict[str, str] = {}
    zones: list[str] = []
    for line in answer.splitlines():
        key, _, value = line.strip().partition("=")
        if key == "thermal":
            zones.append(value)
        elif value:
            facts[key] = value
    ours = "marker" in facts
    machine = facts.get("machine", "unknown")
    cores = facts.get("cores", "")
    emulated, clock = _clock(facts, ours, kind)
    return DeviceInfo(
        name=name,
        kind="emulator" if ours else kind,
        model="edgectl emulator" if ours else facts.get("prop.model") or facts.get("board") or machine,
        soc=_soc(facts),
        abi=facts.get("prop.abi") or _ABIS.get(machine, machine),
        cores=int(cores) if cores.isdigit() else 1,
        governor=facts.get("governor"),
        thermal=_thermal(zones),
        kernel=facts.get("kernel", "unknown"),
        emulated=emulated,
        clock=clock,
    )


def _clock(facts: dict[str, str], ours: bool, kind: str) -> tuple[bool, Clock]:
    if ours:
        return True, "emulated-instructions" if "clock=instructions" in facts["marker"] else "emulated-wall"
    if kind == "host":
        return False, "wall"
    emulated = (
        "1" in facts.get("prop.qemu", "")
        or facts.get("prop.hardware", "").startswith(_EMULATED_HARDWARE)
        or any(board in facts.get("board", "").lower() for board in _EMULATED_BOARDS)
    )
    return emulated, "emulated-wall" if emulated else "wall"


def _soc(facts: dict[str, str]) -> str:
    parts = [_ARM_PARTS.get(part, part) for part in facts.get("part", "").split()]
    return facts.get("prop.soc") or facts.get("cpu") or " + ".join(parts) or "unknown"


def _thermal(zones: Iterable[str]) -> dict[str, float] | None:
    """Zones as degrees Celsius; the kernel says millidegrees, a few phones say degrees."""
    found: dict[str, float] = {}
    for zone in zones:
        label, _, value = zone.rpartition(":")
        try:
            degrees = float(value)
        except ValueError:
            continue
        found.setdefault(label, degrees / 1000 if abs(degrees) >= 1000 else degrees)
    return found or None
