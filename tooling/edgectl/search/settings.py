"""What a search is told: its space, how it trains, how many networks it tries. A TOML file may change any of it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgectl.errors import UserError
from edgectl.recipe import CompressSpec, TrainSpec, change, first_problem
from edgectl.search.space import SrSpace

SamplerName = Literal["ensemble", "evolution", "random"]


def _adam(epochs: float, rate: float) -> TrainSpec:
    return TrainSpec(epochs=epochs, batch=16, optimiser="adam", rate=rate, weight_decay=0)


class Settings(BaseModel):
    """All that decides what a search finds, but for data, device and budget.

    Attributes:
        space: the networks there are.
        layers: how many layers are measured on the device for the latency model, those of former runs counted.
        supernet: how the shared weights are trained.
        trials: networks that are tried.
        sampler: what proposes them.
        steps: of fine-tuning a network that is tried; `fine_tune` says how.
        penalty: dB that a network loses for each part of the budget by which it is over it: 10 is 0.5 dB for 5 %.
        compress: how the network that is chosen gets its own rates and is trained on, as `[compress]` of a recipe.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: SrSpace = SrSpace()
    layers: int = Field(default=300, ge=40)
    supernet: TrainSpec = _adam(40, 2e-3)
    trials: int = Field(default=60, ge=1)
    sampler: SamplerName = "ensemble"
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=60, ge=0)
    fine_tune: TrainSpec = _adam(1, 1e-3)
    penalty: float = Field(default=10.0, gt=0)
    train: TrainSpec = _adam(40, 1e-3)
    compress: CompressSpec = CompressSpec(method="reweighted", search=0.2, strength=1e-5)

    @classmethod
    def load(cls, path: Path | None, changes: Sequence[str] = ()) -> Settings:
        """Reads settings from a TOML file, or takes those that there are by default; `changes` as of `Recipe.load`.

        Raises:
            UserError: the file is missing or not TOML, or a key or a value is none that there is.
        """
        name, raw = str(path or "settings"), dict[str, Any]()
        if path is not None:
            try:
                raw = tomllib.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError as error:
                raise UserError(f"There are no settings at {path}.") from error
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise UserError(f"{path} cannot be read as TOML: {error}.") from error
        for each in changes:
            change(raw, each)
        merged = _merged(cls().model_dump(), raw)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise UserError(f"{name}: {first_problem(error)}") from error


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`, table by table."""
    merged = dict(defaults)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        merged[key] = _merged(defaults[key], value) if both else value
    return merged
