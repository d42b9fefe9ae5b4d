"""Rules map globs to schemes; masks are exact zeros and stay so in fine-tuning; mistakes are one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from edgectl.compress.layers import as_stored, filters_first, prunable_layers
from edgectl.compress.prune import apply_masks, prune_oneshot
from edgectl.errors import UserError


@dataclass(frozen=True)
class Rule:
    match: str
    scheme: str
    rate: float
    block: tuple[int, int] | None = None
    connectivity: float | None = None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, padding=2)
        self.body = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.fc = nn.Linear(8, 40)

    def forward(self, x):
        return self.fc(self.up(self.body(self.stem(x))).mean(dim=(2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def zeros(layer):
    return int((layer.weight == 0).sum())


def test_only_matched_layers_are_pruned_and_the_zeros_are_exact(net):
    masks = prune_oneshot(net, [Rule("body.*", "block_punched", 4.0)])
    assert list(masks) == ["body.0", "body.1", "body.2"]
    for path, mask in masks.items():
        weight = net.get_submodule(path).weight
        assert (weight[~mask] == 0).all() and (weight[mask] != 0).all()
        assert not torch.signbit(weight[~mask]).any()
        assert int(mask.sum()) == weight.numel() // 4
    assert zeros(net.stem) == zeros(net.up) == zeros(net.fc) == 0


def test_of_several_rules_for_a_layer_the_last_one_holds(net):
    masks = prune_oneshot(net, [Rule("*", "unstructured", 2.0), Rule("body.1", "filter", 8.0), Rule("fc", "filter", 1.0)])
    assert list(masks) == ["stem", "body.0", "body.1", "body.2", "up", "fc"]
    assert zeros(net.body[1]) == 14 * 16 * 9
    assert zeros(net.body[0]) == 8 * 16 * 9
    assert masks["fc"].all()


def test_filters_of_a_transposed_convolution_are_its_output_channels(net):
    prune_oneshot(net, [Rule("up", "filter", 2.0)])
    kept = net.up.weight.abs().sum(dim=(0, 2, 3)) > 0
    assert int(kept.sum()) == 4
    assert (net.up.weight[:, kept] != 0).all()


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(12, 8, (2, 3), groups=4), nn.Conv2d(12, 8, 3, groups=4), nn.Linear(5, 7)])
def test_filters_first_form_turns_back_into_the_stored_form(layer):
    form = filters_first(layer)
    assert form.shape[0] == getattr(layer, "out_channels", None) or layer.out_features
    assert torch.equal(as_stored(layer, form), layer.weight)


def test_a_grouped_transposed_convolution_keeps_the_filters_that_matter():
    layer = nn.ConvTranspose2d(4, 4, 2, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.1)
        layer.weight[2:, 1] = 1.0
    prune_oneshot(nn.Sequential(layer), [Rule("0", "filter", 4.0)])
    out = layer(torch.ones(1, 4, 1, 1))
    assert (out[:, 3] != 0).all() and (out[:, :3] == 0).all()


def test_pattern_layers_share_one_library_of_at_most_eight_patterns(net):
    masks = prune_oneshot(net, [Rule("body.*", "pattern", 6.0)])
    kernels = torch.cat([mask.reshape(-1, 9) for mask in masks.values()])
    used = kernels[kernels.any(dim=1)].unique(dim=0)
    assert len(used) <= 8 and (used.sum(dim=1) == 4).all() and used[:, 4].all()


def test_the_output_is_finite_for_every_scheme_at_two_and_six(net):
    for scheme in ("unstructured", "filter", "pattern", "block_punched"):
        for rate in (2.0, 6.0):
            model = Net()
            prune_oneshot(model, [Rule("body.*", scheme, rate)])
            assert torch.isfinite(model(torch.rand(1, 3, 8, 8))).all()


def test_masked_weights_stay_exactly_zero_in_fine_tuning(net):
    masks = prune_oneshot(net, [Rule("body.*", "block_punched", 4.0)])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        net(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimiser.step()
        apply_masks(net, masks)
    for path, mask in masks.items():
        weight = net.get_submodule(path).weight
        assert (weight[~mask] == 0).all() and int((weight != 0).sum()) == int(mask.sum())


def test_prunable_layers_are_named_by_module_path(net):
    assert list(prunable_layers(net)) == ["stem", "body.0", "body.1", "body.2", "up", "fc"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("head.*", "filter", 2.0), r"'head\.\*' matches no layer with weights: the model has stem, body\.0"),
        (Rule("stem", "magic", 2.0), "Unknown pruning scheme 'magic': choose one of unstructured, filter"),
        (Rule("stem", "filter", 0.5), r"rate 0\.5 of 'stem' is outside \[1, number of weights\)"),
        (Rule("stem", "filter", float("nan")), "rate nan of 'stem' is outside"),
        (Rule("stem", "filter", float("inf")), "rate inf of 'stem' is outside"),
        (Rule("fc", "unstructured", 320.0), r"outside \[1, 320\), 320 being the number of weights of layer fc"),
        (Rule("stem", "pattern", 2.0), "Layer stem cannot be pruned: pattern is for 3x3 kernels, the kernel is 5x5"),
        (Rule("body.0", "block_column", 2.0), "Layer body.0 cannot be pruned: block_column is for 1x1"),
        (Rule("stem", "block_punched", 2.0, block=(0, 4)), "give .filters, channels., 1 or more"),
        (Rule("stem", "filter", 2.0, block=(8, 4)), "sets block, which is for block_punched and block_column: remove it"),
        (Rule("stem", "filter", 2.0, connectivity=2.0), "sets connectivity, which is for pattern: remove it"),
        (Rule("body.0", "pattern", 6.0, connectivity=1.5), r"choose it between 2\.67 and 6"),
    ],
)
def test_a_mistake_in_a_rule_is_one_sentence_and_leaves_the_model_unchanged(net, rule, words):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=words) as caught:
        prune_oneshot(net, [Rule("up", "filter", 2.0), rule])
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "..."))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_weights_that_are_not_numbers_are_refused(net):
    with torch.no_grad():
        net.body[1].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"Layer body\.1 has weights that are not finite numbers"):
        prune_oneshot(net, [Rule("body.*", "filter", 2.0)])


def test_a_parametrised_weight_is_refused_because_its_zeros_would_not_stay(net):
    nn.utils.parametrizations.weight_norm(net.stem)
    with pytest.raises(UserError, match="weight of layer stem is parametrised"):
        prune_oneshot(net, [Rule("stem", "filter", 2.0)])
