"""Quantised weights as torch parametrisations: one object for quantising a trained model, training it on, and lowering it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgectl.compress.codebooks import codebook
from edgectl.compress.layers import assign, check_weight, prunable_layers, swap_filters, trained_weight
from edgectl.compress.quantizers import SP2_ROWS, Quantised, ScalePer, fit_scales, project, row_schemes
from edgectl.errors import UserError


class Rule(Protocol):
    """What a rule for weights says; `[[quant]]` of a recipe has this form."""

    @property
    def match(self) -> str:
        """Glob on module paths, such as `body.*.conv`."""

    @property
    def weights(self) -> str:
        """One of `quantizers.WEIGHTS`."""

    @property
    def bits(self) -> int:
        """2 to 8."""

    @property
    def sp2_rows(self) -> float | list[int]:
        """Of msq: the fraction of rows that are SP2, or their indices."""

    @property
    def scale(self) -> ScalePer:
        """One scale for each row or one for the layer."""


class CodebookWeight(nn.Module):
    """Projects a weight onto its codebooks; gradients pass as if it did not (straight-through estimator).

    Scales and, for msq, the SP2 rows are decided when it is made and when `refit` is called, and are buffers. Zeros stay
    zero, so pruning masks hold.

    Args:
        weight: the weight as the layer stores it, float32.
        weights, bits, sp2_rows, scale: see `quantizers.quantise`.
        transposed_groups: groups of a transposed convolution, 0 for every other layer.

    Raises:
        UserError: see `quantizers.quantise`.
    """

    scales: Tensor
    is_sp2: Tensor

    def __init__(
        self,
        weight: Tensor,
        weights: str,
        bits: int,
        *,
        sp2_rows: float | Sequence[int] = SP2_ROWS,
        scale: ScalePer = "row",
        transposed_groups: int = 0,
    ) -> None:
        super().__init__()
        self.weights, self.bits, self.scale = weights, bits, scale
        self.projects = True  # while it is false the weight passes as it is
        self._sp2_rows = sp2_rows
        self._transposed_groups = transposed_groups
        schemes = row_schemes(self._swap(weight), weights, bits, sp2_rows)
        self.register_buffer("is_sp2", torch.tensor([scheme == "sp2" for scheme in schemes], device=weight.device))
        self.register_buffer("scales", fit_scales(self._swap(weight), schemes, bits, scale))

    @property
    def schemes(self) -> tuple[str, ...]:
        """The codebook's name of every row."""
        other = "fixed" if self.weights == "msq" else self.weights
        return tuple("sp2" if is_sp2 else other for is_sp2 in self.is_sp2.tolist())

    def quantised(self, weight: Tensor) -> Quantised:
        """The weight (as stored) in codes and scales, filters first."""
        return project(self._swap(weight.detach()), self.scales, self.schemes, self.bits)

    def forward(self, weight: Tensor) -> Tensor:
        """The projected weight, as stored."""
        return self.straight_through(weight) if self.projects else weight

    def straight_through(self, weight: Tensor) -> Tensor:
        """The projected weight, as stored, with the gradient of the weight itself."""
        projected: Tensor = _StraightThrough.apply(weight, self._swap(self.quantised(weight).weight()))
        return projected

    @torch.no_grad()
    def refit(self, weight: Tensor, *, rows: bool = False) -> None:
        """Decides the scales anew for a weight as stored, and with `rows` also which rows of msq are SP2."""
        weight = self._swap(weight.detach())
        if rows and not isinstance(self._sp2_rows, Sequence):
            schemes = row_schemes(weight, self.weights, self.bits, self._sp2_rows)
            self.is_sp2.copy_(torch.tensor([scheme == "sp2" for scheme in schemes]))
        self.scales.copy_(fit_scales(weight, self.schemes, self.bits, self.scale))

    def _swap(self, weight: Tensor) -> Tensor:
        """As stored -> filters first and back."""
        return swap_filters(weight, self._transposed_groups) if self._transposed_groups else weight


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weight: Tensor, projected: Tensor) -> Tensor:
        del ctx, weight
        return projected

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


def attach(model: nn.Module, rules: Sequence[Rule]) -> dict[str, CodebookWeight]:
    """Puts the weights of a model's layers under codebooks, in place. Of several rules for one layer the last one holds.

    Training goes on with the trained weights in `layer.parametrizations.weight.original`; `torch.nn.utils.parametrize.
    remove_parametrizations(layer, "weight")` leaves the quantised ones.

    Returns:
        Module path -> parametrisation, of every layer that a rule matches.

    Raises:
        UserError: a glob matches no layer, a rule's codebook, bits or rows are wrong, a weight is parametrised already or
            not finite. The model is then unchanged.
    """
    made = {}
    chosen = assign(prunable_layers(model), rules, "quantisation")
    for rule in rules:
        codebook("fixed" if rule.weights == "msq" else rule.weights, rule.bits)
    for path, (layer, rule) in chosen.items():
        check_weight(path, layer, "quantising")
        groups = layer.groups if isinstance(layer, nn.ConvTranspose2d) else 0
        try:
            made[path] = CodebookWeight(
                layer.weight.detach(),
                rule.weights,
                rule.bits,
                sp2_rows=rule.sp2_rows,
                scale=rule.scale,
                transposed_groups=groups,
            )
        except UserError as error:
            raise UserError(f"Layer {path} cannot be quantised: {error}") from error
    for path, parametrization in made.items():
        parametrize.register_parametrization(chosen[path][0], "weight", parametrization)
    return made


def refit(model: nn.Module, *, rows: bool = False) -> None:
    """Decides the scales of all attached codebooks anew, with `rows` also the rows of msq: once an epoch, in the paper."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            for parametrization in module.get_submodule("parametrizations.weight").children():
                if isinstance(parametrization, CodebookWeight):
                    parametrization.refit(trained_weight(module), rows=rows)
