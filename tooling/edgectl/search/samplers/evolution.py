"""Regularised evolution."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.random import Generator
from optuna.distributions import BaseDistribution

from edgectl.search.samplers.points import Encode, Point, Space
from edgectl.search.samplers.sampler import Past, PointSampler


class EvolutionSampler(PointSampler):
    """Proposes a mutation of the best of some of the youngest trials (Real et al. 2019, "Regularized evolution", AAAI).

    The population is the last P finished trials: who is older has died, however good. S of them are drawn, without
    replacement, and the best of these gets a child with one parameter changed. The paper's P = 100 and S = 25 are for
    20,000 evaluations; the defaults are for some dozens. A child that was tried before is drawn again, which is not the
    paper's: here a trial costs far more than a draw.

    Args:
        seed: of everything that is random; the same seed and history give the same proposal.
        space: the trials' distributions by name; None for what the finished trials have in common.
        encode: parameters -> features; points of equal features are one point. None: each point is its own.
        population: P; as many trials are random to begin with.
        sample: S.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        encode: Encode | None = None,
        population: int = 16,
        sample: int = 5,
    ) -> None:
        super().__init__(seed, space, encode)
        self._population, self._sample = population, min(sample, population)

    def propose(self, space: Space, past: Past, chance: Generator) -> Point:
        """A child, or a random point while the population is not complete."""
        if len(past.tried) < self._population:
            return space.new(lambda: space.draw(chance), past.taken, chance)
        living = past.tried[-self._population :]
        drawn = [living[i] for i in chance.choice(len(living), self._sample, replace=False)]
        parent = max(drawn, key=past.utility)
        return space.new(lambda: space.mutate(parent.point, chance), past.taken, chance)
