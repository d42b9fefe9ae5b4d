"""Points of a search space: drawn, changed a little, crossed, listed, and told apart by their features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.random import Generator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Point = dict[str, Any]
Features = tuple[float, ...]
Encode = Callable[[Mapping[str, Any]], Sequence[float]]

_NEAR = 0.15
_LISTED = 4096
_TRIES = 256


class _Choice:
    """A categorical parameter: no choice is nearer to another than a third."""

    def __init__(self, distribution: CategoricalDistribution) -> None:
        self.choices = distribution.choices
        self.levels: int | None = len(self.choices)
        self._index = distribution.to_internal_repr

    def draw(self, rng: Generator) -> Any:
        return self.choices[rng.integers(len(self.choices))]

    def change(self, value: Any, rng: Generator) -> Any:
        return self.choices[(int(self._index(value)) + 1 + rng.integers(len(self.choices) - 1)) % len(self.choices)]

    def holds(self, value: Any) -> bool:
        return value in self.choices

    def features(self, value: Any) -> Iterator[float]:
        index = int(self._index(value))
        return (float(i == index) for i in range(len(self.choices)))

    def values(self) -> Iterable[Any]:
        return self.choices


class _Number:
    """An integer or a real number, on a straight or a logarithmic scale; its place on that scale is in [0, 1]."""

    def __init__(self, distribution: IntDistribution | FloatDistribution) -> None:
        self.low, self.high, self.step, self.log = distribution.low, distribution.high, distribution.step, distribution.log
        self.whole = isinstance(distribution, IntDistribution)
        self.levels: int | None = round((self.high - self.low) / self.step) + 1 if self.step else None
        if self.low == self.high:
            self.levels = 1
        half = (self.step or 0) / 2  # every level has an interval of its own around it, the outermost ones too
        self._bounds = (self._scale(self.low - half), self._scale(self.high + half))

    def _scale(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    def _at(self, place: float) -> Any:
        low, high = self._bounds
        value = low + place * (high - low)
        value = math.exp(value) if self.log else value
        if self.step:
            value = self.low + self.step * round((value - self.low) / self.step)
        value = min(max(value, self.low), self.high)
        return int(value) if self.whole else float(value)

    def draw(self, rng: Generator) -> Any:
        return self._at(rng.random())

    def change(self, value: Any, rng: Generator) -> Any:
        """As often a value nearby as any other."""
        low, high = self._bounds
        place = (self._scale(value) - low) / (high - low)
        for _ in range(_TRIES):
            near = place + _NEAR * rng.standard_normal() if rng.random() < 0.5 else rng.random()
            if 0 <= near <= 1 and (other := self._at(near)) != value:
                return other
        return self.low if value != self.low else self.high

    def holds(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def features(self, value: Any) -> Iterator[float]:
        low, high = self._scale(self.low), self._scale(self.high)
        yield (self._scale(value) - low) / (high - low) if high > low else 0.0

    def values(self) -> Iterable[Any]:
        assert self.levels is not None and self.step is not None
        return (self._at_level(i) for i in range(self.levels))

    def _at_level(self, i: int) -> Any:
        value = min(self.low + self.step * i, self.high) if self.step else self.low
        return int(value) if self.whole else float(value)


class Space:
    """The points of some distributions. Points with equal features are one point: they are the same network.

    Args:
        distributions: Optuna's, by the parameters' names: categorical, integers, real numbers, steps, logarithmic scales.
        encode: a point's features, always as many; None for a one-hot vector of each categorical parameter and the place in
            [0, 1] of each number on its scale.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], encode: Encode | None = None) -> None:
        self.distributions = dict(distributions)
        self._axes = {name: _axis(distribution) for name, distribution in distributions.items()}
        self._free = [name for name, axis in self._axes.items() if axis.levels != 1]
        self._encode = encode or self._scaled
        self._features: dict[tuple[Any, ...], Features] = {}
        levels = [axis.levels for axis in self._axes.values()]
        self.size = math.prod(levels) if None not in levels else None  # type: ignore[arg-type]

    def draw(self, rng: Generator) -> Point:
        """A random point, each parameter uniform on its scale."""
        return {name: axis.draw(rng) for name, axis in self._axes.items()}

    def mutate(self, point: Point, rng: Generator, changes: int = 1) -> Point:
        """A point that differs in as many parameters as `changes` says, or in all there are."""
        names = rng.choice(len(self._free), min(changes, len(self._free)), replace=False)
        return point | {name: self._axes[name].change(point[name], rng) for name in (self._free[i] for i in names)}

    def cross(self, one: Point, other: Point, rng: Generator) -> Point:
        """A point that has each parameter from one of two points."""
        return {name: (one if rng.random() < 0.5 else other)[name] for name in self._axes}

    def features(self, point: Point) -> Features:
        """What `encode` makes of a point, remembered."""
        key = tuple(point[name] for name in self._axes)
        if key not in self._features:
            self._features[key] = tuple(float(value) for value in self._encode(point))
        return self._features[key]

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether a point has a value of every parameter's, as trials of other distributions have not."""
        return all(name in point and axis.holds(point[name]) for name, axis in self._axes.items())

    def all(self) -> list[Point] | None:
        """Every point, where there are few enough to be listed."""
        if self.size is None or self.size > _LISTED:
            return None
        lines = (axis.values() for axis in self._axes.values())
        return [dict(zip(self._axes, values, strict=True)) for values in itertools.product(*lines)]

    def new(self, make: Callable[[], Point], taken: Container[Features], rng: Generator) -> Point:
        """What `make` makes that is not taken; else any point that is not; else, where all are taken, a random one."""
        for maker in (make, lambda: self.draw(rng)):
            for _ in range(_TRIES):
                if self.features(point := maker()) not in taken:
                    return point
        left = [point for point in self.all() or () if self.features(point) not in taken]
        return left[rng.integers(len(left))] if left else self.draw(rng)

    def _scaled(self, point: Mapping[str, Any]) -> list[float]:
        return [feature for name, axis in self._axes.items() for feature in axis.features(point[name])]


def _axis(distribution: BaseDistribution) -> _Choice | _Number:
    if isinstance(distribution, CategoricalDistribution):
        return _Choice(distribution)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return _Number(distribution)
    raise TypeError(f"{type(distribution).__name__} is not a distribution that can be searched")
