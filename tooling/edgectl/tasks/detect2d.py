"""Detection of objects in images: augmented batches, the loss of an anchor-free YOLO head, and mAP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edgectl.errors import UserError
from edgectl.images import read_image, to_inputs
from edgectl.tasks import yolo
from edgectl.tasks.boxes import Picture, read_boxes
from edgectl.tasks.precision import Boxes, mean_average_precision
from edgectl.tasks.task import Predict, Progress, Score

_GREY = 114
"""What is beside an image."""
_KEPT_BYTES = 1 << 31
_BATCH = 16


class Detect2d:
    """Boxes of K classes from maps [N, 5 + K, h, w]; see `read_boxes` for the layouts of data and `yolo` for the maps.

    An image is shrunk or enlarged until it just fits the model's input, at its left and top; grey is beside it.

    Args:
        shape: the model's input [N, 3, H, W].

    Raises:
        UserError: the shape is no RGB image's.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        if len(shape) != 4 or shape[1] != 3:
            raise UserError(f"The model takes an input of shape {list(shape)}, not RGB images [N, 3, H, W].")
        self.size = (shape[2], shape[3])
        self._classes: int | None = None

    def examples(self, data: Path, progress: Progress) -> PictureExamples:
        """The training images.

        Raises:
            UserError: as `read_boxes`.
        """
        classes, pictures = read_boxes(data, "train", progress)
        self._classes = len(classes)
        return PictureExamples(pictures, self.size)

    def loss(self, output: Any, target: Any) -> Tensor:
        """`yolo.loss` of the maps with the boxes of `PictureExamples.batch`.

        Raises:
            UserError: the maps are not of 5 channels and as many as the data has classes.
        """
        return yolo.loss(_maps(output, self._classes), target, *self.size)

    def distillation(self, output: Any, teacher: Any) -> Tensor:
        """Mean squared difference of the maps, each map counting the same."""
        pairs = zip(_maps(output, None), _maps(teacher, None), strict=True)
        return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).mean()

    @torch.no_grad()
    def score(self, predict: Predict, data: Path, *, fixed: Sequence[int] | None = None, progress: Progress) -> Score:
        """mAP at IoU 0.5 in %, with a bootstrap interval over images; mAP at 0.5 to 0.95 and AP of each class in the details.

        Raises:
            UserError: as `read_boxes` and `loss`; pycocotools is not installed.
        """
        batch, size = (fixed[0], (fixed[2], fixed[3])) if fixed else (_BATCH, self.size)
        classes, pictures = read_boxes(data, "test", progress)
        found: list[Boxes] = []
        for start in range(0, len(pictures), batch):
            chosen = pictures[start : start + batch]
            fitted = [_fitted(picture, size) for picture in chosen]
            inputs = torch.from_numpy(to_inputs(np.stack([_on_grey(image, *size, 0, 0) for image, _ in fitted])))
            maps = [values.float().cpu() for values in _maps(predict(inputs), len(classes))]
            decoded = yolo.decode(maps, *size)
            found += [_in_pixels(yolo.detections(decoded, i), chosen[i], ratio) for i, (_, ratio) in enumerate(fitted)]
            progress("scoring", (start + len(chosen)) / len(pictures))
        truth = [Boxes(p.boxes, p.classes, np.empty(0), p.ignored) for p in pictures]
        precision = mean_average_precision(found, truth, len(classes))
        details = {"mAP@[.5:.95]": 100 * precision.at_50_95}
        details |= {f"AP@0.5 of {classes[k]}": 100 * value for k, value in precision.of_class.items()}
        low, high = precision.interval
        return Score("mAP@0.5", "%", 100 * precision.at_50, (100 * low, 100 * high), len(pictures), details)


class PictureExamples:
    """Training images: alone or four in a mosaic, scaled by 0.6 to 1.5, moved, mirrored. They are kept decoded up to 2 GiB."""

    def __init__(self, pictures: list[Picture], size: tuple[int, int]) -> None:
        self.pictures, self.size = pictures, size
        self._kept: dict[int, tuple[np.ndarray, float]] = {}
        self._most = _KEPT_BYTES // (3 * size[0] * size[1])

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Inputs float32 [N, 3, H, W] in [0, 1] and boxes float32 [N, M, 5].

        A box is its class, left, top, right and bottom in pixels of the input; rows beyond an image's boxes are of class -1.
        """
        made = [self._augmented(index, generator) for index in indices]
        target = np.full((len(made), max(1, *(len(boxes) for _, boxes in made)), 5), -1, np.float32)
        for rows, (_, boxes) in zip(target, made, strict=True):
            rows[: len(boxes)] = boxes
        return torch.from_numpy(to_inputs(np.stack([image for image, _ in made]))), torch.from_numpy(target)

    def _augmented(self, index: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """An image uint8 [H, W, 3] and its boxes [M, 5]."""
        height, width = self.size
        if generator.random() < 0.5:
            return self._moved(index, height, width, generator)
        y, x = (int(side * generator.uniform(0.35, 0.65)) for side in self.size)
        canvas, boxes = np.empty((height, width, 3), np.uint8), []
        for top, bottom, left, right in ((0, y, 0, x), (0, y, x, width), (y, height, 0, x), (y, height, x, width)):
            image, rows = self._moved(index, bottom - top, right - left, generator)
            canvas[top:bottom, left:right] = image
            boxes.append(rows + np.array([0, left, top, left, top]))
            index = int(generator.integers(len(self.pictures)))
        return canvas, np.concatenate(boxes)

    def _moved(self, index: int, height: int, width: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """An image at random scale and place on [height, width, 3], with those boxes of which a quarter is to be seen."""
        image, ratio = self._fitted(index)
        scale = float(np.exp(generator.uniform(np.log(0.6), np.log(1.5))))
        tall, wide = (max(1, round(side * scale)) for side in image.shape[:2])
        top, left = (int(generator.integers(min(0, s - t), max(0, s - t) + 1)) for s, t in ((height, tall), (width, wide)))
        image = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
        boxes = self.pictures[index].boxes * (ratio * scale)
        if generator.random() < 0.5:
            image, boxes = image[:, ::-1], np.stack([wide - boxes[:, 2], boxes[:, 1], wide - boxes[:, 0], boxes[:, 3]], axis=1)
        boxes = boxes + np.array([left, top, left, top])
        seen = np.clip(boxes, 0, [width, height, width, height])
        kept = _areas(seen) > np.maximum(0.25 * _areas(boxes), 4) if len(boxes) else np.zeros(0, bool)
        kept &= ~self.pictures[index].ignored
        rows = np.concatenate([self.pictures[index].classes[kept, None], seen[kept]], axis=1)
        return _on_grey(image, height, width, top, left), rows

    def _fitted(self, index: int) -> tuple[np.ndarray, float]:
        kept = self._kept.get(index)
        if kept is None:
            kept = _fitted(self.pictures[index], self.size)
            if len(self._kept) < self._most:
                self._kept[index] = kept
        return kept


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _fitted(picture: Picture, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """An image as large as fits in (height, width), and by how much it was scaled."""
    image = read_image(picture.file)
    if image.shape[:2] != picture.size:
        drawn, is_ = (f"{width}x{height}" for height, width in (picture.size, image.shape[:2]))
        raise UserError(f"{picture.file} is {is_}, but its boxes were drawn on {drawn}: correct the annotation.")
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, min(most, round(side * ratio))) for side, most in zip(image.shape, size, strict=False))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)), ratio


def _on_grey(image: np.ndarray, height: int, width: int, top: int, left: int) -> np.ndarray:
    """The part of an image that is to be seen when its corner is at (top, left) of a grey [height, width, 3]."""
    canvas = np.full((height, width, 3), _GREY, np.uint8)
    bottom, right = min(height, top + image.shape[0]), min(width, left + image.shape[1])
    canvas[max(0, top) : bottom, max(0, left) : right] = image[max(0, -top) : bottom - top, max(0, -left) : right - left]
    return canvas


def _in_pixels(rows: Tensor, picture: Picture, ratio: float) -> Boxes:
    """Detections [D, 6] of the model's input as boxes of the image."""
    values = rows.double().numpy()
    height, width = picture.size
    corners = np.clip(values[:, :4] / ratio, 0, [width, height, width, height])
    return Boxes(corners, values[:, 5].astype(np.int64), values[:, 4], np.empty(0, bool))


def _maps(output: Any, classes: int | None) -> list[Tensor]:
    maps = [output] if isinstance(output, Tensor) else list(output)
    for values in maps:
        if values.ndim != 4 or (classes is not None and values.shape[1] != 5 + classes):
            raise UserError(
                f"The model's map has the shape {list(values.shape)}, but for the {classes} classes of the data "
                f"it must be [N, {5 + (classes or 0)}, h, w]."
            )
    return maps
