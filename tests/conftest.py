"""State of its own for the whole session, one emulated phone and some photographs that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgectl.device import Device, open_device
from edgectl.device import emulator as emulators


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """A shell starts what it puts in the background with interrupts ignored, and so would be what the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def state_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder and an adb key that are not the user's; caches stay the ordinary ones."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECTL_HOME", str(folder / "edgectl"))
        patch.setenv("ANDROID_USER_HOME", str(folder / "android"))
        try:
            yield folder
        finally:
            for state in emulators.status():
                emulators.stop(state.name)


@pytest.fixture(scope="session")
def emulator(state_of_the_session: Path) -> Device:
    """The session's emulated phone, booted when first asked for. A test that may break one starts its own."""
    emulators.start("shared")
    return open_device("emulator:shared")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve images to train on and two to test: smooth, with edges."""
    folder = tmp_path_factory.mktemp("photographs")
    y, x = np.mgrid[:120, :140]
    for part, count in (("train", 12), ("test", 2)):
        (folder / part).mkdir()
        for i in range(count):
            chance = np.random.default_rng(100 * count + i)
            slopes = chance.normal(size=(6, 3)) / 2
            waves = sum(np.sin(x * a + y * b + c)[..., None] * chance.normal(size=3) for a, b, c in slopes)
            image = np.clip(waves * 12 + 128, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / part / f"{i:02}.png")
    return folder
