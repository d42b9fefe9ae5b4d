"""Reads FlatBuffers without generated code, and with suspicion: nothing is believed to lie inside of the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator


class Table:
    """A table; a slot is a field's number in the schema. Reading outside the file raises struct.error or ValueError."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        self.vtable = at - read_number(data, "<i", at)
        self.vtable_size = read_number(data, "<H", self.vtable)

    def _where(self, slot: int) -> int:
        entry = 4 + 2 * slot
        if entry + 2 > self.vtable_size:
            return 0
        offset = read_number(self.data, "<H", self.vtable + entry)
        return self.at + offset if offset else 0

    def number(self, slot: int, kind: str, default: int = 0) -> int:
        """A number, `kind` as in struct; `default` where the table has none."""
        where = self._where(slot)
        return read_number(self.data, kind, where) if where else default

    def table(self, slot: int) -> Table | None:
        """A table; None where there is none."""
        where = self._where(slot)
        return Table(self.data, where + read_number(self.data, "<I", where)) if where else None

    def bytes(self, slot: int) -> bytes:
        """A list of bytes; empty where there is none."""
        where = self._where(slot)
        if not where:
            return b""
        start = where + read_number(self.data, "<I", where)
        size = read_number(self.data, "<I", start)
        if start + 4 + size > len(self.data):
            raise ValueError("a text is longer than the file")
        return self.data[start + 4 : start + 4 + size]

    def text(self, slot: int) -> str:
        """A text; empty where there is none."""
        return self.bytes(slot).decode()

    def tables(self, slot: int) -> Iterator[Table]:
        """A list of tables."""
        for entry in self._entries(slot):
            yield Table(self.data, entry + read_number(self.data, "<I", entry))

    def integers(self, slot: int) -> list[int]:
        """A list of 32-bit integers."""
        return [read_number(self.data, "<i", entry) for entry in self._entries(slot)]

    def _entries(self, slot: int) -> range:
        """Where the entries of a list of 4 bytes each are."""
        where = self._where(slot)
        if not where:
            return range(0)
        start = where + read_number(self.data, "<I", where)
        count = read_number(self.data, "<I", start)
        if start + 4 + 4 * count > len(self.data):
            raise ValueError("a list is longer than the file")
        return range(start + 4, start + 4 + 4 * count, 4)


def read_number(data: bytes, kind: str, at: int) -> int:
    """The number at a place, `kind` as in struct. Raises struct.error or ValueError where that is not in the data."""
    if at < 0:
        raise ValueError("something lies before the file's start")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value
