"""Inputs to calibrate int8 activations on: photographs of a folder brought to the model's size, or random values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from edgectl.errors import UserError
from edgectl.images import read_image, to_input
from edgectl.recipe import CalibrateSpec, ModelSpec
from edgectl.tasks.sr import image_files

_SEED = 1


def calibration_images(calibrate: CalibrateSpec, folder: Path, model: ModelSpec) -> RandomInputs | Photographs:
    """The inputs that `[calibrate]` of a recipe in `folder` asks for.

    Raises:
        UserError: the folder of images is absent or empty, or the model's input is no RGB image.
    """
    if calibrate.images == "random":
        return RandomInputs(model.input, calibrate.count)
    return Photographs(folder / calibrate.images, model.input, calibrate.count, crop=model.task == "sr")


class RandomInputs:
    """`count` float32 inputs of a shape, uniform in [0, 1), the same at every iteration."""

    def __init__(self, shape: Sequence[int], count: int) -> None:
        self.shape, self.count = list(shape), count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(_SEED)
        return (torch.rand(self.shape, generator=generator) for _ in range(self.count))


class Photographs:
    """Photographs of a folder as inputs [N, 3, H, W] in [0, 1], then one that is black and one that is white.

    The last two make the range of a model's first values that of all images. Of more than `count` photographs, `count`
    evenly spaced by name are taken.

    Args:
        folder: where the photographs are (PNG or JPEG).
        shape: the model's input.
        count: photographs to use at most.
        crop: take the middle of a photograph as it is, mirrored at its edges if it is too small; else it is resized to
            cover H x W first.

    Raises:
        UserError: the folder is absent or holds no image, or the shape is no RGB image's; while iterating: a file is no
            image, or a damaged one.
    """

    def __init__(self, folder: Path, shape: Sequence[int], count: int, *, crop: bool) -> None:
        if len(shape) != 4 or shape[1] != 3:
            raise UserError(
                f"The model takes an input of shape {list(shape)}, not RGB images [1, 3, H, W]: "
                'write `images = "random"` under [calibrate].'
            )
        files = image_files(folder)
        chosen = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
        self.files = [files[index] for index in chosen]
        self.batch, self.size, self.crop = shape[0], (shape[2], shape[3]), crop

    def __len__(self) -> int:
        return len(self.files) + 2

    def __iter__(self) -> Iterator[Tensor]:
        for file in self.files:
            image = read_image(file)
            yield self._input(_middle(image, *self.size) if self.crop else _fitted(image, *self.size))
        for value in (0, 255):
            yield self._input(np.full((*self.size, 3), value, np.uint8))

    def _input(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(to_input(image)).repeat(self.batch, 1, 1, 1)


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle [height, width, C] of an image [H, W, C], after mirroring what it lacks."""
    lack = [max(0, wanted - size) for wanted, size in zip((height, width), image.shape[:2], strict=True)]
    image = np.pad(image, [*((n // 2, n - n // 2) for n in lack), (0, 0)], mode="symmetric")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image resized to cover [height, width, C], its middle."""
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.BICUBIC))
