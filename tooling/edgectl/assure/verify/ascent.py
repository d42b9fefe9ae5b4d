"""Ascent on the multipliers of bounds: alpha-CROWN and beta-CROWN without autograd.

No autograd: the bound is linear in each multiplier with the minimiser `x* = x0 - r sign(A_x)` held, so its gradient needs one
forward pass of `x*` through the same `D` and `p`: d/d alpha = max(A, 0) z*, d/d beta = S z*, d/d gamma = row . y* - threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgectl.assure.verify.bounds import Picked, Relaxation, Rows


@dataclass(eq=False)
class Multipliers:
    """What is optimised, a column a problem: alpha `[U + 1, N]`, with splits beta `[D, N]`, with rows gamma `[m, N]`."""

    alpha: Tensor
    beta: Tensor | None = None
    gamma: Tensor | None = None

    def columns(self, keep: Tensor) -> Multipliers:
        """The multipliers of some problems."""
        beta, gamma = (None if t is None else t[:, keep] for t in (self.beta, self.gamma))
        return Multipliers(self.alpha[:, keep], beta, gamma)

    def to(self, dtype: torch.dtype) -> Multipliers:
        """A copy in another floating type."""
        beta, gamma = (None if t is None else t.to(dtype) for t in (self.beta, self.gamma))
        return Multipliers(self.alpha.to(dtype), beta, gamma)

    def store(self, part: Multipliers, columns: Tensor) -> None:
        """Overwrite some problems' multipliers."""
        self.alpha[:, columns] = part.alpha
        if self.beta is not None and part.beta is not None:
            self.beta[:, columns] = part.beta
        if self.gamma is not None and part.gamma is not None:
            self.gamma[:, columns] = part.gamma


class Adam:
    """Gradient ascent with Adam's step (arXiv 1412.6980), its rate `decay` of the last at every step."""

    def __init__(self, rate: float, decay: float) -> None:
        self.rate, self.decay, self.steps = rate, decay, 0
        self.mean, self.square = torch.empty(0), torch.empty(0)

    def step(self, value: Tensor, gradient: Tensor) -> None:
        """Move `value` up `gradient`, in place; the caller projects."""
        if self.steps == 0:
            self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)
        self.steps += 1
        self.mean.lerp_(gradient, 1 - 0.9)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        root = self.square.sqrt().mul_((1 - 0.999**self.steps) ** -0.5).add_(1e-8)
        value.addcdiv_(self.mean, root, value=self.rate * self.decay**self.steps / (1 - 0.9**self.steps))

    def keep(self, columns: Tensor) -> None:
        """Forget the other columns."""
        if self.steps:
            self.mean, self.square = self.mean[:, columns], self.square[:, columns]


@dataclass(frozen=True)
class Rates:
    """Steps of the optimiser and how far each moves a multiplier at first, and what of that is left a step later."""

    steps: int = 20
    alpha: float = 0.1
    beta: float = 0.1
    gamma: float = 0.1
    decay: float = 0.98


class Problem:
    """The objectives of a relaxation's N problems and the ascent on their multipliers.

    Either `picked` neurons of a layer (alpha-CROWN for intermediate bounds), or the property's rows (`picked` None), each
    problem a convex combination of the rows that `allowed` `[m, N]` gives it.  With both, the rows narrow the neurons' reach.
    """

    def __init__(
        self, relaxation: Relaxation, rows: Rows | None, allowed: Tensor | None = None, picked: Picked | None = None
    ) -> None:
        self.relaxation, self.rows, self.allowed, self.picked = relaxation, rows, allowed, picked
        self.mixed = rows is not None and (picked is not None or bool((allowed.sum(0) > 1).any()))  # type: ignore[union-attr]

    def first(self) -> Multipliers:
        """CROWN's slopes, no split multipliers, equal weights of the rows (none where they only constrain)."""
        gamma = None
        if self.allowed is not None:
            gamma = torch.zeros_like(self.allowed) if self.picked is not None else self.allowed / self.allowed.sum(0)
        splits = self.relaxation.splits
        return Multipliers(self.relaxation.start(), None if splits is None else torch.zeros_like(splits.sign), gamma)

    def bound(self, at: Multipliers) -> Tensor:
        """Lower bounds `[N]`."""
        inject: dict[int, Tensor] = {}
        constant: Tensor | float = 0.0
        if self.rows is not None and at.gamma is not None:
            inject[len(self.relaxation.network.layers) - 1] = self.rows.matrix.t() @ at.gamma
            constant = (at.gamma * self.rows.threshold).sum(0)
        return self.relaxation.backward(inject, self.picked, at.alpha, at.beta) - constant

    def columns(self, keep: Tensor) -> Problem:
        """Some of the problems."""
        allowed = None if self.allowed is None else self.allowed[:, keep]
        picked = None if self.picked is None else self.picked.keep(keep)
        return Problem(self.relaxation.keep(keep), self.rows, allowed, picked)

    def split(self, at: Multipliers, row: Tensor, sign: Tensor) -> tuple[Problem, Multipliers]:
        """Every problem with one neuron more fixed, rows `[N]` and signs `[N]`, and copies of its multipliers (new betas 0)."""
        child = Problem(self.relaxation.split(row, sign), self.rows, self.allowed, self.picked)
        beta = torch.zeros_like(sign)[None] if at.beta is None else torch.cat((at.beta, torch.zeros_like(sign)[None]))
        return child, Multipliers(at.alpha.clone(), beta, None if at.gamma is None else at.gamma.clone())

    def gradient(self, at: Multipliers) -> Multipliers:
        """Derivatives of the bounds at the multipliers of the last `bound`."""
        of = self.relaxation
        results = of.minimiser(of.top)
        alpha = of.a.clamp(min=0).mul_(of.z)
        beta = None if at.beta is None or of.splits is None else of.z.gather(0, of.splits.row) * of.splits.sign
        gamma = None
        if self.mixed and self.rows is not None:
            gamma = self.rows.matrix @ of.network.affine(of.network.layers[-1], results) - self.rows.threshold
        return Multipliers(alpha, beta, gamma)

    def project(self, at: Multipliers) -> None:
        """Put multipliers back where every bound is sound."""
        at.alpha.clamp_(0, 1)
        if at.beta is not None:
            at.beta.clamp_(min=0)
        if self.mixed and at.gamma is not None and self.allowed is not None:
            at.gamma.clamp_(min=0).mul_(self.allowed)
            if self.picked is None:
                total = at.gamma.sum(0)
                at.gamma.copy_(torch.where(total > 0, at.gamma / total, self.allowed / self.allowed.sum(0)))

    def ascend(self, at: Multipliers, rates: Rates, target: float = float("inf")) -> Tensor:
        """Best lower bounds `[N]` over `rates.steps` steps of Adam from `at`; `at` ends where the steps did.

        A problem whose bound exceeds `target` takes no further part: `at` holds the multipliers that gave that bound.
        """
        problem, moving = self, at.columns(torch.arange(self.relaxation.columns, device=at.alpha.device))
        live = torch.arange(self.relaxation.columns, device=at.alpha.device)
        best = problem.bound(moving)
        done = best > target
        at.store(moving.columns(done), live[done])
        ascent = [Adam(rate, rates.decay) for rate in (rates.alpha, rates.beta, rates.gamma)]
        for _ in range(rates.steps):
            if done.all():
                return best
            if int(done.sum()) * 4 > len(done):
                left = ~done
                problem, moving, live, done = problem.columns(left), moving.columns(left), live[left], done[left]
                for each in ascent:
                    each.keep(left)
                problem.bound(moving)
            slopes = problem.gradient(moving)
            ascent[0].step(moving.alpha, slopes.alpha)
            if moving.beta is not None and slopes.beta is not None:
                ascent[1].step(moving.beta, slopes.beta)
            if moving.gamma is not None and slopes.gamma is not None:
                ascent[2].step(moving.gamma, slopes.gamma)
            problem.project(moving)
            bound = problem.bound(moving)
            best[live] = torch.where(done, best[live], torch.maximum(best[live], bound))
            fresh = (bound > target) & ~done
            at.store(moving.columns(fresh), live[fresh])
            done |= fresh
        at.store(moving.columns(~done), live[~done])
        return best
