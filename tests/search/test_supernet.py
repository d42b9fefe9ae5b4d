"""The supernet: one set of weights, many networks; trained without the photographs that judge them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from edgectl.compress.layers import prunable_layers
from edgectl.errors import UserError
from edgectl.recipe import TrainSpec
from edgectl.search.held_out import SearchTask
from edgectl.search.judge import Judge
from edgectl.search.space import Cell
from edgectl.search.supernet import Supernet, train_supernet
from edgectl.training.loop import Hardware

SPEC = TrainSpec(epochs=2, batch=8, optimiser="adam", rate=2e-3, weight_decay=0)


def say(message: str, fraction: float | None) -> None:
    del message, fraction


@pytest.fixture(scope="module")
def task(space):
    return SearchTask(space)


@pytest.fixture(scope="module")
def trained(space, task, photographs, tmp_path_factory):
    return train_supernet(space, SPEC, task, photographs, tmp_path_factory.mktemp("run") / "supernet", Hardware("cpu"), say)


@pytest.fixture(scope="module")
def judge(trained, task, photographs):
    return Judge(Hardware("cpu").launch(), trained, task, photographs, SPEC, 6, say)


def test_a_network_by_itself_answers_as_it_does_in_the_supernet(trained, space):
    chance = random.Random(0)
    x = torch.rand(2, 3, 16, 20)
    for _ in range(20):
        candidate = space.candidate(space.random(chance))
        with torch.no_grad():
            assert torch.allclose(trained.extract(candidate)(x), trained.run(x, candidate), atol=1e-5)


def test_a_step_trains_the_largest_and_the_smallest_network(space):
    supernet = Supernet(space).train()
    for seed in range(5):
        largest, smallest, *between = supernet._sandwich(random.Random(seed))
        assert largest.features == 12 and len(largest.cells) == space.cells
        assert all(block in ("a2", "b3") for block in largest.blocks)
        assert smallest.features == 8 and not smallest.cells
        assert len(between) == 2
    outputs = supernet(torch.rand(2, 3, 8, 8))
    assert [output.shape for output in outputs] == [(2, 3, 16, 16)] * 4


def test_training_improves_all_networks_together(trained, space, task, photographs):
    with torch.random.fork_rng():
        torch.manual_seed(SPEC.seed)
        untrained = Supernet(space)
    chance = random.Random(1)
    candidates = [space.candidate(space.random(chance)) for _ in range(6)]
    before, after = (
        [task.score(net.extract(candidate).eval(), photographs, progress=say).value for candidate in candidates]
        for net in (untrained, trained)
    )
    assert np.mean(after) > np.mean(before)


def test_photographs_that_judge_are_not_trained_on(task, photographs):
    trained_on = {large.tobytes() for large, _ in task.examples(photographs, say).patches.pairs}
    task.score(lambda x: torch.nn.functional.interpolate(x, scale_factor=2), photographs, progress=say)
    held_out = {large.tobytes() for large, _ in task._pairs}
    assert held_out and not held_out & trained_on
    assert len(held_out) + len(trained_on) == 12


def test_a_trained_supernet_is_read_again_and_no_other_taken_for_it(trained, space, task, photographs, tmp_path):
    first = train_supernet(space, SPEC, task, photographs, tmp_path / "supernet", Hardware("cpu"), say)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    stamp = (tmp_path / "supernet/weights.safetensors").stat().st_mtime_ns
    train_supernet(space, SPEC, task, photographs, tmp_path / "supernet", Hardware("cpu"), say)
    assert (tmp_path / "supernet/weights.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="another recipe, data or options"):
        other = SPEC.model_copy(update={"epochs": 3.0})
        train_supernet(space, other, task, photographs, tmp_path / "supernet", Hardware("cpu"), say)


def test_a_candidate_has_one_quality_and_its_supernet_stays_as_it_is(judge, trained, space):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    candidate = space.candidate(space.random(random.Random(7)))
    assert judge.quality(candidate, say) == judge.quality(candidate, say)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())


def test_what_is_pruned_stays_zero_while_a_candidate_is_fine_tuned(judge, trained, space, monkeypatch):
    candidate = space.dense()
    cells = tuple(Cell(cell.block, ("block",) * len(cell.schemes)) for cell in candidate.cells)
    pruned = type(candidate)(candidate.features, cells, candidate.positions, "filter", 2.0)
    seen = []
    scored = Judge.quality.__globals__["score_model"]
    monkeypatch.setitem(
        Judge.quality.__globals__, "score_model", lambda module, *rest: (seen.append(module), scored(module, *rest))[1]
    )
    judge.quality(pruned, say)
    inherited = trained.extract(pruned)
    for path, layer in prunable_layers(seen[0]).items():
        if path in pruned.schemes():
            assert layer.weight.numel() / int(layer.weight.count_nonzero()) == pytest.approx(2.0, rel=0.35)
            assert not torch.equal(layer.weight, inherited.get_submodule(path).weight)
