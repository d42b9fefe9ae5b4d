"""Budgets of latency: rates are chosen so that the predicted, and then the measured, time is within them."""

from __future__ import annotations

import pytest
import torch
from test_latency_model import measured
from torch import nn

from edgectl.compress.pruning import pruning_strategy
from edgectl.compress.strategy import Phases
from edgectl.errors import UserError
from edgectl.profile.budget import LatencyBudget, predicted_budget
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.trace import points_of_module
from edgectl.recipe import CompressSpec, PruneRule, Recipe

SHAPE = [1, 3, 90, 160]
RULES = [PruneRule(match="[24]", scheme="block_punched", rate=2.0, block=(8, 4))]


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    return LatencyModel.fit(measured(0, 40))


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 24, 3, padding=1),
    ]
    return nn.Sequential(*layers)


def dense_time(model: LatencyModel, module: nn.Module) -> float:
    return model.network(points_of_module(module, SHAPE).values())[0]


def uniform(share: float) -> dict[str, float]:
    return {"2": 1 / share, "4": 1 / share}


def test_the_largest_share_within_the_budget_is_kept(model, module):
    budget = LatencyBudget(model, module, SHAPE, RULES, 0.6 * dense_time(model, module))
    rates = budget(uniform)
    time = budget.predicted(budget.ruled(rates))
    assert time <= budget.ns
    assert time >= 0.93 * budget.ns
    assert {rule.match for rule in budget.ruled(rates)} == {"2", "4"}
    assert all(rule.block == (8, 4) for rule in budget.ruled(rates))


def test_what_is_measured_corrects_what_is_predicted(model, module):
    """On a device that is a third slower than the model believes, less is kept, until the measured time is right."""
    plain = LatencyBudget(model, module, SHAPE, RULES, 0.7 * dense_time(model, module))
    asked = []

    def confirm(rules):
        asked.append(1.33 * plain.predicted(rules))
        return asked[-1]

    budget = LatencyBudget(model, module, SHAPE, RULES, plain.ns, confirm=confirm)
    rates = budget(uniform)
    assert 0.93 * budget.ns <= budget.measured <= budget.ns
    assert budget.measured in asked and len(asked) <= 5
    assert rates["2"] > plain(uniform)["2"]


def test_a_budget_that_needs_nothing_pruned_prunes_nothing(model, module):
    rates = LatencyBudget(model, module, SHAPE, RULES, 2 * dense_time(model, module))(uniform)
    assert set(rates.values()) == {1.0}


def test_a_budget_that_no_rates_meet_is_one_sentence(model, module):
    with pytest.raises(UserError, match=r"No rates meet the budget.*times as long"):
        LatencyBudget(model, module, SHAPE, RULES, 0.01 * dense_time(model, module))(uniform)


def test_reweighted_groups_get_the_rates_that_the_budget_chooses(model, module):
    budget = LatencyBudget(model, module, SHAPE, RULES, 0.6 * dense_time(model, module))
    spec = CompressSpec(method="reweighted")
    strategy = pruning_strategy(module, RULES, spec, Phases(4, 2, 1), {}, budget)
    for step in range(1, 5):
        assert torch.isfinite(strategy.penalty())
        strategy.update(step)
    rates = {
        path: module.get_submodule(path).weight.numel() / int(module.get_submodule(path).weight.count_nonzero())
        for path in "24"
    }
    time = budget.predicted(budget.ruled(rates))
    assert 0.9 * budget.ns <= time <= 1.02 * budget.ns


def test_a_recipe_may_keep_a_fraction_of_the_latency_of_a_device_that_was_measured(tmp_path, module, monkeypatch):
    (tmp_path / "recipe.toml").write_text(
        '[model]\nfile = "model.py"\nfactory = "model"\ninput = [1, 3, 90, 160]\n'
        '[[prune]]\nmatch = "[24]"\nscheme = "block_punched"\nrate = 2.0\n'
        '[compress]\nmethod = "reweighted"\nof = "latency"\nkeep = 0.6\n',
        encoding="utf-8",
    )
    recipe = Recipe.load(tmp_path / "recipe.toml")
    monkeypatch.setenv("EDGECTL_HOME", str(tmp_path / "state"))
    with pytest.raises(UserError, match="edgectl profile-space"):
        predicted_budget(recipe, module)
    from edgectl.profile.measurements import Measurements

    Measurements().copy(measured(0, 40))
    budget = predicted_budget(recipe, module)
    time = budget.predicted(budget.ruled(budget(uniform)))
    assert 0.9 * budget.ns <= time <= budget.ns
    with pytest.raises(UserError, match="needs method"):
        Recipe.load(tmp_path / "recipe.toml", ["compress.method=admm"])
