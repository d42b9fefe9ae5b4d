"""Quantisation in training: weights lie on their levels and keep them when built, activations are rounded, runs resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import nn

from edgectl.compress.activations import quantise as quantise_model
from edgectl.compress.parametrize import CodebookWeight
from edgectl.compress.pruning import pruning_strategy
from edgectl.compress.qat import SETTLED, RoundedInput, plain_weights, quantisation_strategy
from edgectl.compress.quantizers import quantise
from edgectl.compress.strategy import Phases
from edgectl.errors import UserError
from edgectl.quiet import quiet

from .test_prune import Rule as PruneRule
from .training import PHASES, STEPS, Spec, Training, accuracy, dense, digits, net, resumed_alike

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Rule:
    match: str = "[369]"
    weights: str = "fixed"
    bits: int = 4
    sp2_rows: float | list[int] = 2 / 3
    scale: Literal["row", "layer"] = "row"


def trained(rule: Rule, spec: Spec, *, prune: PruneRule | None = None, phases: Phases = PHASES) -> Training:
    def make(model):
        pruning = [pruning_strategy(model, [prune], spec, phases, {})] if prune else []
        return [*pruning, quantisation_strategy(model, [rule], spec, phases)]

    training = Training(dense(), make)
    training.run(0, phases.steps)
    return training


def plain(training: Training) -> nn.Sequential:
    model = net()
    model.load_state_dict(plain_weights(training.model))
    return model.eval()


def books(training: Training) -> dict[str, CodebookWeight]:
    return {path: training.model.get_submodule(path).parametrizations.weight[0] for path in ("3", "6", "9")}


@pytest.mark.parametrize("quantise_by", ["ste", "admm"])
@pytest.mark.parametrize("weights", ["fixed", "sp2", "msq"])
def test_trained_levels_survive_export_and_the_build(weights, quantise_by):
    rule = Rule(weights=weights)
    training = trained(rule, Spec(quantise=quantise_by))
    model = plain(training)
    assert accuracy(model) > 0.7
    _, _, x, _ = digits()
    with quiet():
        graph = quantise_model(model, x[:1], [rule], [image[None] for image in x[:4]])
    for path, book in books(training).items():
        weight = model.get_submodule(path).weight
        levels = book.quantised(training.model.get_submodule(path).parametrizations.weight.original).levels
        again = quantise(weight, weights, 4)
        assert torch.equal(again.weight(), weight)
        deployed = graph.get_submodule(path).levels.long()
        for row, other in zip(levels.flatten(1), deployed.flatten(1), strict=True):
            # batch norm turns the sign of a row with a negative factor, and levels may have a common divisor
            a, b = row.double(), other.double()
            assert torch.allclose(a * b.abs().max() * torch.sign((a * b).sum() + 1e-9), b * a.abs().max())


def test_pruned_weights_stay_exactly_zero_on_their_levels():
    prune = PruneRule("[369]", "block_punched", 4.0)
    training = trained(Rule(weights="msq"), Spec(), prune=prune)
    model = plain(training)
    for path, mask in training.strategies[0].masks.items():
        weight = model.get_submodule(path).weight
        assert (weight[~mask] == 0).all()
        assert torch.equal(quantise(weight, "msq", 4).weight(), weight)
    assert accuracy(model) > 0.7


@pytest.mark.parametrize("bits", [8, 4])
def test_the_layers_read_activations_of_so_many_levels(bits):
    training = trained(Rule(), Spec(activation_bits=bits))
    seen = {}
    for path in books(training):
        training.model.get_submodule(path).register_forward_hook(
            lambda layer, inputs, output, path=path: seen.update({path: inputs[0].unique()})
        )
    assert accuracy(training.model) > 0.7
    assert all(2 < len(values) <= 2**bits and 0 in values for values in seen.values())


def test_float_activations_are_left_alone():
    training = trained(Rule(), Spec(activation_bits=None), phases=Phases(4, 2, 1))
    assert not any(isinstance(module, RoundedInput) for module in training.model.modules())


def test_gradients_pass_in_the_range_and_are_zero_outside():
    rounded = RoundedInput(4, torch.device("cpu"))
    layer = nn.Identity().eval()
    rounded.low.fill_(-0.5)
    rounded.high.fill_(1.0)
    x = torch.tensor([-2.0, -0.2, 0.0, 0.33, 0.9, 3.0], requires_grad=True)
    (y,) = rounded(layer, (x,))
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    assert y[2] == 0 and y.max() <= 1.0 and y.min() >= -0.5 and (y[1:5] - x[1:5]).abs().max() <= 0.05 + 1e-6


def test_a_range_of_four_bits_leaves_rare_outliers_out():
    rounded = RoundedInput(4, torch.device("cpu"))
    x = torch.rand(4096, generator=torch.Generator().manual_seed(0))
    x[5] = 8.0
    rounded(nn.Identity().train(), (x,))
    assert float(rounded.high) < 4


def test_scales_rows_and_ranges_stay_at_the_end():
    last = int(SETTLED * STEPS)
    training = Training(dense(), lambda model: [quantisation_strategy(model, [Rule(weights="msq")], Spec(), PHASES)])
    training.run(0, last)
    buffers = {
        name: tensor.clone()
        for name, tensor in training.model.named_buffers()
        if name.endswith(("scales", "is_sp2", "low", "high"))
    }
    weight = training.model.get_submodule("3").parametrizations.weight.original.detach().clone()
    training.run(last, STEPS)
    assert len(buffers) == 12
    assert all(torch.equal(training.model.get_buffer(name), tensor) for name, tensor in buffers.items())
    assert not torch.equal(training.model.get_submodule("3").parametrizations.weight.original, weight)


def test_weights_of_admm_lie_near_their_levels_before_they_are_projected():
    spec = Spec(quantise="admm")
    training = Training(dense(), lambda model: [quantisation_strategy(model, [Rule(weights="msq")], spec, PHASES)])
    training.run(0, PHASES.search // 2)
    assert training.strategies[0].facts()["admm residual of levels"] > 1e-2
    assert float(training.strategies[0].penalty()) > 0
    training.run(PHASES.search // 2, PHASES.search)
    assert training.strategies[0].facts()["admm residual of levels"] < 1e-2
    assert float(training.strategies[0].penalty()) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("quantise_by", "stop"), [("ste", 55), ("admm", 55), ("admm", 130)])
def test_a_stopped_run_resumes_to_the_same_weights(quantise_by, stop, tmp_path):
    spec = Spec(quantise=quantise_by, activation_bits=4)
    prune = PruneRule("[369]", "block_punched", 4.0)

    def make(model):
        pruning = pruning_strategy(model, [prune], spec, PHASES, {})
        return [pruning, quantisation_strategy(model, [Rule(weights="msq")], spec, PHASES)]

    assert resumed_alike(make, stop, tmp_path / "state.pt")


def test_the_plain_weights_of_an_ordinary_model_are_its_own():
    model = dense()
    weights = plain_weights(model)
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in weights.items())


def test_mistakes_are_refused_and_leave_the_model_as_it_was():
    model = dense()
    for rule, message in (
        (Rule("nothing"), "matches no layer"),
        (Rule(weights="msq", sp2_rows=[99]), "Row 99 cannot be SP2"),
    ):
        with pytest.raises(UserError, match=message):
            quantisation_strategy(model, [rule], Spec(), PHASES)
    assert model.state_dict().keys() == net().state_dict().keys()
