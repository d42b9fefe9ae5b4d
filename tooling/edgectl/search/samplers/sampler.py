"""What our samplers have in common: whole points, none of them tried twice, the same ones for a seed and a history."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import optuna
from numpy.random import Generator, default_rng
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgectl.search.samplers.points import Encode, Features, Point, Space

_FIXED = "fixed_params"
"""Where Optuna keeps the parameters of a trial that is enqueued: what is written there is what the trial will have."""
_ATTEMPTS = 16


@dataclass(frozen=True)
class Tried:
    """A finished trial: its point, the point's features, and the trial itself."""

    point: Point
    features: Features
    trial: FrozenTrial


@dataclass(frozen=True)
class Past:
    """What a study knows when a point is proposed.

    Attributes:
        tried: the finished trials in the order of their numbers.
        taken: features of every point that is finished, running, waiting or failed.
        crowded: others are running.
        sign: 1 where the study maximises, -1 where it minimises.
    """

    tried: list[Tried]
    taken: set[Features]
    crowded: bool
    sign: float

    def utility(self, tried: Tried) -> float:
        """The trial's value; larger is better, whatever the study's direction."""
        value = tried.trial.value
        assert value is not None
        return self.sign * value


class PointSampler(BaseSampler, abc.ABC):
    """A sampler that proposes whole points.

    What it draws depends on its seed, on the trials that there are, and, only while others are running, on the trial's number:
    a search that was killed and goes on proposes what it would have proposed. Each point is written into its trial before it is
    returned, and given up where another worker wrote the same in the meantime.

    Args:
        seed: None for one from the system's entropy.
        space: the distributions that all trials have; None for what the finished trials have in common, so that parameters
            are drawn one by one, and may repeat a point, until the first has finished.
        encode: as of `Space`.
    """

    def __init__(self, seed: int | None, space: Mapping[str, BaseDistribution] | None, encode: Encode | None) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        self._given, self._encode = space, encode
        self._space = Space({}, encode)

    @abc.abstractmethod
    def propose(self, space: Space, past: Past, chance: Generator) -> Point:
        """The next point; not one that is taken, unless all are."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The distributions of the points.

        Raises:
            ValueError: the study has several objectives.
        """
        if len(study.directions) != 1:
            raise ValueError(f"{type(self).__name__} is for studies of one objective")
        if self._given is not None:
            return dict(self._given)
        return intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A new point."""
        if not search_space:
            return {}
        if search_space != self._space.distributions:
            self._space = Space(search_space, self._encode)
        space = self._space
        past = _past(study, trial, space)
        fixed = trial.system_attrs.get(_FIXED, {})
        seed = [self._seed, len(past.taken)]
        for attempt in range(_ATTEMPTS):
            own = [trial.number, attempt] if past.crowded or attempt else []
            point = self.propose(space, past, default_rng([*seed, *own])) | fixed
            study._storage.set_trial_system_attr(trial._trial_id, _FIXED, point)
            now = _past(study, trial, space)
            if space.features(point) not in now.taken - past.taken:
                break
            past = now
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, of a parameter that not all trials have."""
        chance = default_rng([self._seed, trial.number, crc32(param_name.encode())])
        return Space({param_name: param_distribution}).draw(chance)[param_name]


def _past(study: optuna.Study, own: FrozenTrial, space: Space) -> Past:
    tried, taken, crowded = [], set(), False
    for trial in study.get_trials(deepcopy=False):
        if trial.number == own.number:
            continue
        crowded |= trial.state == TrialState.RUNNING
        point = _point(trial, space)
        if point is None:
            continue
        taken.add(space.features(point))
        if trial.state == TrialState.COMPLETE:
            tried.append(Tried(point, space.features(point), trial))
    return Past(tried, taken, crowded, 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0)


def _point(trial: FrozenTrial, space: Space) -> Point | None:
    """The point of a trial, whose parameters may not all be written yet; None where it has none in this space."""
    point = trial.system_attrs.get(_FIXED, {}) | trial.params
    return {name: point[name] for name in space.distributions} if space.holds(point) else None
