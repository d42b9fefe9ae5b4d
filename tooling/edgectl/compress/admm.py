"""ADMM for weights that have to lie in a set that is not convex: sparse by a scheme, or on levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgectl.compress.strategy import Phases

RHO_RANGE = 1000
"""Last over first rho."""
RHO_RISES = 0.6
"""The fraction of the search in which rho rises; after it, rho stays and the weights settle."""

Weights = Mapping[str, Tensor]
Projection = Callable[[Weights, Weights | None], Weights]


class Admm:
    """Copies Z and scaled duals U of weights W, and the penalty sum_l rho/2 ||W_l - Z_l + U_l||^2.

    At every refresh Z <- Pi(W + U), U <- U + W - Z. rho rises geometrically at refreshes, and U, which is the dual over rho, is
    scaled down with it (Boyd et al., "Distributed optimization and statistical learning via ADMM", 2011, section 3.4.1).

    When rho is at its last, the set is narrowed to its part around Z (one support, one codebook) and U is dropped: supports of
    W + U go in cycles otherwise. As gradients do not vanish on the set, and grow where weights before batch norm shrink, W
    is then also taken to Z by proximal steps: W <- Z + (1 - t^4)^2 (W - Z) after each step, Z = Pi(W), t from 0 to nearly 1.

    Args:
        weights: name -> W at the start.
        project: Pi, from name -> tensor to name -> tensor; its second argument is Z where the set is that around Z, else None.
        rho: its last value.
        phases: rho rises in `phases.search`.
    """

    def __init__(self, weights: Weights, project: Projection, rho: float, phases: Phases) -> None:
        self._project, self._last_rho, self._phases = project, rho, phases
        self._rho = self._rho_at(0)
        self._z = dict(project({name: weight.detach() for name, weight in weights.items()}, None))
        self._u = {name: torch.zeros_like(z) for name, z in self._z.items()}

    def penalty(self, weights: Weights) -> Tensor:
        """A scalar."""
        squares = [(weight - self._z[name] + self._u[name]).square().sum() for name, weight in weights.items()]
        return self._rho / 2 * torch.stack(squares).sum()

    @torch.no_grad()
    def update(self, step: int, weights: Weights) -> None:
        """After optimiser step number `step`: Z, U and rho where it is a refresh; W in place where it settles."""
        begin = RHO_RISES * self._phases.search
        if self._rho >= self._last_rho:
            t = min(1.0, (step - begin) / (self._phases.search + 1 - begin))
            self._z = dict(self._project({name: weight.detach() for name, weight in weights.items()}, self._z))
            for name, weight in weights.items():
                weight.lerp_(self._z[name], 1 - (1 - t**4) ** 2)
        elif step % self._phases.refresh == 0 or step >= begin:
            sums = {name: weight.detach() + self._u[name] for name, weight in weights.items()}
            self._z = dict(self._project(sums, None))
            before, self._rho = self._rho, self._rho_at(step)
            dual = 0.0 if self._rho >= self._last_rho else before / self._rho
            self._u = {name: (total - self._z[name]) * dual for name, total in sums.items()}

    @torch.no_grad()
    def residual(self, weights: Weights) -> float:
        """The primal residual ||W - Z|| / ||W|| over all weights."""
        apart = sum(float((weight - self._z[name]).double().square().sum()) for name, weight in weights.items())
        return float((apart / max(sum(float(w.detach().double().square().sum()) for w in weights.values()), 1e-300)) ** 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Z, U and rho."""
        return {"z": self._z, "u": self._u, "rho": self._rho}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self._z, self._u = (
            {name: tensor.to(self._z[name].device) for name, tensor in state[part].items()} for part in ("z", "u")
        )
        self._rho = state["rho"]

    def _rho_at(self, step: int) -> float:
        risen = min(1.0, step / (RHO_RISES * self._phases.search)) if self._phases.search else 1.0
        return float(self._last_rho * RHO_RANGE ** (risen - 1))
