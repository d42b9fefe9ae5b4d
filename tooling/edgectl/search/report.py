"""What a search found, for people and programs: a document, and the front of all that was tried."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any

from edgectl.profile.picture import write_picture
from edgectl.search.finish import Trained
from edgectl.search.folder import VERSION, Asked, write_text
from edgectl.search.front import Dot, Front, page, picture
from edgectl.search.latency import Latencies
from edgectl.search.trials import Objective, Tried


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        ns, baseline_ns: of the found network and of the baseline, dense, measured in turns, in ns of the device's clock.
        budget: in the same.
        baseline: trained to its end, where that was asked for.
        trials: networks that were tried.
    """

    trained: Trained
    ns: float
    baseline_ns: float
    budget: float
    baseline: Trained | None
    trials: int
    latencies: Latencies


def document(asked: Asked, found: Found) -> dict[str, Any]:
    """What a search found, as JSON: times in ms, or in executed instructions of an emulated device."""
    wall = found.latencies.clock == "wall"

    def quoted(ns: float) -> float:
        return round(ns / 1e6, 4) if wall else round(ns)

    def trained(each: Trained, ns: float) -> dict[str, Any]:
        score = asdict(each.score)
        return {"network": str(each.candidate), "folder": str(each.folder), "latency": quoted(ns), "score": score}

    layers = found.trained.artifact.manifest.layers
    return {
        "version": VERSION,
        "device": asked.device,
        "clock": found.latencies.clock,
        "unit": "ms" if wall else found.latencies.clock,
        "threads": asked.threads,
        "budget": quoted(found.budget),
        "trials": found.trials,
        "found": trained(found.trained, found.ns),
        "baseline": {"network": str(asked.settings.space.dense()), "latency": quoted(found.baseline_ns)}
        | (trained(found.baseline, found.baseline_ns) if found.baseline else {}),
        "layers": [
            {"name": layer.name, "scheme": layer.scheme, "rate": round(layer.rate, 3), "nonzeros": layer.nonzeros}
            for layer in layers
            if layer.weights
        ],
    }


def write_front(asked: Asked, objective: Objective, networks: list[Tried]) -> None:
    """The front of all that was tried, as a page and, where matplotlib is installed, as a picture. Raises ToolError."""
    unit = 1e6 if objective.latencies.clock == "wall" else 1.0
    dots = [
        Dot(tried.ns / unit, tried.quality, str(tried.candidate), "measured" if tried.measured else "predicted")
        for tried in networks
    ]
    name = "ms" if objective.latencies.clock == "wall" else objective.latencies.clock
    front = Front(dots, f"{name} on {asked.device}", "held-out Y-PSNR, dB", objective.budget / unit)
    title = f"{len(dots)} networks of the search {asked.out.name}"
    write_text(asked.out / "front.html", page(front, title))
    if importlib.util.find_spec("matplotlib") is not None:
        write_picture(picture(front, title), asked.out / "front.png")
