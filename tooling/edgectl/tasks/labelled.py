"""Labelled images: a folder a class below `train` and `test` or `val`, the idx files of MNIST, or CIFAR-10's binary files."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from edgectl.errors import UserError
from edgectl.images import IMAGE_SUFFIXES, decode_image
from edgectl.tasks.files import SPLITS, Files
from edgectl.tasks.task import Progress

SMALL = 64
"""The largest side, in pixels, of images that are kept decoded."""
_IDX = {"train": "train", "test": "t10k"}
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
_MOST_BYTES = 1 << 32
_CIFAR = {"train": r"(.*/)?data_batch_\d+\.bin", "test": r"(.*/)?test_batch\.bin"}
_CIFAR_SHAPE = (3, 32, 32)
_AT_ONCE = 1000  # images that are decoded between two reports of progress
Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with their classes.

    Attributes:
        classes: names by number.
        labels: [N] of int64.
        images: uint8 [N, H, W, C] of equal small images; None where each is decoded when it is asked for.
        decode: an image by its number, uint8 [H, W, C]; raises UserError for a damaged file.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    images: np.ndarray | None
    decode: Callable[[int], np.ndarray]


def read_labelled(data: Path, split: Split, channels: int, progress: Progress) -> Labelled:
    """The images of a split of a data set.

    `data` is a folder, or a .zip of one, with `train/<class>/*` and `test/<class>/*` (or `val`), classes numbered by name;
    or with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...` or those as .gz; or with `data_batch_1.bin` to
    `data_batch_5.bin`, `test_batch.bin` and `batches.meta.txt` of CIFAR-10's binary version.

    Args:
        data: the folder or .zip.
        split: which images.
        channels: 3 for RGB, 1 for grey.
        progress: called while images are decoded.

    Raises:
        UserError: there are none, a file is damaged, labels disagree with images, or a class is not one of training.
    """
    files = Files(data)
    if any("idx3" in name for name in files.names):
        return _read_idx(files, split, channels)
    batches = {part: [name for name in files.names if re.fullmatch(pattern, name)] for part, pattern in _CIFAR.items()}
    if any(batches.values()):
        return _read_cifar(files, batches[split], split, channels)
    trees = {part: _classes(files, part) for part in SPLITS}
    chosen = "train" if split == "train" else next((part for part in ("test", "val") if trees[part]), "test")
    classes = tuple(sorted(trees["train"] or trees[chosen]))
    unknown = sorted(set(trees[chosen]) - set(classes))
    if unknown:
        raise UserError(f"{data}: {chosen}/{unknown[0]} is a class that train/ does not have: correct the folder's name.")
    found = [(name, classes.index(label)) for label in classes for name in trees[chosen].get(label, [])]
    if not found:
        wanted = "train/<class>/" if split == "train" else "test/<class>/ or val/<class>/"
        raise UserError(f"{data} holds no images in {wanted}, and no idx files: give a folder or .zip of that layout.")

    def decode(index: int) -> np.ndarray:
        name = found[index][0]
        return decode_image(io.BytesIO(files.read(name)), files.title(name), grey=channels == 1)

    labels = np.array([label for _, label in found], np.int64)
    return Labelled(classes, labels, _decoded(decode, len(found), f"reading {chosen} images", progress), decode)


def _classes(files: Files, split: str) -> dict[str, list[str]]:
    """The images of a split by class."""
    found: dict[str, list[str]] = {}
    for name in files.names:
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == split and name.lower().endswith(IMAGE_SUFFIXES):
            found.setdefault(parts[1], []).append(name)
    return found


def _decoded(decode: Callable[[int], np.ndarray], count: int, message: str, progress: Progress) -> np.ndarray | None:
    """All images as one array, or None where they are large or differ in size."""
    first = decode(0)
    if max(first.shape[:2]) > SMALL:
        return None
    images = np.empty((count, *first.shape), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, count))
            for index, image in zip(some, pool.map(decode, some), strict=True):
                if image.shape != first.shape:
                    return None
                images[index] = image
            progress(message, some.stop / count)
    return images


def _read_idx(files: Files, split: Split, channels: int) -> Labelled:
    found = {part: _find_idx(files, part) for part in ("train", "test")}
    if found[split] is None:
        raise UserError(f"{files.data} has no {_IDX[split]}-images-idx3-ubyte with its {_IDX[split]}-labels-idx1-ubyte.")
    pairs = {part: names for part, names in found.items() if names is not None}
    labels = {part: _read_labels(files, names[1]) for part, names in pairs.items()}
    images = _read_images(files, pairs[split][0])
    if len(images) != len(labels[split]):
        first, second = (files.title(name) for name in pairs[split])
        raise UserError(f"{first} has {len(images)} images, but {second} has {len(labels[split])} labels.")
    classes = int(labels.get("train", labels[split]).max()) + 1
    if int(labels[split].max()) >= classes:
        raise UserError(f"{files.title(pairs[split][1])} has the label {labels[split].max()}, which training does not have.")
    coloured = np.repeat(images[..., None], channels, axis=3)
    return Labelled(tuple(map(str, range(classes))), labels[split], coloured, lambda index: coloured[index])


def _read_cifar(files: Files, names: list[str], split: Split, channels: int) -> Labelled:
    """Records of a label and the red, green and blue plane of an image, 3073 bytes each."""
    if not names:
        wanted = "data_batch_1.bin to data_batch_5.bin" if split == "train" else "test_batch.bin"
        raise UserError(f"{files.data} has no {wanted}: unpack all of CIFAR-10's binary version there.")
    titles = [name for name in files.names if re.fullmatch(r"(.*/)?batches\.meta\.txt", name)]
    classes = tuple(files.read(titles[0]).decode("utf-8", "replace").split() if titles else map(str, range(10)))
    size = 1 + math.prod(_CIFAR_SHAPE)
    records = []
    for name in names:
        data = np.frombuffer(files.read(name), np.uint8)
        if not len(data) or len(data) % size:
            raise UserError(f"{files.title(name)} has {len(data)} bytes, no multiple of {size}: unpack CIFAR-10 again.")
        records.append(data.reshape(-1, size))
        last = int(records[-1][:, 0].max())
        if last >= len(classes):
            raise UserError(f"{files.title(name)} has the label {last}, but there are {len(classes)} classes.")
    whole = np.concatenate(records)
    images = np.ascontiguousarray(whole[:, 1:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1))
    if channels == 1:
        tall = Image.fromarray(images.reshape(-1, *images.shape[2:]))
        images = np.asarray(tall.convert("L")).reshape(*images.shape[:3], 1)
    return Labelled(classes, whole[:, 0].astype(np.int64), images, lambda index: images[index])


def _find_idx(files: Files, split: str) -> tuple[str, str] | None:
    """The names of (images, labels) of a split."""
    pattern = re.compile(rf"(.*/)?{_IDX[split]}-(images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")
    names = [name for name in files.names if pattern.fullmatch(name)]
    images, labels = ([name for name in names if kind in name] for kind in ("idx3", "idx1"))
    return (images[0], labels[0]) if images and labels else None


def _read_images(files: Files, name: str) -> np.ndarray:
    """An idx3 file as uint8 [N, H, W]."""
    raw = _unpacked(files, name)
    header = raw.read(16)
    if len(header) < 16 or struct.unpack(">I", header[:4])[0] != _IMAGES_MAGIC:
        raise UserError(f"{files.title(name)} is no idx file of 8-bit images: download it again.")
    count, height, width = struct.unpack(">3I", header[4:])
    return _body(files, name, raw, count * height * width).reshape(count, height, width)


def _read_labels(files: Files, name: str) -> np.ndarray:
    """An idx1 file as int64 [N]."""
    raw = _unpacked(files, name)
    header = raw.read(8)
    if len(header) < 8 or struct.unpack(">I", header[:4])[0] != _LABELS_MAGIC:
        raise UserError(f"{files.title(name)} is no idx file of 8-bit labels: download it again.")
    return _body(files, name, raw, struct.unpack(">I", header[4:])[0]).astype(np.int64)


class _Unpacked:
    """Reads a file's bytes, unpacked where its name ends in .gz."""

    def __init__(self, data: bytes, title: str, packed: bool) -> None:
        stream = io.BytesIO(data)
        self._stream = gzip.GzipFile(fileobj=stream) if packed else stream
        self._title = title

    def read(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{self._title} is damaged ({error}): download it again.") from error


def _unpacked(files: Files, name: str) -> _Unpacked:
    return _Unpacked(files.read(name), files.title(name), name.endswith(".gz"))


def _body(files: Files, name: str, raw: _Unpacked, size: int) -> np.ndarray:
    """What follows a header: exactly `size` bytes, at least one."""
    if not 0 < size <= _MOST_BYTES:
        raise UserError(f"{files.title(name)} says that it holds {size} bytes of data: it is damaged or no data set.")
    data = raw.read(size + 1)
    if len(data) != size:
        more = "more" if len(data) > size else "less"
        raise UserError(f"{files.title(name)} holds {more} data than its header says: download it again.")
    return np.frombuffer(data, np.uint8)
