"""The Pareto front of a search: quality against latency, as a picture and as a page that stands by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal

from edgectl.profile.picture import png, sheet

Kind = Literal["predicted", "measured", "found", "baseline"]

_PAGE = Path(__file__).with_name("front.html")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 860, 480, 60, 44, 24, 16
_ROOM = 0.06
_TICKS = 8
_TOLD: dict[Kind, str] = {
    "predicted": "tried, latency predicted",
    "measured": "tried, latency measured",
    "found": "found: trained to its end, measured",
    "baseline": "baseline: trained to its end, measured",
}
_CIRCLE = "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z"
_SHAPES: dict[Kind, str] = {
    "predicted": _CIRCLE,
    "measured": _CIRCLE,
    "found": "M0-9L9 0L0 9L-9 0Z",
    "baseline": "M-6-6H6V6H-6Z",
}


@dataclass(frozen=True)
class Dot:
    """A network.

    Attributes:
        latency: in the unit of the front.
        quality: larger is better.
        label: the network in words.
        kind: `predicted` or `measured` (its latency), or `found`, `baseline`: trained to their ends and measured.
    """

    latency: float
    quality: float
    label: str
    kind: Kind


@dataclass(frozen=True)
class Front:
    """What is drawn.

    Attributes:
        unit: of latencies, with the device: `ms on host`, `emulated-instructions on emulator:ci`.
        metric: of qualities, with its unit.
        budget: in the unit.
    """

    dots: Sequence[Dot]
    unit: str
    metric: str
    budget: float

    @property
    def best(self) -> list[Dot]:
        """The front of the networks that were tried; what was trained to its end cannot be compared with them."""
        return best_of([dot for dot in self.dots if dot.kind in ("predicted", "measured")])


def best_of(dots: Sequence[Dot]) -> list[Dot]:
    """The dots that no other beats in both, by rising latency."""
    front: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.latency, -dot.quality)):
        if not front or dot.quality > front[-1].quality:
            front.append(dot)
    return front


def picture(front: Front, title: str) -> bytes:
    """The front as PNG. Raises ImportError without matplotlib."""
    figure, axes = sheet()
    styles: dict[Kind, dict[str, Any]] = {
        "predicted": {"marker": "o", "s": 30, "facecolors": "white", "edgecolors": "gray"},
        "measured": {"marker": "o", "s": 34, "color": "tab:blue"},
        "found": {"marker": "D", "s": 80, "color": "tab:green"},
        "baseline": {"marker": "s", "s": 70, "color": "black"},
    }
    if front.best:
        corners = [d.latency for d in front.best], [d.quality for d in front.best]
        axes.step(*corners, where="post", color="tab:blue", linewidth=1.2, label="front")
    for kind, told in _TOLD.items():
        dots = [dot for dot in front.dots if dot.kind == kind]
        if dots:
            axes.scatter([d.latency for d in dots], [d.quality for d in dots], label=told, zorder=3, **styles[kind])
    axes.axvline(front.budget, color="tab:red", linestyle="--", linewidth=1.2, label=f"budget, {_short(front.budget)}")
    axes.set(xlabel=f"latency, {front.unit}", ylabel=front.metric, title=title)
    axes.xaxis.set_major_formatter(lambda value, position: _short(value))
    axes.legend(loc="lower right", fontsize=9)
    return png(figure, title, f"{len(front.dots)} networks: {front.metric} against latency, {front.unit}")


def page(front: Front, title: str) -> str:
    """The front as one HTML file, nothing of it elsewhere: a mark tells its network, a table lists the front."""
    names = {id(dot): f"dot{i}" for i, dot in enumerate(front.dots)}
    rows = (
        f'<tr data-dot="{names[id(dot)]}"><td class="number">{_short(dot.latency)}</td>'
        f'<td class="number">{dot.quality:.2f}</td><td>{dot.kind}</td><td>{escape(dot.label)}</td></tr>'
        for dot in front.best
    )
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        unit=escape(front.unit),
        metric=escape(front.metric),
        plot="\n".join(_svg(front, names, title)),
        rows="\n".join(rows),
    )


def _svg(front: Front, names: dict[int, str], title: str) -> Iterator[str]:
    low_x, high_x = _span([dot.latency for dot in front.dots] + [front.budget])
    low_y, high_y = _span([dot.quality for dot in front.dots])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(latency: float) -> float:
        return round(_LEFT + (latency - low_x) / (high_x - low_x) * (right - _LEFT), 2)

    def y(quality: float) -> float:
        return round(bottom - (quality - low_y) / (high_y - low_y) * (bottom - _TOP), 2)

    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{escape(title)}">'
    for tick in _ticks(low_x, high_x):
        yield f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{bottom}"/>'
        yield f'<text x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{_short(tick)}</text>'
    for tick in _ticks(low_y, high_y):
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:.6g}</text>'
    yield f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end">latency, {escape(front.unit)}</text>'
    yield f'<text x="4" y="12">{escape(front.metric)}</text>'
    yield f'<line class="budget" x1="{x(front.budget)}" x2="{x(front.budget)}" y1="{_TOP}" y2="{bottom}"/>'
    yield f'<text class="budgeted" x="{x(front.budget)}" y="12" text-anchor="middle">budget, {_short(front.budget)}</text>'
    corners = " ".join(f"{'H' if i else 'M'}{x(d.latency)}{'V' if i else ' '}{y(d.quality)}" for i, d in enumerate(front.best))
    yield f'<path class="front" d="{corners}"/>'
    for dot in front.dots:
        told = f"{dot.label}: {front.metric} {dot.quality:.2f}, latency {_short(dot.latency)} {front.unit}; {_TOLD[dot.kind]}"
        yield (
            f'<path id="{names[id(dot)]}" class="dot {dot.kind}" d="{_SHAPES[dot.kind]}" tabindex="0" '
            f'transform="translate({x(dot.latency)} {y(dot.quality)})"><title>{escape(told)}</title></path>'
        )
    yield from _legend(front)
    yield "</svg>"


def _legend(front: Front) -> Iterator[str]:
    shown = [(kind, told) for kind, told in _TOLD.items() if any(dot.kind == kind for dot in front.dots)]
    top = _HEIGHT - _BOTTOM - 18 * len(shown) - 12
    yield f'<rect class="legend" x="{_WIDTH - 290}" y="{top}" width="{290 - _RIGHT}" height="{18 * len(shown) + 8}"/>'
    for i, (kind, told) in enumerate(shown):
        height = top + 14 + 18 * i
        yield f'<path class="mark {kind}" d="{_SHAPES[kind]}" transform="translate({_WIDTH - 276} {height})"/>'
        yield f'<text x="{_WIDTH - 262}" y="{height + 4}">{told}</text>'


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of values with some room around it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low or abs(high) or 1.0) * _ROOM
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, some six of them."""
    rough = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    """A number in four digits, those of instructions as `123.4M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
