"""`edgectl profile-space`: what layers take on a device, and how well that lets the time of others be predicted."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli.options import DeviceOption, JsonOption, ThreadsOption

if TYPE_CHECKING:
    from edgectl.profile.latency_model import Accuracy, LatencyModel


def command(
    *,
    device: DeviceOption = "host",
    space: Annotated[
        str, typer.Option(metavar="SPACE", help="`sr`, `wdsr`, `classify`, `detect`, or a TOML file of ranges.")
    ] = "sr",
    count: Annotated[int, typer.Option(min=1, help="Layers of the space to have measured in the end.")] = 300,
    recipe: Annotated[
        list[Path] | None, typer.Option(metavar="RECIPE", help="Measure the layers of this recipe too; may be repeated.")
    ] = None,
    networks: Annotated[
        int, typer.Option(min=0, help="Also measure so many random WDSR networks, and predict them without.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the layers that are drawn.")] = 0,
    threads: ThreadsOption = 1,
    rounds: Annotated[
        int,
        typer.Option(min=1, help="Of runs that a network gets at most, until its least times agree: more on a busy device."),
    ] = 12,
    as_json: JsonOption = False,
) -> None:
    """Measure the layers of a search's space on a device, and fit the model that predicts the time of others from them.

    It goes on where it stopped, or was killed.

    Example: edgectl profile-space --device emulator --space sr --count 300
    """
    from edgectl.cli.console import progress
    from edgectl.device import open_device

    target = open_device(device)
    from edgectl.profile.collect import collect
    from edgectl.profile.latency_model import LatencyModel
    from edgectl.profile.measurements import Measurements
    from edgectl.profile.space import SPACES, Space, of_recipe

    chosen, store = Space.load(space), Measurements()
    recipes = [of_recipe(path) for path in recipe or []]
    checked = list(islice(SPACES["wdsr"].networks(seed), networks))
    with progress() as say:
        collect(chosen.networks(seed), target, store, count=count, threads=threads, rounds=rounds, progress=say)
        collect(recipes, target, store, threads=threads, rounds=rounds, progress=say)
        collect(checked, target, store, threads=threads, rounds=rounds, progress=say)
        say("fitting", None)
        clock = target.describe().require_latency_clock()
        without = {network.name for network in checked}
        model = LatencyModel.of(store, target.name, clock, without)
        rows = [row for row in store.read(device=target.name, clock=clock, threads=threads) if row.network in without]
        check = model.assess([row for row in rows if row.setting.isa == model.isa]) if rows else None
    if as_json:
        print(json.dumps(_document(model, check), indent=2))
    else:
        _print(model, check)


def _document(model: LatencyModel, check: Accuracy | None) -> dict[str, object]:
    return {
        "device": model.device,
        "clock": model.clock,
        "isa": model.isa,
        "layers": model.layers,
        "regressor": model.regressor,
        "held_out": {name: dataclasses.asdict(accuracy) for name, accuracy in model.accuracy.items()},
        "wdsr": dataclasses.asdict(check) if check else None,
    }


def _print(model: LatencyModel, check: Accuracy | None) -> None:
    from edgectl.cli.console import output, table

    console = output()
    unit = "time" if model.clock == "wall" else model.clock
    console.print(
        f"{model.device} ({model.isa}): {unit} of {model.layers} layers, predicted by {model.regressor}", style="bold"
    )
    rows = table(
        "predicted without having seen them", "by", ">layers", ">mean error", ">Spearman", ">networks", ">mean", ">worst"
    )
    shown = [("held-out networks", name, accuracy) for name, accuracy in model.accuracy.items()]
    for what, by, accuracy in [*shown, *([("random WDSR networks", model.regressor, check)] if check else [])]:
        rows.add_row(
            what,
            by,
            str(accuracy.layers),
            f"{100 * accuracy.mape:.1f} %",
            f"{accuracy.spearman:.3f}",
            str(accuracy.networks),
            f"{100 * accuracy.network_mape:.1f} %",
            f"{100 * accuracy.network_worst:.1f} %",
        )
    console.print(rows)
