"""Pruning while a model trains: magnitude, gradual magnitude, ADMM and reweighted groups, each with any scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from edgectl.compress.admm import Admm
from edgectl.compress.layers import Prunable, as_stored, filters_first, trained_weight
from edgectl.compress.prune import Rule, apply_masks, choose, find_masks, scheme_config
from edgectl.compress.schemes import group_index
from edgectl.compress.strategy import Phases, Strategy
from edgectl.errors import UserError

DEAD = 1e-3
"""A group's mean square over its layer's under which the reweighted penalty stops growing."""


Rates = dict[str, float]
"""Module path -> weights / weights kept."""

Budget = Callable[[Callable[[float], Rates]], Rates]
"""Chooses rates under a budget that is more than a count: it is given what rates follow from keeping a share of all weights."""


class Spec(Protocol):
    """What the strategies need to be told; `[compress]` of a recipe has this form."""

    @property
    def method(self) -> Literal["magnitude", "gradual", "admm", "reweighted"]:
        """How zeros are found."""

    @property
    def rho(self) -> float:
        """Of admm: the last penalty."""

    @property
    def strength(self) -> float:
        """Of reweighted: the factor of the penalty."""

    @property
    def keep(self) -> float | None:
        """Of reweighted: the fraction to keep of what `of` names; None for as much as the rules' rates keep."""

    @property
    def of(self) -> Literal["weights", "macs", "latency"]:
        """Of reweighted: what the budget counts."""


def pruning_strategy(
    model: nn.Module,
    rules: Sequence[Rule],
    spec: Spec,
    phases: Phases,
    macs: Mapping[str, int],
    budget: Budget | None = None,
) -> Strategy:
    """Prunes a model while it trains. Of several rules for one layer the last one holds.

    Args:
        model: on the device that it is trained on, its weights plain; quantisation may be attached to them afterwards.
        rules: schemes and rates. `reweighted` finds the rates itself.
        spec: the method and its options.
        phases: when masks are sought (`search`), and how often they are looked at (`refresh`). From step `search` on, masks
            are fixed and the rest of the training is masked. With a search of 0 steps every method is one-shot.
        macs: module path -> multiply-adds of that layer for one input; only a budget of them reads it.
        budget: of reweighted, instead of `keep`: what chooses the rates when the search ends.

    Raises:
        UserError: see `prune.prune_oneshot`; of `reweighted` also a budget that no rates can meet, and connectivity, which it
            finds itself. The model is then unchanged.
    """
    if spec.method == "reweighted":
        return _Reweighted(model, rules, phases, spec, macs, budget)
    if spec.method == "admm":
        return _Admm(model, rules, phases, spec.rho)
    return (_Gradual if spec.method == "gradual" else _Magnitude)(model, rules, phases)


class _Pruning:
    """The loop of all methods: a search that each does in its own way, then fixed masks."""

    def __init__(self, model: nn.Module, rules: Sequence[Rule], phases: Phases) -> None:
        self.model, self.phases = model, phases
        self.chosen = choose(model, rules)
        self._masks: dict[str, Tensor] = {}
        self._begin(find_masks(self.chosen, self.weights()))
        if not phases.search:
            self._fix()

    def weights(self) -> dict[str, Tensor]:
        """Module path -> what the optimiser changes, of every layer that is pruned."""
        return {path: trained_weight(layer) for path, (layer, _) in self.chosen.items()}

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Module path -> bool mask of the weights that are kept for good; empty while that is not decided."""
        return self._masks

    def penalty(self) -> Tensor:
        """See `Strategy`."""
        weights = self.weights()
        if not self._masks:
            return self._penalty(weights)
        return next(iter(weights.values())).new_zeros(())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """See `Strategy`."""
        if not self._masks:
            self._search(step)
            if step >= self.phases.search:
                self._fix()
        apply_masks(self.model, self._masks)

    def facts(self) -> dict[str, float]:
        """See `Strategy`."""
        weights = self.weights().values()
        return {"kept weights": sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)}

    def state_dict(self) -> dict[str, Any]:
        """See `Strategy`."""
        return {"masks": self._masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Strategy`."""
        weights = self.weights()
        self._masks = {path: mask.to(weights[path].device) for path, mask in state["masks"].items()}

    def _fix(self) -> None:
        self._masks = find_masks(self.chosen, self.weights(), self._rates())
        apply_masks(self.model, self._masks)

    def _begin(self, masks: dict[str, Tensor]) -> None:
        """Takes the masks that the weights have at the start."""

    def _penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """While masks are sought."""
        return next(iter(weights.values())).new_zeros(())

    def _search(self, step: int) -> None:
        """After a step at which masks are still sought."""

    def _rates(self) -> dict[str, float]:
        """Module path -> rate, when the search ends."""
        return {path: rule.rate for path, (_, rule) in self.chosen.items()}


class _Magnitude(_Pruning):
    """Masks of the weights at the start, which stay."""

    def _begin(self, masks: dict[str, Tensor]) -> None:
        self._masks = masks
        apply_masks(self.model, masks)


class _Gradual(_Pruning):
    """Sparsity rises as a cubic over the search (Zhu & Gupta, "To prune, or not to prune", 2017).

    s_t = s (1 - (1 - t / T)^3), s = 1 - 1 / rate, from 0 at the start to s at step T = `search`. Masks are ranked anew at every
    refresh. As in the paper, a weight keeps the value that it was pruned with and is ranked by it: it comes back with that
    value if other weights fall below it.
    """

    def _begin(self, masks: dict[str, Tensor]) -> None:
        self._now = {path: torch.ones_like(mask) for path, mask in masks.items()}
        self._values = {path: weight.detach().clone() for path, weight in self.weights().items()}

    def _search(self, step: int) -> None:
        if step % self.phases.refresh == 0:
            left = (1 - step / self.phases.search) ** 3
            self._rank({path: 1 / (1 - (1 - 1 / rate) * (1 - left)) for path, rate in self._rates().items()})
        apply_masks(self.model, self._now)

    def _fix(self) -> None:
        self._rank(self._rates())
        self._masks, self._now, self._values = self._now, {}, {}
        apply_masks(self.model, self._masks)

    @torch.no_grad()
    def _rank(self, rates: Mapping[str, float]) -> None:
        weights = self.weights()
        self._values = {path: weight.where(self._now[path], self._values[path]) for path, weight in weights.items()}
        self._now = find_masks(self.chosen, self._values, rates)
        for path, weight in weights.items():
            weight.copy_(self._values[path])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "now": self._now, "values": self._values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        weights = self.weights()
        for name in ("now", "values"):
            setattr(self, f"_{name}", {path: tensor.to(weights[path].device) for path, tensor in state[name].items()})


class _Admm(_Pruning):
    """ADMM with projections onto the scheme (Zhang et al., "A systematic DNN weight pruning framework using ADMM", 2018).

    Pi keeps what the scheme keeps of its argument at the layer's rate. When the search ends the mask is that of Pi(W).
    """

    def __init__(self, model: nn.Module, rules: Sequence[Rule], phases: Phases, rho: float) -> None:
        self._rho, self._residual = rho, 0.0
        super().__init__(model, rules, phases)

    def _begin(self, masks: dict[str, Tensor]) -> None:
        del masks
        self._admm = Admm(self.weights(), self._project, self._rho, self.phases)

    def _project(self, weights: Mapping[str, Tensor], around: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        masks = find_masks(self.chosen, weights) if around is None else {path: z != 0 for path, z in around.items()}
        return {path: weight * masks[path] for path, weight in weights.items()}

    def _penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self._admm.penalty(weights)

    def _search(self, step: int) -> None:
        self._admm.update(step, self.weights())

    def _fix(self) -> None:
        self._residual = self._admm.residual(self.weights())
        super()._fix()

    def facts(self) -> dict[str, float]:
        residual = self._residual if self._masks else self._admm.residual(self.weights())
        return {**super().facts(), "admm residual": residual}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "admm": self._admm.state_dict(), "residual": self._residual}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._admm.load_state_dict(state["admm"])
        self._residual = state["residual"]


class _Reweighted(_Pruning):
    """Reweighted group regularisation, which finds the rates of layers under one budget.

    The loss gets strength sum_l sum_g P_g ||W_g||_F^2. At every refresh P_g <- 1 / (q_g + DEAD), q_g = ||W_g||_F^2 / n_g / m_l,
    with n_g the weights of a group and m_l the layer's mean square at the start: a group as large as its layer's average
    was decays as under a weight decay of 2 strength, in a layer of any size; small groups decay faster, to nothing.

    When the search ends, groups are ranked by q_g over all layers: the largest that the budget has room for are kept, and
    one of every layer at least. The rates that follow are given to the layers' schemes.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Sequence[Rule],
        phases: Phases,
        spec: Spec,
        macs: Mapping[str, int],
        budget: Budget | None,
    ) -> None:
        self._strength, self._keep, self._of, self._macs = spec.strength, spec.keep, spec.of, macs
        self._budget = budget
        super().__init__(model, rules, phases)

    def _begin(self, masks: dict[str, Tensor]) -> None:
        del masks
        weights = self.weights()
        self._groups = {path: _Groups(layer, rule) for path, (layer, rule) in self.chosen.items()}
        self._start = {path: float(weight.detach().double().square().mean()) or 1.0 for path, weight in weights.items()}
        per_weight = {path: self._macs.get(path, 0) / weight.numel() for path, weight in weights.items()}
        self._cost = per_weight if self._of == "macs" else dict.fromkeys(weights, 1.0)
        self._total = sum(self._cost[path] * weight.numel() for path, weight in weights.items())
        if not self._total:
            raise UserError("The layers to prune compute nothing, so they have no budget of multiply-adds: prune others.")
        rates = self._rates_of_rules()
        if self._budget is None:
            self._room = self._room_at(rates)
        self._weigh()

    def _room_at(self, rates: Rates) -> float:
        """What `keep` allows or, without it, what the rules' rates keep."""
        weights = self.weights()
        least = sum(cost * float(self._groups[path].sizes.max()) for path, cost in self._cost.items())
        if self._keep is None:  # rounding to whole groups is the scheme's
            return max(least, sum(self._cost[path] * weight.numel() / rates[path] for path, weight in weights.items()))
        if self._total * self._keep < least:
            raise UserError(
                f"A budget of {self._keep:.3g} of the {self._of} cannot be met: one group of every layer is "
                f"{least / self._total:.3g} of them, choose keep of at least that."
            )
        return self._total * self._keep

    def _rates_of_rules(self) -> dict[str, float]:
        for _, rule in self.chosen.values():
            if rule.connectivity is not None:
                raise UserError(f"The rule for {rule.match!r} sets connectivity, which reweighted finds itself: remove it.")
        return super()._rates()

    def _scores(self) -> dict[str, Tensor]:
        """Module path -> q_g, float64."""
        return {path: self._groups[path].mean_squares(weight) / self._start[path] for path, weight in self.weights().items()}

    @torch.no_grad()
    def _weigh(self) -> None:
        self._p = {path: self._groups[path].spread(1 / (q + DEAD)).float() for path, q in self._scores().items()}

    def _penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self._strength * torch.stack([(self._p[path] * w.square()).sum() for path, w in weights.items()]).sum()

    def _search(self, step: int) -> None:
        if step % self.phases.refresh == 0:
            self._weigh()

    def _rates(self) -> Rates:
        if self._budget is None:
            return self._rates_within(self._room)
        return self._budget(lambda share: self._rates_within(share * self._total))

    def _rates_within(self, room: float) -> Rates:
        """The rates of the groups that there is room for."""
        scores = self._scores()
        for q in scores.values():
            q[q.argmax()] = torch.inf  # every layer keeps one
        ranked, order = torch.cat(list(scores.values())).sort(descending=True, stable=True)
        costs = torch.cat([self._groups[path].sizes * cost for path, cost in self._cost.items()])[order]
        inside = costs.cumsum(dim=0) <= room * (1 + 1e-9)
        threshold = ranked[max(int(inside.sum()), len(scores)) - 1]
        return {
            path: weight.numel() / float(self._groups[path].sizes[scores[path] >= threshold].sum())
            for path, weight in self.weights().items()
        }

    def facts(self) -> dict[str, float]:
        per_layer = {} if not self._masks else {f"rate of {path}": m.numel() / int(m.sum()) for path, m in self._masks.items()}
        return {**super().facts(), **per_layer}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "p": self._p, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        weights = self.weights()
        self._p = {path: p.to(weights[path].device) for path, p in state["p"].items()}
        self._start = dict(state["start"])


class _Groups:
    """The groups of one layer's weight, as it is stored."""

    def __init__(self, layer: Prunable, rule: Rule) -> None:
        index = group_index(rule.scheme, filters_first(layer), scheme_config(layer, rule))
        present, numbers = index.unique(return_inverse=True)  # blocks at the edges have positions without weights
        self._index = as_stored(layer, numbers)
        self.sizes = torch.bincount(self._index.flatten(), minlength=len(present)).double()

    def mean_squares(self, weight: Tensor) -> Tensor:
        """||W_g||_F^2 / n_g, float64 [groups]."""
        sums = torch.zeros_like(self.sizes).index_add_(0, self._index.flatten(), weight.detach().double().square().flatten())
        return sums / self.sizes

    def spread(self, values: Tensor) -> Tensor:
        """[groups] -> the shape of the weight."""
        return values[self._index]
