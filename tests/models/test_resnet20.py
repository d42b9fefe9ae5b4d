"""ResNet-20's committed weights know images of CIFAR-10, read as its binary version has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgectl.recipe import Recipe
from edgectl.training.evaluate import score_recipe

FOLDER = Path(__file__).resolve().parents[2] / "models" / "resnet20"
DATA = Path(os.environ.get("EDGECTL_DATA") or FOLDER.parents[2] / "shared" / "data") / "vnn" / "sdp" / "cifar"


@pytest.mark.skipif(not DATA.is_dir(), reason="no images of CIFAR-10: set EDGECTL_DATA to a folder with vnn/sdp/cifar")
@pytest.mark.parametrize(("recipe", "accuracy"), [("recipe", 92.5), ("pruned_msq4", 92.0)])
def test_the_committed_weights_score_on_200_images_of_the_test_set(tmp_path, recipe, accuracy):
    images, labels = np.load(DATA / "X_sdp.npy"), np.load(DATA / "y_sdp.npy")
    planes = np.rint(255 * images).astype(np.uint8).transpose(0, 3, 1, 2)
    (tmp_path / "test_batch.bin").write_bytes(np.c_[labels.astype(np.uint8), planes.reshape(len(labels), -1)].tobytes())
    score = score_recipe(Recipe.load(FOLDER / f"{recipe}.toml"), tmp_path, lambda message, fraction: None)
    assert score.count == 200
    assert score.value == pytest.approx(accuracy, abs=0.5)
    assert score.details["top-5 accuracy"] >= 99
