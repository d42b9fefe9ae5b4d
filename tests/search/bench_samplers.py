"""Which sampler finds the best of as many evaluations: random, evolution and ensemble, over some seeds.

python tests/search/bench_samplers.py [PROBLEM.py] [--evaluations 60] [--seeds 5] [--picture samplers.png]

PROBLEM.py has `distributions` (Optuna's, by name) and `objective(parameters)`, of which more is better; also, where there are
some, `encode(parameters)` and `known(parameters)`, as of EnsembleSampler: an objective is what is to be learned less `known`.
By default the problem is a table of all networks of eight layers and four schemes, made up, whose best is known.
"""

from __future__ import annotations

import argparse
import itertools
import runpy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler

from edgectl.profile.picture import png, sheet, write_picture
from edgectl.search.samplers import EnsembleSampler, EvolutionSampler

Value = Callable[[Mapping[str, Any]], float]
Encode = Callable[[Mapping[str, Any]], Sequence[float]]
Say = Callable[[str], None]

NAMES = ("random", "evolution", "ensemble")
LAYERS, SCHEMES = 8, ("none", "filter", "pattern", "block")
_PENALTY, _BUDGET = 10.0, 0.6


@dataclass(frozen=True)
class Problem:
    """What is searched: `objective`, of which more is better, is what is to be learned less `known`."""

    distributions: Mapping[str, BaseDistribution]
    objective: Value
    encode: Encode | None = None
    known: Value | None = None


class Table:
    """All networks of eight layers that are pruned by one of four schemes: quality, less a hinge on the budget. Made up.

    A layer loses quality by its scheme, and more or less of it where the layers beside it are pruned; it takes time by its
    scheme; and half of all networks or so are over the budget.
    """

    def __init__(self, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        shape = (LAYERS, len(SCHEMES))
        hurt = chance.lognormal(-1, 0.8, (LAYERS, 1)) * np.array([0, 1.0, 0.5, 0.6]) * chance.lognormal(0, 0.3, shape)
        beside = 0.12 * chance.normal(size=(LAYERS, len(SCHEMES), len(SCHEMES)))
        time_of = chance.lognormal(0, 0.5, (LAYERS, 1)) * np.array([1, 0.45, 0.6, 0.5]) * chance.lognormal(0, 0.15, shape)
        networks = np.array(list(itertools.product(range(len(SCHEMES)), repeat=LAYERS)))
        layers = np.arange(LAYERS)
        loss = hurt[layers, networks].sum(1) + beside[layers, networks, np.roll(networks, 1, axis=1)].sum(1)
        self.hinge = _PENALTY * np.maximum(0, time_of[layers, networks].sum(1) / (_BUDGET * time_of[:, 0].sum()) - 1)
        self.value = 34 - loss - self.hinge
        self.best = float(self.value.max())

    def problem(self) -> Problem:
        """The search among them, where the hinge costs nothing to know."""
        distributions = {f"layer{i}": CategoricalDistribution(SCHEMES) for i in range(LAYERS)}
        return Problem(distributions, self._of(self.value), known=self._of(self.hinge))

    def _of(self, table: np.ndarray) -> Value:
        def look_up(parameters: Mapping[str, Any]) -> float:
            row = 0
            for i in range(LAYERS):
                row = row * len(SCHEMES) + SCHEMES.index(parameters[f"layer{i}"])
            return float(table[row])

        return look_up


def sampler_of(name: str, problem: Problem, seed: int) -> BaseSampler:
    """A sampler of a problem."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "evolution":
        return EvolutionSampler(seed=seed, space=problem.distributions, encode=problem.encode)
    known = problem.known
    target = None if known is None else lambda trial: (trial.value or 0.0) + known(trial.params)
    return EnsembleSampler(seed=seed, space=problem.distributions, encode=problem.encode, target=target, known=known)


def compare(
    objective: Value,
    distributions: Mapping[str, BaseDistribution],
    seeds: Sequence[int],
    evaluations: int,
    *,
    encode: Encode | None = None,
    known: Value | None = None,
    names: Sequence[str] = NAMES,
    say: Say = lambda line: None,
) -> dict[str, np.ndarray]:
    """The best value so far after each evaluation, [seeds, evaluations], of each sampler.

    A point that another sampler or seed has tried is not evaluated again, but counts.

    Args:
        objective: parameters -> value, of which more is better; the same for the same parameters.
        encode, known: as of `EnsembleSampler`, if there are any.
        say: is told what is begun.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = Problem(distributions, objective, encode, known)
    values: dict[tuple[Any, ...], float] = {}

    def evaluate(trial: optuna.Trial) -> float:
        parameters = {name: trial._suggest(name, distribution) for name, distribution in distributions.items()}
        point = tuple(encode(parameters)) if encode else tuple(parameters.values())
        if point not in values:
            values[point] = objective(parameters)
        return values[point]

    found = {}
    for name in names:
        rows = []
        for seed in seeds:
            begin = time.process_time()
            study = optuna.create_study(direction="maximize", sampler=sampler_of(name, problem, seed))
            study.optimize(evaluate, n_trials=evaluations)
            rows.append([trial.value for trial in study.trials])
            say(f"{name}, seed {seed}: best {max(rows[-1]):.4f}, {time.process_time() - begin:.1f} s of the processor")
        found[name] = np.maximum.accumulate(np.array(rows, dtype=float), axis=1)
    return found


def lines(found: Mapping[str, np.ndarray]) -> list[str]:
    """A table: evaluations, and of each sampler the mean best value and its standard deviation over the seeds."""
    evaluations = next(iter(found.values())).shape[1]
    counts = sorted({*range(10, evaluations, 10), evaluations})
    head = "evaluations" + "".join(f"{name:>20}" for name in found)
    rows = [
        f"{n:11}" + "".join(f"{best[:, n - 1].mean():12.4f} ± {best[:, n - 1].std():5.3f}" for best in found.values())
        for n in counts
    ]
    return [head, *rows]


def draw(found: Mapping[str, np.ndarray], title: str, best: float | None = None) -> bytes:
    """A picture: lines of means, in bands of one standard deviation."""
    figure, axes = sheet()
    for i, (name, values) in enumerate(found.items()):
        steps = np.arange(1, values.shape[1] + 1)
        mean, spread = values.mean(axis=0), values.std(axis=0)
        axes.plot(steps, mean, color=f"C{i}", label=name)
        axes.fill_between(steps, mean - spread, mean + spread, color=f"C{i}", alpha=0.15, linewidth=0)
    if best is not None:
        axes.axhline(best, color="black", linestyle=":", linewidth=1, label="the best there is")
    seeds = len(next(iter(found.values())))
    axes.set(xlabel="evaluations", ylabel=f"best value so far: mean of {seeds} seeds ± standard deviation", title=title)
    start = min(10, *(values.shape[1] - 1 for values in found.values()))
    axes.set_ylim(bottom=min(float(values.mean(axis=0)[start]) for values in found.values()) - 0.3)
    axes.legend(loc="lower right")
    return png(figure, title, "\n".join(lines(found)))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="?", type=Path)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    best: float | None = None
    if asked.problem is None:
        table = Table()
        problem, best, title = table.problem(), table.best, f"{LAYERS} layers, {len(SCHEMES)} schemes, tabulated"
    else:
        given = runpy.run_path(str(asked.problem))
        problem, title = Problem(*(given.get(name) for name in Problem.__dataclass_fields__)), asked.problem.stem
    found = compare(
        problem.objective, problem.distributions, range(asked.seeds), asked.evaluations,
        encode=problem.encode, known=problem.known, say=print,
    )  # fmt: skip
    print("\n".join(lines(found)))
    if best is not None:
        print(f"the best there is: {best:.4f}")
    if asked.picture is not None:
        write_picture(draw(found, title, best), asked.picture)


if __name__ == "__main__":
    main()
