"""Making batches leaves the cores to the model that trains on them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgectl.recipe import ModelSpec
from edgectl.tasks import task_of

SIDE = 128
PICTURES = {
    "classify": ("train/a/{}.png", [1, 3, 64, 64]),
    "sr": ("train/{}.png", [1, 3, SIDE // 2, SIDE // 2]),
    "detect2d": ("JPEGImages/{}.jpg", [1, 3, SIDE, SIDE]),
}
XML = (
    f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size><object><name>cell</name>"
    "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>90</xmax><ymax>90</ymax></bndbox></object></annotation>"
)


def write_pictures(root: Path, task: str) -> ModelSpec:
    name, shape = PICTURES[task]
    for index in range(4):
        path = root / name.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 64 if task == "classify" else SIDE
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (side, side, 3), np.uint8)).save(path)
        if task == "detect2d":
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{index}.xml").write_text(XML)
    if task == "detect2d":
        (root / "ImageSets/Main").mkdir(parents=True)
        (root / "ImageSets/Main/train.txt").write_text("0\n1\n2\n3\n")
    return ModelSpec(file="model.py", factory="model", input=shape, task=task, scale=2)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="torch has one thread here, so it never starts more")
@pytest.mark.parametrize("task", PICTURES)
def test_a_thread_that_makes_batches_starts_no_pool_of_threads_beside_the_models(tmp_path: Path, task: str) -> None:
    spec = write_pictures(tmp_path, task)
    examples = task_of(spec).examples(tmp_path, lambda message, fraction: None)
    batches, more = [], []

    def make() -> None:
        before = set(os.listdir("/proc/self/task"))
        batches.append(examples.batch([i % len(examples) for i in range(64)], np.random.default_rng(0)))
        more.append(set(os.listdir("/proc/self/task")) - before)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert batches[0][0].shape[0] == 64
    assert batches[0][0].numel() > 1 << 16  # torch would share an operation on so many among threads
    assert more == [set()]
