"""A door in front of an emulator's adbd: it asks for a key as a phone's adbd does, and can cut the line.

Debian's adbd is built without authentication, so the handshake is spoken here, and what follows is the real adbd's.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct
import threading
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

_HEADER = struct.Struct("<6I")
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3


class Gate:
    """Listens on a free loopback port and forwards to `backend`.

    Args:
        backend: port of the real adbd.
        secure: ask for a key that was accepted before; `accept` is the dialog's button.
        cut_after: cut the first connection when this many bytes went to the device.
    """

    def __init__(self, backend: int, *, secure: bool = False, cut_after: int | None = None) -> None:
        self._backend = backend
        self._secure = secure
        self._cut_after = cut_after
        self._known: list[rsa.RSAPublicKey] = []
        self._offered: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._open:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def accept(self) -> None:
        """The user accepts the key that was offered last."""
        self._known.append(_android_key(self._offered[-1]))

    @property
    def asked(self) -> bool:
        """Whether the dialog was shown."""
        return bool(self._offered)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._greet, args=(client,), daemon=True).start()

    def _greet(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            hello = _packet(client)
            if self._secure and not self._authenticated(client):
                return
            device = socket.create_connection(("127.0.0.1", self._backend))
            self._open.append(device)
            with device:
                device.sendall(hello)
                back = threading.Thread(target=self._pump, args=(device, client, None), daemon=True)
                back.start()
                cut, self._cut_after = self._cut_after, None
                self._pump(client, device, cut)

    def _authenticated(self, client: socket.socket) -> bool:
        """The AUTH exchange of adb's protocol.txt: a token to sign; an unknown key is shown to the user."""
        while True:
            token = os.urandom(20)
            client.sendall(_made(b"AUTH", _TOKEN, 0, token))
            answer = _packet(client)
            command, kind, _, _, _, _ = _HEADER.unpack_from(answer)
            if struct.pack("<I", command) != b"AUTH":
                return False
            if kind == _SIGNATURE and any(_signed(key, token, answer[24:]) for key in self._known):
                return True
            if kind == _PUBLIC_KEY:
                self._offered.append(answer[24:])
                client.recv(1)  # the dialog stands until the computer gives up
                return False

    def _pump(self, source: socket.socket, sink: socket.socket, cut_after: int | None) -> None:
        seen = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                seen += len(data)
                if cut_after is not None and seen >= cut_after:
                    break
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


def _packet(link: socket.socket) -> bytes:
    head = _exactly(link, _HEADER.size)
    return head + _exactly(link, _HEADER.unpack(head)[3])


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise ConnectionError("end of stream")
        data += more
    return data


def _made(command: bytes, arg0: int, arg1: int, data: bytes) -> bytes:
    (number,) = struct.unpack("<I", command)
    return _HEADER.pack(number, arg0, arg1, len(data), sum(data), number ^ 0xFFFFFFFF) + data


def _android_key(offered: bytes) -> rsa.RSAPublicKey:
    """The key in Android's format: words, n0inv, modulus (little-endian), R^2, exponent; in base64, then the owner."""
    raw = base64.b64decode(offered.split(b" ")[0].rstrip(b"\0"))
    modulus = int.from_bytes(raw[8:264], "little")
    (exponent,) = struct.unpack_from("<I", raw, 520)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _signed(key: rsa.RSAPublicKey, token: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))
    except InvalidSignature:
        return False
    return True
