"""Samples come in the layouts that data sets have, as the model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgectl.assure.verify.properties import robustness
from edgectl.assure.verify.samples import read_samples
from edgectl.errors import UserError

RGB = (3, 4, 5)


def values(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def test_an_archive_has_samples_and_labels(tmp_path: Path) -> None:
    x = values(6, 3, 4, 5)
    np.savez(tmp_path / "data.npz", images=x, classes=np.arange(6))
    samples = read_samples(tmp_path / "data.npz", RGB, count=4)
    assert [(sample.name, sample.label) for sample in samples] == [("0", 0), ("1", 1), ("2", 2), ("3", 3)]
    assert np.array_equal(samples[2].values.numpy(), x[2].astype(np.float64) / 255)


@pytest.mark.parametrize("named", ["folder", "file"])
def test_labels_lie_beside_the_samples_that_are_named_x(named: str, tmp_path: Path) -> None:
    x = values(3, 4, 5, 3).astype(np.float32) / 255
    np.save(tmp_path / "X_test.npy", x)
    np.save(tmp_path / "y_test.npy", np.array([2, 0, 1]))
    samples = read_samples(tmp_path if named == "folder" else tmp_path / "X_test.npy", RGB)
    assert [sample.label for sample in samples] == [2, 0, 1]
    assert np.array_equal(samples[1].values.numpy(), x[1].transpose(2, 0, 1).astype(np.float64))


def test_labels_can_be_named_or_absent(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", values(2, 3, 4, 5))
    np.save(tmp_path / "classes.npy", np.array([[7], [8]]))
    labels = [sample.label for sample in read_samples(tmp_path / "some.npy", RGB, labels=tmp_path / "classes.npy")]
    assert labels == [7, 8]
    assert [sample.label for sample in read_samples(tmp_path / "some.npy", RGB)] == [None, None]


@pytest.mark.parametrize(("given", "wanted"), [((28, 28), (1, 28, 28)), ((28, 28, 1), (784,)), ((784,), (784, 1))], ids=str)
def test_samples_of_one_channel_take_any_shape_with_their_pixels(
    given: tuple[int, ...], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    x = values(1, *given)
    np.save(tmp_path / "x.npy", x)
    (sample,) = read_samples(tmp_path / "x.npy", wanted)
    assert tuple(sample.values.shape) == wanted
    assert np.array_equal(sample.values.numpy().reshape(-1), x.reshape(-1) / 255.0)


def test_folders_are_classes_and_images_are_taken_evenly(tmp_path: Path) -> None:
    pixels = values(8, 4, 5, 3)
    for i, name in enumerate(["cat", "cat", "cat", "cat", "dog", "dog", "dog", "dog"]):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(pixels[i]).save(tmp_path / name / f"{i}.png")
    samples = read_samples(tmp_path, RGB, count=2)
    assert [(sample.name, sample.label) for sample in samples] == [("cat/0.png", 0), ("dog/7.png", 1)]
    assert np.array_equal(samples[1].values.numpy(), pixels[7].transpose(2, 0, 1) / 255.0)
    (grey,) = read_samples(tmp_path / "cat/0.png", (1, 4, 5))
    assert (grey.label, tuple(grey.values.shape)) == (None, (1, 4, 5))


def test_folders_that_are_numbers_are_the_labels(tmp_path: Path) -> None:
    for name in ("3", "10"):
        (tmp_path / name).mkdir()
        Image.fromarray(values(1, 4, 5, 3)[0]).save(tmp_path / name / "a.png")
    assert sorted(sample.label or 0 for sample in read_samples(tmp_path, RGB)) == [3, 10]


def _wrong_range(folder: Path) -> None:
    np.save(folder / "x.npy", np.full((1, *RGB), 1.5))


def _not_numbers(folder: Path) -> None:
    np.save(folder / "x.npy", np.full((1, *RGB), np.nan))


def _other_shape(folder: Path) -> None:
    np.save(folder / "x.npy", values(1, 3, 4, 6))


def _labels_missing(folder: Path) -> None:
    np.save(folder / "x.npy", values(3, *RGB))
    np.save(folder / "y.npy", np.arange(2))


def _labels_of_floats(folder: Path) -> None:
    np.save(folder / "x.npy", values(2, *RGB))
    np.save(folder / "y.npy", np.array([0.0, 1.0]))


def _cut_short(folder: Path) -> None:
    np.save(folder / "x.npy", values(3, *RGB))
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-50])


def _objects(folder: Path) -> None:
    np.save(folder / "x.npy", np.array([{}], object), allow_pickle=True)


def _nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_wrong_range, ["1.5", "--range"]),
        (_not_numbers, ["nan", "--range"]),
        (_other_shape, ["[3, 4, 6]", "[3, 4, 5]"]),
        (_labels_missing, ["3 samples", "2 of int64"]),
        (_labels_of_floats, ["2 of float64"]),
        (_cut_short, ["not a readable array"]),
        (_objects, ["not a readable array"]),
        (_nothing, ["no images", "X*.npy"]),
    ],
)
def test_what_is_wrong_with_samples_is_said(make, words: list[str], tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError) as refused:
        read_samples(tmp_path, RGB)
    assert all(word in str(refused.value) for word in words), refused.value


def test_an_archive_that_is_none_and_a_path_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\3\4 no archive")
    (tmp_path / "x.txt").write_text("1 2 3")
    for name, words in (("x.npz", "not a readable archive"), ("x.txt", "neither"), ("none.npy", "no array")):
        with pytest.raises(UserError, match=words):
            read_samples(tmp_path / name, RGB)


def test_a_ball_is_cut_to_the_range_and_names_every_other_class(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.5, 1.0]]))
    (sample,) = read_samples(tmp_path / "x.npy", (3,))
    prop = robustness("a", sample.values, 1, 3, 0.25, (0.0, 1.0))
    assert (prop.lower.tolist(), prop.upper.tolist()) == ([0.0, 0.25, 0.75], [0.25, 0.75, 1.0])
    assert [clause.rows.tolist() for clause in prop.clauses] == [[[-1, 1, 0]], [[0, 1, -1]]]


@pytest.mark.parametrize(("eps", "label", "words"), [(-0.1, 0, "-0.1"), (float("nan"), 0, "nan"), (0.1, 3, "label 3")])
def test_a_ball_without_a_radius_or_a_class_is_refused(eps: float, label: int, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.5, 1.0]]))
    (sample,) = read_samples(tmp_path / "x.npy", (3,))
    with pytest.raises(UserError, match=words):
        robustness("a", sample.values, label, 3, eps, (0.0, 1.0))
