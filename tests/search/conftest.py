"""A small space, and photographs to search on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgectl.search.space import SrSpace


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth, with edges: [H, W, 3] of 8 bits."""
    y, x = np.mgrid[:height, :width]
    chance = np.random.default_rng(seed)
    waves = sum(np.sin(x * a + y * b + c)[..., None] * chance.normal(size=3) for a, b, c in chance.normal(size=(6, 3)) / 2)
    return np.clip(waves * 12 + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve to train on and two to test."""
    folder = tmp_path_factory.mktemp("photographs")
    for part, count in (("train", 12), ("test", 2)):
        (folder / part).mkdir()
        for i in range(count):
            Image.fromarray(photograph(120, 140, 100 * count + i)).save(folder / part / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def space() -> SrSpace:
    """Two cells of few channels."""
    return SrSpace(input=(24, 32), features=[8, 12], cells=2, blocks=["a1", "a2", "b3"], baseline="b3", rate=2.0)
