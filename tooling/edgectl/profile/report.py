"""LatencyReport: what a device measured of one artifact, in total and layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from edgectl.errors import UserError

Clock = Literal["wall", "emulated-instructions"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Strict):
    """The spread of `n` runs: milliseconds (float) on the `wall` clock, whole counts on the emulated one."""

    min: int | float
    p10: int | float
    median: int | float
    p90: int | float
    n: int

    @classmethod
    def of(cls, nanoseconds: Sequence[int], clock: Clock) -> Latency:
        """The spread of the times of some runs, in ns of the device's clock (where emulated, 1 ns is 1 instruction).

        Percentiles are interpolated linearly between the sorted runs; counts are rounded to whole instructions.

        Raises:
            ValueError: there is no run.
        """
        if not nanoseconds:
            raise ValueError("there is no run to summarise")
        ordered = sorted(nanoseconds)
        values = [_percentile(ordered, share) for share in (0.0, 0.1, 0.5, 0.9)]
        low, p10, median, p90 = (round(value) if clock != "wall" else round(value / 1e6, 6) for value in values)
        return cls(min=low, p10=p10, median=median, p90=p90, n=len(ordered))


class LayerLatency(_Strict):
    """One layer: its row of the manifest, and what it took in the profiled runs.

    The latency is None for a layer that logged no event (its work was done inside another layer's). Events of the
    runtime that belong to no layer of the manifest are rows too, with `op` = `runtime`.
    """

    name: str
    op: str
    scheme: str = "dense"
    rate: float = 1.0
    bits: int = 32
    nonzeros: int = 0
    macs: int = 0
    effective_macs: int = 0
    input_shape: list[int] = []
    shape: list[int] = []
    runner: str
    min: int | float | None = None
    p10: int | float | None = None
    median: int | float | None = None
    p90: int | float | None = None

    @classmethod
    def measured(cls, facts: dict[str, Any], latency: Latency | None) -> LayerLatency:
        """A row from a layer's facts and its spread, if it logged any event."""
        return cls(**facts, **(latency.model_dump(exclude={"n"}) if latency else {}))


class LatencyReport(_Strict):
    """One bench of one artifact on one device.

    `total` was measured with no profiler attached; `layers` and `profiled` (the total of those same runs) with it.
    `peak_rss_kb` is the most memory that the process of `total` had resident, the model's file among it.
    """

    model: str
    sha256: str
    device: dict[str, Any]
    clock: Clock
    threads: int
    cpu_mask: str | None = None
    warmup: int
    total: Latency
    profiled: Latency
    peak_rss_kb: int | None = None
    layers: list[LayerLatency]

    @model_validator(mode="after")
    def _counts_are_whole(self) -> LatencyReport:
        if self.clock != "wall":
            rows: list[Latency | LayerLatency] = [self.total, self.profiled, *self.layers]
            if any(isinstance(getattr(row, field), float) for row in rows for field in STATISTICS):
                raise ValueError(f"{self.clock} are whole numbers, not times")
        return self

    @property
    def statistic(self) -> Literal["median", "min"]:
        """The figure to quote: the median of wall times; the minimum of instruction counts, where noise only adds."""
        return "median" if self.clock == "wall" else "min"

    @property
    def unit(self) -> str:
        """What the figures are, for a heading."""
        return "ms" if self.clock == "wall" else "emulated-instructions"

    def quoted(self, row: Latency | LayerLatency) -> int | float | None:
        """The quoted figure of the total or of a layer."""
        value: int | float | None = getattr(row, self.statistic)
        return value

    def outside_layers(self) -> int | float:
        """What the profiled runs took beyond the sum of all rows (never below 0)."""
        whole = self.quoted(self.profiled) or 0
        return max(0, whole - sum(self.quoted(layer) or 0 for layer in self.layers))


STATISTICS = ("min", "p10", "median", "p90")


class Pair(_Strict):
    """One layer of two reports side by side; `ratio` is against / this one: above 1, this one is faster."""

    name: str
    this: LayerLatency | None
    against: LayerLatency | None
    ratio: float | None


def compare(report: LatencyReport, against: LatencyReport) -> list[Pair]:
    """Matches the layers of two reports by module path, in the order of `report`; layers only `against` has come last.

    Raises:
        UserError: the reports were taken with different clocks, or with different numbers of threads.
    """
    if report.clock != against.clock:
        raise UserError(
            f"A report in {report.clock} cannot be compared with one in {against.clock}: bench both on the same device."
        )
    if report.threads != against.threads:
        raise UserError(
            f"A report on {report.threads} threads cannot be compared with one on {against.threads}: bench both alike."
        )
    others = {layer.name: layer for layer in against.layers}
    pairs = []
    for layer in report.layers:
        other = others.pop(layer.name, None)
        pairs.append(Pair(name=layer.name, this=layer, against=other, ratio=_ratio(report, layer, other)))
    return pairs + [Pair(name=name, this=None, against=other, ratio=None) for name, other in others.items()]


def total_ratio(report: LatencyReport, against: LatencyReport) -> float | None:
    """How many times the undisturbed total of `against` is that of `report`."""
    return _ratio(report, report.total, against.total)


def _ratio(report: LatencyReport, this: Latency | LayerLatency, against: Latency | LayerLatency | None) -> float | None:
    mine, other = report.quoted(this), report.quoted(against) if against else None
    return other / mine if mine and other is not None else None


def _percentile(ordered: Sequence[int], share: float) -> float:
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
