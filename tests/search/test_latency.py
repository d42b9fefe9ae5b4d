"""Budgets as people write them, and times of networks from what was measured."""

from __future__ import annotations

import random

import pytest

from edgectl.device import open_device
from edgectl.errors import UserError
from edgectl.profile.history import History
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.measurements import Measurements
from edgectl.profile.trace import points_of_module
from edgectl.search.latency import Latencies, cpu_of, in_turns, measure, parse_budget, profile, recipe_of
from edgectl.search.network import network


def say(message: str, fraction: float | None) -> None:
    del message, fraction


@pytest.mark.parametrize(
    ("text", "clock", "value"),
    [
        ("33ms", "wall", (33e6, False)),
        ("0.02s", "wall", (20e6, False)),
        ("50%", "wall", (0.5, True)),
        ("120M", "emulated-instructions", (120e6, False)),
        ("1.5G", "emulated-instructions", (1.5e9, False)),
        ("75%", "emulated-instructions", (0.75, True)),
    ],
)
def test_budgets_are_times_instructions_or_fractions(text, clock, value):
    number, fraction = parse_budget(text, clock)
    assert (pytest.approx(number), fraction) == value


@pytest.mark.parametrize(
    ("text", "clock"),
    [("33", "wall"), ("ms", "wall"), ("-3ms", "wall"), ("nan%", "wall"), ("120M", "wall"), ("33ms", "emulated-instructions")],
)
def test_a_budget_of_another_clock_or_of_none_is_refused(text, clock):
    with pytest.raises(UserError):
        parse_budget(text, clock)


@pytest.fixture(scope="module")
def latencies(space, tmp_path_factory):
    """Fitted on what this machine takes."""
    store = Measurements(History(tmp_path_factory.mktemp("store") / "store.sqlite"))
    profile(space, open_device("host"), 1, 60, store, say)
    return Latencies(space, LatencyModel.of(store, "host", "wall"), 1)


def test_a_network_takes_what_its_parts_take(latencies, space):
    chance = random.Random(2)
    for _ in range(10):
        candidate = space.candidate(space.random(chance))
        points = points_of_module(network(space.scale, candidate.features, candidate.blocks), space.shape, candidate.rules())
        assert latencies.predicted(candidate) == pytest.approx(latencies.model.network(points.values())[0], rel=1e-6)


def test_predictions_follow_what_was_measured_of_whole_networks(latencies, space):
    dense, smallest = space.dense(), space.smallest()
    raw = latencies.predicted(dense)
    latencies.correct({dense: 1.2 * raw})
    assert latencies.predicted(dense) == pytest.approx(1.2 * raw)
    assert latencies.predicted(smallest) < latencies.predicted(dense)
    latencies.correct({dense: raw})


def test_what_a_device_takes_is_measured_through_an_artifact(space):
    host = open_device("host")
    dense = space.dense()
    recipe = recipe_of(space, dense, [], cpu_of(host))
    time = measure(recipe, network(space.scale, dense.features, dense.blocks), host, 1, say)
    assert 1e3 < time < 1e9
    assert in_turns([], host, 1, say) == []
