"""Images in and out: what a phone's camera and a careless download can bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgectl.errors import ToolError, UserError
from edgectl.images import read_image, read_input, to_image, write_image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8
    assert image.min() == 255


def test_a_picture_that_its_camera_marked_as_turned_comes_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (6, 4, 3)


def test_an_image_written_and_read_again_is_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    write_image(tmp_path / "new" / "a.png", pixels)
    values = read_input(tmp_path / "new" / "a.png", [1, 3, 7, 9])
    assert values.shape == (1, 3, 7, 9)
    assert values.dtype == np.float32
    assert 0 <= values.min() <= values.max() <= 1
    np.testing.assert_array_equal(to_image(values), pixels)


def test_values_outside_the_range_are_clipped() -> None:
    assert to_image(np.array([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1)).tolist() == [[[0, 128, 255]]]


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [[1, 1000], [1, 64, 8, 8], [2, 3, 8, 8]])
def test_a_model_that_takes_no_image_says_so(tmp_path: Path, shape: list[int]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="not an RGB image"):
        read_input(tmp_path / "a.png", shape)


def test_an_output_that_is_no_image_says_so() -> None:
    with pytest.raises(UserError, match="not an RGB image"):
        to_image(np.zeros((1, 1000), np.float32))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="writing"):
        write_image(tmp_path / "file" / "a.png", np.zeros((2, 2, 3), np.uint8))
