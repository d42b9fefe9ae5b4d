"""What is to be proved: a box of inputs, and the outputs that none of them may give; and robustness around samples as such."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgectl.errors import UserError


@dataclass(frozen=True, eq=False)
class Clause:
    """Outputs that must not be: all `y` with `rows @ y <= bound`.

    Attributes:
        rows: float64 `[r, m]` for m outputs, r >= 1.
        bound: float64 `[r]`.
    """

    rows: Tensor
    bound: Tensor

    def holds(self, output: Tensor) -> bool:
        """Whether an output, `[m]` or of any shape with m elements, is one of them."""
        return bool((self.rows @ output.reshape(-1).to(torch.float64) <= self.bound).all())


@dataclass(frozen=True, eq=False)
class Property:
    """No input x with `lower <= x <= upper` gives an output for which any of the clauses holds.

    Attributes:
        name: what a person knows it by.
        lower: float64 `[n]` for n inputs, in row-major order of the network's input.
        upper: the same; nowhere below `lower`.
        clauses: at least one.
    """

    name: str
    lower: Tensor
    upper: Tensor
    clauses: tuple[Clause, ...]

    def violated(self, output: Tensor) -> bool:
        """Whether an output is one that must not be."""
        return any(clause.holds(output) for clause in self.clauses)


def check_sizes(properties: Sequence[Property], inputs: int, outputs: int, name: str) -> None:
    """Checks that properties are about so many inputs and outputs; `name` is whose they are.

    Raises:
        UserError: they are not.
    """
    for prop in properties:
        for what, have, want in (("input", prop.lower.numel(), inputs), ("output", prop.clauses[0].rows.shape[1], outputs)):
            if have != want:
                raise UserError(f"{name} is about {have} {what}s, but the model has {want}: they do not belong together.")


def robustness(name: str, sample: Tensor, label: int, outputs: int, eps: float, span: tuple[float, float]) -> Property:
    """Robustness in the L-infinity ball: output `label` is the largest for x with |x - sample| <= eps in `span`.

    Args:
        name: what a person knows it by.
        sample: the centre, any shape; all its values in `span`.
        label: which output must be the largest.
        outputs: how many there are, at least 2.
        eps: radius, in units of the sample's values.
        span: the smallest and largest value that an input may have.

    Raises:
        UserError: eps is negative or no number, or there is no such output.
    """
    check_eps(eps)
    if not 0 <= label < outputs:
        raise UserError(f"{name} has the label {label}, but the model has outputs 0 to {outputs - 1}.")
    centre = sample.reshape(-1).to(torch.float64)
    lower, upper = ((centre + step).clamp(*span) for step in (-eps, eps))
    zero = torch.zeros(1, dtype=torch.float64)
    margins = torch.eye(outputs, dtype=torch.float64)[label] - torch.eye(outputs, dtype=torch.float64)
    clauses = tuple(Clause(margins[other : other + 1], zero) for other in range(outputs) if other != label)
    return Property(name, lower, upper, clauses)


def check_eps(eps: float) -> None:
    """Raises UserError for a radius that is negative or no number."""
    if not (math.isfinite(eps) and eps >= 0):
        raise UserError(f"The radius --eps must be a number from 0 on, not {eps}.")
