"""One-shot magnitude pruning of a model by rules that map globs on module paths to schemes, and masks that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from edgectl.compress.layers import Prunable, as_stored, assign, check_weight, filters_first, prunable_layers, trained_weight
from edgectl.compress.schemes import SCHEMES, SchemeConfig, SchemeError, natural_patterns
from edgectl.errors import UserError


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
    chosen = choose(model, rules)
    masks = find_masks(chosen, {path: layer.weight for path, (layer, _) in chosen.items()})
    apply_masks(model, masks)
    return masks


def choose(model: nn.Module, rules: Sequence[Rule]) -> dict[str, tuple[Prunable, Rule]]:
    """Module path -> (layer, the last rule that matches it). Raises UserError as `prune_oneshot`, but for schemes."""
    chosen = assign(prunable_layers(model), rules, "pruning")
    for rule in rules:
        _check_rule(rule)
    for path, (layer, rule) in chosen.items():
        _check_layer(path, layer, rule)
    return chosen


def find_masks(
    chosen: Mapping[str, tuple[Prunable, Rule]], weights: Mapping[str, Tensor], rates: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Module path -> bool mask by the schemes of layers and rules (`choose`).

    Args:
        chosen: module path -> (layer, rule).
        weights: module path -> what is ranked, stored as the layer stores its weight.
        rates: module path -> rate, in place of the rules'. Where it is below a rule's connectivity, that is the rate too.

    Raises:
        UserError: a scheme cannot be applied to a layer, or a rule's connectivity cannot give its rate.
    """
    forms = {path: filters_first(layer, weights[path]) for path, (layer, _) in chosen.items()}
    shared = [forms[path] for path, (_, rule) in chosen.items() if rule.scheme == "pattern"]
    library = natural_patterns(form for form in shared if form.shape[2:] == (3, 3)) if shared else None
    masks = {}
    for path, (layer, rule) in chosen.items():
        rate, config = rule.rate, replace(scheme_config(layer, rule), patterns=library)
        if rates is not None:
            rate = rates[path]
            config = replace(config, connectivity=rule.connectivity and min(rule.connectivity, rate))
        try:
            mask = SCHEMES[rule.scheme](forms[path], rate, config)
        except SchemeError as error:
            raise UserError(f"Layer {path} cannot be pruned: {error}.") from error
        masks[path] = as_stored(layer, mask)
    return masks


def scheme_config(layer: Prunable, rule: Rule) -> SchemeConfig:
    """What the scheme of a rule needs to know of the layer."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return SchemeConfig(rule.block and (rule.block[0], rule.block[1]), rule.connectivity, groups=groups)


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets every weight outside its mask to exactly zero, in place: call it after each optimiser step of fine-tuning.

    Of a layer whose weight is parametrised (quantised), the trained tensor below the parametrisation is set.

    Args:
        model: the pruned model.
        masks: module path -> bool mask of the shape of that module's weight.
    """
    with torch.no_grad():
        for path, mask in masks.items():
            trained_weight(model.get_submodule(path)).masked_fill_(~mask, 0.0)


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
    check_weight(path, layer, "pruning")
    weights = layer.weight.numel()
    if rule.rate >= weights:
        raise UserError(_rate_message(rule, f"[1, {weights}), {weights} being the number of weights of layer {path}"))


def _rate_message(rule: Rule, interval: str) -> str:
    return f"Pruning rate {rule.rate:g} of {rule.match!r} is outside {interval}: choose a rate in that range."
