"""Mean average precision of boxes, by pycocotools, with its bootstrap interval over images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgectl.errors import UserError
from edgectl.tasks.confidence import bootstrap

_RECALLS = np.linspace(0, 1, 101)
_RESAMPLES = 1000


@dataclass(frozen=True)
class Boxes:
    """The boxes of an image: [M, 4] as left, top, right, bottom; classes int64 [M].

    Detections have `scores` [M] (ignored stays empty), the truth has `ignored` bool [M].
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class Precision:
    """Fractions of 1: AP averaged over classes at IoU 0.5, its 95 % interval, at 0.5 to 0.95, and at 0.5 by class number."""

    at_50: float
    interval: tuple[float, float]
    at_50_95: float
    of_class: dict[int, float]


def mean_average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], classes: int) -> Precision:
    """COCO's AP at 101 recalls, at most 100 detections an image, over the classes that the truth has.

    Raises:
        UserError: pycocotools is not installed, or the truth has no box that counts.
    """
    evaluation = _evaluated(found, truth, classes)
    with redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes
    present = [k for k in range(classes) if (precision[0, :, k] > -1).all()]
    if not present:
        raise UserError("No test image has a box that counts: there is nothing to score against.")
    curves = {k: _Curve(evaluation, k, len(truth)) for k in present}

    def resampled(chosen: np.ndarray) -> float:
        times = np.bincount(chosen, minlength=len(truth))
        values = [value for k in present if (value := curves[k].average_precision(times)) is not None]
        return float(np.mean(values)) if values else 0.0

    of_class = {k: float(precision[0, :, k].mean()) for k in present}
    interval = bootstrap(resampled, len(truth), _RESAMPLES)
    return Precision(float(np.mean(list(of_class.values()))), interval, float(precision[:, :, present].mean()), of_class)


def _evaluated(found: Sequence[Boxes], truth: Sequence[Boxes], classes: int) -> Any:
    """A COCOeval that has matched detections to the truth."""
    try:
        from pycocotools.coco import COCO  # noqa: PLC0415
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError as error:
        raise UserError("Scoring boxes needs pycocotools: install edgectl[train].") from error
    categories = [{"id": k} for k in range(classes)]
    images = [{"id": i} for i in range(len(truth))]
    coco = []
    for every in (truth, found):
        annotations: list[dict[str, Any]] = []
        for image, boxes in enumerate(every):
            for row, (left, top, right, bottom) in enumerate(boxes.corners.tolist()):
                item: dict[str, Any] = {"id": len(annotations) + 1, "image_id": image, "category_id": int(boxes.classes[row])}
                item |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
                item |= (
                    {"iscrowd": int(boxes.ignored[row])}
                    if every is truth
                    else {"iscrowd": 0, "score": float(boxes.scores[row])}
                )
                annotations.append(item)
        index = COCO()
        index.dataset = {"images": images, "categories": categories, "annotations": annotations}
        with redirect_stdout(io.StringIO()):
            index.createIndex()
        coco.append(index)
    evaluation = COCOeval(*coco, iouType="bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    with redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return evaluation


class _Curve:
    """The detections of one class at IoU 0.5, the most probable first, to be counted again for other choices of images."""

    def __init__(self, evaluation: Any, k: int, images: int) -> None:
        parts = evaluation.evalImgs[k * images : (k + 1) * images]
        self.positives = np.zeros(images, np.int64)
        scores, hits, owners = [np.empty(0)], [np.empty(0, bool)], [np.empty(0, np.int64)]
        for image, part in enumerate(parts):
            if part is None:
                continue
            self.positives[image] = np.count_nonzero(np.asarray(part["gtIgnore"]) == 0)
            counted = ~part["dtIgnore"][0].astype(bool)
            scores.append(np.asarray(part["dtScores"], np.float64)[counted])
            hits.append(part["dtMatches"][0][counted] > 0)
            owners.append(np.full(int(counted.sum()), image))
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        self.hits, self.owners = np.concatenate(hits)[order], np.concatenate(owners)[order]

    def average_precision(self, times: np.ndarray) -> float | None:
        """AP where image i counts `times[i]` times; None where no object does."""
        positives = int(times @ self.positives)
        return average_precision(np.repeat(self.hits, times[self.owners]), positives) if positives else None


def average_precision(hits: np.ndarray, positives: int) -> float:
    """Precision averaged over 101 recalls, each the best at that recall or a higher one (COCO).

    Args:
        hits: bool [D]: whether each detection finds an object not found before, the most probable first.
        positives: objects, at least one.
    """
    true = np.cumsum(hits)
    precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(true / positives, _RECALLS, side="left")
    return float(np.append(precision, 0)[at].mean())
