"""Resizing is MATLAB's, PSNR is the field's, patches are aligned; mistakes are one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgectl.errors import UserError
from edgectl.images import read_image
from edgectl.tasks.sr import Patches, bicubic, bicubic_matrix, image_files, luma, psnr_y

DATA = Path(os.environ.get("EDGECTL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "sr"
needs_data = pytest.mark.skipif(not (DATA / "Set5").is_dir(), reason="no Set5: set EDGECTL_DATA to a folder with sr/Set5")


def photograph(height, width, seed=0):
    """Smooth, with edges: sums of waves."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(x * a + y * b + c)[..., None] * rng.normal(size=3) for a, b, c in rng.normal(size=(6, 3)))
    return np.clip(waves * 12 + 128, 0, 255).astype(np.uint8)


@needs_data
@pytest.mark.parametrize("scale", [2, 4])
def test_reductions_equal_those_that_matlab_made_for_set5(scale):
    for file in image_files(DATA / "Set5" / f"x{scale}"):
        theirs = read_image(str(file).replace("_HR", "_LR")).astype(int)
        ours = bicubic(read_image(file), *theirs.shape[:2]).astype(int)
        assert np.abs(ours - theirs).max() <= 1
        assert (ours == theirs).mean() > 0.999


@needs_data
@pytest.mark.parametrize(("scale", "known"), [(2, 33.66), (4, 28.42)])
def test_bicubic_scores_on_set5_what_the_papers_report(scale, known):
    scores = []
    for file in image_files(DATA / "Set5" / f"x{scale}"):
        large, small = read_image(file), read_image(str(file).replace("_HR", "_LR"))
        scores.append(psnr_y(bicubic(small, *large.shape[:2]), large, scale))
    assert np.mean(scores) == pytest.approx(known, abs=0.03)


@pytest.mark.parametrize(("size", "out"), [(12, 3), (12, 48), (13, 5), (7, 7)])
def test_resizing_keeps_a_flat_image_and_a_line_is_not_shifted(size, out):
    matrix = bicubic_matrix(size, out)
    assert matrix.sum(axis=1) == pytest.approx(np.ones(out))
    assert np.allclose(matrix, matrix[::-1, ::-1])
    ramp = matrix @ np.arange(size)
    centre = (np.arange(out) + 0.5) * size / out - 0.5
    inside = (centre > 2 * max(1, size / out)) & (centre < size - 1 - 2 * max(1, size / out))
    assert np.allclose(ramp[inside], centre[inside])


def test_resizing_to_the_same_size_changes_nothing():
    image = photograph(9, 11)
    assert (bicubic(image, 9, 11) == image).all()


def test_luma_of_white_and_black_are_the_bt601_limits():
    assert luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))[0] == pytest.approx([16, 235])


def test_psnr_counts_luma_alone_and_not_the_shaved_edge():
    image = np.full((20, 20, 3), 100, np.uint8)
    other = image.copy()
    other[:4] = 255
    assert psnr_y(image, other, 4) == float("inf")
    brighter = image + np.uint8(10)
    difference = 10 * (65.481 + 128.553 + 24.966) / 255
    assert psnr_y(image, brighter, 4) == pytest.approx(20 * np.log10(255 / difference))
    with pytest.raises(ValueError, match="differ in shape"):
        psnr_y(image, image[:10], 4)


@pytest.fixture
def folder(tmp_path):
    for index in range(3):
        Image.fromarray(photograph(50 + index, 70, index)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_patches_are_aligned_pairs_in_all_eight_orientations(folder):
    patches = Patches(folder, scale=2, patch=8)
    rng = np.random.default_rng(0)
    for _ in range(40):
        low, high = patches.sample(rng)
        assert low.shape == (8, 8, 3) and high.shape == (16, 16, 3)
        again = bicubic(high, 8, 8)
        assert np.abs(again[2:-2, 2:-2].astype(int) - low[2:-2, 2:-2]).max() <= 2


def test_a_batch_depends_on_the_seed_alone(folder):
    patches = Patches(folder, scale=2, patch=8)
    (low, high), (again, _) = (patches.batch(5, np.random.default_rng(7)) for _ in range(2))
    assert low.shape == (5, 3, 8, 8) and high.shape == (5, 3, 16, 16)
    assert (low == again).all() and float(low.min()) >= 0 and float(low.max()) <= 1


def test_reductions_beside_high_resolution_images_are_not_taken_for_photographs(folder):
    Image.fromarray(photograph(20, 20)).save(folder / "img_HR.png")
    assert [file.name for file in image_files(folder)] == ["img_HR.png"]


def test_a_folder_without_usable_photographs_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        image_files(tmp_path / "absent")
    with pytest.raises(UserError, match="smaller than 256 pixels"):
        Patches(folder, scale=4, patch=64)
