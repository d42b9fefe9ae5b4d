"""A worker of a study, as a process of its own.

python tests/search/study_worker.py URL TRIALS [--seed N] [--hang NUMBER] [--gate]

tries points until the study has as many finished trials. In its first trial of number `--hang` or above it
says `hanging` and goes no further. With `--gate` it says `ready` first and waits for a line.
"""

from __future__ import annotations

import argparse
import sys
import time

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from edgectl.search.samplers import EnsembleSampler
from edgectl.search.storage import open_study

NAME = "a study"
FACTS = {"budget": 33.0, "space": ["a", "b"]}
SPACE = {"block": CategoricalDistribution(["a", "b", "c"]), "width": IntDistribution(1, 20), "depth": IntDistribution(1, 8)}


def sampler(seed: int) -> EnsembleSampler:
    """Cheap, and past its random trials soon."""
    return EnsembleSampler(seed=seed, space=SPACE, startup=4, members=2, candidates=50)


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that are complete."""
    return study.get_trials(states=(TrialState.COMPLETE,))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang", type=int)
    parser.add_argument("--gate", action="store_true")
    asked = parser.parse_args()
    study = open_study(asked.url, NAME, sampler(asked.seed), FACTS)
    if asked.gate:
        print("ready", flush=True)
        sys.stdin.readline()

    def objective(trial: optuna.Trial) -> float:
        block = trial.suggest_categorical("block", ["a", "b", "c"])
        width, depth = trial.suggest_int("width", 1, 20), trial.suggest_int("depth", 1, 8)
        print(f"trial {trial.number}", flush=True)
        if asked.hang is not None and trial.number >= asked.hang:
            print("hanging", flush=True)
            time.sleep(3600)
        return {"a": 0.0, "b": 3.0, "c": 1.0}[block] - abs(width - 13) / 2 - abs(depth - 5)

    def stop(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if len(finished(study)) >= asked.trials:
            study.stop()

    if len(finished(study)) < asked.trials:
        study.optimize(objective, callbacks=[stop])


if __name__ == "__main__":
    main()
