"""Images are read in the usual layouts, batches are reproducible, and the score is top-1 accuracy with Wilson's interval."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgectl.errors import UserError
from edgectl.recipe import ModelSpec
from edgectl.tasks import task_of
from edgectl.tasks.classify import Classify
from edgectl.tasks.confidence import bootstrap, wilson

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def quiet(message, fraction):
    pass


def write_folder(root, counts=None, side=32):
    """Noisy images whose colour is their class."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 12, "test": 5}).items():
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 25, (side, side, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def write_idx(root, split="train", count=20, labels=None, packed=True, side=28):
    """Grey images whose bright half is their class: 0 left, 1 right."""
    rng = np.random.default_rng(1)
    truth = np.arange(count, dtype=np.uint8) % 2 if labels is None else np.asarray(labels, np.uint8)
    images = rng.integers(0, 60, (count, side, side)).astype(np.uint8)
    for image, label in zip(images, truth, strict=False):
        image[:, side // 2 * label : side // 2 * (label + 1)] += 180
    root.mkdir(exist_ok=True)
    write, ending = (gzip.open, ".gz") if packed else (open, "")
    with write(root / f"{split}-images-idx3-ubyte{ending}", "wb") as file:
        file.write(struct.pack(">4I", 0x803, count, side, side) + images.tobytes())
    with write(root / f"{split}-labels-idx1-ubyte{ending}", "wb") as file:
        file.write(struct.pack(">2I", 0x801, len(truth)) + truth.tobytes())
    return root


def write_cifar(root, files=("data_batch_1", "data_batch_2", "test_batch"), count=12):
    """Files of CIFAR-10's binary version: noisy images whose colour is their class."""
    rng = np.random.default_rng(2)
    root.mkdir(exist_ok=True)
    (root / "batches.meta.txt").write_text("blue\ngreen\nred\n\n")
    for file in files:
        labels = rng.permutation(np.arange(count) % 3)
        planes = np.array([*COLOURS.values()])[labels][:, :, None] + rng.normal(0, 25, (count, 3, 1024))
        records = np.c_[labels, np.clip(planes, 0, 255).reshape(count, -1)].astype(np.uint8)
        (root / f"{file}.bin").write_bytes(records.tobytes())
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("colours"))


def brightest(inputs):
    """Knows the classes: logits are the mean blue, green and red."""
    return inputs.mean((2, 3)).flip(1)


def learn(task, model, examples, steps, batch):
    generator = np.random.default_rng(0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(steps):
        inputs, target = examples.batch(generator.integers(len(examples), size=batch).tolist(), generator)
        loss = task.loss(model(inputs), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def small(channels, classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))


def test_a_small_network_learns_a_folder_of_images(folder):
    task = Classify([1, 3, 32, 32])
    examples = task.examples(folder, quiet)
    assert len(examples) == 36
    model = small(3, 3)
    losses = learn(task, model, examples, 60, 16)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 3
    score = task.score(model, folder, progress=quiet)
    assert score.value > 90
    assert score.count == 15
    assert score.interval is not None
    assert score.interval[0] < score.value <= score.interval[1]


def test_a_zip_of_the_folder_is_the_folder(folder, tmp_path):
    inside = tmp_path / "around" / "colours"
    shutil.copytree(folder, inside)
    task = Classify([1, 3, 32, 32])
    for base in (folder, tmp_path / "around"):
        packed = shutil.make_archive(str(tmp_path / base.name), "zip", base)
        plain = task.examples(folder, quiet).batch([0, 20, 35], np.random.default_rng(3))
        again = task.examples(Path(packed), quiet).batch([0, 20, 35], np.random.default_rng(3))
        assert torch.equal(plain[0], again[0])
        assert torch.equal(plain[1], again[1])


@pytest.mark.parametrize("packed", [True, False])
def test_a_small_network_learns_idx_files(tmp_path, packed):
    data = write_idx(write_idx(tmp_path, packed=packed), "t10k", count=14, packed=packed)
    task = Classify([1, 1, 28, 28])
    examples = task.examples(data, quiet)
    model = small(1, 2)
    losses = learn(task, model, examples, 60, 16)
    assert losses[-1] < losses[0] / 3
    assert task.score(model, data, progress=quiet).value == 100


def test_a_small_network_learns_the_binary_files_of_cifar_10(tmp_path):
    data = write_cifar(tmp_path)
    task = Classify([1, 3, 32, 32])
    examples = task.examples(data, quiet)
    assert len(examples) == 24
    assert examples.labelled.classes == ("blue", "green", "red")
    losses = learn(task, small(3, 3), examples, 60, 16)
    assert losses[-1] < losses[0] / 3
    score = task.score(brightest, data, progress=quiet)
    assert (score.value, score.count) == (100, 12)
    grey, _ = Classify([1, 1, 32, 32]).examples(data, quiet).batch([0, 1], np.random.default_rng(0))
    assert grey.shape == (2, 1, 32, 32)


def test_grey_files_feed_a_colour_model_and_the_other_way_round(tmp_path, folder):
    write_idx(tmp_path)
    colour, _ = Classify([1, 3, 32, 32]).examples(tmp_path, quiet).batch([0, 1], np.random.default_rng(0))
    assert colour.shape == (2, 3, 32, 32)
    assert torch.equal(colour[:, 0], colour[:, 2])
    grey, _ = Classify([1, 1, 32, 32]).examples(folder, quiet).batch([0, 1], np.random.default_rng(0))
    assert grey.shape == (2, 1, 32, 32)


@pytest.mark.parametrize("side", [32, 96])
def test_the_same_seed_gives_the_same_batch_and_another_seed_another(tmp_path, side):
    write_folder(tmp_path, side=side)
    examples = Classify([1, 3, side, side]).examples(tmp_path, quiet)
    first, labels = examples.batch(range(8), np.random.default_rng(5))
    again, _ = examples.batch(range(8), np.random.default_rng(5))
    other, _ = examples.batch(range(8), np.random.default_rng(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (8, 3, side, side)
    assert (first.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_images_of_differing_sizes_are_brought_to_the_models(tmp_path):
    write_folder(tmp_path)
    Image.new("RGB", (50, 23), COLOURS["red"]).save(tmp_path / "train" / "red" / "wide.jpg")
    Image.new("RGB", (300, 200), COLOURS["red"]).save(tmp_path / "test" / "red" / "large.JPEG")
    for side in (24, 96):
        task = Classify([1, 3, side, side])
        inputs, _ = task.examples(tmp_path, quiet).batch([0, 36], np.random.default_rng(0))
        assert inputs.shape == (2, 3, side, side)
        score = task.score(brightest, tmp_path, progress=quiet)
        assert (score.value, score.count) == (100, 16)


def test_a_padded_crop_moves_an_image_by_at_most_an_eighth(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "dot").mkdir(parents=True)
        dot = np.zeros((32, 32, 3), np.uint8)
        dot[16, 16] = 255
        Image.fromarray(dot).save(tmp_path / split / "dot" / "0.png")
    examples = Classify([1, 3, 32, 32]).examples(tmp_path, quiet)
    inputs, _ = examples.batch([0] * 400, np.random.default_rng(0))
    _, _, rows, columns = torch.nonzero(inputs[:, :1], as_tuple=True)
    assert set(rows.tolist()) == set(range(12, 21))
    assert set(columns.tolist()) == set(range(11, 21))  # flipped, 16 is 15


@pytest.mark.parametrize("fixed", [(1, 3, 32, 32), (4, 3, 32, 32), (64, 3, 32, 32)])
def test_the_score_is_the_same_in_batches_of_one_size(folder, fixed):
    shapes = set()

    def predict(inputs):
        shapes.add(tuple(inputs.shape))
        return brightest(inputs + 0.3 * torch.sin(1e4 * inputs))

    task = Classify([1, 3, 32, 32])
    free = task.score(lambda inputs: brightest(inputs + 0.3 * torch.sin(1e4 * inputs)), folder, progress=quiet)
    assert task.score(predict, folder, fixed=fixed, progress=quiet) == free
    assert {shape[1:] for shape in shapes} == {fixed[1:]}
    assert max(shape[0] for shape in shapes) <= fixed[0]


def test_ranks_of_the_right_class_make_top_1_and_top_5(tmp_path):
    truth = [0, 1, 2, 3, 4, 5, 6, 7]
    write_idx(write_idx(tmp_path, count=8, labels=truth), "t10k", count=8, labels=truth)
    fixed = torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1])
    score = Classify([1, 1, 28, 28]).score(lambda inputs: fixed.expand(len(inputs), 8), tmp_path, progress=quiet)
    assert score.value == 12.5
    assert score.details["top-5 accuracy"] == 62.5
    assert "top-1 accuracy 12.50 %" in str(score)


def test_distillation_is_zero_for_equal_logits_and_pulls_towards_the_teacher():
    task = Classify([1, 3, 32, 32])
    teacher = torch.randn(4, 10)
    assert float(task.distillation(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    student = torch.zeros(4, 10, requires_grad=True)
    before = task.distillation(student, teacher)
    before.backward()
    assert task.distillation(student.detach() - 0.5 * student.grad, teacher) < before


def test_the_wilson_interval_is_that_of_the_literature():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for hits, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeatable():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda chosen: float(values[chosen].mean()), 400, 1000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(lambda chosen: float(values[chosen].mean()), 400, 1000) == (low, high)


def test_mistakes_in_folders_are_one_sentence(tmp_path, folder):
    task = Classify([1, 3, 32, 32])
    with pytest.raises(UserError, match="There is no data at"):
        task.examples(tmp_path / "absent", quiet)
    with pytest.raises(UserError, match="holds no images in train/<class>/"):
        task.examples(tmp_path, quiet)
    only = write_folder(tmp_path / "only", {"train": 1})
    with pytest.raises(UserError, match="no images in test/<class>/ or val/<class>/"):
        task.score(brightest, only, progress=quiet)
    (only / "test" / "purple").mkdir(parents=True)
    shutil.copy(only / "train" / "red" / "0.png", only / "test" / "purple")
    with pytest.raises(UserError, match="test/purple is a class that train/ does not have"):
        task.score(brightest, only, progress=quiet)
    (only / "train" / "blue" / "0.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"train/blue/0.png is not an image"):
        task.examples(only, quiet)
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="neither a folder nor a readable"):
        task.examples(tmp_path / "no.zip", quiet)
    damaged = Path(shutil.make_archive(str(tmp_path / "damaged"), "zip", folder))
    data = bytearray(damaged.read_bytes())
    data[60_000:70_000] = bytes(10_000)
    damaged.write_bytes(data)
    with pytest.raises(UserError, match=r".png in .*damaged.zip cannot be read"):
        task.examples(damaged, quiet)


def test_a_model_with_another_number_of_outputs_is_refused(folder):
    task = Classify([1, 3, 32, 32])
    examples = task.examples(folder, quiet)
    inputs, target = examples.batch([0, 1], np.random.default_rng(0))
    with pytest.raises(UserError, match=r"output has the shape \[2, 10\], but the data has 3 classes"):
        task.loss(small(3, 10)(inputs), target)
    with pytest.raises(UserError, match="has 3 classes"):
        task.score(small(3, 10), folder, progress=quiet)


def test_mistakes_in_idx_files_are_one_sentence(tmp_path):
    task = Classify([1, 1, 28, 28])
    write_idx(tmp_path / "counts", count=20, labels=[0, 1] * 9)
    with pytest.raises(UserError, match=r"has 20 images, but .* has 18 labels"):
        task.examples(tmp_path / "counts", quiet)
    with pytest.raises(UserError, match="has no t10k-images-idx3-ubyte"):
        task.score(brightest, tmp_path / "counts", progress=quiet)
    unknown = write_idx(write_idx(tmp_path / "unknown"), "t10k", count=2, labels=[0, 7])
    with pytest.raises(UserError, match="has the label 7, which training does not have"):
        task.score(brightest, unknown, progress=quiet)
    plain = write_idx(tmp_path / "plain", packed=False) / "train-images-idx3-ubyte"
    whole = plain.read_bytes()
    for data, said in (
        (whole[:-1], "holds less data than its header says"),
        (whole + b"\0", "holds more data than its header says"),
        (whole[:10], "is no idx file of 8-bit images"),
        (b"\0\0\x0d\x03" + whole[4:], "is no idx file of 8-bit images"),
        (whole[:4] + b"\xff" * 12 + whole[16:], "bytes of data: it is damaged"),
        (whole[:4] + bytes(12), "bytes of data: it is damaged"),
    ):
        plain.write_bytes(data)
        with pytest.raises(UserError, match=said):
            task.examples(plain.parent, quiet)
    packed = write_idx(tmp_path / "packed") / "train-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"is damaged|less data"):
        task.examples(packed.parent, quiet)


def test_mistakes_in_the_files_of_cifar_10_are_one_sentence(tmp_path):
    task = Classify([1, 3, 32, 32])
    data = write_cifar(tmp_path, ["data_batch_1"])
    with pytest.raises(UserError, match=r"has no test_batch.bin: unpack all of CIFAR-10"):
        task.score(brightest, data, progress=quiet)
    file = data / "data_batch_1.bin"
    whole = file.read_bytes()
    for content, said in (
        (whole[:-1], r"data_batch_1.bin has 36875 bytes, no multiple of 3073"),
        (b"", r"data_batch_1.bin has 0 bytes"),
        (b"\x03" + whole[1:], r"data_batch_1.bin has the label 3, but there are 3 classes"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            task.examples(data, quiet)


def test_the_task_of_a_recipe_is_checked():
    spec = {"file": "model.py", "factory": "model", "input": [1, 3, 32, 32]}
    assert isinstance(task_of(ModelSpec(**spec, task="classify")), Classify)
    with pytest.raises(UserError, match="does not say what its model is for"):
        task_of(ModelSpec(**spec))
    with pytest.raises(UserError, match="no training for the task detect3d yet"):
        task_of(ModelSpec(**spec, task="detect3d"))
    with pytest.raises(UserError, match=r"input of shape \[1, 64, 9, 9\], not images"):
        task_of(ModelSpec(**{**spec, "input": [1, 64, 9, 9]}, task="classify"))
