"""Benching on the host: layer times explain the total, and names are module paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.artifact import Artifact
from edgectl.device import open_device
from edgectl.errors import UserError
from edgectl.lowering import build
from edgectl.profile.bench import bench
from edgectl.recipe import Recipe, load_model

RECIPE = Path(__file__).parents[2] / "models/wdsr/x4.toml"
TRIES = 5
"""Other work on the machine can disturb a run between two layers; once undisturbed is enough."""


@pytest.fixture(scope="module")
def wdsr(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    recipe = Recipe.load(RECIPE)
    quarter = recipe.model.model_copy(update={"input": [1, 3, 90, 160]})
    return build(recipe.model_copy(update={"model": quarter}), tmp_path_factory.mktemp("built") / "wdsr").artifact


def test_layer_times_sum_to_within_a_tenth_of_the_total(wdsr: Artifact) -> None:
    shares = []
    for _ in range(TRIES):
        report = bench(wdsr, open_device("host"), runs=5, warmup=1)
        shares.append(sum(layer.median or 0 for layer in report.layers) / report.profiled.median)
        if abs(shares[-1] - 1) <= 0.1:
            return
    pytest.fail(f"layers over total: {shares}")


def test_layers_are_named_by_module_path_and_each_has_a_time(wdsr: Artifact) -> None:
    report = bench(wdsr, open_device("host"), runs=1, warmup=0)
    modules = {name for name, _ in load_model(Recipe.load(RECIPE)).named_modules()}
    weighted = [layer for layer in report.layers if layer.nonzeros]
    assert len(weighted) == 15
    assert {layer.name for layer in weighted} <= modules
    assert all(layer.median for layer in weighted)


def test_two_threads_and_a_core_mask_are_reported(wdsr: Artifact) -> None:
    report = bench(wdsr, open_device("host"), runs=1, warmup=0, threads=2, cpu_mask="3")
    assert (report.threads, report.cpu_mask) == (2, "3")


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"threads": 0}])
def test_a_bench_of_nothing_is_refused(wdsr: Artifact, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least"):
        bench(wdsr, open_device("host"), **wrong)
