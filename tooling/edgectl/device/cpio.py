"""Writes an initramfs: a newc cpio archive, everything owned by root."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass
class Initramfs:
    """Files to be, in order; a folder is made when first needed."""

    _records: list[bytes] = field(default_factory=list)
    _folders: set[str] = field(default_factory=set)

    def folder(self, path: str) -> None:
        """Adds a folder and those above it."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name not in self._folders:
                self._folders.add(name)
                self._add(name, stat.S_IFDIR | 0o755)

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Adds a regular file."""
        self._parent(path)
        self._add(path, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def symlink(self, path: str, target: str) -> None:
        """Adds a symbolic link."""
        self._parent(path)
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Adds a character device node."""
        self._parent(path)
        self._add(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def archive(self) -> bytes:
        """The whole archive."""
        return b"".join(self._records) + self._record("TRAILER!!!", 0, b"", (0, 0), 0)

    def _parent(self, path: str) -> None:
        above = path.strip("/").rpartition("/")[0]
        if above:
            self.folder(above)

    def _add(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._records.append(self._record(path.strip("/"), mode, data, device, len(self._records) + 1))

    @staticmethod
    def _record(path: str, mode: int, data: bytes, device: tuple[int, int], inode: int) -> bytes:
        """One entry: a header of thirteen hexadecimal numbers, the name, the data; name and data end on 4 bytes."""
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name
        return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
