"""Bayesian optimisation with an ensemble of neural predictors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from edgectl.search.samplers.proposals import Distributions, Parameters, cross, draw, key, mutate, one_hot

Array = npt.NDArray[np.float64]

_HIDDEN = 32
_STEPS = 250
_RATE = 0.02
_DECAY = 1e-2
_CROSSED, _DRAWN = 0.25, 0.25  # of the candidates; the rest are mutated


class EnsembleSampler(BaseSampler):
    """Proposes the candidate of the highest expected improvement under an ensemble of small multilayer perceptrons.

    M perceptrons m_i, each fitted on a bootstrap of the finished trials, say what a point x is worth and how sure that is:
    mu(x) = mean_i m_i(x) - known(x), sigma(x) = deviation_i m_i(x). Candidates are mutations of the k best points, crossovers
    of them, and random ones. With y* the best value so far and z = (mu - y*) / sigma,

        EI(x) = (mu(x) - y*) Phi(z) + sigma(x) phi(z).

    The searches of Zhan et al. (arXiv 2108.08910) and Li et al. (2106.14943) are Bayesian optimisations with "an ensemble of
    neural predictors"; their text does not say the rest, so that perceptrons, proposals and acquisition are our
    reconstruction. What costs nothing to compute is `known` and is not learnt: a network's latency, say.

    Points that are finished or running are not proposed again, so that workers side by side try different ones.

    Args:
        seed: of everything that is random; the same seed and history give the same proposal.
        encode: parameters -> features, which must be of one length; by default flags of choices and scaled numbers. Points of
            equal features count as equal.
        target: what the predictors learn of a finished trial; by default its value.
        known: what is taken off what they predict, to give the value.
        startup: trials that are random.
        members: M.
        candidates: how many each proposal is chosen from.
        top: k.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        encode: Callable[[Parameters], Sequence[float]] | None = None,
        target: Callable[[FrozenTrial], float] | None = None,
        known: Callable[[Parameters], float] | None = None,
        startup: int = 12,
        members: int = 8,
        candidates: int = 600,
        top: int = 8,
    ) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._encode, self._target, self._known = encode, target, known
        self._startup, self._members, self._candidates, self._top = startup, members, candidates, top
        self._independent = RandomSampler(seed=self._seed)
        self._space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Other proposals from now on, of a copy of this sampler in another process."""
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all finished trials have."""
        del trial
        space = self._space.calculate(study)
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal; nothing while there are too few finished trials.

        Raises:
            ValueError: the study has several objectives.
        """
        if len(study.directions) != 1:
            raise ValueError("EnsembleSampler is for studies of one objective")
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        chance = np.random.default_rng([self._seed, trial.number])
        taken = {
            self._identity(other.params, search_space)
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
            if other.number != trial.number and set(search_space) <= set(other.params)
        }
        if not search_space:
            return {}
        if len(finished) < self._startup:
            return next(
                (
                    point
                    for point in (draw(search_space, chance) for _ in range(100))
                    if self._identity(point, search_space) not in taken
                ),
                draw(search_space, chance),
            )
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        return self._best(finished, search_space, taken, sign, chance)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _best(
        self,
        finished: Sequence[FrozenTrial],
        space: Distributions,
        taken: set[object],
        sign: float,
        chance: np.random.Generator,
    ) -> dict[str, Any]:
        values = np.array([sign * float(trial.value or 0) for trial in finished])
        targets = np.array([sign * (self._target(trial) if self._target else float(trial.value or 0)) for trial in finished])
        order = np.argsort(-values, kind="stable")
        parents = [finished[i].params for i in order[: self._top]]
        points = self._proposed(parents, space, taken, chance)
        if not points:
            return draw(space, chance)
        rows = np.array([self._features(trial.params, space) for trial in finished])
        mean, spread = _predict(rows, targets, np.array([self._features(p, space) for p in points]), self._members, chance)
        if self._known is not None:
            mean = mean - sign * np.array([self._known(point) for point in points])
        return points[int(np.argmax(_expected_improvement(mean, spread, float(values.max()))))]

    def _proposed(
        self, parents: Sequence[Parameters], space: Distributions, taken: set[object], chance: np.random.Generator
    ) -> list[dict[str, Any]]:
        """Candidates that differ from each other and from what is taken."""
        seen, points = set(taken), []
        for _ in range(self._candidates):
            kind = chance.random()
            parent = parents[int(chance.integers(len(parents)))]
            if kind < _DRAWN:
                point = draw(space, chance)
            else:
                other = parents[int(chance.integers(len(parents)))] if kind < _DRAWN + _CROSSED else parent
                rate = chance.choice((1, 2, 4)) / len(space)
                point = mutate(cross(parent, other, space, chance), space, rate, chance)
            identity = self._identity(point, space)
            if identity not in seen:
                seen.add(identity)
                points.append(point)
        return points

    def _features(self, point: Parameters, space: Distributions) -> Sequence[float]:
        return one_hot(point, space) if self._encode is None else self._encode(point)

    def _identity(self, point: Parameters, space: Distributions) -> object:
        inside = {name: point[name] for name in space}
        return key(inside) if self._encode is None else tuple(self._encode(point))


def _expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    sigma = np.maximum(spread, 1e-9)
    z = (mean - best) / sigma
    cumulative = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in z])
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(np.maximum((mean - best) * cumulative + sigma * density, 0) + 1e-12 * mean)


def _predict(rows: Array, targets: Array, points: Array, members: int, chance: np.random.Generator) -> tuple[Array, Array]:
    """Mean and deviation, over an ensemble fitted on (rows, targets), of what points [n, features] are worth.

    All members are trained at once, as one batch of matrices, full batch by AdamW on a bootstrap each.
    """
    middle, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    level, unit = targets.mean(), targets.std() + 1e-9
    x = torch.from_numpy((rows - middle) / scale).float()
    y = torch.from_numpy((targets - level) / unit).float()
    drawn = chance.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=members)
    weight = torch.from_numpy(drawn).float() / len(rows)
    generator = torch.Generator().manual_seed(int(chance.integers(1 << 62)))
    layers = [_layer(members, rows.shape[1], _HIDDEN, generator), _layer(members, _HIDDEN, _HIDDEN, generator)]
    layers.append(_layer(members, _HIDDEN, 1, generator))
    optimiser = torch.optim.AdamW([tensor for layer in layers for tensor in layer], lr=_RATE, weight_decay=_DECAY)
    with torch.enable_grad():
        for _ in range(_STEPS):
            loss = (weight * (_forward(layers, x) - y).square()).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = _forward(layers, torch.from_numpy((points - middle) / scale).float()).double().numpy()
    return found.mean(axis=0) * unit + level, found.std(axis=0) * unit


def _layer(members: int, inputs: int, outputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    weight = torch.randn(members, inputs, outputs, generator=generator) * math.sqrt(2 / inputs)
    return weight.requires_grad_(), torch.zeros(members, 1, outputs, requires_grad=True)


def _forward(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """[n, features] -> [members, n]."""
    y = x.expand(layers[0][0].shape[0], *x.shape)
    for i, (weight, bias) in enumerate(layers):
        y = torch.baddbmm(bias, y, weight)
        if i + 1 < len(layers):
            y = torch.nn.functional.silu(y)
    return y[..., 0]
