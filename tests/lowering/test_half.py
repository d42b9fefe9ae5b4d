"""With `precision = "fp16"`, weights and maps are float16, whatever the operations, and outputs stay near PyTorch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_operations import ACTIVATIONS, COMBINATIONS, CONVOLUTIONS, RESAMPLING, Bottleneck, Two, image
from torch import nn

from edgectl.artifact import Artifact
from edgectl.device import open_device
from edgectl.errors import UserError
from edgectl.lowering import build
from edgectl.lowering.golden import HALF_TOLERANCE
from edgectl.lowering.plan import OpKind
from edgectl.recipe import Recipe, TargetSpec
from edgectl.runner import Session, relative_difference

FP16 = TargetSpec(precision="fp16")
TOLERANCE = 4e-3  # of the largest value: two or three roundings


def test_convolutions_agree_with_pytorch(check_all):
    cases = {name: (layer, image(*shape)) for name, (layer, shape) in CONVOLUTIONS.items()}
    compiled = check_all(cases, target=FP16, tolerance=TOLERANCE)
    assert {layer.bits for layer in compiled.layers if layer.method != "fp16 depthwise"} == {16}
    assert all(layer.method.startswith("fp16 ") for layer in compiled.layers)


def test_activations_agree_with_pytorch_alone_and_fused(check_all):
    example, vector = 2 * image(1, 4, 9, 10), 2 * image(3, 17)
    cases = {}
    for act in ACTIVATIONS:
        name = type(act).__name__
        cases[f"{name} alone"] = act, example
        cases[f"{name} after a convolution"] = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), act), example
        cases[f"{name} of a linear layer"] = nn.Sequential(nn.Linear(17, 20), act, nn.Linear(20, 7)), vector
    check_all(cases, target=FP16, tolerance=TOLERANCE)


def test_combinations_agree_with_pytorch(check_all):
    cases = {name: (Two(f), image(1, 4, 7, 9)) for name, f in COMBINATIONS.items()}
    cases |= {f"residual, late {late}": (Bottleneck(late), image(1, 8, 12, 10)) for late in (False, True)}
    check_all(cases, target=FP16, tolerance=TOLERANCE)


def test_what_has_no_float16_kernel_runs_in_float32_between(check_all, kinds):
    around = {
        name: (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, nn.Identity() if name == "flatten" else nn.Conv2d(4, 3, 1)))
        for name, layer in RESAMPLING.items()
    }
    cases = {name: (model, image(1, 3, 14, 15)) for name, model in around.items()}
    cases["softmax"] = nn.Sequential(nn.Linear(37, 23), nn.ReLU(), nn.Linear(23, 5), nn.Softmax(-1)), image(4, 37)
    cases["pixel shuffle"] = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), image(1, 3, 7, 9)
    compiled = check_all(cases, target=FP16, tolerance=TOLERANCE)
    assert {OpKind.AVG_POOL, OpKind.UPSAMPLE_BILINEAR, OpKind.SOFTMAX} <= set(kinds(compiled))


def test_a_map_is_converted_where_it_is_copied_anyway(check, kinds):
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)]
    compiled = check(nn.Sequential(*layers), image(1, 3, 40, 30), target=FP16, tolerance=TOLERANCE)
    assert kinds(compiled) == [OpKind.COPY, OpKind.CONV, OpKind.CONV, OpKind.PIXEL_SHUFFLE]


NET = """
import torch
from torch import nn


def net(weight=0.0, gain=1.0, width=64):
    # weight: of a channel that is always zero
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
              nn.Conv2d(width, 4, 1)]
    with torch.no_grad():
        layers[0].weight *= gain
        layers[0].bias[0] = -1000
        layers[2].weight[0, 0, 0, 0] += weight
    return nn.Sequential(*layers).eval()
"""

RECIPE = """
[model]
file = "net.py"
factory = "net"
input = [1, 3, 20, 24]

[target]
precision = "fp16"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def built(recipe: Path, *changes: str) -> Artifact:
    return build(Recipe.load(recipe, changes), recipe.parent / f"out{len(changes)}").artifact


def test_an_artifact_is_half_as_large_and_says_so(recipe: Path) -> None:
    half, whole = built(recipe), built(recipe, 'target.precision="fp32"')
    sizes = [artifact.model.stat().st_size for artifact in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    assert [(layer.name, layer.bits) for layer in half.manifest.layers] == [("0", 16), ("2", 16), ("4", 16)]
    assert half.manifest.golden_tolerance == HALF_TOLERANCE
    session = Session.open(half, open_device("host"))
    _, (output,) = session.run(want_outputs=True)
    _, (want,) = half.golden()
    assert 0 < relative_difference(output, want) < TOLERANCE


def test_quantised_layers_stay_int8(recipe: Path) -> None:
    rule = '\n[[quant]]\nmatch = "2"\nweights = "fixed"\nbits = 8\n[calibrate]\nimages = "random"\ncount = 2\n'
    recipe.write_text(recipe.read_text() + rule)
    mixed = built(recipe)
    assert [(layer.name, layer.bits) for layer in mixed.manifest.layers if layer.weights] == [("0", 16), ("2", 8), ("4", 16)]
    _, (output,) = Session.open(mixed, open_device("host")).run(want_outputs=True)
    _, (want,) = mixed.golden()
    assert relative_difference(output, want) < mixed.manifest.golden_tolerance
    assert np.unique(output).size > 100


def test_weights_and_values_that_float16_does_not_have_are_refused(recipe: Path) -> None:
    with pytest.raises(UserError, match=r"^2 has a weight of 7e\+04 and float16 ends at 65504: build it"):
        built(recipe, "model.args.weight=7e4")
    with pytest.raises(UserError, match=r"^0 gives .* for a random input and float16 ends at 65504: build it"):
        built(recipe, "model.args.gain=1e5")
    with pytest.raises(UserError, match=r"`target.precision` is 'fp8', but must be one of 'fp32' or 'fp16'"):
        built(recipe, "target.precision=fp8")
    assert not (recipe.parent / "out1").exists()
