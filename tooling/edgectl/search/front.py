"""The Pareto front of a search: quality against latency, as a picture and as a page that stands by itself."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgectl.profile.picture import png, sheet

_TEMPLATE = Path(__file__).with_name("front.html")


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
    kind: str


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
    styles = {"predicted": ("o", "tab:gray", 18), "measured": ("o", "tab:blue", 26)}
    for kind, (marker, colour, size) in styles.items():
        chosen = [dot for dot in front.dots if dot.kind == kind]
        if chosen:
            points = [d.latency for d in chosen], [d.quality for d in chosen]
            axes.scatter(*points, s=size, c=colour, marker=marker, label=f"tried, {kind}")
    tried = best_of([dot for dot in front.dots if dot.kind in styles])
    axes.step(
        [d.latency for d in tried], [d.quality for d in tried], where="post", color="tab:blue", linewidth=1, label="front"
    )
    axes.axvline(front.budget, color="tab:red", linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel(f"latency, {front.unit}")
    axes.set_ylabel(front.metric)
    axes.set_title(title)
    axes.legend(loc="lower right")
    return png(figure, title, f"{len(front.dots)} networks, {front.metric} against {front.unit}")


def page(front: Front, title: str) -> str:
    """The front as one HTML file: hovering or focusing a dot tells its network, a table lists the front."""
    tried = best_of([dot for dot in front.dots if dot.kind in ("predicted", "measured")])
    rows = "".join(
        f"<tr><td>{dot.latency:.4g}</td><td>{dot.quality:.2f}</td><td>{dot.kind}</td><td>{html.escape(dot.label)}</td></tr>"
        for dot in tried
    )
    document = {
        "dots": [asdict(dot) | {"front": dot in tried} for dot in front.dots],
        "unit": front.unit,
        "metric": front.metric,
        "budget": front.budget,
    }
    data = json.dumps(document).replace("</", "<\\/")
    return (
        _TEMPLATE.read_text(encoding="utf-8")
        .replace("{title}", html.escape(title))
        .replace("{rows}", rows)
        .replace("{unit}", html.escape(front.unit))
        .replace("{metric}", html.escape(front.metric))
        .replace("{data}", data)
    )
