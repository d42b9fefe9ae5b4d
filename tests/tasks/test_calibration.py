"""Images for calibration fill the model's input, span all values, and a folder without good ones is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgectl.errors import UserError
from edgectl.images import to_image
from edgectl.recipe import CalibrateSpec, ModelSpec
from edgectl.tasks.calibration import Photographs, calibration_images


def photograph(path: Path, height: int, width: int) -> np.ndarray:
    """A picture of random pixels, written and returned."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def pictures(images) -> list[np.ndarray]:
    return [to_image(image.numpy()) for image in images]


def test_the_middle_of_a_photograph_is_taken_as_it_is(tmp_path):
    pixels = photograph(tmp_path / "a.png", 20, 31)
    first, *_ = pictures(Photographs(tmp_path, (1, 3, 8, 10), 16, crop=True))
    assert np.array_equal(first, pixels[6:14, 10:20])


def test_a_small_photograph_is_mirrored_at_its_edges(tmp_path):
    pixels = photograph(tmp_path / "a.png", 3, 12)
    first, *_ = pictures(Photographs(tmp_path, (1, 3, 9, 12), 16, crop=True))
    assert np.array_equal(first, np.concatenate([pixels[::-1], pixels, pixels[::-1]]))


def test_for_other_tasks_a_photograph_is_resized_until_it_covers_the_input(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 5:55] = 200
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=100)
    first, *_ = pictures(Photographs(tmp_path, (1, 3, 10, 10), 16, crop=False))
    assert first.shape == (10, 10, 3) and (np.abs(first.astype(int) - 200) < 5).all()


def test_a_black_and_a_white_image_follow_so_that_all_values_are_covered(tmp_path):
    Image.new("RGB", (8, 8), (90, 100, 110)).save(tmp_path / "grey.png")
    images = Photographs(tmp_path, (2, 3, 8, 8), 16, crop=True)
    assert len(images) == len(list(images)) == 3
    assert all(image.shape == (2, 3, 8, 8) for image in images)
    _, black, white = images
    assert (black == 0).all() and (white == 1).all()


def test_of_many_photographs_as_many_as_asked_for_are_taken_from_the_whole_folder(tmp_path):
    for value in range(10):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / f"{value}.png")
    images = Photographs(tmp_path, (1, 3, 4, 4), 4, crop=True)
    assert [int(picture[0, 0, 0]) for picture in pictures(images)[:-2]] == [0, 3, 6, 9]


def test_random_inputs_are_the_same_every_time_and_need_no_folder(tmp_path):
    spec = ModelSpec(file="m.py", factory="m", input=[2, 5, 7])
    images = calibration_images(CalibrateSpec(images="random", count=3), tmp_path, spec)
    assert len(images) == 3 and all(image.shape == (2, 5, 7) for image in images)
    assert all(torch.equal(one, other) for one, other in zip(images, images, strict=True))
    assert not torch.equal(*list(images)[:2])


@pytest.mark.parametrize(("task", "size"), [("sr", (40, 60)), ("classify", (40, 60)), (None, (40, 60))])
def test_only_super_resolution_crops_without_resizing(tmp_path, task, size):
    pixels = photograph(tmp_path / "a.png", *size)
    spec = ModelSpec(file="m.py", factory="m", input=[1, 3, 20, 20], task=task)
    first, *_ = pictures(calibration_images(CalibrateSpec(images="."), tmp_path, spec))
    assert np.array_equal(first, pixels[10:30, 20:40]) == (task == "sr")


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=f"{tmp_path.name} holds no images"):
        Photographs(tmp_path, (1, 3, 8, 8), 16, crop=True)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"bad\.png is not an image"):
        list(Photographs(tmp_path, (1, 3, 8, 8), 16, crop=True))


def test_an_input_that_is_no_picture_is_told_to_use_random_values(tmp_path):
    photograph(tmp_path / "a.png", 8, 8)
    with pytest.raises(UserError, match=r"\[1, 64, 8, 8\].*random"):
        Photographs(tmp_path, (1, 64, 8, 8), 16, crop=True)
