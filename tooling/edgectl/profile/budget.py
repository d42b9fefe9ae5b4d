"""A budget of latency: the rates of a network's layers are chosen so that its predicted, or measured, time is within it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import nn

from edgectl.compress.prune import choose
from edgectl.compress.pruning import Rates
from edgectl.errors import UserError
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.measurements import Measurements
from edgectl.profile.trace import points_of_module
from edgectl.recipe import PruneRule, Recipe

_HALVINGS = 12
_MEASUREMENTS = 5
_CLOSE = 0.03
_LEAST = 0.002  # share of the weights

Confirm = Callable[[Sequence[PruneRule]], float]
"""Builds the network with these rules, measures it, and returns its time in ns of the device's clock."""


class LatencyBudget:
    """Chooses how much to keep so that a network takes no more than `ns`; what `compress.pruning.Budget` is.

    The share of weights is found by halving, on the latency model. With `confirm` the result is measured, and the model's
    error there corrects it until the measured time is within 3 % below the budget, five times at most.

    Args:
        model: of the device and threads that the budget is for.
        module: the network; what weights it has makes no difference.
        shape: of its input.
        rules: schemes of its layers.
        ns: the budget, in ns of the device's clock.
    """

    def __init__(
        self,
        model: LatencyModel,
        module: nn.Module,
        shape: Sequence[int],
        rules: Sequence[PruneRule],
        ns: float,
        *,
        threads: int = 1,
        correction: float = 1.0,
        confirm: Confirm | None = None,
    ) -> None:
        self.model, self.module, self.shape = model, module, shape
        self._rules = {path: rule for path, (_, rule) in choose(module, rules).items() if isinstance(rule, PruneRule)}
        self.ns, self.threads, self.correction, self.confirm = ns, threads, correction, confirm
        self.measured: float | None = None

    def predicted(self, rules: Sequence[PruneRule]) -> float:
        """What the network takes when pruned by `rules`, in ns."""
        points = points_of_module(self.module, self.shape, rules)
        return self.model.network(points.values(), self.threads)[0] * self.correction

    def __call__(self, rates_at: Callable[[float], Rates]) -> Rates:
        """The rates of the largest share that is within the budget.

        Raises:
            UserError: no share is.
        """
        best: tuple[float, Rates] | None = None
        for _ in range(_MEASUREMENTS if self.confirm else 1):
            rates = self._largest(rates_at)
            if rates is None:
                break
            if self.confirm is None:
                return rates
            rules = self.ruled(rates)
            time = self.confirm(rules)
            self.correction *= time / self.predicted(rules)
            if time <= self.ns and (best is None or time > best[0]):
                best = time, rates
            if (1 - _CLOSE) * self.ns <= time <= self.ns:
                break
        if best is None:
            rates = rates_at(_LEAST)
            raise UserError(
                f"No rates meet the budget: with one group in every layer that is pruned, the network still takes "
                f"{self.predicted(self.ruled(rates)) / self.ns:.2f} times as long."
            )
        self.measured, chosen = best
        return chosen

    def ruled(self, rates: Rates) -> list[PruneRule]:
        """The rules of the layers, at these rates."""
        return [self._rules[path].model_copy(update={"match": path, "rate": rate}) for path, rate in rates.items()]

    def _largest(self, rates_at: Callable[[float], Rates]) -> Rates | None:
        """The rates of the largest share that is predicted to be within the budget."""
        whole = rates_at(1.0)
        if self.predicted(self.ruled(whole)) <= self.ns:
            return whole
        low, high = _LEAST, 1.0
        if self.predicted(self.ruled(rates_at(low))) > self.ns:
            return None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.predicted(self.ruled(rates_at(middle))) <= self.ns else (low, middle)
        return rates_at(low)


def predicted_budget(recipe: Recipe, module: nn.Module) -> LatencyBudget:
    """The budget of a recipe whose `[compress]` keeps a fraction of the latency predicted for a device.

    Raises:
        UserError: too little was measured on the device, or it has an operation that was not.
    """
    spec = recipe.compress
    store = Measurements()
    clocks = {row.setting.clock for row in store.read(device=spec.device)}
    if not clocks:
        raise UserError(
            f"Nothing was measured on {spec.device}, so that no latency can be predicted: run `edgectl profile-space --device "
            f"{spec.device}` first."
        )
    model = LatencyModel.of(store, spec.device, sorted(clocks)[-1])
    dense = copy.deepcopy(module).cpu()
    whole, _ = model.network(points_of_module(dense, recipe.model.input).values(), spec.threads)
    assert spec.keep is not None
    return LatencyBudget(model, dense, recipe.model.input, recipe.prune, spec.keep * whole, threads=spec.threads)
