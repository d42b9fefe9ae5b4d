"""Which shared libraries an ELF file needs, read from its dynamic section (64-bit little-endian, as arm64 is)."""

from __future__ import annotations

import struct
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def needed_libraries(path: Path) -> list[str]:
    """The DT_NEEDED entries of an ELF file.

    Raises:
        ValueError: not a 64-bit little-endian ELF file, or a damaged one.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path} is not a 64-bit little-endian ELF file")
    try:
        return _needed(data)
    except (struct.error, StopIteration, OverflowError, ValueError) as error:
        raise ValueError(f"{path} is a damaged ELF file") from error


def _needed(data: bytes) -> list[str]:
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    # type, flags, offset, virtual address, physical address, size in the file
    segments = [struct.unpack_from("<IIQQQQ", data, table + i * entry_size) for i in range(count)]
    dynamic = [segment for segment in segments if segment[0] == _PT_DYNAMIC]
    if not dynamic:
        return []
    entries: list[tuple[int, int]] = []
    for position in range(dynamic[0][2], dynamic[0][2] + dynamic[0][5], 16):
        tag, value = struct.unpack_from("<QQ", data, position)
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    address = next(value for tag, value in entries if tag == _DT_STRTAB)
    load = next(s for s in segments if s[0] == _PT_LOAD and s[3] <= address < s[3] + s[5])
    strings = address - load[3] + load[2]
    return [_text(data, strings + value) for tag, value in entries if tag == _DT_NEEDED]


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
