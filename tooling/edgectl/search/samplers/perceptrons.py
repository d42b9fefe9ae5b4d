"""An ensemble of small multilayer perceptrons, trained as one batch of matrices: a mean, and how far it can be trusted."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from threadpoolctl import threadpool_limits

Array = npt.NDArray[np.float64]
_Floats = npt.NDArray[np.float32]

_HIDDEN = 32
_STEPS = 200
_RATE, _MOMENTS, _DECAY = 0.01, (0.9, 0.99), 0.05


class Ensemble:
    """Perceptrons [features] -> 32 tanh -> 32 tanh -> 1, each fitted on a bootstrap of the rows.

    Full batch, squared error, Adam with decoupled decay of the weights (Loshchilov and Hutter, ICLR 2019). On one thread: of
    matrices so small, threads only wait for each other.

    Args:
        rows, targets: [n, features], [n].
        members: perceptrons.
    """

    def __init__(self, rows: Array, targets: Array, members: int, chance: Generator) -> None:
        self._middle, self._scale = rows.mean(axis=0), rows.std(axis=0) + 1e-3
        self._level, self._unit = float(targets.mean()), float(targets.std()) + 1e-9
        y = ((targets - self._level) / self._unit).astype(np.float32)
        drawn = chance.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=members)
        sizes = (rows.shape[1], _HIDDEN, _HIDDEN, 1)
        shapes = [(members, *shape) for i, o in itertools.pairwise(sizes) for shape in ((i, o), (1, o))]
        self._all = np.empty(sum(map(np.prod, shapes)), np.float32)
        self._parts = _split(self._all, shapes)
        for weight, bias in zip(self._parts[::2], self._parts[1::2], strict=True):
            weight[:] = chance.standard_normal(weight.shape) / np.sqrt(weight.shape[1])
            bias[:] = 0
        with threadpool_limits(1, "blas"):
            self._fit(self._inputs(rows), y, (drawn / len(rows)).astype(np.float32))

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation over the members, [n] each, in the targets' unit."""
        with threadpool_limits(1, "blas"):
            found = self._forward(self._inputs(rows))[-1][..., 0].astype(np.float64)
        return found.mean(axis=0) * self._unit + self._level, found.std(axis=0) * self._unit

    def _inputs(self, rows: Array) -> _Floats:
        return ((rows - self._middle) / self._scale).astype(np.float32)

    def _forward(self, x: _Floats) -> tuple[_Floats, _Floats, _Floats]:
        """Both hidden layers and the outputs, [members, n, width] each."""
        w1, b1, w2, b2, w3, b3 = self._parts
        first = np.tanh(x @ w1 + b1)
        second = np.tanh(first @ w2 + b2)
        return first, second, second @ w3 + b3

    def _fit(self, x: _Floats, y: _Floats, weight: _Floats) -> None:
        """Adam on sum_n weight[m, n] (output[m, n] - y[n])^2 of each member m."""
        w2, w3 = self._parts[2], self._parts[4]
        slope, mean, square = (np.zeros_like(self._all) for _ in range(3))
        slopes = _split(slope, [part.shape for part in self._parts])
        for step in range(1, _STEPS + 1):
            first, second, output = self._forward(x)
            wrong = 2 * weight[..., None] * (output - y[:, None])
            at_second = (wrong @ w3.swapaxes(1, 2)) * (1 - second * second)
            at_first = (at_second @ w2.swapaxes(1, 2)) * (1 - first * first)
            for i, (below, above) in enumerate(((x, at_first), (first, at_second), (second, wrong))):
                np.matmul(below.swapaxes(-1, -2), above, out=slopes[2 * i])
                above.sum(axis=1, keepdims=True, out=slopes[2 * i + 1])
            mean += (1 - _MOMENTS[0]) * (slope - mean)
            square += (1 - _MOMENTS[1]) * (slope * slope - square)
            corrected = mean / (1 - _MOMENTS[0] ** step), square / (1 - _MOMENTS[1] ** step)
            self._all -= _RATE * (corrected[0] / (np.sqrt(corrected[1]) + 1e-8) + _DECAY * self._all)


def _split(flat: _Floats, shapes: list[tuple[int, ...]]) -> list[_Floats]:
    """Views of a vector, one after the other."""
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
