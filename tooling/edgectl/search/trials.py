"""The trials of a search: a network is proposed, judged, and its score written into the study before the next begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from edgectl.search.judge import Judge
from edgectl.search.latency import Latencies
from edgectl.search.samplers import EnsembleSampler, EvolutionSampler
from edgectl.search.settings import Settings
from edgectl.search.space import Candidate, SrSpace
from edgectl.tasks.task import Progress

QUALITY, PREDICTED, MEASURED, NETWORK = "quality", "predicted", "measured", "network"
"""Names of a trial's attributes: dB, twice ns of the device's clock, and the network in words."""

Confirm = Callable[[Candidate], float]
"""Measures a network: ns of the device's clock."""


@dataclass(frozen=True)
class Tried:
    """A finished trial.

    Attributes:
        quality: dB of the photographs held out.
        ns: what the network takes, in ns of the device's clock.
        measured: whether that was measured, not predicted.
    """

    candidate: Candidate
    quality: float
    ns: float
    measured: bool


class Objective:
    """score(a) = quality(a) - penalty max(0, t(a) / T - 1): the hinge of 2108.08910's constrained search, as we read it.

    Args:
        budget: T, in ns of the device's clock.
        baseline: what the space's baseline was measured to take, in the same.
    """

    def __init__(self, settings: Settings, latencies: Latencies, budget: float, baseline: float) -> None:
        self.settings, self.latencies, self.budget, self.baseline = settings, latencies, budget, baseline

    @property
    def space(self) -> SrSpace:
        """The networks there are."""
        return self.settings.space

    def hinge(self, parameters: Mapping[str, Any]) -> float:
        """What a network loses for its latency, in dB; it costs nothing to know."""
        over = self.latencies.predicted(self.space.candidate(parameters)) / self.budget - 1
        return self.settings.penalty * max(0.0, over)

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """What proposes networks."""
        if self.settings.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.settings.sampler == "evolution":
            return EvolutionSampler(seed=seed, space=self.distributions(), encode=self.space.encode)
        return EnsembleSampler(
            seed=seed,
            space=self.distributions(),
            encode=self.space.encode,
            target=lambda trial: float(trial.user_attrs[QUALITY]),
            known=self.hinge,
        )

    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Of all parameters."""
        return {name: CategoricalDistribution(list(choices)) for name, choices in self.space.parameters().items()}

    def run(self, study: optuna.Study, judge: Judge, progress: Progress, confirm: Confirm | None = None) -> None:
        """Tries networks until the study has as many finished trials as the settings ask for.

        A network that was tried before is not trained again, one that seems to be the best is measured with `confirm`, and what
        that says of the predictions corrects them. A trial that fails or is interrupted is proposed again.

        Raises:
            UserError, ToolError: of judge and `confirm`. What is finished is kept.
        """

        def objective(trial: optuna.Trial) -> float:
            self.calibrate(study)
            parameters = {name: trial.suggest_categorical(name, list(of)) for name, of in self.space.parameters().items()}
            done = len(_finished(study))
            candidate = self.space.candidate(parameters)
            progress(f"trial {done + 1} of {self.settings.trials}: {candidate}", done / self.settings.trials)
            try:
                return self._try(candidate, trial, study, judge, confirm)
            except BaseException:
                study.enqueue_trial(parameters)
                raise

        def stop_when_done(study: optuna.Study, trial: FrozenTrial) -> None:
            del trial
            if len(_finished(study)) >= self.settings.trials:
                study.stop()

        if not study.get_trials(deepcopy=False):
            for parameters in self.first():
                study.enqueue_trial(parameters)
        if len(_finished(study)) < self.settings.trials:
            study.optimize(objective, callbacks=[stop_when_done])

    def first(self) -> list[dict[str, Any]]:
        """What is tried first: networks that are the same throughout, each at the least rate that is within the budget.

        The rest is no more random than it must be: samplers that learn begin with these.
        """
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for parameters in self.space.uniform():
            if not self.hinge(parameters):
                found.setdefault((parameters["cell0"], parameters["tail"]), parameters)
        return list(found.values())

    def _try(
        self, candidate: Candidate, trial: optuna.Trial, study: optuna.Study, judge: Judge, confirm: Confirm | None
    ) -> float:
        """The score of a network; what it is made of goes into the trial's attributes."""
        former = {tried.candidate: tried for tried in self.tried(study)}
        tried = former.get(candidate) or Tried(
            candidate, judge.quality(candidate, lambda message, part: None), self.latencies.predicted(candidate), False
        )
        best = max(map(self.score, former.values()), default=-math.inf)
        if confirm is not None and not tried.measured and self.score(tried) > best:
            tried = replace(tried, ns=confirm(candidate), measured=True)
        facts = {QUALITY: tried.quality, PREDICTED: self.latencies.predicted(candidate), NETWORK: str(candidate)}
        for name, value in (facts | ({MEASURED: tried.ns} if tried.measured else {})).items():
            trial.set_user_attr(name, value)
        return self.score(tried)

    def calibrate(self, study: optuna.Study) -> None:
        """Corrects predictions by the median of measured over predicted times, over the baseline and all that was measured."""
        measured = {tried.candidate: tried.ns for tried in self.tried(study) if tried.measured}
        self.latencies.correct(measured | {self.space.dense(): self.baseline})

    def tried(self, study: optuna.Study) -> list[Tried]:
        """What finished, the first trial of each network."""
        found: dict[Candidate, Tried] = {}
        for trial in _finished(study):
            candidate = self.space.candidate(trial.params)
            measured = trial.user_attrs.get(MEASURED)
            ns = self.latencies.predicted(candidate) if measured is None else float(measured)
            found.setdefault(candidate, Tried(candidate, float(trial.user_attrs[QUALITY]), ns, measured is not None))
        return list(found.values())

    def best(self, study: optuna.Study) -> Tried:
        """The network of the highest score, by what is now known of latencies."""
        self.calibrate(study)
        return max(self.tried(study), key=self.score)

    def score(self, tried: Tried) -> float:
        """Quality less the hinge, in dB."""
        return tried.quality - self.settings.penalty * max(0.0, tried.ns / self.budget - 1)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
