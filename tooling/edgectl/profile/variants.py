"""The variants of a network that our kernels are compared on: how each is pruned and quantised."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from torch import nn

from edgectl.compress.layers import Prunable, prunable_layers
from edgectl.errors import UserError
from edgectl.recipe import PruneRule, QuantRule, SchemeName

_EVERY_LAYER = "*"
_QUANT: dict[str, tuple[Literal["fixed", "sp2", "msq"], int]] = {
    "int8": ("fixed", 8),
    "fixed7": ("fixed", 7),
    "fixed4": ("fixed", 4),
    "sp2_4": ("sp2", 4),
    "msq4": ("msq", 4),
}
"""Codebook and bits of the weights; activations are int8 in all."""
_VARIANT = re.compile(r"(?P<scheme>\w+)@(?P<rate>\d+(\.\d+)?)(:(?P<glob>[^+]+))?(\+(?P<quant>\w+))?")


@dataclass(frozen=True)
class Variant:
    """What `SCHEME@RATE[:GLOB][+QUANT]` or `QUANT` says.

    Attributes:
        scheme: how it is pruned; None where it is dense, and the rate then 1.
        rate: weights / non-zero weights of a pruned layer.
        match: a glob of the module paths that are pruned; None for all that the scheme fits.
        quant: how it is quantised; None where it is float32.
    """

    scheme: SchemeName | None = None
    rate: float = 1.0
    match: str | None = None
    quant: str | None = None

    @property
    def name(self) -> str:
        """The variant without its rate: what variants that differ in nothing else share."""
        match = "" if self.match is None else f":{self.match}"
        quant = "" if self.quant is None else f"+{self.quant}"
        return f"{self.scheme or 'dense'}{match}{quant}"

    def prune_rules(self, model: nn.Module) -> list[PruneRule]:
        """The rules that prune it. Raises UserError where they fit no layer of the model."""
        return [] if self.scheme is None else prune_rules(model, self.scheme, self.rate, self.match)

    def quant_rules(self) -> list[QuantRule]:
        """The rules that quantise every layer."""
        if self.quant is None:
            return []
        weights, bits = _QUANT[self.quant]
        return [QuantRule(match=_EVERY_LAYER, weights=weights, bits=bits)]


def parse_variant(variant: str) -> Variant:
    """`SCHEME@RATE[:GLOB]`, `SCHEME@RATE[:GLOB]+QUANT` or `QUANT` in its parts.

    Raises:
        UserError: it is not written like that, the scheme or quantisation is unknown, or the rate is below 1.
    """
    if variant in _QUANT:
        return Variant(quant=variant)
    matched = _VARIANT.fullmatch(variant)
    known: dict[str, SchemeName] = {scheme: scheme for scheme in get_args(SchemeName)}
    if (
        matched is None
        or matched["scheme"] not in known
        or float(matched["rate"]) < 1
        or matched["quant"] not in (None, *_QUANT)
    ):
        raise UserError(
            f"{variant!r} is no variant: write SCHEME@RATE[:GLOB], QUANT, or both as SCHEME@RATE[:GLOB]+QUANT, "
            f"SCHEME one of {', '.join(known)}, RATE 1 or more, QUANT one of {', '.join(_QUANT)}."
        )
    return Variant(known[matched["scheme"]], float(matched["rate"]), matched["glob"], matched["quant"])


def prune_rules(model: nn.Module, scheme: SchemeName, rate: float, match: str | None = None) -> list[PruneRule]:
    """A rule for every layer that the scheme fits, of those whose module path matches the glob `match`.

    Without a glob: every convolution that is not depthwise, and for block_column 1x1 convolutions and linear layers.

    Raises:
        UserError: there is no such layer.
    """
    rules = []
    for path, layer in prunable_layers(model).items():
        wanted = _by_default(layer, scheme) if match is None else fnmatchcase(path, match)
        if wanted and _fits(layer, scheme, rate):
            rules.append(PruneRule(match=glob.escape(path), scheme=scheme, rate=rate))
    if not rules:
        which = "" if match is None else f" whose path matches {match!r}"
        raise UserError(f"The variant {scheme}@{rate:g} fits no layer{which}: choose another scheme, rate or glob.")
    return rules


def _by_default(layer: Prunable, scheme: SchemeName) -> bool:
    if isinstance(layer, nn.Linear):
        return scheme == "block_column"
    return layer.groups == 1 or layer.groups != layer.in_channels


def _fits(layer: Prunable, scheme: SchemeName, rate: float) -> bool:
    kernel = (1, 1) if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)
    required = {"pattern": (3, 3), "block_column": (1, 1)}.get(scheme, kernel)
    return kernel == required and rate < layer.weight.numel()
