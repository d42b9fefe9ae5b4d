"""One-shot magnitude pruning of a model by rules that map globs on module paths to schemes, and masks that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgectl.compress.schemes import SCHEMES, SchemeConfig, SchemeError, natural_patterns
from edgectl.errors import UserError

Prunable = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
PRUNABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Rule(Protocol):
    """What a pruning rule says; `[[prune]]` of a recipe has this form."""

    @property
    def match(self) -> str:
        """Glob on module paths, such as `body.*.conv`."""

    @property
    def scheme(self) -> str:
        """A name in `SCHEMES`."""

    @property
    def rate(self) -> float:
        """Weights / weights kept."""

    @property
    def block(self) -> tuple[int, int] | None:
        """(filters, channels) pruned together, or None for the scheme's default."""

    @property
    def connectivity(self) -> float | None:
        """Kernels / kernels kept of the pattern scheme, or None."""


def prunable_layers(model: nn.Module) -> dict[str, Prunable]:
    """Module path -> layer, for every convolution, transposed convolution and linear layer, in the model's order."""
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, PRUNABLE)}


def filters_first(layer: Prunable) -> Tensor:
    """A layer's weight as [F, C, kh, kw] (schemes.py), detached."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight[:, :, None, None]
    return _swap(weight, layer.groups) if isinstance(layer, nn.ConvTranspose2d) else weight


def as_stored(layer: Prunable, mask: Tensor) -> Tensor:
    """The inverse of `filters_first` for a mask: the shape of `layer.weight`."""
    if isinstance(layer, nn.ConvTranspose2d):
        mask = _swap(mask, layer.groups)
    return mask.reshape(layer.weight.shape)


def _swap(tensor: Tensor, groups: int) -> Tensor:
    """[A, B, kh, kw] -> [B*groups, A/groups, kh, kw]; inputs and outputs of every group swap; its own inverse."""
    first, second, *kernel = tensor.shape
    swapped = tensor.reshape(groups, first // groups, second, *kernel).transpose(1, 2)
    return swapped.reshape(groups * second, first // groups, *kernel)


def prune_oneshot(model: nn.Module, rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Prunes a model in place, by magnitude and without data. Of several rules for one layer the last one holds.

    All `pattern` layers share one library of patterns, the most frequent natural patterns over them.

    Returns:
        Module path -> bool mask (True where the weight is kept), of every layer that a rule matches.

    Raises:
        UserError: a glob matches no layer, a rate is outside [1, number of weights), a scheme is unknown or cannot be
            applied to a layer, a rule's block or connectivity is wrong or not its scheme's, or a weight is not finite.
            The model is then unchanged.
    """
    chosen = _assign(prunable_layers(model), rules)
    weights = {path: filters_first(layer) for path, (layer, _) in chosen.items()}
    for path, (layer, rule) in chosen.items():
        _check_layer(path, layer, rule)
    shared = [weights[path] for path, (_, rule) in chosen.items() if rule.scheme == "pattern"]
    library = natural_patterns(weight for weight in shared if weight.shape[2:] == (3, 3)) if shared else None
    masks = {}
    for path, (layer, rule) in chosen.items():
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        config = SchemeConfig(rule.block and (rule.block[0], rule.block[1]), rule.connectivity, library, groups)
        try:
            mask = SCHEMES[rule.scheme](weights[path], rule.rate, config)
        except SchemeError as error:
            raise UserError(f"Layer {path} cannot be pruned: {error}.") from error
        masks[path] = as_stored(layer, mask)
    apply_masks(model, masks)
    return masks


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets every weight outside its mask to exactly zero, in place: call it after each optimiser step of fine-tuning.

    Args:
        model: the pruned model.
        masks: module path -> bool mask of the shape of that module's weight.
    """
    with torch.no_grad():
        for path, mask in masks.items():
            weight = model.get_submodule(path).weight
            assert isinstance(weight, Tensor)
            weight.masked_fill_(~mask, 0.0)


def _assign(layers: Mapping[str, Prunable], rules: Sequence[Rule]) -> dict[str, tuple[Prunable, Rule]]:
    """Module path -> (layer, the last rule that matches it)."""
    chosen: dict[str, tuple[Prunable, Rule]] = {}
    for rule in rules:
        matched = [path for path in layers if fnmatchcase(path, rule.match)]
        if not matched:
            some = ", ".join(list(layers)[:4]) or "none at all"
            raise UserError(f"The pruning rule for {rule.match!r} matches no layer: the model has {some}, ...")
        _check_rule(rule)
        chosen.update({path: (layers[path], rule) for path in matched})
    return {path: chosen[path] for path in layers if path in chosen}


def _check_rule(rule: Rule) -> None:
    """Raises UserError where the rule cannot hold for any layer."""
    if rule.scheme not in SCHEMES:
        raise UserError(f"Unknown pruning scheme {rule.scheme!r}: choose one of {', '.join(SCHEMES)}.")
    if not 1 <= rule.rate < math.inf:
        raise UserError(_rate_message(rule, "[1, number of weights)"))
    if rule.block is not None and (len(rule.block) != 2 or min(rule.block) < 1):
        raise UserError(f"Block {list(rule.block)} of {rule.match!r} is wrong: give [filters, channels], 1 or more.")
    for option, value, schemes in (
        ("block", rule.block, ("block_punched", "block_column")),
        ("connectivity", rule.connectivity, ("pattern",)),
    ):
        if value is not None and rule.scheme not in schemes:
            raise UserError(f"The rule for {rule.match!r} sets {option}, which is for {' and '.join(schemes)}: remove it.")


def _check_layer(path: str, layer: Prunable, rule: Rule) -> None:
    """Raises UserError where the rule cannot hold for this layer whatever the scheme."""
    if parametrize.is_parametrized(layer, "weight"):
        raise UserError(f"The weight of layer {path} is parametrised: remove its parametrisation before pruning.")
    weights = layer.weight.numel()
    if rule.rate >= weights:
        raise UserError(_rate_message(rule, f"[1, {weights}), {weights} being the number of weights of layer {path}"))
    if not torch.isfinite(layer.weight).all():
        raise UserError(f"Layer {path} has weights that are not finite numbers: load trained weights before pruning.")


def _rate_message(rule: Rule, interval: str) -> str:
    return f"Pruning rate {rule.rate:g} of {rule.match!r} is outside {interval}: choose a rate in that range."
