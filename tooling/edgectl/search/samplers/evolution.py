"""Regularised evolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgectl.search.samplers.proposals import draw, mutate


class EvolutionSampler(BaseSampler):
    """Proposes a mutation of the best of some of the youngest trials (Real et al., "Regularized evolution", AAAI 2019).

    The population is the last `population` finished trials: who is older has died, however good. `sample` of them are drawn,
    and the best of these gets a child with one parameter changed.

    Args:
        seed: of everything that is random; the same seed and history give the same proposal.
        population: trials that live, and random ones to begin with.
        sample: drawn for each proposal.
    """

    def __init__(self, *, seed: int | None = None, population: int = 16, sample: int = 5) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._population, self._sample = population, sample
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
        """The proposal; a random point while the population is not complete.

        Raises:
            ValueError: the study has several objectives.
        """
        if len(study.directions) != 1:
            raise ValueError("EvolutionSampler is for studies of one objective")
        if not search_space:
            return {}
        chance = np.random.default_rng([self._seed, trial.number])
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < self._population:
            return draw(search_space, chance)
        living = finished[-self._population :]
        drawn = [living[i] for i in chance.choice(len(living), size=min(self._sample, len(living)), replace=False)]
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        parent = max(drawn, key=lambda other: sign * float(other.value or 0))
        return mutate(parent.params, search_space, 0.0, chance)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)
