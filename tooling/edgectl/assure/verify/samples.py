"""Labelled samples in the layouts that data sets have: arrays of numpy, or images in a folder a class."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from edgectl.errors import UserError
from edgectl.images import IMAGE_SUFFIXES, read_image

_MOST_BYTES = 1 << 33
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Sample:
    """One input of a data set.

    Attributes:
        name: what a person finds it by: a number, or a file.
        values: float64, of the model's input shape without the batch; 8-bit values divided by 255.
        label: its class; None where the data set has none.
    """

    name: str
    values: Tensor
    label: int | None


def read_samples(
    path: Path,
    shape: Sequence[int],
    *,
    labels: Path | None = None,
    count: int | None = None,
    span: tuple[float, float] = (0, 1),
) -> list[Sample]:
    """Reads samples for a model's input of `shape`, without the batch.

    `path` is a `.npz` of one array of samples and one of whole numbers, their labels; a `.npy` of samples, whose labels are in
    `labels` or in the file beside it named y where it is named X (`X_test.npy`, `y_test.npy`); a folder with one such pair; or
    a folder of images, those of each class in a folder of their own, or without labels. Samples may be (h, w, c) or flat.

    Args:
        path: the file or folder.
        shape: of the model's input.
        labels: a `.npy` of labels, instead of the one beside the samples.
        count: how many at most: the first of an array, evenly spaced of images.
        span: the smallest and largest value that an input may have.

    Raises:
        UserError: a file is missing or damaged, or its samples do not fit the model or the span.
    """
    if count is not None and count < 1:
        raise UserError(f"--count must be at least 1, not {count}.")
    if path.is_dir():
        pairs = sorted(path.glob("[Xx]*.npy"))
        if len(pairs) > 1:
            raise UserError(f"{path} holds several arrays of samples: name one of {', '.join(p.name for p in pairs)}.")
        found = _arrays(pairs[0], labels, count) if pairs else _pictures(path, shape, count)
    elif path.suffix in (".npy", ".npz"):
        found = _arrays(path, labels, count)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        found = iter([(path.name, _picture(path, shape), None)])
    elif path.exists():
        raise UserError(f"{path} is neither an array of numpy (.npy, .npz), an image, nor a folder of them.")
    else:
        raise UserError(f"There are no samples at {path}.")
    return [Sample(name, _fit(values, shape, span, f"{path}, sample {name},"), label) for name, values, label in found]


def _arrays(path: Path, labels: Path | None, count: int | None) -> Iterator[tuple[str, Array, int | None]]:
    """The samples of a `.npy` or `.npz` with their labels."""
    if path.suffix == ".npz":
        samples, classes = _archive(path)
    else:
        beside = path.with_name("y" + path.name[1:])
        samples, classes = _load(path), _load(beside) if path.name[0] in "Xx" and beside.is_file() else None
    if labels is not None:
        classes = _load(labels)
    if samples.ndim < 2:
        raise UserError(f"{path} has the shape {list(samples.shape)}: its first dimension must be the samples'.")
    if classes is not None:
        if classes.dtype.kind not in "iu" or classes.size != len(samples):
            raise UserError(f"{path} has {len(samples)} samples, but its labels are {classes.size} of {classes.dtype}.")
        classes = classes.reshape(-1)
    for i in range(len(samples) if count is None else min(count, len(samples))):
        yield str(i), np.array(samples[i]), None if classes is None else int(classes[i])


def _load(path: Path) -> Array:
    if not path.is_file():
        raise UserError(f"There is no array at {path}.")
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a readable array of numpy: {error}.") from error


def _archive(path: Path) -> tuple[Array, Array | None]:
    if not path.is_file():
        raise UserError(f"There are no samples at {path}.")
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(item.file_size for item in file.infolist())
        if size > _MOST_BYTES:
            raise UserError(f"{path} unpacks to more than {_MOST_BYTES >> 30} GiB: it is refused.")
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[name] for name in archive.files]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{path} is not a readable archive of numpy: {error}.") from error
    samples = [array for array in arrays if array.ndim >= 2]
    labels = [array for array in arrays if array.ndim == 1 and array.dtype.kind in "iu"]
    if len(samples) != 1 or len(labels) > 1:
        raise UserError(f"{path} must hold one array of samples and at most one of labels, whole numbers.")
    return samples[0], labels[0] if labels else None


def _pictures(folder: Path, shape: Sequence[int], count: int | None) -> Iterator[tuple[str, Array, int | None]]:
    """The images of a folder: of a class in each folder in it, numbered by name, or without labels."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    numbers = all(path.name.isdecimal() for path in classes)
    found = [(file, int(c.name) if numbers else i) for i, c in enumerate(classes) for file in _files(c)]
    files: list[tuple[Path, int | None]] = [*found] if found else [(file, None) for file in _files(folder)]
    if not files:
        raise UserError(f"{folder} holds no images and no arrays of numpy (X*.npy).")
    chosen = np.linspace(0, len(files) - 1, min(count or len(files), len(files))).round().astype(int)
    for file, label in (files[i] for i in chosen):
        yield file.relative_to(folder).as_posix(), _picture(file, shape), label


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _picture(path: Path, shape: Sequence[int]) -> Array:
    """An image as (channels, height, width), grey where the model's input has room for one channel only."""
    image = read_image(path)
    if math.prod(shape) == image.shape[0] * image.shape[1]:
        return np.asarray(Image.fromarray(image).convert("L"))[None]
    return image.transpose(2, 0, 1)


def _fit(values: Array, shape: Sequence[int], span: tuple[float, float], name: str) -> Tensor:
    """A sample as the model takes it."""
    if values.dtype.kind not in "fiub":
        raise UserError(f"{name} is of {values.dtype}: numbers are needed.")
    given, wanted = _without_ones(values.shape), _without_ones(shape)
    if given != wanted and len(given) == 3 and (given[2], *given[:2]) == wanted:
        values = values.reshape(given).transpose(2, 0, 1)
    elif given != wanted and not (values.size == math.prod(shape) and 1 in (len(given), len(wanted))):
        raise UserError(f"{name} has the shape {list(values.shape)}, but the model takes {list(shape)}.")
    made = torch.from_numpy(np.ascontiguousarray(values, np.float64)).reshape(tuple(shape))
    if values.dtype.kind in "iu":
        made /= 255
    low, high = float(made.min()), float(made.max())
    if not (span[0] <= low and high <= span[1]):  # NaN is neither
        raise UserError(f"{name} has values from {low:.4g} to {high:.4g}, outside of {span[0]:g} to {span[1]:g}: see --range.")
    return made


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
