"""Resizing is MATLAB's, PSNR is the field's, patches are aligned; mistakes are one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import nn

from edgectl.errors import UserError
from edgectl.images import read_image
from edgectl.recipe import ModelSpec, Recipe, load_model
from edgectl.tasks import task_of
from edgectl.tasks.sr import Patches, SuperResolution, bicubic, bicubic_matrix, image_files, luma, psnr_y, ssim_y

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


def quiet(message, fraction):
    pass


def upsampled(scale):
    """A random blur and enlargement: two pixels of reach, zeros beyond an image's edges."""
    layer = nn.Conv2d(3, 3 * scale**2, 5, padding=2)
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.rand_like(layer.weight) / 75)
        layer.bias.zero_()
    return nn.Sequential(layer, nn.PixelShuffle(scale)).eval()


def write_photographs(root, sizes, name="{}.png"):
    root.mkdir(parents=True, exist_ok=True)
    for index, (height, width) in enumerate(sizes):
        Image.fromarray(photograph(height, width, index)).save(root / name.format(index))
    return root


def test_a_small_network_learns_to_enlarge_better_than_bicubic(tmp_path):
    write_photographs(tmp_path / "train", [(120, 130), (110, 140)])
    write_photographs(tmp_path / "test", [(90, 80)])
    spec = ModelSpec(file="model.py", factory="model", input=[1, 3, 48, 48], task="sr", scale=2)
    task = task_of(spec)
    examples = task.examples(tmp_path, quiet)
    assert len(examples) == 2 * 16
    model = upsampled(2)
    before = task.score(model, tmp_path, progress=quiet)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = np.random.default_rng(0)
    losses = []
    for _ in range(80):
        inputs, target = examples.batch(generator.integers(len(examples), size=4).tolist(), generator)
        loss = task.loss(model(inputs), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert task.score(model, tmp_path, progress=quiet).value > before.value + 5


def test_training_patches_come_from_the_generator_alone_and_from_every_photograph(tmp_path):
    write_photographs(tmp_path, [(100, 100), (110, 100), (100, 120)])
    examples = SuperResolution([1, 3, 9, 9], 2).examples(tmp_path, quiet)
    first, second = (examples.batch([0, 1, 2, 47], np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[0].shape == (4, 3, 48, 48)
    assert first[1].shape == (4, 3, 96, 96)
    assert not torch.equal(first[0], examples.batch([0, 1, 2, 47], np.random.default_rng(5))[0])


@pytest.mark.parametrize("fixed", [(1, 3, 40, 48), (3, 3, 40, 44), (4, 3, 16, 20), (1, 3, 64, 64)])
def test_tiles_of_one_size_give_the_score_of_whole_images(tmp_path, fixed):
    write_photographs(tmp_path, [(128, 128), (150, 200), (129, 131)])
    shapes = set()
    model = upsampled(2)

    def predict(inputs):
        shapes.add(tuple(inputs.shape))
        return model(inputs)

    task = SuperResolution([1, 3, 9, 9], 2)
    whole, tiled = task.score(model, tmp_path, progress=quiet), task.score(predict, tmp_path, fixed=fixed, progress=quiet)
    assert {shape[1:] for shape in shapes} == {fixed[1:]}
    assert max(shape[0] for shape in shapes) <= fixed[0]
    assert tiled.details == pytest.approx(whole.details, abs=1e-3)


def test_a_photograph_smaller_than_the_tile_is_mirrored_into_it(tmp_path):
    write_photographs(tmp_path, [(60, 50)])
    task, model = SuperResolution([1, 3, 9, 9], 2), upsampled(2)
    whole = task.score(model, tmp_path, progress=quiet)
    tiled = task.score(model, tmp_path, fixed=(1, 3, 100, 90), progress=quiet)
    assert tiled.value == pytest.approx(whole.value, abs=1)


def test_ssim_agrees_with_scikit_image():
    image = photograph(60, 70)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    _, known = structural_similarity(
        luma(noisy)[2:-2, 2:-2],
        luma(image)[2:-2, 2:-2],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim_y(noisy, image, 2) == pytest.approx(known[5:-5, 5:-5].mean(), abs=1e-6)
    assert ssim_y(image, image, 2) == pytest.approx(1)


def test_mistakes_of_super_resolution_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not say by how much"):
        SuperResolution([1, 3, 9, 9], None)
    with pytest.raises(UserError, match="not RGB images"):
        SuperResolution([1, 1, 9, 9], 2)
    task, model = SuperResolution([1, 3, 9, 9], 2), upsampled(2)
    with pytest.raises(UserError, match="holds no images"):
        task.score(model, tmp_path, progress=quiet)
    with pytest.raises(UserError, match="smaller than 96 pixels"):
        task.examples(write_photographs(tmp_path / "small", [(50, 50)]), quiet)
    large = write_photographs(tmp_path / "large", [(100, 100)], "{}_HR.png")
    with pytest.raises(
        UserError, match=r"makes images of \[1, 3, 200, 200\] where the recipe's scale asks for \[1, 3, 100, 100\]"
    ):
        task.score(upsampled(4), large, progress=quiet)
    inputs, target = task.examples(large, quiet).batch([0], np.random.default_rng(0))
    with pytest.raises(UserError, match="scale asks for"):
        task.loss(upsampled(4)(inputs), target)
    write_photographs(large, [(25, 25)], "{}_LR.png")
    with pytest.raises(UserError, match=r"0_LR.png is not 0_HR.png reduced by 2"):
        task.score(model, large, progress=quiet)
    with pytest.raises(UserError, match="too small to be scored"):
        task.score(model, write_photographs(tmp_path / "tiny", [(12, 50)]), progress=quiet)


@needs_data
def test_the_trained_network_scores_on_set5_what_its_readme_says():
    recipe = Recipe.load(Path(__file__).resolve().parents[2] / "models" / "wdsr" / "x4.toml")
    score = task_of(recipe.model).score(load_model(recipe), DATA / "Set5" / "x4", progress=quiet)
    assert score.value == pytest.approx(30.63, abs=0.01)
    assert score.details["bicubic"] == pytest.approx(28.43, abs=0.01)
    assert score.count == 5
    assert 0.8 < score.details["SSIM"] < 0.9
