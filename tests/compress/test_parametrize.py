"""Codebooks attached to layers: weights are on the grid, gradients pass, masks hold, lowering sees the same weights."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from edgectl.compress.layers import filters_first
from edgectl.compress.parametrize import attach, refit
from edgectl.compress.prune import apply_masks, prune_oneshot
from edgectl.compress.quantizers import quantise
from edgectl.errors import UserError
from edgectl.lowering.compile import plain_weights


@dataclass(frozen=True)
class Rule:
    match: str
    weights: str = "sp2"
    bits: int = 4
    sp2_rows: float | list[int] = 2 / 3
    scale: str = "row"


@dataclass(frozen=True)
class PruneRule:
    match: str
    scheme: str = "unstructured"
    rate: float = 4.0
    block: tuple[int, int] | None = None
    connectivity: float | None = None


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.ConvTranspose2d(12, 8, 2, 2, groups=2), nn.Flatten(2), nn.Linear(36, 5)
    )


def test_weights_lie_on_the_codebook_row_by_row_and_the_last_rule_holds(net):
    before = filters_first(net[2]).clone()
    attached = attach(net, [Rule("*", "fixed", 8), Rule("2", "msq", 4)])
    assert list(attached) == ["0", "2", "4"]
    expected = quantise(before, "msq", 4)
    assert torch.equal(filters_first(net[2]), expected.weight())
    assert attached["2"].schemes == expected.schemes and set(expected.schemes) == {"sp2", "fixed"}
    assert torch.equal(attached["2"].quantised(net[2].parametrizations.weight.original).codes, expected.codes)
    assert attached["0"].schemes == ("fixed",) * 12


def test_the_gradient_passes_unchanged(net):
    attach(net, [Rule("0")])
    factors = torch.randn_like(net[0].weight)
    (net[0].weight * factors).sum().backward()
    assert torch.equal(net[0].parametrizations.weight.original.grad, factors)


def test_training_moves_the_weights_from_level_to_level(net):
    attach(net, [Rule("*", "msq")])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = torch.randn(16, 3, 5, 5), torch.randn(16, 8, 5)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.95
    refit(net, rows=True)
    weight = filters_first(net[2])
    schemes = net[2].parametrizations.weight[0].schemes
    rows = [row for row, scheme in enumerate(schemes) if scheme == "sp2"]
    assert torch.equal(quantise(weight, "msq", 4, sp2_rows=rows).weight(), weight)


def test_rows_change_only_when_they_are_refreshed(net):
    attached = attach(net, [Rule("0", "msq", 4, 0.5)])
    schemes = attached["0"].schemes
    with torch.no_grad():
        for row, scheme in enumerate(schemes):
            if scheme == "fixed":
                net[0].parametrizations.weight.original[row] *= 0.01
    refit(net)
    assert attached["0"].schemes == schemes
    refit(net, rows=True)
    assert [scheme == "fixed" for scheme in attached["0"].schemes] == [scheme == "sp2" for scheme in schemes]


def test_masks_hold_in_training_on(net):
    masks = prune_oneshot(net, [PruneRule("0")])
    attach(net, [Rule("0")])
    assert (net[0].weight[~masks["0"]] == 0).all()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    net[0].weight.sum().backward()
    optimiser.step()
    apply_masks(net, masks)
    assert (net[0].weight[~masks["0"]] == 0).all() and (net[0].weight != 0).any()


def test_lowering_sees_the_same_weights_and_saved_states_come_back(net):
    attach(net, [Rule("*", "msq")])
    plain = plain_weights(net)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    for i in (0, 2, 4):
        assert torch.equal(plain[i].weight, net[i].weight)
    torch.manual_seed(1)
    other = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.ConvTranspose2d(12, 8, 2, 2, groups=2), nn.Flatten(2), nn.Linear(36, 5)
    )
    attach(other, [Rule("*", "msq")])
    other.load_state_dict(net.state_dict())
    assert torch.equal(other[2].weight, net[2].weight)


def test_a_quantised_weight_after_batch_norm_is_folded_is_still_on_the_grid():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(6))
        norm.running_var.copy_(torch.rand(6) + 0.1)
    schemes = attach(conv, [Rule("", "msq", 4)])[""].schemes
    fused = torch.nn.utils.fuse_conv_bn_eval(plain_weights(conv), norm.eval())
    rows = [row for row, scheme in enumerate(schemes) if scheme == "sp2"]
    again = quantise(fused.weight.detach(), "msq", 4, sp2_rows=rows).weight()
    torch.testing.assert_close(again, fused.weight.detach(), rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("1"), "rule for '1' matches no layer with weights: the model has 0, 2, 4"),
        (Rule("0", "fixed", 1), "to 1 bits: choose 2 to 8"),
        (Rule("0", "apot"), "no codebook 'apot'"),
        (Rule("4", "msq", 4, [5]), "Layer 4 cannot be quantised: Row 5 cannot be SP2"),
    ],
)
def test_a_mistake_in_a_rule_is_one_sentence_and_leaves_the_model_unchanged(net, rule, message):
    with pytest.raises(UserError, match=message):
        attach(net, [Rule("2"), rule])
    assert not any(parametrize.is_parametrized(module) for module in net.modules())


def test_weights_that_are_not_numbers_or_have_a_codebook_already_are_refused(net):
    attach(net, [Rule("0")])
    with pytest.raises(UserError, match="layer 0 is parametrised"):
        attach(net, [Rule("0")])
    with torch.no_grad():
        net[4].weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="Layer 4 has weights that are not finite numbers"):
        attach(net, [Rule("4")])
