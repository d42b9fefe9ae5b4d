"""What the tests of pictures share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture_of() -> Callable[[Path], dict[str, str]]:
    """What a picture says of itself, once it is known to be one that can be looked at."""

    def look(path: Path) -> dict[str, str]:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            width, height = image.size
            assert 800 <= width <= 2000
            assert 500 <= height <= 1500
            assert len(image.convert("RGB").getcolors(width * height) or ()) > 50
            return {str(key): str(text) for key, text in image.info.items()}

    return look
