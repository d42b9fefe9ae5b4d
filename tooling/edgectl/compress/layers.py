"""The layers that compression works on: found by globs on module paths, their weights seen filters first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgectl.errors import UserError

Prunable = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
PRUNABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Matching(Protocol):
    """A rule of any kind: it says which layers it is for."""

    @property
    def match(self) -> str:
        """Glob on module paths, such as `body.*.conv`."""


AnyRule = TypeVar("AnyRule", bound=Matching)


def prunable_layers(model: nn.Module) -> dict[str, Prunable]:
    """Module path -> layer, for every convolution, transposed convolution and linear layer, in the model's order."""
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, PRUNABLE)}


def filters_first(layer: Prunable, tensor: Tensor | None = None) -> Tensor:
    """A layer's weight, or a tensor of that shape, as [F, C, kh, kw] (schemes.py), detached."""
    weight = (layer.weight if tensor is None else tensor).detach()
    if isinstance(layer, nn.Linear):
        return weight[:, :, None, None]
    return swap_filters(weight, layer.groups) if isinstance(layer, nn.ConvTranspose2d) else weight


def as_stored(layer: Prunable, tensor: Tensor) -> Tensor:
    """The inverse of `filters_first` for a mask or the like: the shape of `layer.weight`."""
    if isinstance(layer, nn.ConvTranspose2d):
        tensor = swap_filters(tensor, layer.groups)
    return tensor.reshape(layer.weight.shape)


def swap_filters(tensor: Tensor, groups: int) -> Tensor:
    """[A, B, kh, kw] -> [B*groups, A/groups, kh, kw]; inputs and outputs of every group swap; its own inverse."""
    first, second, *kernel = tensor.shape
    swapped = tensor.reshape(groups, first // groups, second, *kernel).transpose(1, 2)
    return swapped.reshape(groups * second, first // groups, *kernel)


def trained_weight(module: nn.Module) -> Tensor:
    """What an optimiser changes: `module.weight`, or the tensor that its parametrisation computes it from."""
    parametrized = parametrize.is_parametrized(module, "weight")
    weight = module.get_submodule("parametrizations.weight").original if parametrized else module.weight
    assert isinstance(weight, Tensor)
    return weight


def assign(layers: Mapping[str, Prunable], rules: Sequence[AnyRule], kind: str) -> dict[str, tuple[Prunable, AnyRule]]:
    """Module path -> (layer, the last rule that matches it), in the order of `layers`.

    Raises:
        UserError: a glob matches no layer; `kind` (`pruning`) names the rule in the sentence.
    """
    chosen: dict[str, tuple[Prunable, AnyRule]] = {}
    for rule in rules:
        matched = [path for path in layers if fnmatchcase(path, rule.match)]
        if not matched:
            some = ", ".join(list(layers)[:4]) or "none at all"
            raise UserError(f"The {kind} rule for {rule.match!r} matches no layer with weights: the model has {some}, ...")
        chosen.update({path: (layers[path], rule) for path in matched})
    return {path: chosen[path] for path in layers if path in chosen}


def check_weight(path: str, layer: Prunable, doing: str) -> None:
    """Raises UserError unless the weight is a plain parameter of finite numbers; `doing` is `pruning` or the like."""
    if parametrize.is_parametrized(layer, "weight"):
        raise UserError(f"The weight of layer {path} is parametrised: remove its parametrisation before {doing}.")
    if not torch.isfinite(layer.weight).all():
        raise UserError(f"Layer {path} has weights that are not finite numbers: load trained weights before {doing}.")
