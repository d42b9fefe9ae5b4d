"""Batches that depend on the seed and the step alone, made ahead of time by threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from edgectl.errors import UserError
from edgectl.tasks.task import Examples

_AHEAD = 2  # batches that each thread may be in front


@dataclass(frozen=True)
class Order:
    """Which examples make up each step: a new permutation every epoch, a last incomplete batch left out.

    Attributes:
        examples: of an epoch.
        batch: examples of a step, on all ranks together; no more than there are examples.
        seed: of permutations and augmentation.
        rank, world: this process, and how many there are.
    """

    examples: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise UserError(f"A batch of {self.batch} cannot be shared by {self.world} processes: choose a multiple of them.")

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return max(1, self.examples // self.batch)

    def steps(self, epochs: float) -> int:
        """Steps of so many epochs, at least one."""
        return max(1, math.ceil(self.steps_per_epoch * epochs))

    def of(self, step: int) -> tuple[np.ndarray, np.random.Generator]:
        """(the examples of this rank at a step from 0 on, int64; the generator that augments them)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.examples)
        each = self.batch // self.world
        chosen = np.resize(order[place * self.batch : (place + 1) * self.batch], self.batch)
        return chosen[self.rank * each : (self.rank + 1) * each], np.random.default_rng([self.seed, 1, step, self.rank])


def batches(examples: Examples, order: Order, first: int, last: int, workers: int) -> Iterator[tuple[Tensor, Any]]:
    """The batches of steps `first` to `last` - 1, in order, made by `workers` threads."""

    def made(step: int) -> tuple[Tensor, Any]:
        indices, generator = order.of(step)
        return examples.batch(indices.tolist(), generator)

    pending: deque[Future[tuple[Tensor, Any]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        for step in range(first, last + workers * _AHEAD):
            if step < last:
                pending.append(pool.submit(made, step))
            if len(pending) > workers * _AHEAD or (step >= last and pending):
                yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
