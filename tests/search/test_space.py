"""A space of networks: parameters name networks, and networks are what their names say."""

from __future__ import annotations

import random

import pytest
import torch
from pydantic import ValidationError

from edgectl.compress.layers import prunable_layers
from edgectl.compress.prune import prune_oneshot
from edgectl.errors import UserError
from edgectl.search.network import network
from edgectl.search.settings import Settings
from edgectl.search.space import SKIP, SrSpace


def drawn(space: SrSpace, count: int) -> list[dict]:
    chance = random.Random(3)
    return [space.random(chance) for _ in range(count)]


def test_every_network_of_a_space_runs_and_takes_the_pruning_that_it_names(space):
    for parameters in drawn(space, 30):
        candidate = space.candidate(parameters)
        module = network(space.scale, candidate.features, candidate.blocks)
        weights, kept = space.weights(candidate)
        assert sum(layer.weight.numel() for layer in prunable_layers(module).values()) == weights
        if rules := candidate.rules():
            masks = prune_oneshot(module, rules)
            assert set(masks) == set(candidate.schemes())
            gone = sum(int((~mask).sum()) for mask in masks.values())
            assert weights - gone == pytest.approx(kept, rel=0.2)
        assert module(torch.rand(1, 3, 9, 11)).shape == (1, 3, 18, 22)


def test_what_makes_no_difference_makes_no_other_network(space):
    parameters = drawn(space, 1)[0] | {"cell0": SKIP, "cell1": "b3", "cell1.first": "pattern"}
    same = parameters | {"cell0.first": "filter", "cell0.third": "none", "cell1.first": "block"}
    assert space.candidate(parameters) == space.candidate(same)
    assert space.encode(parameters) == space.encode(same)
    assert space.candidate(same | {"cell1": "a1"}) != space.candidate(same)
    dense = parameters | {"tail": "none", "cell1": SKIP}
    assert space.candidate(dense | {"rate": 2.0}) == space.candidate(dense | {"rate": 3.0})


def test_a_network_is_named_in_words(space):
    parameters = {"features": 8, "rate": 3.0, "tail": "block", "cell0": "a2", "cell1": SKIP}
    parameters |= {f"cell{i}.{place}": "pattern" for i in range(2) for place in ("first", "second", "third")}
    assert str(space.candidate(parameters)) == "8: a2(pattern pattern), tail block, at 3x"


def test_encodings_tell_networks_apart(space):
    rows = {}
    for parameters in drawn(space, 200):
        rows.setdefault(tuple(space.encode(parameters)), set()).add(space.candidate(parameters))
    assert len({len(row) for row in rows}) == 1
    assert all(len(networks) == 1 for networks in rows.values())


@pytest.mark.parametrize("wrong", [{"blocks": ["c3"]}, {"baseline": "a9"}, {"rates": [1]}, {"features": []}, {"scale": 5}])
def test_an_impossible_space_is_refused(wrong):
    with pytest.raises(ValidationError):
        SrSpace(**wrong)


def test_settings_are_changed_key_by_key(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("trials = 7\n[supernet]\nepochs = 3\n", encoding="utf-8")
    settings = Settings.load(file, ["space.scale=4", "sampler=random"])
    assert (settings.trials, settings.supernet.epochs, settings.space.scale, settings.sampler) == (7, 3, 4, "random")
    assert settings.supernet.optimiser == "adam"  # what the file does not say stays


@pytest.mark.parametrize("change", ["trial=7", "space.cells=0", "space.baseline=x", "sampler=best", "trials"])
def test_a_setting_that_cannot_be_is_one_sentence(change):
    with pytest.raises(UserError):
        Settings.load(None, [change])
