"""What the samplers propose: new points, the same ones for a seed and a history, better ones than chance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from edgectl.search.samplers import EnsembleSampler, EvolutionSampler
from edgectl.search.samplers.points import Space

from .bench_samplers import SCHEMES, Table, compare

Make = Callable[..., BaseSampler]
EVERY_KIND: dict[str, BaseDistribution] = {
    "block": CategoricalDistribution(["a", "b", "skip"]),
    "pruned": CategoricalDistribution([True, False, None]),
    "width": IntDistribution(8, 64, step=8),
    "kernels": IntDistribution(1, 100, log=True),
    "rate": FloatDistribution(1.0, 16.0, log=True),
    "share": FloatDistribution(0.0, 1.0, step=0.25),
    "shift": FloatDistribution(-1.0, 1.0),
    "scale": IntDistribution(2, 2),
}
FEW: dict[str, BaseDistribution] = {"a": CategoricalDistribution(["x", "y", "z"]), "b": IntDistribution(1, 4)}


def ensemble(**options: Any) -> BaseSampler:
    """Cheap ones."""
    return EnsembleSampler(**{"startup": 6, "members": 3, "candidates": 80} | options)


def evolution(**options: Any) -> BaseSampler:
    return EvolutionSampler(**{"population": 6, "sample": 3} | options)


both = pytest.mark.parametrize("make", [ensemble, evolution])


def study_of(sampler: BaseSampler, direction: str = "maximize") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=sampler, direction=direction)


def ask(study: optuna.Study, space: Mapping[str, BaseDistribution]) -> optuna.Trial:
    return study.ask(dict(space))


def goodness(point: Mapping[str, Any]) -> float:
    """A function of a point of every kind."""
    kinds = (point["block"] == "b") + 2 * (point["pruned"] is True)
    return kinds + point["share"] - abs(point["width"] - 32) / 32 - abs(np.log(point["rate"] / 4)) - point["shift"] ** 2


def run(study: optuna.Study, space: Mapping[str, BaseDistribution], trials: int, value: Callable[..., float]) -> None:
    for _ in range(trials):
        trial = ask(study, space)
        study.tell(trial, value(trial.params))


def points(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [tuple(trial.params.values()) for trial in study.trials]


@both
def test_every_kind_of_parameter_is_proposed_in_its_range_and_its_step(make: Make) -> None:
    study = study_of(make(seed=1, space=EVERY_KIND))
    run(study, EVERY_KIND, 30, goodness)
    for trial in study.trials:
        for name, distribution in EVERY_KIND.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[name])), (name, trial.params[name])
            assert type(trial.params[name]) in (bool, int, float, str, type(None))


@both
def test_the_same_seed_and_history_give_the_same_trials_and_another_seed_gives_others(make: Make) -> None:
    found = []
    for seed in (3, 3, 4):
        study = study_of(make(seed=seed, space=EVERY_KIND))
        run(study, EVERY_KIND, 14, goodness)
        found.append(points(study))
    assert found[0] == found[1] != found[2]


@both
def test_a_new_process_goes_on_as_the_old_one_would_have(make: Make) -> None:
    whole = study_of(make(seed=5, space=EVERY_KIND))
    run(whole, EVERY_KIND, 14, goodness)
    resumed = study_of(make(seed=5, space=EVERY_KIND))
    resumed.add_trials(whole.trials[:9])
    run(resumed, EVERY_KIND, 5, goodness)
    assert points(resumed) == points(whole)


@both
def test_no_point_is_tried_twice_until_all_have_been(make: Make) -> None:
    study = study_of(make(seed=0, space=FEW))
    run(study, FEW, 12, lambda point: -abs(point["b"] - 2))
    assert sorted(points(study)) == sorted(itertools.product("xyz", range(1, 5)))
    run(study, FEW, 1, lambda point: 0.0)  # and then goes on


@both
def test_points_of_equal_features_are_one_point(make: Make) -> None:
    space = FEW | {"of skipped": CategoricalDistribution(list(range(50)))}
    study = study_of(make(seed=0, space=space, encode=lambda point: ["xyz".index(point["a"]), point["b"]]))
    run(study, space, 12, lambda point: float(point["b"]))
    assert len({(trial.params["a"], trial.params["b"]) for trial in study.trials}) == 12


@both
@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL])
def test_what_runs_waits_or_has_failed_is_not_proposed(make: Make, state: TrialState) -> None:
    study = study_of(make(seed=2, space=FEW))
    run(study, FEW, 6, lambda point: float(point["b"]))
    left = [point for point in Space(FEW).all() or [] if tuple(point.values()) not in points(study)]
    for point in left[1:]:
        study.enqueue_trial(point)
        if state != TrialState.WAITING:
            trial = ask(study, FEW)
            assert trial.params == point
            if state == TrialState.FAIL:
                study.tell(trial, state=state)
    if state == TrialState.WAITING:
        trial_id = study._storage.create_new_trial(study._study_id)  # past the queue
        proposed = optuna.Trial(study, trial_id).relative_params
    else:
        proposed = ask(study, FEW).params
    assert proposed == left[0]


@both
def test_workers_that_ask_at_the_same_time_get_different_points(make: Make) -> None:
    study = study_of(make(seed=0, space=FEW))
    run(study, FEW, 4, lambda point: float(point["b"]))
    asked = [ask(study, {}) for _ in range(8)]  # none has its parameters yet
    proposed = [tuple(trial.relative_params.values()) for trial in asked]
    assert len(set(proposed) | set(points(study)[:4])) == 12


@both
def test_without_a_space_it_is_what_the_finished_trials_have_in_common(make: Make) -> None:
    study = study_of(make(seed=0))

    def objective(trial: optuna.Trial) -> float:
        a, b = trial.suggest_categorical("a", ["x", "y", "z"]), trial.suggest_int("b", 1, 40)
        return b - trial.suggest_float("of some", 0, 1) * (a == "x") if trial.number % 2 else b

    study.optimize(objective, n_trials=25)
    assert len({(trial.params["a"], trial.params["b"]) for trial in study.trials[1:]}) == 24


@both
def test_trials_of_other_distributions_are_passed_over(make: Make) -> None:
    study = study_of(make(seed=0, space=FEW))
    wide = {"a": CategoricalDistribution(["x", "other"]), "b": IntDistribution(1, 400)}
    study.add_trials([optuna.create_trial(params={"a": "other", "b": n}, distributions=wide, value=n) for n in range(100, 120)])
    run(study, FEW, 12, lambda point: float(point["b"]))
    assert len(set(points(study)[20:])) == 12


@both
def test_a_study_of_several_objectives_is_refused(make: Make) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make(space=FEW))
    with pytest.raises(ValueError, match="one objective"):
        ask(study, FEW)


@both
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_both_directions_are_followed(make: Make, direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    study = study_of(make(seed=0, space=EVERY_KIND), direction)
    run(study, EVERY_KIND, 40, lambda point: sign * goodness(point))
    values = [sign * trial.value for trial in study.trials if trial.value is not None]
    assert np.mean(values[-10:]) > np.mean(values[:6]) + 1


def test_what_is_known_of_a_point_needs_no_trial() -> None:
    """The target is the same everywhere, so only `known` can tell points apart."""
    space = {f"layer{i}": CategoricalDistribution(SCHEMES) for i in range(8)}

    def known(point: Mapping[str, Any]) -> float:
        return float(sum(SCHEMES.index(choice) for choice in point.values()))

    study = study_of(ensemble(seed=0, space=space, target=lambda trial: 5.0, known=known))
    run(study, space, 30, lambda point: 5.0 - known(point))
    assert max(trial.value or 0 for trial in study.trials[:6]) < 0  # of 8 layers, 12 on average
    assert study.best_value >= 4.0
    assert np.mean([trial.value for trial in study.trials[-10:]]) > 2.0


def test_only_what_is_not_known_is_learned() -> None:
    """A target of one layer under a `known` that drowns it: a sampler that learned the value would not see it."""
    seen: list[float] = []

    def target(trial: optuna.trial.FrozenTrial) -> float:
        seen.append(trial.user_attrs["quality"])
        return seen[-1]

    space = {f"layer{i}": CategoricalDistribution(SCHEMES) for i in range(6)}
    study = study_of(ensemble(seed=0, space=space, target=target, known=lambda point: 100.0 * (point["layer0"] != "none")))
    for _ in range(20):
        trial = ask(study, space)
        quality = float(SCHEMES.index(trial.params["layer1"]))
        trial.set_user_attr("quality", quality)
        study.tell(trial, quality - 100.0 * (trial.params["layer0"] != "none"))
    assert seen
    assert study.best_value == len(SCHEMES) - 1


def test_a_mutation_changes_as_many_parameters_as_asked_and_a_crossover_makes_up_nothing() -> None:
    space, chance = Space(EVERY_KIND), np.random.default_rng(0)
    one, other = space.draw(chance), space.draw(chance)
    for changes in (1, 2, 5):
        for _ in range(50):
            changed = space.mutate(one, chance, changes)
            assert sum(changed[name] != one[name] for name in EVERY_KIND) == changes
    child = space.cross(one, other, chance)
    assert all(child[name] in (one[name], other[name]) for name in EVERY_KIND)


def test_each_level_of_a_parameter_is_drawn_as_often_as_the_others() -> None:
    space = Space({"width": IntDistribution(8, 64, step=8), "share": FloatDistribution(0, 1, step=0.25)})
    chance = np.random.default_rng(0)
    drawn = [space.draw(chance) for _ in range(8000)]
    for name, levels in (("width", 8), ("share", 5)):
        _, counts = np.unique([point[name] for point in drawn], return_counts=True)
        assert len(counts) == levels
        assert counts.max() - counts.min() < 0.2 * 8000 / levels


@pytest.fixture(scope="module")
def table() -> Table:
    """All networks of eight layers, whose latency costs nothing to know."""
    return Table()


def test_the_ensemble_finds_more_than_chance_and_than_evolution_at_equal_evaluations(table: Table) -> None:
    problem = table.problem()
    found = compare(problem.objective, problem.distributions, range(5), 40, known=problem.known)
    best = {name: values[:, -1].mean() for name, values in found.items()}
    assert best["ensemble"] > max(best["evolution"], best["random"]) + 0.3


def test_evolution_finds_more_than_chance_at_equal_evaluations(table: Table) -> None:
    problem = table.problem()
    found = compare(problem.objective, problem.distributions, range(5), 100, names=("random", "evolution"))
    assert found["evolution"][:, -1].mean() > found["random"][:, -1].mean() + 0.1
