"""From the network that was chosen to one that is trained, within the budget as measured, and a recipe that builds it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from edgectl.artifact import Artifact
from edgectl.device import Device
from edgectl.lowering import build
from edgectl.profile.budget import LatencyBudget
from edgectl.recipe import PruneRule, Recipe, load_model
from edgectl.search import network as source
from edgectl.search.latency import Latencies, cpu_of, in_turns, measure, recipe_of
from edgectl.search.settings import Settings
from edgectl.search.space import Candidate
from edgectl.search.supernet import Supernet
from edgectl.tasks.task import Progress, Score
from edgectl.training.folder import RECIPE, WEIGHTS, toml_text
from edgectl.training.loop import Hardware
from edgectl.training.run import compress, train

TOLERANCE = 0.05
"""How far a network may be measured above its budget; the clock of a machine that does other things is no better."""
_TRIES = 3
_INHERITED = "inherited.safetensors"


@dataclass(frozen=True)
class Trained:
    """A network trained to its end.

    Attributes:
        folder: has recipe.toml, model.py and weights.safetensors, all that `edgectl build` takes.
        score: on the photographs in `test`.
    """

    candidate: Candidate
    folder: Path
    artifact: Artifact
    score: Score


class Finisher:
    """Trains networks that a search has chosen, from what they inherit.

    Args:
        out: where their folders go.
        data: photographs in `train` and `test`.
    """

    def __init__(
        self,
        settings: Settings,
        supernet: Supernet,
        latencies: Latencies,
        device: Device,
        data: Path,
        out: Path,
        hardware: Hardware,
        progress: Progress,
    ) -> None:
        self.settings, self.supernet, self.latencies, self.device = settings, supernet, latencies, device
        self.data, self.out, self.hardware, self.progress = data, out, hardware, progress
        self.cpu = cpu_of(device)

    def dense(self, candidate: Candidate, name: str) -> Trained:
        """Trains a network that is not pruned, as long as one that is.

        Raises:
            UserError: the data is wrong.
            ToolError: the folder cannot be written.
        """
        recipe = self._started(candidate, name, [])
        run = self.out / name / "run"
        score = train(recipe, self.data, run, self.hardware, start=recipe.beside(_INHERITED), progress=self.progress)
        return self._published(candidate, name, run, score)

    def pruned(self, candidate: Candidate, name: str, budget: float) -> Trained:
        """Trains a network while reweighted groups find the rates of its layers, so that it is measured within the budget.

        The rates are those whose time, built and measured, is within 3 % below the budget (edgectl.profile.budget). What is
        trained to its end is measured again; where it is over the budget by more than 5 % after all, the same is done anew
        with a budget that is smaller by as much, three times at most.

        Args:
            budget: ns of the device's clock.

        Raises:
            UserError: no rates meet the budget, or the data is wrong.
            ToolError: the device fails, or the folder cannot be written.
        """
        rules = candidate.rules()
        if not rules:
            return self.dense(candidate, name)
        aim = budget
        for number in range(_TRIES):
            part = name if number == 0 else f"{name}-{number + 1}"
            recipe = self._started(candidate, part, rules)
            module = load_model(recipe)
            chosen = LatencyBudget(
                self.latencies.model,
                module,
                self.settings.space.shape,
                rules,
                aim,
                threads=self.latencies.threads,
                correction=self.latencies.correction,
                confirm=partial(self._measured, candidate, module),
            )
            run = self.out / part / "run"
            score = compress(recipe, self.data, run, self.hardware, budget=chosen, progress=self.progress)
            trained = self._published(candidate, part, run, score)
            (time,) = in_turns([trained.artifact], self.device, self.latencies.threads, self.progress)
            if time <= (1 + TOLERANCE) * budget:
                break
            self.progress(f"{self.latencies.shown(time)} is over the budget: once more with a smaller one", None)
            aim *= budget / time
        return trained

    def _measured(self, candidate: Candidate, module: nn.Module, rules: Sequence[PruneRule]) -> float:
        recipe = recipe_of(self.settings.space, candidate, rules, self.cpu)
        return measure(recipe, copy.deepcopy(module), self.device, self.latencies.threads, self.progress)

    def _started(self, candidate: Candidate, name: str, rules: Sequence[PruneRule]) -> Recipe:
        """The recipe that a training begins with, in a folder with the network and the weights that it inherits."""
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(source.__file__), folder / Path(source.__file__).name)
        if not (folder / _INHERITED).is_file():
            save_file(dict(self.supernet.extract(candidate).state_dict()), folder / _INHERITED)
        recipe = recipe_of(self.settings.space, candidate, rules, self.cpu)
        model = recipe.model.model_dump(exclude_defaults=True) | {"weights": _INHERITED}
        tables: list[tuple[str, dict[str, Any]]] = [("[model]", model)]
        tables += [("[[prune]]", rule.model_dump(exclude_defaults=True)) for rule in rules]
        tables += [("[train]", self.settings.train.model_dump()), ("[target]", {"cpu": self.cpu})]
        if rules:
            tables.append(("[compress]", self.settings.compress.model_dump(exclude_none=True)))
        (folder / "start.toml").write_text(toml_text(tables), encoding="utf-8")
        return Recipe.load(folder / "start.toml")

    def _published(self, candidate: Candidate, name: str, run: Path, score: Score) -> Trained:
        """Puts weights and the recipe that builds from them beside the network, and builds."""
        folder = self.out / name
        shutil.copyfile(run / WEIGHTS, folder / WEIGHTS)
        recipe = recipe_of(self.settings.space, candidate, [], self.cpu)
        model = recipe.model.model_dump(exclude_defaults=True) | {"weights": WEIGHTS}
        text = toml_text([("[model]", model), ("[target]", {"cpu": self.cpu})])
        (folder / RECIPE).write_text(f"# {candidate}\n{text}", encoding="utf-8")
        built = build(Recipe.load(folder / RECIPE), folder / "artifact", force=True)
        return Trained(candidate, folder, built.artifact, score)
