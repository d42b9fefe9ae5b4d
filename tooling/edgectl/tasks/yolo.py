"""Anchor-free YOLO maps: decoding, SimOTA assignment, loss, and non-maximum suppression.

A map is [N, 5 + K, h, w]: at each place four distances from its centre to the left, top, right and bottom of a box, before
softplus, in strides; the logit of there being an object; logits of the K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_RADIUS = 2.5
"""Places within this many strides of an object's centre may be its positives, as those within its box."""
_MOST_PLACES = 10
_FAR = 1e5


@dataclass(frozen=True)
class Decoded:
    """Predictions at all A places of all maps.

    Attributes:
        boxes: [N, A, 4], left, top, right, bottom in pixels of the input.
        objectness: [N, A], logits.
        classes: [N, A, K], logits.
        centres: [A, 2], x and y in pixels.
        strides: [A] of pixels.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor
    centres: Tensor
    strides: Tensor


def decode(maps: Sequence[Tensor], height: int, width: int) -> Decoded:
    """The predictions of maps for an input of height x width; a map's stride is the input's height over its own."""
    places, strides, flat = [], [], []
    for values in maps:
        h, w = values.shape[2:]
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        places.append(torch.stack([x * (width / w), y * (height / h)], dim=2).reshape(-1, 2))
        strides.append(torch.full((h * w,), height / h))
        flat.append(values.flatten(2).transpose(1, 2).float())
    device = maps[0].device
    centres, stride, values = torch.cat(places).to(device), torch.cat(strides).to(device), torch.cat(flat, dim=1)
    distances = F.softplus(values[..., :4]) * stride[:, None]
    boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=2)
    return Decoded(boxes, values[..., 4], values[..., 5:], centres, stride)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(IoU, generalised IoU) of boxes [..., 4] that broadcast (Rezatofighi et al., 2019)."""
    left_top = torch.maximum(first[..., :2], second[..., :2])
    shared = _area(torch.cat([left_top, torch.minimum(first[..., 2:], second[..., 2:])], dim=-1))
    union = (_area(first) + _area(second) - shared).clamp(min=1e-7)
    around = torch.cat([torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])], dim=-1)
    hull = _area(around).clamp(min=1e-7)
    iou = shared / union
    return iou, iou - (hull - union) / hull


@torch.no_grad()
def assign(boxes: Tensor, logits: Tensor, decoded: Decoded, truth: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SimOTA (Ge et al., YOLOX, 2021): the places that answer for each object of an image.

    Each object takes the places of least cost (class and box) among those in its box or near its centre, as many as the sum
    of its ten largest IoU; a place that several take goes to the cheapest.

    Args:
        boxes: [A, 4], predicted.
        logits: [A, K], of classes, with the objectness in them.
        decoded: where the places are.
        truth: [G, 4], G >= 1.
        classes: int64 [G].

    Returns:
        (places int64 [P], the object of each int64 [P], their IoU [P]).
    """
    x, y = decoded.centres[:, 0], decoded.centres[:, 1]
    left, top, right, bottom = truth.unbind(1)
    inside = (x > left[:, None]) & (x < right[:, None]) & (y > top[:, None]) & (y < bottom[:, None])
    reach = _RADIUS * decoded.strides
    near = ((x - (left + right)[:, None] / 2).abs() < reach) & ((y - (top + bottom)[:, None] / 2).abs() < reach)
    iou, _ = overlap(truth[:, None], boxes[None])
    wanted = F.one_hot(classes, logits.shape[1]).float()
    unlike = -(wanted @ F.logsigmoid(logits).T + (1 - wanted) @ F.logsigmoid(-logits).T)
    cost = unlike - 3 * (iou + 1e-8).log() + _FAR * ~(inside & near) + _FAR**2 * ~(inside | near)
    iou = iou * (inside | near)
    counts = iou.topk(min(_MOST_PLACES, iou.shape[1]), dim=1).values.sum(1).int().clamp(min=1)
    ranks = cost.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    taken = (ranks < counts[:, None]) & (inside | near)
    cheapest = cost.masked_fill(~taken, torch.inf).argmin(dim=0)
    places = taken.any(dim=0).nonzero()[:, 0]
    objects = cheapest[places]
    return places, objects, iou[objects, places]


def loss(maps: Sequence[Tensor], target: Tensor, height: int, width: int) -> Tensor:
    """5 (1 - GIoU) of boxes + BCE of objectness + BCE of classes whose target is the IoU, each over the number of positives.

    Args:
        maps: of the model for inputs of height x width.
        target: [N, M, 5]: class, left, top, right, bottom in pixels of the input; the class is -1 where there is no box.
    """
    decoded = decode(maps, height, width)
    joint = F.logsigmoid(decoded.classes.detach()) + F.logsigmoid(decoded.objectness.detach())[..., None]
    joint = joint / 2  # the geometric mean of the two probabilities, as its logit below
    logits = joint - torch.log1p(-joint.exp().clamp(max=1 - 1e-6))
    objectness = torch.zeros_like(decoded.objectness)
    boxes, classes, count = [], [], 0
    for index, rows in enumerate(target):
        real = rows[rows[:, 0] >= 0]
        if len(real) == 0:
            continue
        truth, numbers = real[:, 1:], real[:, 0].long()
        places, objects, iou = assign(decoded.boxes[index].detach(), logits[index], decoded, truth, numbers)
        objectness[index, places] = 1
        count += len(places)
        boxes.append((1 - overlap(decoded.boxes[index, places], truth[objects])[1]).sum())
        wanted = F.one_hot(numbers[objects], decoded.classes.shape[2]) * iou[:, None]
        classes.append(F.binary_cross_entropy_with_logits(decoded.classes[index, places], wanted, reduction="sum"))
    total = F.binary_cross_entropy_with_logits(decoded.objectness, objectness, reduction="sum")
    if boxes:
        total = total + 5 * torch.stack(boxes).sum() + torch.stack(classes).sum()
    return total / max(1, count)


def detections(decoded: Decoded, index: int, *, least: float = 0.01, most: int = 100, iou: float = 0.6) -> Tensor:
    """What a model finds on an image: [D, 6] of left, top, right, bottom, probability, class, the most probable first.

    Greedy non-maximum suppression for each class by itself.

    Args:
        decoded: predictions, on the CPU.
        index: the image.
        least: smallest probability (of an object, times of the class).
        most: detections.
        iou: above which the less probable of two boxes is dropped.
    """
    probability = decoded.objectness[index].sigmoid()[:, None] * decoded.classes[index].sigmoid()
    places, classes = (probability > least).nonzero(as_tuple=True)
    values, order = probability[places, classes].sort(descending=True, stable=True)
    values, order = values[: 10 * most], order[: 10 * most]
    boxes, classes = decoded.boxes[index, places[order]], classes[order]
    same = classes[:, None] == classes[None]
    hides = ((overlap(boxes[:, None], boxes[None])[0] > iou) & same).numpy()
    kept: list[int] = []
    for candidate in range(len(boxes)):
        if len(kept) == most:
            break
        if not hides[candidate, kept].any():
            kept.append(candidate)
    return torch.cat([boxes[kept], values[kept, None], classes[kept, None].float()], dim=1)
