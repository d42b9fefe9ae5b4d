"""The devices that the protocol's tests run on, and files to push."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgectl.device import Device, open_device

MakeFile = Callable[..., Path]


@pytest.fixture(params=["host", pytest.param("emulator", marks=pytest.mark.device)])
def device(request: pytest.FixtureRequest) -> Device:
    """Every kind of device that needs no phone, one after the other."""
    return open_device("host") if request.param == "host" else request.getfixturevalue("emulator")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A folder of the test's own on the device, with a space in its name."""
    return f"tests/{request.node.originalname} folder"


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Makes a local file: `make_file(name, content or number of random bytes, executable=False)`."""

    def make(name: str, content: str | int, *, executable: bool = False) -> Path:
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(content) if isinstance(content, int) else content.encode())
        path.chmod(0o755 if executable else 0o644)
        return path

    return make
