"""Pruning in training: masks obey scheme and rate, zeros are exact, budgets are met, and a stopped run resumes exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgectl.compress.layers import filters_first
from edgectl.compress.prune import scheme_config
from edgectl.compress.pruning import pruning_strategy
from edgectl.compress.schemes import SCHEMES, group_index
from edgectl.compress.strategy import Phases
from edgectl.errors import UserError

from .test_prune import Rule
from .training import PHASES, STEPS, Spec, Training, accuracy, dense, resumed_alike

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = ["magnitude", "gradual", "admm", "reweighted"]


RULES = {
    "unstructured": Rule("[369]", "unstructured", 4.0),
    "filter": Rule("[369]", "filter", 2.0),
    "pattern": Rule("[36]", "pattern", 4.0),
    "block_punched": Rule("[369]", "block_punched", 4.0),
    "block_column": Rule("9", "block_column", 4.0),
}


def pruned(rules, spec, phases=PHASES, macs=None) -> Training:
    training = Training(dense(), lambda model: [pruning_strategy(model, rules, spec, phases, macs or {})])
    training.run(0, phases.steps)
    return training


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_are_exact_obey_the_scheme_and_the_network_still_works(scheme, method):
    rule = RULES[scheme]
    training = pruned([rule], Spec(method))
    kept = total = 0
    for path, mask in training.strategies[0].masks.items():
        layer = training.model.get_submodule(path)
        assert (layer.weight[~mask] == 0).all() and (layer.weight[mask] != 0).all()
        index = group_index(scheme, layer.weight, scheme_config(layer, rule))
        per_group = [mask[index == group].float().mean() for group in range(int(index.max()) + 1)]
        assert all(share in (0, 1) if scheme != "pattern" else share in (0, torch.tensor(4 / 9)) for share in per_group)
        kept, total = kept + int(mask.sum()), total + mask.numel()
    assert kept / total == pytest.approx(1 / rule.rate, abs=0.03)
    assert training.strategies[0].facts()["kept weights"] == pytest.approx(kept / total)
    assert accuracy(training.model) > 0.7


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_of_admm_lie_on_the_scheme_before_they_are_masked(scheme):
    assert pruned([RULES[scheme]], Spec("admm")).strategies[0].facts()["admm residual"] < 1e-2


def test_gradual_sparsity_follows_the_cubic():
    training = Training(dense(), lambda model: [pruning_strategy(model, [RULES["unstructured"]], Spec("gradual"), PHASES, {})])
    for begin in range(0, PHASES.search, PHASES.refresh):
        training.run(begin, begin + PHASES.refresh)
        sparsity = 1 - training.strategies[0].facts()["kept weights"]
        assert sparsity == pytest.approx(0.75 * (1 - (1 - (begin + PHASES.refresh) / PHASES.search) ** 3), abs=1e-3)


def test_a_gradually_pruned_weight_comes_back_with_its_value_when_others_fall_below_it():
    layer = nn.Sequential(nn.Linear(4, 1, bias=False))
    layer[0].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    strategy = pruning_strategy(layer, [Rule("0", "unstructured", 2.0)], Spec("gradual"), Phases(30, 20, 10), {})
    strategy.update(10)
    assert layer[0].weight.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    layer[0].weight.data = torch.tensor([[0.3, 0.1, 3.0, 0.5]])
    strategy.update(20)
    assert layer[0].weight.tolist() == [[0.0, 2.0, 3.0, 0.0]]


@pytest.mark.parametrize("of", ["weights", "macs"])
@pytest.mark.parametrize("scheme", ["unstructured", "filter", "block_punched"])
def test_reweighted_meets_its_budget_within_a_group(scheme, of):
    macs = {"3": 16 * 32 * 9 * 16, "6": 32 * 32 * 9 * 16, "9": 32 * 32 * 4}
    training = pruned([RULES[scheme]], Spec("reweighted", keep=0.2, of=of), macs=macs)
    masks = training.strategies[0].masks
    cost = {path: macs[path] / mask.numel() if of == "macs" else 1.0 for path, mask in masks.items()}
    total = sum(cost[path] * mask.numel() for path, mask in masks.items())
    layers = [training.model.get_submodule(path) for path in masks]
    indices = [group_index(scheme, filters_first(layer), scheme_config(layer, RULES[scheme])) for layer in layers]
    largest = max(cost * int(index.flatten().bincount().max()) for cost, index in zip(cost.values(), indices, strict=True))
    share = sum(cost[path] * int(mask.sum()) for path, mask in masks.items())
    assert 0.2 * total - largest <= share <= 0.2 * total + 1e-6
    assert all(mask.any() for mask in masks.values())


def test_reweighted_keeps_more_of_the_layer_that_the_loss_needs():
    torch.manual_seed(0)
    model = nn.ModuleDict({"needed": nn.Linear(32, 32, bias=False), "idle": nn.Linear(32, 32, bias=False)})
    target = model["needed"].weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    strategy = pruning_strategy(model, [Rule("*", "filter", 2.0)], Spec("reweighted", strength=1e-2), Phases(200, 150, 10), {})
    for step in range(1, 201):
        x = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
        useless = 0.01 * model["idle"](x).square().mean()
        loss = (model["needed"](x) - x @ target.T).square().mean() + useless + strategy.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        strategy.update(step)
    facts = strategy.facts()
    assert facts["rate of needed"] < 1.3 and facts["rate of idle"] > 3
    assert facts["kept weights"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("stop", [55, 130])
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_resumes_to_the_same_weights(method, stop, tmp_path):
    rule = RULES["block_punched"]
    assert resumed_alike(lambda model: [pruning_strategy(model, [rule], Spec(method), PHASES, {})], stop, tmp_path / "state.pt")


@pytest.mark.parametrize("method", METHODS)
def test_transposed_grouped_depthwise_and_linear_layers_are_pruned(method):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(8, 16, 2, groups=2),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 8, 1, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 49, 24),
    )
    rules = [Rule("*", "block_punched", 2.0), Rule("4", "block_column", 4.0)]
    strategy = pruning_strategy(model, rules, Spec(method), Phases(6, 4, 1), {})
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(1, 7):
        optimiser.zero_grad()
        (model(torch.ones(1, 8, 8, 8)).square().mean() + strategy.penalty()).backward()
        optimiser.step()
        strategy.update(step)
    for path, mask in strategy.masks.items():
        weight = model.get_submodule(path).weight
        assert weight.shape == mask.shape and torch.equal(weight != 0, mask) and 0 < int(mask.sum()) <= mask.numel()
    assert strategy.facts()["kept weights"] < 0.6


def refusal(rules, spec, macs=None) -> str:
    model = dense()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        pruning_strategy(model, rules, spec, PHASES, macs or {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


def test_a_budget_under_one_group_of_each_layer_names_the_least_there_is():
    message = refusal([RULES["filter"]], Spec("reweighted", keep=0.01))
    assert "choose keep of at least that" in message and "0.0312" in message


def test_mistakes_in_rules_are_refused_before_training():
    assert "matches no layer" in refusal([Rule("nothing", "filter", 2.0)], Spec("gradual"))
    assert "block_column is for" in refusal([Rule("3", "block_column", 2.0)], Spec("reweighted"))
    assert "sets connectivity" in refusal([Rule("3", "pattern", 4.0, connectivity=2.0)], Spec("reweighted"))
    assert "no budget of multiply-adds" in refusal([RULES["filter"]], Spec("reweighted", of="macs"))


def test_the_search_ends_at_its_step():
    training = Training(dense(), lambda model: [pruning_strategy(model, [RULES["filter"]], Spec("admm"), PHASES, {})])
    training.run(0, PHASES.search - 1)
    assert not training.strategies[0].masks and float(training.strategies[0].penalty()) >= 0
    training.run(PHASES.search - 1, STEPS)
    assert training.strategies[0].masks and float(training.strategies[0].penalty()) == 0
