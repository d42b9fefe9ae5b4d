"""Operator spaces: what is drawn from them, and that measuring it survives whatever happens."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from edgectl.device import HostDevice, Progress, PushResult, RunResult
from edgectl.errors import ToolError, UserError
from edgectl.lowering import build
from edgectl.profile.collect import collect
from edgectl.profile.history import History
from edgectl.profile.measurements import REST, WHOLE, Measured, Measurements, Setting, layers_in, networks
from edgectl.profile.points import Point, points_of
from edgectl.profile.space import SPACES, Space, of_recipe
from edgectl.profile.trace import points_of_module, points_of_recipe
from edgectl.recipe import Recipe

MODELS = Path(__file__).parents[2] / "models"
SMALL = """
maps = [[24, 32]]
channels = [4, 8]
blocks = ["conv", "wdsr_b"]
length = [1, 1]
schemes = ["none", "filter", "block_punched"]
scale = 2
"""


@pytest.fixture
def small(tmp_path: Path) -> Space:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return Space.load(str(path))


@pytest.fixture
def store(tmp_path: Path) -> Measurements:
    return Measurements(History(tmp_path / "history.sqlite"))


@pytest.mark.parametrize("name", list(SPACES))
def test_networks_drawn_from_a_space_are_within_its_ranges_and_the_same_for_the_same_seed(name: str) -> None:
    space = SPACES[name]
    for number in range(8):
        network = space.network(3, number)
        shape = network.recipe.model.input
        assert network.name == space.network(3, number).name != space.network(4, number).name
        assert tuple(shape[2:]) in space.maps
        assert network.module is not None
        points = points_of_module(network.module, shape, network.recipe.prune)
        assert all(point.macs <= space.most_macs for name, point in points.items() if name.startswith("body."))
        assert {point.scheme for point in points.values()} <= {"dense", *space.schemes}
        assert all(1 <= rule.rate <= space.rates[1] for rule in network.recipe.prune)


def test_a_drawn_network_computes_what_its_space_is_for() -> None:
    example = torch.rand(1, 3, 90, 160)
    with torch.no_grad():
        network = next(n for n in SPACES["sr"].networks(0) if n.recipe.model.input == [1, 3, 90, 160])
        assert network.module is not None
        assert network.module(example).shape == (1, 3, 180, 320)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("channels = [8, 4]", "small is empty: in every range the first number"),
        ("most_macs = 100", "small is empty: no network of 1 blocks of 4 channels or more"),
        ("maps = []", "`maps`"),
        ('schemes = ["blocks"]', "`schemes.0` is 'blocks'"),
        ("chanels = [8, 4]", "`chanels`"),
        ("maps = ", "not valid TOML"),
    ],
)
def test_a_space_that_is_empty_or_wrong_is_told_in_a_sentence(tmp_path: Path, lines: str, told: str) -> None:
    key = lines.split(" ", maxsplit=1)[0]
    path = tmp_path / "small.toml"
    path.write_text("\n".join([line for line in SMALL.splitlines() if not line.startswith(key)] + [lines]))
    with pytest.raises(UserError, match=told.replace("[", r"\[")):
        Space.load(str(path))


def test_a_space_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"no space srr: choose one of sr, wdsr, classify, detect, or a TOML file"):
        Space.load("srr")


def test_layers_are_measured_by_name_and_a_network_takes_what_its_parts_take(small: Space, store: Measurements) -> None:
    device = HostDevice()
    artifacts = Path(device.workdir, "artifacts")
    before = set(artifacts.glob("*"))
    assert collect(small.networks(0), device, store, count=10, rounds=4) >= 10
    for name, rows in networks(store.read(device="host")).items():
        whole = next(row for row in rows if row.position == WHOLE)
        parts = [row for row in rows if row.position not in (WHOLE, REST)]
        drawn = next(n for n in itertools.islice(small.networks(0), 10) if n.name == name)
        assert drawn.module is not None
        expected = points_of_module(drawn.module, drawn.recipe.model.input, drawn.recipe.prune)
        assert [row.point.op for row in parts if row.point] == [point.op for point in expected.values()]
        assert 0.3 < sum(row.ns for row in rows if row.position != WHOLE) / whole.ns < 2
        assert all(row.setting.clock == "wall" and row.setting.isa and row.rounds >= 4 for row in rows)
    assert set(artifacts.glob("*")) == before  # nothing is left on the device


def test_what_was_measured_is_not_measured_again(small: Space, store: Measurements) -> None:
    first = collect(small.networks(0), HostDevice(), store, count=6, rounds=2)
    before = store.read()
    assert collect(small.networks(0), HostDevice(), store, count=6, rounds=2) == first
    assert store.read() == before


COLLECTOR = """
import sys
from pathlib import Path
from edgectl.device import open_device
from edgectl.profile.collect import collect
from edgectl.profile.history import History
from edgectl.profile.measurements import Measurements
from edgectl.profile.space import Space
store = Measurements(History(Path(sys.argv[2])))
collect(Space.load(sys.argv[1]).networks(0), open_device("host"), store, count=12, rounds=30)
"""


def test_a_kill_loses_no_finished_round_and_measuring_goes_on(small: Space, store: Measurements, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COLLECTOR, str(tmp_path / "small.toml"), str(store.history.path)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while layers_in(store.read()) == 0 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {(row.network, row.position): row for row in store.read()}
    assert kept
    assert collect(small.networks(0), HostDevice(), store, count=12, rounds=2) >= 12
    now = {(row.network, row.position): row for row in store.read()}
    assert kept.keys() <= now.keys()
    assert all(now[key].rounds >= row.rounds and now[key].ns <= row.ns for key, row in kept.items())


class Vanishing(HostDevice):
    """The host, which goes away after some commands."""

    def __init__(self, commands: int) -> None:
        super().__init__()
        self.left = commands

    def push(self, files: Mapping[str, Path], folder: str, progress: Progress | None = None) -> PushResult:
        return super().push(files, folder, progress)

    def run(self, argv: Sequence[str], *, folder: str, timeout: float | None = None, label: str | None = None) -> RunResult:
        self.left -= 1
        if self.left < 0:
            raise ToolError(f"running {label} on {self.name}", "the device went away")
        return super().run(argv, folder=folder, timeout=timeout, label=label)


def test_a_device_that_goes_away_is_told_and_what_it_measured_is_kept(small: Space, store: Measurements) -> None:
    with pytest.raises(ToolError, match=r"went away; the measurements of \d+ layers are kept, and the same command goes on"):
        collect(small.networks(0), Vanishing(4), store, count=6, rounds=4)
    kept = store.read()
    assert {row.rounds for row in kept} == {1}
    collect(small.networks(0), HostDevice(), store, count=6, rounds=2)
    assert {row.rounds for row in store.read() if row.network == kept[0].network} == {2}


def test_rounds_add_up_to_the_lowest_times_and_settings_are_apart(store: Measurements) -> None:
    point = SPACES["sr"].network(0, 0)
    assert point.module is not None
    layer = next(iter(points_of_module(point.module, point.recipe.model.input).values()))
    wall, counted = Setting("phone", "wall", 1, "neon"), Setting("phone", "emulated-instructions", 1, "neon")
    store.add(wall, "n", [900, 700], [50, 40], [(layer, [300, 200])])
    rows = store.add(wall, "n", [800, 710], [45, 41], [(layer, [190, 260])])
    store.add(counted, "n", [7], [1], [(layer, [2])])
    assert [(row.position, row.lowest, row.runs, row.rounds, row.settled) for row in rows] == [
        (REST, (40, 41, 45, 50), 4, 2, False),
        (WHOLE, (700, 710, 800, 900), 4, 2, False),
        (0, (190, 200, 260, 300), 4, 2, False),
    ]
    assert store.read(clock="wall") == rows
    read = store.read(device="phone", clock="emulated-instructions")
    assert [(row.ns, row.settled) for row in read] == [(1, True), (7, True), (2, True)]
    assert store.read(device="tablet") == []


def test_the_points_of_a_module_are_those_of_what_is_built_from_it(tmp_path: Path) -> None:
    recipe = Recipe.load(MODELS / "wdsr/x2_tiny_pruned.toml")
    quarter = recipe.model.model_copy(update={"input": [1, 3, 90, 160]})
    recipe = recipe.model_copy(update={"model": quarter})
    recipe._path = MODELS / "wdsr/x2_tiny_pruned.toml"
    traced = points_of_recipe(recipe)
    built = points_of(build(recipe, tmp_path / "built").artifact.manifest.layers)
    assert list(traced) == list(built)
    for name, point in built.items():
        assert point.nonzeros == pytest.approx(traced[name].nonzeros, rel=0.02)
        assert point.model_copy(update={"nonzeros": 0}) == traced[name].model_copy(update={"nonzeros": 0})


def test_what_another_runtime_runs_and_what_fx_cannot_trace_are_refused(tmp_path: Path) -> None:
    class Sine(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x)

    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="is not known before it is built"):
        points_of_module(Sine(), [1, 3, 8, 8])
    with pytest.raises(UserError, match=r"torch\.fx cannot trace the model"):
        points_of_module(Branch(), [1, 3, 8, 8])
    recipe = of_recipe(MODELS / "wdsr/x2_tiny.toml").recipe
    small = recipe.model_copy(update={"model": recipe.model.model_copy(update={"input": [1, 3, 8, 8]})})
    layers = build(small, tmp_path / "sine", model=Sine()).artifact.manifest.layers
    with pytest.raises(UserError, match=r"is run by \w+: the latency model knows edgectl's own kernels only"):
        points_of(layers)


def test_a_point_knows_its_multiply_adds() -> None:
    point = Point(
        op="conv", channels=8, height=10, width=12, filters=16, out_height=5, out_width=6, kernel=(3, 3), stride=2, nonzeros=288
    )
    assert (point.weights, point.rate, point.macs, point.effective_macs) == (1152, 4.0, 1152 * 30, 288 * 30)
    assert Measured(Setting("d", "wall", 1, "neon"), "n", 0, point, (3, 4), 2, 1, True).ns == 3
