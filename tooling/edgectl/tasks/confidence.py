"""Confidence intervals of scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson, 1927), both ends in [0, 1].

    Args:
        successes: of `count` trials, at least one.
        count: independent trials.
    """
    share, z2 = successes / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * (share * (1 - share) / count + z2 / (4 * count**2)) ** 0.5
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, resamples: int) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over resampled examples (Efron, 1979); the same at every call.

    Args:
        statistic: of the examples with these indices, [count] of int64, some more than once, some not at all.
        count: examples.
        resamples: how often to draw.
    """
    generator = np.random.default_rng(0)
    values = [statistic(generator.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
