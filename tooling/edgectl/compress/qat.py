"""Quantisation while a model trains: weights come onto their levels straight-through or by ADMM, activations are rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgectl.compress.admm import Admm
from edgectl.compress.layers import trained_weight
from edgectl.compress.parametrize import Rule, attach
from edgectl.compress.strategy import Phases, Strategy

SETTLED = 0.85
"""The fraction of all steps after which scales, rows of msq and ranges of activations stay, so that weights settle."""

_RANGE = "input_range"  # the name of a layer's RoundedInput
_MOMENTUM = 0.1
_SAMPLE = 4096  # values of an activation that a range is chosen by
_CLIPS = 20  # ranges that are tried, from 1/20 of the whole


class Spec(Protocol):
    """What the strategy needs to be told; `[compress]` of a recipe has this form."""

    @property
    def quantise(self) -> Literal["ste", "admm"]:
        """How weights come onto their levels."""

    @property
    def rho(self) -> float:
        """Of admm: the last penalty."""

    @property
    def activation_bits(self) -> int | None:
        """Of the activations that quantised layers read; None: float."""


def quantisation_strategy(model: nn.Module, rules: Sequence[Rule], spec: Spec, phases: Phases) -> Strategy:
    """Puts layers under codebooks and rounds what they read, in place; of several rules for one layer the last one holds.

    `ste`: weights are projected from the first step on, and gradients pass as if they were not. `admm`: the loss gets the
    penalty of ADMM with Pi the projection on the codebooks, until step `search`; from then on as `ste`. Scales and the SP2
    rows of msq are decided anew at every refresh until `SETTLED` of the steps.

    Pruned layers: make the pruning strategy first and update it first. Levels have 0 among them, so zeros stay exactly zero.
    Make the optimiser before or after: the parameters stay the same objects.

    Args:
        model: on the device that it is trained on, its weights plain.
        rules: see `parametrize.attach`. With batch norm after a layer, which is folded for the device, use one scale for a row.
        spec: the method and its options.
        phases: see `Phases`.

    Raises:
        UserError: see `parametrize.attach`. The model is then unchanged.
    """
    return _Quantisation(model, rules, spec, phases)


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model without parametrisations and ranges: weights float32, exactly on their levels.

    A new model takes it with `load_state_dict`; quantised by the same rules, it has the trained levels. The model is left as
    it is.
    """
    own = {
        f"{path}."
        for path, module in model.named_modules()
        if isinstance(module, RoundedInput | parametrize.ParametrizationList)
    }
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(tuple(own))}
    for path, layer in model.named_modules():
        if parametrize.is_parametrized(layer):
            for name in layer.get_submodule("parametrizations")._modules:
                state[f"{path}.{name}".lstrip(".")] = getattr(layer, name)
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


class RoundedInput(nn.Module):
    """Rounds the input of a layer to `bits` bits, affine and for the whole tensor, as the device does with 8.

    q = round(x / s) + z in [0, 2^bits - 1]. Gradients pass where x is in range (straight-through), and are 0 outside. In
    training the range is followed: of ranges that are fractions of [min(x, 0), max(x, 0)], the one of least squared error on a
    sample of the batch, with a momentum. At 4 bits the whole range would spend most levels on a few outliers; a learned clip
    (PACT, LSQ) would need the optimiser to know its parameters, and its own learning rate.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, device: torch.device) -> None:
        super().__init__()
        self.top = 2**bits - 1
        self.follows = True
        self.register_buffer("low", torch.zeros((), device=device))
        self.register_buffer("high", torch.zeros((), device=device))

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook: the layer's inputs, the first of them rounded."""
        x, *others = inputs
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        values = (x.permute(0, 2, 3, 1) if last else x).float()  # in the order of memory, or every operation copies
        if layer.training and self.follows:
            self._follow(values.detach())
        rounded = self._round(values, self.low, self.high).to(x.dtype)
        return (rounded.permute(0, 3, 1, 2) if last else rounded, *others)

    def _round(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        scale, zero_point = self._grid(low, high)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point.int(), 0, self.top)

    def _grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(s, z) of ranges."""
        scale = ((high - low) / self.top).clamp_min(1e-12)
        return scale, (-low / scale).round().clamp(0, self.top)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        low, high = low.clamp_max(0), high.clamp_min(0)
        some = x.flatten()[:: x.numel() // _SAMPLE | 1]  # an odd step meets every channel and column
        clips = torch.arange(1, _CLIPS + 1, device=x.device).reshape(-1, 1) / _CLIPS
        scale, zero_point = self._grid(low * clips, high * clips)  # all ranges at once: one by one takes as long as the layer
        levels = ((some / scale).round() + zero_point).clamp(0, self.top)
        clip = clips[((levels - zero_point) * scale - some).square().sum(dim=1).argmin()]
        momentum = torch.where(self.high > self.low, _MOMENTUM, 1.0)
        self.low.lerp_((low * clip).squeeze(), momentum)
        self.high.lerp_((high * clip).squeeze(), momentum)


class _Quantisation:
    """See `quantisation_strategy`."""

    def __init__(self, model: nn.Module, rules: Sequence[Rule], spec: Spec, phases: Phases) -> None:
        self.phases = phases
        self._last_refresh = int(SETTLED * phases.steps)
        self._books = attach(model, rules)
        self._layers = {path: model.get_submodule(path) for path in self._books}
        self._ranges: list[RoundedInput] = []
        if spec.activation_bits is not None:
            for layer in self._layers.values():
                rounded = RoundedInput(spec.activation_bits, trained_weight(layer).device)
                layer.add_module(_RANGE, rounded)
                layer.register_forward_pre_hook(rounded)
                self._ranges.append(rounded)
        self._admm: Admm | None = None
        self._residual = 0.0
        if spec.quantise == "admm" and phases.search:
            self._admm = Admm(self._weights(), self._project, spec.rho, phases)
            self._set_projecting(False)

    def _weights(self) -> dict[str, Tensor]:
        return {path: trained_weight(layer) for path, layer in self._layers.items()}

    def penalty(self) -> Tensor:
        """See `Strategy`."""
        weights = self._weights()
        if self._admm is not None and not self._projecting:
            return self._admm.penalty(weights)
        return next(iter(weights.values())).new_zeros(())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """See `Strategy`."""
        if self._projecting or self._admm is None:
            if (step % self.phases.refresh == 0 and step < self._last_refresh) or step == self._last_refresh:
                self._refit(self._weights())
        else:
            self._admm.update(step, self._weights())
            if step >= self.phases.search:
                self._residual = self._admm.residual(self._weights())
                self._refit(self._weights())
                self._set_projecting(True)
        self._set_following(step < self._last_refresh)

    def facts(self) -> dict[str, float]:
        """See `Strategy`."""
        if self._admm is None:
            return {}
        residual = self._residual if self._projecting else self._admm.residual(self._weights())
        return {"admm residual of levels": residual}

    def state_dict(self) -> dict[str, Any]:
        """See `Strategy`."""
        follows = all(rounded.follows for rounded in self._ranges)
        state = {"projects": self._projecting, "follows": follows, "residual": self._residual}
        return state if self._admm is None else {**state, "admm": self._admm.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Strategy`."""
        self._set_projecting(state["projects"])
        self._set_following(state["follows"])
        self._residual = state["residual"]
        if self._admm is not None:
            self._admm.load_state_dict(state["admm"])

    @property
    def _projecting(self) -> bool:
        return all(book.projects for book in self._books.values())

    def _set_projecting(self, projects: bool) -> None:
        for book in self._books.values():
            book.projects = projects

    def _set_following(self, follows: bool) -> None:
        for rounded in self._ranges:
            rounded.follows = follows

    def _refit(self, weights: Mapping[str, Tensor]) -> None:
        for path, book in self._books.items():
            book.refit(weights[path], rows=True)

    @torch.no_grad()
    def _project(self, weights: Mapping[str, Tensor], around: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Onto codebooks whose scales and rows are the best for these weights, or stay."""
        if around is None:
            self._refit(weights)
        return {path: book.straight_through(weights[path]) for path, book in self._books.items()}
