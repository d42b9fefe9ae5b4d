"""What a task gives to training and evaluation: examples, a loss, and a score with its confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

Output = Tensor | Sequence[Tensor]
Predict = Callable[[Tensor], Output]
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Score:
    """How good a model is on a test set.

    Attributes:
        metric: its name, such as `top-1 accuracy`.
        unit: `%` or `dB`.
        value: in that unit; larger is better.
        interval: of 95 % confidence in the same unit, or None where none is meaningful.
        count: test examples.
        details: more figures by name: per image, per class, other metrics.
    """

    metric: str
    unit: str
    value: float
    interval: tuple[float, float] | None
    count: int
    details: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        interval = f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})" if self.interval else ""
        return f"{self.metric} {self.value:.2f} {self.unit}{interval}, {self.count} examples"


class Examples(Protocol):
    """Training examples."""

    def __len__(self) -> int:
        """How many examples are one epoch."""

    def batch(self, indices: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, Any]:
        """Inputs float32 [N, C, H, W] and targets, augmented by `generator` alone; safe to call from several threads."""


class Task(Protocol):
    """Data, loss and metric of what a model is for. Every method raises UserError for data that a user can mend."""

    def examples(self, data: Path, progress: Progress) -> Examples:
        """The training examples under `data`."""

    def loss(self, output: Any, target: Any) -> Tensor:
        """The scalar to minimise, a mean over the batch."""

    def distillation(self, output: Any, teacher: Any) -> Tensor:
        """The scalar that pulls a student's output towards its teacher's for the same input."""

    def score(self, predict: Predict, data: Path, *, fixed: Sequence[int] | None = None, progress: Progress) -> Score:
        """Scores a model on the test examples under `data`.

        Args:
            predict: float32 inputs [N, C, H, W] -> the model's output; it may be a deployed artifact.
            data: the folder or file of the task's layout.
            fixed: [N, C, H, W] where `predict` takes at most N inputs at once, of just this size, as of an artifact; None where
                it takes any.
            progress: called with a message and the fraction done.
        """
