"""The latency model: on times that follow a known law, it finds the law and knows where it does not."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from edgectl.errors import UserError
from edgectl.profile.history import History
from edgectl.profile.latency_model import LatencyModel
from edgectl.profile.measurements import REST, WHOLE, Measured, Measurements, Setting
from edgectl.profile.points import Point
from edgectl.profile.space import SPACES
from edgectl.profile.trace import points_of_module

HOST = Setting("host", "wall", 1, "avx2")
REST_NS, REST_OF_A_LAYER_NS = 20_000, 500


def law(point: Point) -> float:
    """ns: sparse multiply-adds cost 1.5 times as much; every element read or written costs, and being started."""
    price = 0.045 if point.scheme in ("unstructured", "pattern") else 0.03
    elements = point.channels * point.height * point.width + point.filters * point.out_height * point.out_width
    return 3_000 + price * point.effective_macs + 0.1 * elements


def measured(first: int, count: int, setting: Setting = HOST, seed: int = 0) -> list[Measured]:
    """Networks of the space, as if measured on a device of the law, with a noise of 1 %."""
    noise = np.random.default_rng(seed)
    rows = []
    for network in islice(SPACES["sr"].networks(0), first, first + count):
        assert network.module is not None
        points = list(points_of_module(network.module, network.recipe.model.input, network.recipe.prune).values())
        times = [round(law(point) * (1 + 0.01 * abs(noise.standard_normal()))) for point in points]
        rest = REST_NS + REST_OF_A_LAYER_NS * len(points)
        for position, point, ns in [(REST, None, rest), (WHOLE, None, sum(times) + rest), *zip(range(99), points, times)]:  # noqa: B905
            rows.append(Measured(setting, network.name, position, point, (ns,), 1, 1, True))
    return rows


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    return LatencyModel.fit(measured(0, 24))


def test_the_law_is_found_and_held_out_networks_say_so(model: LatencyModel) -> None:
    assert (model.device, model.clock, model.isa) == ("host", "wall", "avx2")
    assert model.held_out.mape < 0.06
    assert model.held_out.spearman > 0.99
    assert model.held_out.mape == min(accuracy.mape for accuracy in model.accuracy.values())
    assert model.held_out.networks == 24
    assert model.held_out.layers > 100


def test_networks_that_were_never_seen_are_predicted_layer_by_layer_and_whole(model: LatencyModel) -> None:
    unseen = measured(40, 6)
    accuracy = model.assess(unseen)
    assert accuracy.mape < 0.06
    assert accuracy.networks == 6
    assert accuracy.network_worst < 0.08
    rows = [row for row in unseen if row.network == unseen[0].network]
    whole = next(row.ns for row in rows if row.position == WHOLE)
    ns, sigma = model.network(row.point for row in rows if row.point is not None)
    assert ns == pytest.approx(whole, rel=0.08)
    assert 0 < sigma < 0.2 * ns


def test_the_rest_of_a_network_is_added(model: LatencyModel) -> None:
    points = [row.point for row in measured(0, 1) if row.point is not None]
    layers, _ = model.predict(points)
    assert model.network(points)[0] - layers.sum() == pytest.approx(REST_NS + REST_OF_A_LAYER_NS * len(points), rel=0.01)


def test_the_deviation_is_larger_off_the_data(model: LatencyModel) -> None:
    near = [row.point for row in measured(40, 3) if row.point is not None and row.point.op == "conv"]
    size = {"height": 1080, "width": 1920, "out_height": 1080, "out_width": 1920}
    wide = [point.model_copy(update={"channels": 512, "filters": 512, "scheme": "dense"} | size) for point in near]
    far = [point.model_copy(update={"nonzeros": point.weights}) for point in wide]
    relative = [sigma / ns for ns, sigma in (model.predict(points) for points in (near, far))]
    assert np.median(relative[1]) > 2 * np.median(relative[0])


@pytest.mark.slow
def test_the_same_measurements_give_the_same_model() -> None:
    rows = measured(0, 6)
    points = [row.point for row in rows if row.point is not None]
    one, other = (LatencyModel.fit(rows).predict(points)[0] for _ in range(2))
    assert np.array_equal(one, other)


def test_an_operation_that_was_never_measured_is_refused(model: LatencyModel) -> None:
    sine = Point(op="sine", channels=1, height=8, width=8, filters=1, out_height=8, out_width=8)
    with pytest.raises(UserError, match=r"No sine was measured on host: measure a recipe that has one"):
        model.predict([sine])


def test_too_few_measurements_are_refused_with_how_many_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too few to fit a latency model on: 40 of 5 are the least"):
        LatencyModel.fit(measured(0, 2))
    with pytest.raises(UserError, match=r"0 layers of 0 networks are too few"):
        LatencyModel.of(Measurements(History(tmp_path / "none.sqlite")), "host", "wall")


def test_devices_and_clocks_are_not_mixed() -> None:
    phone = Setting("emulator", "emulated-instructions", 1, "neon")
    with pytest.raises(UserError, match="of one device, clock and instruction set"):
        LatencyModel.fit([*measured(0, 5), *measured(5, 5, phone)])


def test_a_model_read_from_a_store_is_of_one_clock_and_leaves_networks_out(tmp_path: Path) -> None:
    store = Measurements(History(tmp_path / "history.sqlite"))
    phone = Setting("host", "emulated-instructions", 1, "neon")
    for setting, first, count in ((HOST, 0, 7), (phone, 0, 2)):
        rows = measured(first, count, setting)
        for name in sorted({row.network for row in rows}):
            times = {row.position: row for row in rows if row.network == name}
            layers = [(row.point, list(row.lowest)) for _, row in sorted(times.items()) if row.point is not None]
            store.add(setting, name, list(times[WHOLE].lowest), list(times[REST].lowest), layers)
    left_out = SPACES["sr"].network(0, 0).name
    model = LatencyModel.of(store, "host", "wall", {left_out})
    kept = [row for row in store.read(clock="wall") if row.point is not None and row.network != left_out]
    assert model.layers == len(kept)
    assert model.held_out.networks == 6
