"""What training calls to compress a model while it learns; pruning and quantisation each are one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Phases:
    """Of `steps` optimiser steps the first `search` look for zeros or levels, and the rest retrain what was found.

    `refresh`: steps between two updates of duals, weights of groups, masks or scales.
    """

    steps: int
    search: int
    refresh: int


class Strategy(Protocol):
    """Changes a model in place while it is trained. Everything it knows is in its state, so that training resumes exactly."""

    def penalty(self) -> Tensor:
        """A scalar to add to the loss of the next step, 0 where there is none."""

    def update(self, step: int) -> None:
        """After optimiser step number `step`, from 1 on: duals, masks, scales; zeros are exactly zero when it returns."""

    def facts(self) -> dict[str, float]:
        """Figures to log, by name, such as the primal residual of ADMM."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that `torch.load(..., weights_only=True)` takes; what the model itself holds is left out."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, on a strategy made from the same model and options."""
