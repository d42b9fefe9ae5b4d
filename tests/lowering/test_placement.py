"""What the backend does not own goes to XNNPACK or ExecuTorch, with a reason; zeros are found whoever made them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from edgectl.errors import UserError
from edgectl.lowering.compile import compile_module


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.uneven = nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(torch.erf(self.uneven(torch.relu(self.first(x)))))


def test_operations_left_to_others_are_named_with_the_reason_and_still_compute_the_same(check):
    compiled = check(Mixed(), torch.randn(1, 3, 10, 12), owned=False)
    by_layer = {p.layer: p for p in compiled.placements}
    assert by_layer["first"].runner == "edge"
    assert by_layer["uneven"].runner == "xnnpack"
    assert by_layer["uneven"].reason == "its strides differ: 2 and 1"
    assert by_layer["erf"].runner == "executorch"
    assert "not among" in by_layer["erf"].reason
    assert [layer.name for layer in compiled.layers] == ["first", "last"]


class Odd(nn.Module):
    """What the runtime's loader would refuse."""

    def __init__(self):
        super().__init__()
        self.far = nn.Conv2d(3, 4, 1, stride=65)

    def forward(self, x):
        point = torch.softmax(x.mean(), 0)
        return self.far(x), torch.clamp(x, 0.5, 0.25) + point


def test_what_the_runtime_would_refuse_is_left_to_others(check):
    placements = check(Odd(), torch.randn(1, 3, 70, 70), owned=False).placements
    reasons = {p.reason for p in placements if p.runner != "edge"}
    assert {"its stride is above 64", "its bounds are 0.5 and 0.25", "its input has no dimensions"} <= reasons


def test_a_model_pruned_by_torch_is_packed_like_one_with_the_same_zeros(check):
    torch.manual_seed(0)
    by_torch = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).eval()
    example = torch.randn(1, 8, 12, 12)
    prune.l1_unstructured(by_torch[0], "weight", 0.75)
    prune.ln_structured(by_torch[2], "weight", 0.5, n=2, dim=0)
    compiled = check(by_torch, example)
    plain = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).eval()
    with torch.no_grad():
        for mine, theirs in ((plain[0], by_torch[0]), (plain[2], by_torch[2])):
            mine.weight.copy_(theirs.weight)
            mine.bias.copy_(theirs.bias)
    assert compile_module(plain, example).layers == compiled.layers
    assert [layer.scheme for layer in compiled.layers] == ["unstructured", "filter"]
    assert compiled.layers[0].nonzeros == 16 * 8 * 9 // 4


def test_zeros_behind_parametrizations_are_found(check):
    class Halve(nn.Module):
        def forward(self, weight):
            mask = torch.zeros_like(weight)
            mask[:, ::2] = 1
            return weight * mask

    conv = nn.Conv2d(8, 8, 3, padding=1)
    parametrize.register_parametrization(conv, "weight", Halve())
    compiled = check(nn.Sequential(conv), torch.randn(1, 8, 9, 9))
    assert compiled.layers[0].nonzeros == 8 * 4 * 9
    check(parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), torch.randn(1, 4, 9, 9))


def test_compiling_leaves_the_model_as_it_was():
    conv = nn.Conv2d(4, 4, 3)
    prune.l1_unstructured(conv, "weight", 0.5)
    compile_module(conv, torch.randn(1, 4, 8, 8))
    assert prune.is_pruned(conv)


def test_weights_that_are_not_finite_are_refused():
    conv = nn.Conv2d(4, 4, 3)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="weight hold NaN"):
        compile_module(conv, torch.randn(1, 4, 8, 8))


def test_a_model_that_cannot_be_traced_is_one_sentence():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.raises(UserError, match=r"torch\.export cannot trace the model"):
        compile_module(Branching(), torch.randn(1, 4))


def test_an_operation_that_executorch_does_not_know_is_one_sentence():
    class Hypotenuse(nn.Module):
        def forward(self, x):
            return torch.hypot(x, x)

    with pytest.raises(UserError, match=r"ExecuTorch cannot run the model: Operator .*hypot"):
        compile_module(Hypotenuse(), torch.randn(1, 4))


@pytest.mark.parametrize("between", [torch.relu, torch.erf], ids=["one subgraph", "two subgraphs"])
def test_layer_names_are_module_paths_and_a_layer_called_twice_is_told_apart(between):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, x):
            return self.block(between(self.block(x)))

    compiled = compile_module(Twice(), torch.randn(1, 4, 8, 8))
    assert [layer.name for layer in compiled.layers] == ["block.0", "block.0#2"]


def test_channels_last_weights_are_taken_and_channels_last_maps_are_left_to_others(check):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
            self.turned = nn.Conv2d(4, 4, 3)
            self.to(memory_format=torch.channels_last)

        def forward(self, x):
            return self.turned(self.plain(x).to(memory_format=torch.channels_last))

    runners = {p.layer: p.runner for p in check(Turned(), torch.randn(1, 4, 8, 8), owned=False).placements}
    assert runners["plain.0"] == runners["plain.2"] == "edge"
    assert runners["turned"] == "xnnpack"
