"""New points near old ones: mutation and crossover over Optuna's distributions, and features of points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Parameters = Mapping[str, Any]
Distributions = Mapping[str, BaseDistribution]
_REACH = 0.2  # of a number's range, the deviation of its mutation


def draw(distributions: Distributions, chance: np.random.Generator) -> dict[str, Any]:
    """A point drawn evenly; numbers with `log` in their logarithm."""
    return {name: _at(distribution, chance.random()) for name, distribution in distributions.items()}


def mutate(parent: Parameters, distributions: Distributions, rate: float, chance: np.random.Generator) -> dict[str, Any]:
    """The parent with every parameter changed with probability `rate`, and one at least.

    Choices become another one, numbers move by a fifth of their range (standard deviation).
    """
    names = list(distributions)
    changed = {name for name in names if chance.random() < rate} or {names[chance.integers(len(names))]}
    return {name: _moved(parent[name], distributions[name], chance) if name in changed else parent[name] for name in names}


def cross(first: Parameters, second: Parameters, distributions: Distributions, chance: np.random.Generator) -> dict[str, Any]:
    """Every parameter from either parent, with equal probability."""
    return {name: (first if chance.random() < 0.5 else second)[name] for name in distributions}


def key(parameters: Parameters) -> tuple[tuple[str, Any], ...]:
    """Equal for equal points."""
    return tuple(sorted((name, repr(value)) for name, value in parameters.items()))


def one_hot(parameters: Parameters, distributions: Distributions) -> list[float]:
    """Features of a point: a flag for every choice, numbers scaled to [0, 1]."""
    row: list[float] = []
    for name in sorted(distributions):
        distribution, value = distributions[name], parameters[name]
        if isinstance(distribution, CategoricalDistribution):
            row += [float(value == choice) for choice in distribution.choices]
        else:
            row.append(_place(distribution, value))
    return row


def _bounds(distribution: BaseDistribution) -> tuple[float, float]:
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = float(distribution.low), float(distribution.high)
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _at(distribution: BaseDistribution, place: float) -> Any:
    """The value at a place in [0, 1] of the range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(place * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = _bounds(distribution)
    value = low + place * (high - low)
    value = math.exp(value) if distribution.log else value
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else value


def _place(distribution: BaseDistribution, value: float) -> float:
    """The inverse of `_at`, of numbers."""
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = _bounds(distribution)
    return ((math.log(value) if distribution.log else value) - low) / (high - low) if high > low else 0.0


def _moved(value: Any, distribution: BaseDistribution, chance: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if choice != value] or [value]
        return others[chance.integers(len(others))]
    return _at(distribution, min(1.0, max(0.0, _place(distribution, value) + _REACH * chance.standard_normal())))
