"""One adb connection: adb-shell, with what it lacks (whole writes, noticing a lost peer, shell v2, errors during a push)."""

from __future__ import annotations

import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

from adb_shell import constants
from adb_shell.adb_device import AdbDevice as AdbClient
from adb_shell.adb_message import AdbMessage
from adb_shell.exceptions import PushFailedError, TcpTimeoutException
from adb_shell.transport.base_transport import BaseTransport
from adb_shell.transport.tcp_transport import TcpTransport

REPLY_S = 60.0
"""How long a device may take to answer one packet; an emulated one that writes a big file is slow."""

_FOREVER_S = 7 * 24 * 3600.0
_STDOUT, _STDERR, _EXIT = 1, 2, 3


class ConnectionLost(ConnectionError):
    """The device went away in the middle."""


class SteadyTcpTransport(TcpTransport):
    """adb-shell's TCP transport with whole writes, an error on end of file, and keep-alive against silent peers."""

    def connect(self, transport_timeout_s: float | None) -> None:
        """Opens the socket; a peer that vanishes without a word is noticed after about half a minute."""
        super().connect(transport_timeout_s)
        link = self._connection
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """Reads up to `numbytes`; end of file is a lost connection, not an empty read to spin on."""
        data: bytes = super().bulk_read(numbytes, transport_timeout_s)
        if not data:
            raise ConnectionLost("the device closed the connection")
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Writes all of `data`: adb-shell would drop what a full socket buffer does not take."""
        rest = memoryview(data)
        while rest:
            sent = super().bulk_write(rest, transport_timeout_s)
            rest = rest[sent:]
        return len(data)

    def alive(self) -> bool:
        """False when the peer has closed or reset the connection since it was last used."""
        if self._connection is None:
            return False
        readable, _, _ = select.select([self._connection], [], [], 0)
        try:
            return not readable or bool(self._connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


class Connection(AdbClient):
    """An adb connection whose users see failures as they are. One stream at a time: adb-shell mixes up concurrent ones."""

    def __init__(self, transport: BaseTransport) -> None:
        super().__init__(transport, default_transport_timeout_s=REPLY_S)
        self._transport = transport
        self.waits_for_user = False

    def connect_as(self, signer: Any, *, reply_s: float, user_s: float) -> None:
        """Connects, proving who we are; waits `user_s` seconds for the dialog on a phone that does not know our key."""
        self.waits_for_user = False

        def asked(_: AdbClient) -> None:
            self.waits_for_user = True

        self.connect([signer], transport_timeout_s=reply_s, read_timeout_s=reply_s, auth_timeout_s=user_s, auth_callback=asked)

    def alive(self) -> bool:
        """Whether the connection can still be used, as far as can be told without sending anything."""
        check = getattr(self._transport, "alive", None)
        return bool(self.available and (check is None or check()))

    def execute(self, command: str, timeout: float | None = None, pid_line: bytes = b"") -> tuple[int, bytes, bytes]:
        """Runs a shell command over the shell v2 protocol (Android 7 and later).

        Args:
            command: what the device's shell is to run.
            timeout: seconds until TimedOut is raised, None for no limit.
            pid_line: a prefix; the rest of the first line of stderr that starts with it is told by TimedOut.

        Returns:
            Exit code, stdout and stderr.

        Raises:
            TimedOut: the command is still running; the connection cannot be used any more.
            ConnectionLost: the stream ended without an exit code.
        """
        deadline = time.monotonic() + (_FOREVER_S if timeout is None else timeout)
        out: dict[int, bytearray] = {_STDOUT: bytearray(), _STDERR: bytearray(), _EXIT: bytearray()}
        stream = self._open(b"shell,v2,raw:" + command.encode(), REPLY_S, REPLY_S, None)
        stream.read_timeout_s = _FOREVER_S
        pending = bytearray()
        while True:
            stream.transport_timeout_s = max(deadline - time.monotonic(), 0.001)
            try:
                kind, data = self._read_until([constants.CLSE, constants.WRTE], stream)
            except Exception as error:
                if time.monotonic() >= deadline:
                    raise TimedOut(_pid(bytes(out[_STDERR]), pid_line)) from error
                raise
            if kind == constants.CLSE:
                self._send_close(stream)
                break
            pending += data
            while len(pending) >= 5:
                channel, length = struct.unpack_from("<BI", pending)
                if len(pending) < 5 + length:
                    break
                out.setdefault(channel, bytearray()).extend(pending[5 : 5 + length])
                del pending[: 5 + length]
        if not out[_EXIT]:
            raise ConnectionLost("the device's shell ended without an exit code")
        return out[_EXIT][0], bytes(out[_STDOUT]), bytes(out[_STDERR])

    def send_file(self, local: Path, remote: str, mode: int, on_bytes: Any) -> None:
        """Writes a local file to a path on the device; `on_bytes(n)` is called after every n bytes.

        Raises:
            PushFailedError: the device could not write it; its reason is the argument.
        """

        def told(_path: str, count: int, _total: int) -> None:
            on_bytes(count)

        self.push(str(local), remote, st_mode=0o100000 | mode, progress_callback=told, read_timeout_s=REPLY_S)

    def _send_close(self, stream: Any) -> None:
        self._io_manager.send(AdbMessage(constants.CLSE, stream.local_id, stream.remote_id), stream)

    def _filesync_flush(self, adb_info: Any, filesync_info: Any) -> None:
        """Sends the buffer. adb-shell drops a FAIL that comes before the OKAY, and then waits for an answer in vain."""
        payload = bytes(filesync_info.send_buffer[: filesync_info.send_idx])
        self._io_manager.send(AdbMessage(constants.WRTE, adb_info.local_id, adb_info.remote_id, payload), adb_info)
        filesync_info.send_idx = 0
        while True:
            kind, data = self._read_until([constants.OKAY, constants.WRTE, constants.CLSE], adb_info)
            if kind == constants.OKAY:
                return
            if kind == constants.CLSE:
                raise ConnectionLost("the device closed the transfer")
            filesync_info.recv_buffer += data
            if filesync_info.recv_buffer[:4] == constants.FAIL and len(filesync_info.recv_buffer) >= 8:
                (length,) = struct.unpack_from("<I", filesync_info.recv_buffer, 4)
                if len(filesync_info.recv_buffer) >= 8 + length:
                    raise PushFailedError(bytes(filesync_info.recv_buffer[8 : 8 + length]))


class TimedOut(TcpTimeoutException):
    """A command ran longer than it may; `pid` is its process on the device, if it told."""

    def __init__(self, pid: int | None) -> None:
        super().__init__("the command is still running")
        self.pid = pid


def _pid(stderr: bytes, prefix: bytes) -> int | None:
    line = stderr.partition(b"\n")[0]
    number = line.removeprefix(prefix)
    return int(number) if prefix and line.startswith(prefix) and number.isdigit() else None
