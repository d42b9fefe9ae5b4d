"""Bayesian optimisation with an ensemble of neural predictors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from scipy.special import ndtr

from edgectl.search.samplers.perceptrons import Array, Ensemble
from edgectl.search.samplers.points import Encode, Point, Space
from edgectl.search.samplers.sampler import Past, PointSampler

_CROSSED, _DRAWN = 0.25, 0.25
"""Of the candidates; the rest are mutated."""
_CHANGES = (1, 2, 4)


class EnsembleSampler(PointSampler):
    """Proposes the candidate of the highest expected improvement under an ensemble of small multilayer perceptrons.

    M perceptrons m_i, each fitted on a bootstrap of the finished trials, say what a point x is worth, and their spread how
    sure that is:

        mu(x) = mean_i m_i(x) - known(x),    sigma(x) = deviation_i m_i(x).

    Candidates are mutations of the k best points, crossovers of them, and random ones. With y* the best value so far and
    z = (mu - y*) / sigma, the candidate is taken that has the most of

        EI(x) = (mu(x) - y*) Phi(z) + sigma(x) phi(z)

    (of a study that minimises, with the signs of m_i, known and y* turned). Zhan et al. (ICCV 2021, arXiv 2108.08910) choose
    blocks and pruning schemes by Bayesian optimisation, Li et al. (arXiv 2106.14943) by a generator of proposals and Bayesian
    optimisation with an ensemble of neural predictors. We know no more of either than that: perceptrons, bootstrap,
    candidates, acquisition and `known` are our reconstruction.

    Args:
        seed: of everything that is random; the same seed and history give the same proposal.
        space: the trials' distributions by name; None for what the finished trials have in common.
        encode: parameters -> features, always as many; points of equal features are one point. None: a one-hot vector for
            every choice, the place in its range for every number.
        target: what the predictors learn of a finished trial; by default its value.
        known: what the value is less than the target, computed and not learned: a penalty for latency, say. Asked for every
            candidate of every proposal.
        startup: trials that are random to begin with.
        members: M.
        candidates: how many each proposal is chosen from.
        top: k.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        encode: Encode | None = None,
        target: Callable[[FrozenTrial], float] | None = None,
        known: Callable[[Mapping[str, Any]], float] | None = None,
        startup: int = 12,
        members: int = 8,
        candidates: int = 600,
        top: int = 8,
    ) -> None:
        super().__init__(seed, space, encode)
        self._target, self._known = target, known
        self._startup, self._members, self._candidates, self._top = max(startup, 2), members, candidates, top

    def propose(self, space: Space, past: Past, chance: Generator) -> Point:
        """The candidate of the highest expected improvement, or a random point while there are too few trials."""
        if len(past.tried) < self._startup:
            return space.new(lambda: space.draw(chance), past.taken, chance)
        points = list(self._new(space, past, chance)) or [space.new(lambda: space.draw(chance), past.taken, chance)]
        values = [past.utility(tried) for tried in past.tried]
        targets = [past.sign * self._target(tried.trial) for tried in past.tried] if self._target else values
        rows = np.array([tried.features for tried in past.tried])
        ensemble = Ensemble(rows, np.array(targets), self._members, chance)
        mean, spread = ensemble.predict(np.array([space.features(point) for point in points]))
        if self._known is not None:
            mean = mean - past.sign * np.array([self._known(point) for point in points])
        return points[int(np.argmax(_expected_improvement(mean, spread, max(values))))]

    def _new(self, space: Space, past: Past, chance: Generator) -> Iterator[Point]:
        """Candidates that differ from each other and from what is taken."""
        best = sorted(past.tried, key=past.utility, reverse=True)[: self._top]
        seen = set(past.taken)
        for _ in range(self._candidates):
            point = self._candidate([tried.point for tried in best], space, chance)
            if space.features(point) not in seen:
                seen.add(space.features(point))
                yield point

    def _candidate(self, parents: Sequence[Point], space: Space, chance: Generator) -> Point:
        kind = chance.random()
        if kind < _DRAWN:
            return space.draw(chance)
        one, other = (parents[int(chance.integers(len(parents)))] for _ in range(2))
        if kind < _DRAWN + _CROSSED:
            one = space.cross(one, other, chance)
        return space.mutate(one, chance, int(chance.choice(_CHANGES)))


def _expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """EI [n]; where it is nothing at all, the mean decides."""
    sigma = np.maximum(spread, 1e-9)
    z = (mean - best) / sigma
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(np.maximum((mean - best) * ndtr(z) + sigma * density, 0) + 1e-12 * mean)
