"""Every operation the backend owns computes what PyTorch computes, alone and in the combinations that the passes fuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


CONVOLUTIONS = {
    "3x3": (nn.Conv2d(5, 7, 3, padding=1), (1, 5, 9, 11)),
    "no padding": (nn.Conv2d(5, 7, 3), (1, 5, 9, 11)),
    "1x1": (nn.Conv2d(5, 9, 1), (1, 5, 6, 7)),
    "padded 1x1": (nn.Conv2d(5, 9, 1, padding=1), (1, 5, 6, 7)),
    "5x5 stride 2": (nn.Conv2d(3, 8, 5, stride=2, padding=2), (1, 3, 17, 23)),
    "7x7 stride 2": (nn.Conv2d(3, 16, 7, stride=2, padding=3), (1, 3, 32, 32)),
    "3x3 stride 3 of an even size": (nn.Conv2d(4, 4, 3, stride=3), (1, 4, 20, 14)),
    "1x1 stride 2": (nn.Conv2d(4, 6, 1, stride=2), (1, 4, 9, 9)),
    "2x2 stride 2 odd": (nn.Conv2d(4, 6, 2, stride=2), (1, 4, 9, 11)),
    "stride 2 dilation 2": (nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2), (1, 4, 15, 13)),
    "dilation 3": (nn.Conv2d(4, 6, 3, padding=3, dilation=3), (1, 4, 15, 13)),
    "asymmetric": (nn.Conv2d(4, 6, (1, 5), padding=(0, 2)), (1, 4, 8, 13)),
    "tall": (nn.Conv2d(4, 6, (5, 1), padding=(2, 0)), (1, 4, 8, 13)),
    "same padding": (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (1, 4, 8, 13)),
    "groups": (nn.Conv2d(6, 9, 3, padding=1, groups=3), (1, 6, 8, 8)),
    "depthwise": (nn.Conv2d(12, 12, 3, padding=1, groups=12), (1, 12, 14, 14)),
    "depthwise stride 2": (nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12), (1, 12, 15, 15)),
    "depthwise multiplier": (nn.Conv2d(6, 12, 3, padding=1, groups=6), (1, 6, 10, 10)),
    "no bias": (nn.Conv2d(5, 7, 3, padding=1, bias=False), (1, 5, 9, 11)),
    "batch of 3": (nn.Conv2d(5, 7, 3, padding=1), (3, 5, 9, 11)),
    "batch of 2 stride 2": (nn.Conv2d(5, 7, 3, stride=2, padding=1), (2, 5, 9, 11)),
    "one pixel out": (nn.Conv2d(5, 7, 3), (1, 5, 3, 3)),
    "one pixel in": (nn.Conv2d(5, 7, 3, padding=1), (1, 5, 1, 1)),
    "one pixel, groups": (nn.Conv2d(6, 9, 1, groups=3), (2, 6, 1, 1)),
    "wide": (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 4, 300)),
    "one column": (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 9, 1)),
    "more padding than kernel": (nn.Conv2d(3, 4, 3, padding=4), (1, 3, 5, 5)),
    "transposed 2x2/2": (nn.ConvTranspose2d(5, 6, 2, stride=2), (1, 5, 7, 6)),
    "transposed 3x3/2": (nn.ConvTranspose2d(5, 6, 3, stride=2, padding=1, output_padding=1), (1, 5, 7, 6)),
    "transposed 3x3/2 odd": (nn.ConvTranspose2d(5, 6, 3, stride=2, padding=1), (1, 5, 7, 6)),
    "transposed 4x4/4": (nn.ConvTranspose2d(5, 3, 4, stride=4), (1, 5, 5, 6)),
    "transposed stride 1": (nn.ConvTranspose2d(5, 6, 3, padding=1), (1, 5, 7, 6)),
    "transposed 1x1": (nn.ConvTranspose2d(5, 6, 1), (1, 5, 7, 6)),
    "transposed groups dilation": (nn.ConvTranspose2d(6, 4, 3, stride=2, dilation=2, groups=2), (2, 6, 5, 5)),
    "transposed smaller kernel than stride": (nn.ConvTranspose2d(3, 4, 2, stride=3), (1, 3, 5, 4)),
}


def test_convolutions_agree_with_pytorch(check_all):
    check_all({name: (layer, image(*shape)) for name, (layer, shape) in CONVOLUTIONS.items()})


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardswish(), nn.Sigmoid(), nn.Mish(), nn.SiLU(), nn.Hardtanh(-0.5, 0.5),
]  # fmt: skip


class AddThen(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.act(x + 0.5 * x)


def norm(channels):
    layer = nn.BatchNorm2d(channels)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def test_activations_agree_with_pytorch_alone_and_fused(check_all):
    example, vector = 6 * image(1, 4, 9, 10), 6 * image(3, 17)
    cases = {}
    for act in ACTIVATIONS:
        name = type(act).__name__
        cases[f"{name} alone"] = act, example
        cases[f"{name} of a vector"] = act, vector
        cases[f"{name} after a convolution"] = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), act), example
        cases[f"{name} after a sum"] = AddThen(act), example
        folded = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), norm(8), act)
        cases[f"{name} after batch norm"] = folded, example
        cases[f"{name} of a linear layer"] = nn.Sequential(nn.Linear(17, 20), act), vector
    compiled = check_all(cases)
    layers = {layer.name: layer for layer in compiled.layers}
    for i, name in enumerate(cases):
        if name.endswith("batch norm"):
            assert layers[f"cases.{i}.0"].fused == [f"cases.{i}.1", f"cases.{i}.2"]
        if name.endswith("a convolution"):
            assert layers[f"cases.{i}.0"].fused == [f"cases.{i}.1"]


def test_batch_norm_alone_and_after_a_transposed_convolution_agrees_with_pytorch(check_all):
    transposed = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), norm(6), nn.ReLU())
    cases = {"alone": (nn.Sequential(norm(4), nn.ReLU()), image(1, 4, 6, 7)), "transposed": (transposed, image(1, 4, 6, 7))}
    compiled = check_all(cases)
    assert len(compiled.layers) == 2


class Bottleneck(nn.Module):
    """A residual block; `late` adds after the activation, as Darknet does."""

    def __init__(self, late: bool):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)
        self.late = late

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return x + F.mish(y) if self.late else F.relu(y + x)


@pytest.mark.parametrize("late", [False, True])
def test_a_residual_block_becomes_two_fused_layers(late, check):
    compiled = check(nn.Sequential(Bottleneck(late), Bottleneck(late)), image(1, 8, 12, 10))
    assert [layer.name for layer in compiled.layers] == ["0.conv1", "0.conv2", "1.conv1", "1.conv2"]


class Two(nn.Module):
    """f(x, g(x)) for the operations with two operands."""

    def __init__(self, f):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.f = f

    def forward(self, x):
        return self.f(x, self.conv(x))


COMBINATIONS = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "squeeze and excite": lambda x, y: x * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    "scalar": lambda x, y: 2 * y + 0.25,
    "cat channels": lambda x, y: torch.cat([x, y, x], 1),
    "cat rows": lambda x, y: torch.cat([x, y], 2),
    "cat columns": lambda x, y: torch.cat([x, y], 3),
    "cat batch": lambda x, y: torch.cat([x, y], 0),
    "cat vectors": lambda x, y: torch.cat([x.flatten(1), y.flatten(1)], 1),
    "add of itself": lambda x, y: y + y,
    "two outputs": lambda x, y: (y, torch.relu(y)),
    "the same output twice": lambda x, y: (y, y),
    "an input as an output": lambda x, y: (x.flatten(1), y),
    "row broadcast": lambda x, y: y + x.mean((2, 3)).reshape(1, 4, 1, 1),
    "flatten of a padded map": lambda x, y: torch.relu(y).flatten(1),
}


def test_combinations_agree_with_pytorch(check_all):
    check_all({name: (Two(f), image(1, 4, 7, 9)) for name, f in COMBINATIONS.items()})


RESAMPLING = {
    "max 3/2": nn.MaxPool2d(3, 2, 1),
    "max ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "max dilated": nn.MaxPool2d(3, 1, 1, dilation=2),
    "max 13/1 (SPP)": nn.MaxPool2d(13, 1, 6),
    "avg": nn.AvgPool2d(3, 2, 1),
    "avg without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg divisor": nn.AvgPool2d(2, divisor_override=3),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive": nn.AdaptiveAvgPool2d((3, 5)),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest odd": nn.Upsample(size=(20, 31)),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear corners": nn.Upsample(size=(20, 31), mode="bilinear", align_corners=True),
    "bilinear down": nn.Upsample(size=(5, 4), mode="bilinear"),
    "flatten": nn.Flatten(),
}


def test_pooling_and_resampling_agree_with_pytorch(check_all):
    before = {name: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer) for name, layer in RESAMPLING.items()}
    check_all({name: (model, image(1, 3, 14, 15)) for name, model in before.items()})


def test_pixel_shuffle_linear_and_softmax_agree_with_pytorch(check_all):
    layers = {
        "pixel shuffle": (nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), image(1, 3, 7, 9)),
        "mlp": (nn.Sequential(nn.Linear(37, 23), nn.ReLU(), nn.Linear(23, 5), nn.Softmax(-1)), image(4, 37)),
        "linear over three dimensions": (nn.Linear(16, 33), image(2, 3, 16)),
        "softmax over channels": (nn.Softmax(1), image(2, 5, 4, 3)),
        "softmax of three dimensions": (nn.Softmax(2), image(2, 5, 7)),
        "softmax over columns": (nn.Softmax(3), image(2, 5, 4, 3)),
    }
    check_all(layers)
