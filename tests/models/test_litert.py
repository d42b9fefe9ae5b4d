"""A network built as .tflite answers as one built as .pte, in int8 bit for bit, and its profile has the same layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgectl.artifact import Artifact
from edgectl.device import Device, open_device
from edgectl.lowering import build
from edgectl.profile.bench import bench
from edgectl.profile.variants import parse_variant
from edgectl.recipe import CalibrateSpec, Format, Recipe, load_model
from edgectl.runner import Session, relative_difference

MODELS = Path(__file__).parents[2] / "models"
SIZES = {"wdsr/x4.toml": (45, 80), "resnet18/recipe.toml": (64, 64), "mobilenetv2/recipe.toml": (64, 64)}
VARIANTS = ["dense", "block_punched@4", "int8", "block_punched@4+int8"]
ALL = [(name, variant) for name in SIZES for variant in VARIANTS]
FEW = [("wdsr/x4.toml", "block_punched@4"), ("wdsr/x4.toml", "block_punched@4+int8")]


def built(name: str, variant: str, folder: Path) -> dict[Format, Artifact]:
    """A network of the zoo in both formats, for a smaller input."""
    recipe = Recipe.load(MODELS / name)
    rules = {}
    if variant != "dense":
        parsed = parse_variant(variant)
        model = load_model(recipe)
        rules = {"prune": parsed.prune_rules(model), "quant": parsed.quant_rules()}
    shape = [*recipe.model.input[:2], *SIZES[name]]
    changes = {"model": recipe.model.model_copy(update={"input": shape}), "calibrate": CalibrateSpec(images="random", count=1)}
    small = recipe.model_copy(update=changes | rules)
    return {format: build(small, folder / format, format=format).artifact for format in ("pte", "litert")}


def agree(artifacts: dict[Format, Artifact], device: Device) -> None:
    answers = {}
    for format, artifact in artifacts.items():
        session = Session.open(artifact, device)
        _, (answers[format],) = session.run(want_outputs=True)
        session.check([answers[format]])
    quantised = any(layer.quant for layer in artifacts["pte"].manifest.layers)
    assert relative_difference(answers["litert"], answers["pte"]) <= (0 if quantised else 1e-4)
    assert len(np.unique(answers["pte"])) > 100


@pytest.mark.parametrize(("name", "variant"), FEW)
def test_both_formats_answer_alike_on_this_machine(name: str, variant: str, tmp_path: Path) -> None:
    artifacts = built(name, variant, tmp_path)
    agree(artifacts, open_device("host"))
    names = {format: [layer.name for layer in artifact.manifest.layers] for format, artifact in artifacts.items()}
    assert names["pte"] == names["litert"]
    reports = {format: bench(artifact, open_device("host"), runs=2) for format, artifact in artifacts.items()}
    rows = {
        format: [(row.name, row.op, row.runner, row.median is None) for row in reports[format].layers] for format in reports
    }
    assert rows["litert"] == rows["pte"]


@pytest.mark.device
def test_both_formats_answer_alike_on_the_emulated_phone(emulator: Device, tmp_path: Path) -> None:
    agree(built(*FEW[1], tmp_path), emulator)


@pytest.mark.slow
@pytest.mark.device
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_network_answers_alike_in_both_formats(name: str, variant: str, emulator: Device, tmp_path: Path) -> None:
    artifacts = built(name, variant, tmp_path)
    for device in (open_device("host"), emulator):
        agree(artifacts, device)
