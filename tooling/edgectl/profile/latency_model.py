"""A layer's time on one device, predicted from what is known before it is built; a network's is the sum, and a measured rest.

log t = log b(x) + g(x). The base b is a sum of what a layer must do (multiply-adds, elements in and out, weights, being
started), for every kind of layer with costs of its own, found by non-negative least squares on the relative error. g is an
ensemble of boosted trees (Friedman, 2001) or, where networks that were held out say that it is better, of multilayer
perceptrons, or of both, each fitted on a bootstrap of the measured networks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgectl.errors import UserError
from edgectl.profile.features import Array, Base, features
from edgectl.profile.measurements import REST, WHOLE, Measured, Measurements
from edgectl.profile.points import Point
from edgectl.profile.report import Clock

try:
    from scipy.optimize import nnls
    from scipy.stats import spearmanr
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neighbors import NearestNeighbors
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits
except ImportError as error:
    raise UserError("The latency model is fitted by scikit-learn: run `pip install 'edgectl[search]'`.") from error

Regressor = Literal["trees", "perceptrons", "both"]

FEWEST_LAYERS, FEWEST_NETWORKS = 40, 5
_MEMBERS = 8
_FOLDS = 5
_MEMBERS_HELD_OUT = 4
_UNSETTLED = 0.25  # the weight of a time that may be too long


@dataclass(frozen=True)
class Accuracy:
    """How far predictions are from what was measured, of networks that the model was not fitted on.

    Attributes:
        layers: layers with weights whose lowest times agree, of which no equal was in what was fitted on; `mape` and
            `spearman` are theirs.
        mape: mean of |predicted - measured| / measured.
        spearman: rank correlation of predicted and measured.
        networks: whole networks; `network_mape` and `network_worst` are the mean and the largest error of theirs.
    """

    layers: int
    mape: float
    spearman: float
    networks: int
    network_mape: float
    network_worst: float


class LatencyModel:
    """The time of layers and networks on one device, by one clock and one instruction set.

    Attributes:
        layers: how many it was fitted on.
        regressor: which was best on networks that were held out.
        accuracy: what each did there.
    """

    def __init__(
        self,
        setting: tuple[str, Clock, str],
        layers: int,
        regressor: Regressor,
        accuracy: dict[Regressor, Accuracy],
        fitted: _Fitted,
        errors: _Errors,
        rest: Array,
    ) -> None:
        self.device, self.clock, self.isa = setting
        self.layers, self.regressor, self.accuracy = layers, regressor, accuracy
        self._fitted, self._errors, self._rest = fitted, errors, rest

    @property
    def held_out(self) -> Accuracy:
        """What its regressor did on networks that were held out, in five folds."""
        return self.accuracy[self.regressor]

    @classmethod
    def of(cls, store: Measurements, device: str, clock: str, without: Container[str] = ()) -> LatencyModel:
        """The model of all that is measured on a device by a clock, but for the networks `without`.

        Where there are several instruction sets, of the one that most layers were measured with.

        Raises:
            UserError: that is too little.
        """
        rows = [row for row in store.read(device=device, clock=clock) if row.network not in without]
        isas = [row.setting.isa for row in rows]
        return cls.fit([row for row in rows if isas.count(row.setting.isa) == max(map(isas.count, set(isas)))])

    @classmethod
    def fit(cls, rows: Sequence[Measured], seed: int = 0) -> LatencyModel:
        """Fits a model on measurements (`Measurements.read`) of one device and clock.

        Networks are held out in five folds to say how good it is, to choose the regressor, and to know how the error grows
        with the distance from what was measured. The same rows give the same model.

        Raises:
            UserError: they are of several devices, clocks or instruction sets, or too few.
        """
        settings: set[tuple[str, Clock, str]] = {(row.setting.device, row.setting.clock, row.setting.isa) for row in rows}
        if len(settings) > 1:
            told = ", ".join(" ".join(setting) for setting in sorted(settings))
            raise UserError(f"A latency model is of one device, clock and instruction set, not of {told}.")
        data = _Data(rows)
        if len(data.points) < FEWEST_LAYERS or len(set(data.groups)) < FEWEST_NETWORKS:
            raise UserError(
                f"{len(data.points)} layers of {len(set(data.groups))} networks are too few to fit a latency model on: "
                f"{FEWEST_LAYERS} of {FEWEST_NETWORKS} are the least, a few hundred are good; "
                "measure more with `edgectl profile-space`."
            )
        rest = data.rest()
        held_out = {kind: _held_out(data, kind, seed) for kind in _REGRESSORS}
        accuracy = {kind: _accuracy(data, out.logs, out.fresh, rest) for kind, out in held_out.items()}
        best = min(held_out, key=lambda kind: accuracy[kind].mape)
        return cls(
            settings.pop(),
            len(data.points),
            best,
            accuracy,
            _Fitted.of(data, np.arange(len(data.points)), best, _MEMBERS, seed),
            _Errors.of(held_out[best]),
            rest,
        )

    def assess(self, rows: Sequence[Measured]) -> Accuracy:
        """How well it predicts networks that it was not fitted on, measured in its setting.

        Raises:
            UserError: an operation was never measured.
        """
        data = _Data(rows)
        self._check(data.points)
        logs, _, _ = self._fitted.predict(data.points, data.threads)
        return _accuracy(data, logs, self._fitted.are_new(data.points, data.threads), self._rest)

    def predict(self, points: Sequence[Point], threads: int = 1) -> tuple[Array, Array]:
        """(time, its standard deviation) of layers, in ns of the device's clock.

        The deviation is that of the ensemble together with the error that layers which were held out had, so far from the
        nearest layer that was fitted on.

        Raises:
            UserError: an operation was never measured.
        """
        self._check(points)
        if not points:
            return np.empty(0), np.empty(0)
        logs, spread, distance = self._fitted.predict(points, [threads] * len(points))
        sigma = np.sqrt(spread**2 + self._errors.at(distance) ** 2)
        times = np.exp(logs)
        return times, times * sigma

    def network(self, points: Iterable[Point], threads: int = 1) -> tuple[float, float]:
        """(time, its standard deviation) of a network of these layers: their sum, and a rest that grows with their number.

        Raises:
            UserError: an operation was never measured.
        """
        layers = list(points)
        times, sigmas = self.predict(layers, threads)
        return float(times.sum() + self._rest @ (1, len(layers))), float(np.sqrt((sigmas**2).sum()))

    def _check(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.op not in self._fitted.base.ops:
                raise UserError(
                    f"No {point.op} was measured on {self.device}: measure a recipe that has one with "
                    "`edgectl profile-space --recipe`."
                )


class _Data:
    """The rows of layers as arrays."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        layers = [row for row in rows if row.point is not None]
        self.points = [row.point for row in layers if row.point is not None]
        self.threads = [row.setting.threads for row in layers]
        self.groups = [(row.network, row.setting.threads) for row in layers]
        self.times = np.array([max(1, row.ns) for row in layers], float)
        self.weights = np.array([1.0 if row.settled else _UNSETTLED for row in layers])
        self.whole = {(row.network, row.setting.threads): row for row in rows if row.position == WHOLE}
        self._rest = {(row.network, row.setting.threads): row.ns for row in rows if row.position == REST}

    def rest(self) -> Array:
        """(intercept, for every layer) of what networks take outside of their layers, in ns."""
        counts = {group: self.groups.count(group) for group in set(self.groups)}
        measured = [(count, self._rest[group]) for group, count in sorted(counts.items()) if group in self._rest]
        if not measured:
            return np.zeros(2)
        table = np.array(measured, float)
        return np.asarray(nnls(np.stack([np.ones(len(table)), table[:, 0]], axis=1), table[:, 1])[0], float)


def _trees(seed: int) -> Any:
    return GradientBoostingRegressor(
        n_estimators=250, learning_rate=0.06, max_depth=4, subsample=0.7, max_features=0.4, random_state=seed
    )


def _perceptrons(seed: int) -> Any:
    return make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(32, 32), alpha=0.3, solver="lbfgs", max_iter=400, random_state=seed)
    )


_REGRESSORS: dict[Regressor, tuple[Callable[[int], Any], ...]] = {
    "trees": (_trees,),
    "perceptrons": (_perceptrons,),
    "both": (_trees, _perceptrons),
}
"""What the members of an ensemble are, in turns."""


@dataclass
class _Fitted:
    """A base and an ensemble."""

    base: Base
    members: list[Any]
    scaler: StandardScaler
    neighbours: NearestNeighbors
    seen: set[tuple[Point, int]]

    @classmethod
    def of(cls, data: _Data, chosen: npt.NDArray[np.intp], kind: Regressor, members: int, seed: int) -> _Fitted:
        points = [data.points[i] for i in chosen]
        base = Base.of(points, data.times[chosen])
        log_base = base.log(points)
        table = features(points, [data.threads[i] for i in chosen], log_base)
        wanted = np.log(data.times[chosen]) - log_base
        groups = [data.groups[i] for i in chosen]
        chance = np.random.default_rng(seed)
        fitted = []
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early is well enough
            for member in range(members):
                drawn = _bootstrap(groups, data.weights[chosen], chance)
                made = _REGRESSORS[kind][member % len(_REGRESSORS[kind])](seed + member)
                fitted.append(made.fit(table[drawn], wanted[drawn]))
        scaler = StandardScaler().fit(table)
        neighbours = NearestNeighbors(n_neighbors=1).fit(scaler.transform(table))
        return cls(base, fitted, scaler, neighbours, {(data.points[i], data.threads[i]) for i in chosen})

    def are_new(self, points: Sequence[Point], threads: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which layers have weights and no equal among those that were fitted on."""
        return np.array([point.weights > 0 and (point, n) not in self.seen for point, n in zip(points, threads, strict=True)])

    def predict(self, points: Sequence[Point], threads: Sequence[int]) -> tuple[Array, Array, Array]:
        """Mean and deviation of log t over the ensemble, and the distance to the nearest layer that was fitted on."""
        log_base = self.base.log(points)
        table = features(points, threads, log_base)
        logs = np.array([member.predict(table) for member in self.members]) + log_base
        distance, _ = self.neighbours.kneighbors(self.scaler.transform(table))
        return logs.mean(axis=0), logs.std(axis=0), distance[:, 0]


def _bootstrap(groups: Sequence[object], weights: Array, chance: np.random.Generator) -> npt.NDArray[np.intp]:
    """Indices of layers: networks drawn with replacement, and of their layers those of less weight less often."""
    members: dict[object, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    each = list(members.values())
    drawn = np.array([i for at in chance.integers(len(each), size=len(each)) for i in each[at]])
    kept = drawn[chance.random(len(drawn)) < weights[drawn]]
    return kept if len(kept) else drawn


@dataclass
class _HeldOut:
    """Predictions of layers by models that were not fitted on their networks.

    Attributes:
        error: log predicted - log measured.
        fresh: has weights, and no equal layer was fitted on.
    """

    logs: Array
    error: Array
    spread: Array
    distance: Array
    fresh: npt.NDArray[np.bool_]


def _held_out(data: _Data, kind: Regressor, seed: int) -> _HeldOut:
    n = len(data.points)
    out = _HeldOut(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, bool))
    names = sorted(set(data.groups))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[at]: place % _FOLDS for place, at in enumerate(order)}
    folds = np.array([fold_of[group] for group in data.groups])
    for fold in range(_FOLDS):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fitted = _Fitted.of(data, train, kind, _MEMBERS_HELD_OUT, seed)
        points = [data.points[i] for i in test]
        out.logs[test], out.spread[test], out.distance[test] = fitted.predict(points, [data.threads[i] for i in test])
        out.fresh[test] = fitted.are_new(points, [data.threads[i] for i in test])
    out.error = out.logs - np.log(data.times)
    return out


@dataclass
class _Errors:
    """The root mean square of log errors at a distance d from the nearest layer that was fitted on: a + b d, a and b >= 0."""

    near: float
    growth: float

    @classmethod
    def of(cls, out: _HeldOut) -> _Errors:
        bins = np.array_split(np.argsort(out.distance), 10)
        distance = np.array([out.distance[members].mean() for members in bins])
        error = np.array([math.sqrt(np.mean(out.error[members] ** 2)) for members in bins])
        near, growth = nnls(np.stack([np.ones(len(bins)), distance], axis=1), error)[0]
        return cls(float(near), float(growth))

    def at(self, distance: Array) -> Array:
        return self.near + self.growth * distance


def _accuracy(data: _Data, logs: Array, new: npt.NDArray[np.bool_], rest: Array) -> Accuracy:
    new = new & (data.weights == 1)
    relative = np.abs(np.exp(logs[new]) / data.times[new] - 1)
    ranks = spearmanr(logs[new], data.times[new]).statistic
    members: dict[object, list[int]] = {}
    for i, group in enumerate(data.groups):
        members.setdefault(group, []).append(i)
    errors = [
        abs((np.exp(logs[members[group]]).sum() + rest @ (1, len(members[group]))) / whole.ns - 1)
        for group, whole in data.whole.items()
        if group in members
    ]
    return Accuracy(
        int(new.sum()), float(relative.mean()), float(ranks), len(errors), float(np.mean(errors)), float(np.max(errors))
    )
