"""A run takes little more memory than its packed weights and its planned arena."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from torch import nn

from edgectl.artifact import Artifact
from edgectl.device import open_device
from edgectl.lowering import build
from edgectl.recipe import ModelSpec, PruneRule, Recipe
from edgectl.runner import Session

RESNET = Path(__file__).parents[2] / "models/resnet18/pruned.toml"
ARENA_SIZE = 96  # where the plan's header has it (plan_format.h)
MARGIN = 10e6  # bytes


def peak(artifact: Artifact) -> int:
    """Bytes resident at most in a process that runs the artifact three times."""
    reply, _ = Session.open(artifact, open_device("host")).run(warmup=1, runs=2, threads=1)
    return 1024 * reply.peak_rss_kb


def arena(artifact: Artifact) -> int:
    model = artifact.model.read_bytes()
    return int(struct.unpack_from("<Q", model, model.index(b"EDGEPLAN") + ARENA_SIZE)[0])


def test_a_run_takes_its_weights_its_arena_and_at_most_ten_megabytes(tmp_path: Path) -> None:
    spec = ModelSpec(file="none.py", factory="model", input=[1, 1, 8, 8])
    runtime = peak(build(Recipe(model=spec), tmp_path / "tiny", model=nn.Conv2d(1, 1, 3)).artifact)
    spec = ModelSpec(file="none.py", factory="model", input=[1, 3, 360, 640])
    wide = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    rules = [PruneRule(match="*", scheme="unstructured", rate=2)]
    for artifact in (
        build(Recipe.load(RESNET), tmp_path / "resnet").artifact,
        build(Recipe(model=spec, prune=rules), tmp_path / "wide", model=wide).artifact,
    ):
        images = sum(4 * math.prod(tensor.shape) for tensor in artifact.manifest.inputs)
        images += sum(4 * math.prod(tensor.shape) for tensor in artifact.manifest.outputs)
        assert peak(artifact) - runtime < artifact.model.stat().st_size + arena(artifact) + images + MARGIN
