"""An ensemble of small multilayer perceptrons, trained as one batch of matrices: a mean, and how far it can be trusted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from torch import Tensor

Array = npt.NDArray[np.float64]

_HIDDEN = 32
_STEPS = 250
_RATE = 0.02
_DECAY = 1e-2


class Ensemble:
    """Perceptrons [features] -> 1, each fitted on a bootstrap of the rows: full batch, squared error, AdamW.

    Args:
        rows, targets: [n, features], [n].
        members: perceptrons.
    """

    def __init__(self, rows: Array, targets: Array, members: int, chance: Generator) -> None:
        self._middle, self._scale = rows.mean(axis=0), rows.std(axis=0) + 1e-3
        self._level, self._unit = float(targets.mean()), float(targets.std()) + 1e-9
        x, y = self._inputs(rows), torch.from_numpy((targets - self._level) / self._unit).float()
        drawn = chance.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=members)
        weight = torch.from_numpy(drawn).float() / len(rows)
        generator = torch.Generator().manual_seed(int(chance.integers(1 << 62)))
        sizes = (rows.shape[1], _HIDDEN, _HIDDEN, 1)
        self._layers = [_layer(members, *ends, generator) for ends in itertools.pairwise(sizes)]
        parameters = [tensor for layer in self._layers for tensor in layer]
        optimiser = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
        with torch.enable_grad(), _one_thread():
            for _ in range(_STEPS):
                optimiser.zero_grad()
                (weight * (self._forward(x) - y).square()).sum().backward()
                optimiser.step()

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation over the members, [n] each, in the targets' unit."""
        with torch.no_grad(), _one_thread():
            found = self._forward(self._inputs(rows)).double().numpy()
        return found.mean(axis=0) * self._unit + self._level, found.std(axis=0) * self._unit

    def _inputs(self, rows: Array) -> Tensor:
        return torch.from_numpy((rows - self._middle) / self._scale).float()

    def _forward(self, x: Tensor) -> Tensor:
        """[n, features] -> [members, n]."""
        y = x.expand(self._layers[0][0].shape[0], *x.shape)
        for i, (weight, bias) in enumerate(self._layers):
            y = torch.baddbmm(bias, y, weight)
            if i + 1 < len(self._layers):
                y = torch.nn.functional.silu(y)
        return y[..., 0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Of matrices so small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _layer(members: int, inputs: int, outputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    weight = torch.randn(members, inputs, outputs, generator=generator) * math.sqrt(2 / inputs)
    return weight.requires_grad_(), torch.zeros(members, 1, outputs, requires_grad=True)
