"""Image classification: augmented batches, cross entropy, and top-1 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from edgectl.errors import UserError
from edgectl.images import to_inputs
from edgectl.tasks.confidence import wilson
from edgectl.tasks.labelled import SMALL, Labelled, read_labelled
from edgectl.tasks.task import Predict, Progress, Score

TEMPERATURE = 4.0
"""Of distillation."""
_BATCH = 100
_BILINEAR = Image.Resampling.BILINEAR


class Classify:
    """One class an image; see `read_labelled` for the layouts of data.

    Args:
        shape: the model's input [N, C, H, W], C of 1 or 3.

    Raises:
        UserError: the shape is no image's.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise UserError(f"The model takes an input of shape {list(shape)}, not images [N, 1 or 3, H, W].")
        self.shape = tuple(shape)
        self._classes = 0
        self._test: tuple[Path, Labelled] | None = None  # a run scores several times

    def examples(self, data: Path, progress: Progress) -> LabelledExamples:
        """The images of `train`. `Examples.batch` gives targets int64 [N].

        Raises:
            UserError: as `read_labelled`.
        """
        labelled = read_labelled(data, "train", self.shape[1], progress)
        self._classes = len(labelled.classes)
        return LabelledExamples(labelled, (self.shape[2], self.shape[3]))

    def loss(self, output: Any, target: Any) -> Tensor:
        """Cross entropy of logits [N, classes] with int64 [N].

        Raises:
            UserError: the model has not as many outputs as the data has classes.
        """
        return F.cross_entropy(_logits(output, self._classes), target)

    def distillation(self, output: Any, teacher: Any) -> Tensor:
        """T^2 KL(teacher / T || output / T), T = 4 (Hinton, Vinyals and Dean, 2015)."""
        student, wanted = (F.log_softmax(_logits(logits) / TEMPERATURE, dim=1) for logits in (output, teacher))
        return F.kl_div(student, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2

    @torch.no_grad()
    def score(self, predict: Predict, data: Path, *, fixed: Sequence[int] | None = None, progress: Progress) -> Score:
        """Top-1 accuracy in % on `test` (or `val`) with its Wilson interval; top-5 in the details of more than 5 classes.

        Raises:
            UserError: as `read_labelled`, or the model has not as many outputs as there are classes.
        """
        shape = tuple(fixed or (_BATCH, *self.shape[1:]))
        if self._test is None or self._test[0] != data:
            self._test = (data, read_labelled(data, "test", shape[1], progress))
        labelled = self._test[1]
        count = len(labelled.labels)
        ranks: list[Tensor] = []
        for start in range(0, count, shape[0]):
            indices = range(start, min(start + shape[0], count))
            inputs = torch.from_numpy(to_inputs(_fitted(labelled, indices, shape[2], shape[3])))
            logits = _logits(predict(inputs), len(labelled.classes)).detach().float().cpu()
            order = logits.argsort(dim=1, descending=True, stable=True)  # of equal logits the first counts, as in argmax
            labels = torch.from_numpy(labelled.labels[indices.start : indices.stop])
            ranks.append((order == labels[:, None]).int().argmax(dim=1))
            progress("scoring", indices.stop / count)
        rank = torch.cat(ranks)
        hits = int((rank == 0).sum())
        low, high = wilson(hits, count)
        details = {"top-5 accuracy": 100 * float((rank < 5).float().mean())} if len(labelled.classes) > 5 else {}
        return Score("top-1 accuracy", "%", 100 * hits / count, (100 * low, 100 * high), count, details)


class LabelledExamples:
    """Training images: small RGB ones padded by an eighth, cropped and flipped; large ones cropped at random in size and aspect
    and flipped; grey ones padded by 2 pixels and cropped.
    """

    def __init__(self, labelled: Labelled, size: tuple[int, int]) -> None:
        self.labelled, self.size = labelled, size

    def __len__(self) -> int:
        return len(self.labelled.labels)

    def batch(self, indices: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Inputs float32 [N, C, H, W] in [0, 1] and classes int64 [N]."""
        height, width = self.size
        if max(height, width) > SMALL:
            images = np.stack([_random_resized_crop(self.labelled.decode(i), height, width, generator) for i in indices])
        else:
            images = _fitted(self.labelled, indices, height, width)
            images = _padded_crops(images, height // 8 if images.shape[3] == 3 else 2, generator)
        if images.shape[3] == 3:
            turned = generator.random(len(images)) < 0.5
            images[turned] = images[turned, :, ::-1]
        return torch.from_numpy(to_inputs(images)), torch.from_numpy(self.labelled.labels[np.asarray(indices)])


def _logits(output: Any, classes: int = 0) -> Tensor:
    logits = output if isinstance(output, Tensor) else output[0]
    if logits.ndim != 2 or (classes and logits.shape[1] != classes):
        raise UserError(f"The model's output has the shape {list(logits.shape)}, but the data has {classes} classes.")
    return logits


def _fitted(labelled: Labelled, indices: Sequence[int], height: int, width: int) -> np.ndarray:
    """Images as uint8 [N, height, width, C]; large ones are the middle 7/8 of themselves, as is usual for ImageNet."""
    if labelled.images is not None and labelled.images.shape[1:3] == (height, width):
        return labelled.images[np.asarray(indices)]
    bleed = 1 / 16 if max(height, width) > SMALL else 0.0
    return np.stack([_resized(ImageOps.fit, labelled.decode(i), (width, height), _BILINEAR, bleed) for i in indices])


def _resized(how: Any, image: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
    """Applies a function of Pillow images to uint8 [H, W, 1 or 3]."""
    made = np.asarray(how(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), *args, **options))
    return made[..., None] if made.ndim == 2 else made


def _padded_crops(images: np.ndarray, padding: int, generator: np.random.Generator) -> np.ndarray:
    """Each of uint8 [N, H, W, C] moved by at most `padding` pixels each way, black where nothing is left."""
    count, height, width = images.shape[:3]
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = generator.integers(2 * padding + 1, size=(count, 2))
    return np.stack([image[y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)])


def _random_resized_crop(image: np.ndarray, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """8 % to 100 % of an image's area, of an aspect of 3:4 to 4:3, resized (Szegedy et al., 2015)."""
    tall, wide = image.shape[:2]
    area = tall * wide * generator.uniform(0.08, 1)
    aspect = np.exp(generator.uniform(-1, 1) * np.log(4 / 3))
    w, h = (
        min(side, max(1, round(float(size)))) for side, size in ((wide, (area * aspect) ** 0.5), (tall, (area / aspect) ** 0.5))
    )
    top, left = generator.integers(tall - h + 1), generator.integers(wide - w + 1)
    return _resized(Image.Image.resize, image, (width, height), _BILINEAR, box=(left, top, left + w, top + h))
