"""Latency reports: their statistics, their units, and how two are compared."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgectl.artifact import Layer
from edgectl.errors import UserError
from edgectl.profile.bench import join
from edgectl.profile.events import Profile
from edgectl.profile.report import Latency, LatencyReport, compare, total_ratio

WALL_RUNS = [3_000_000, 1_000_000, 2_000_000]


def layer(name: str, nonzeros: int = 10) -> Layer:
    return Layer(
        name=name, op="conv2d", runner="edge", input_shape=[1, 3, 8, 8], output_shape=[1, 4, 8, 8], nonzeros=nonzeros, macs=640
    )


def profile(events: dict[str, list[int]], foreign: str = "") -> Profile:
    made = Profile(totals=[])
    made.update(events)
    made.runners.update({name: "executorch" if name == foreign else "edge" for name in events})
    return made


def report(clock: str = "wall", threads: int = 1, layers: dict[str, list[int]] | None = None) -> LatencyReport:
    events = layers or {"head": [1_000_000, 1_200_000], "body.0": [500_000, 500_000]}
    return LatencyReport(
        model="m",
        sha256="0" * 64,
        device={"name": "host"},
        clock=clock,
        threads=threads,
        warmup=1,
        total=Latency.of(WALL_RUNS, clock),
        profiled=Latency.of(WALL_RUNS, clock),
        layers=join([layer(name) for name in events], profile(events), 2, clock),
    )


def test_wall_times_are_milliseconds() -> None:
    spread = Latency.of(WALL_RUNS, "wall")
    assert (spread.min, spread.median, spread.n) == (1.0, 2.0, 3)
    assert spread.p10 == pytest.approx(1.2)
    assert spread.p90 == pytest.approx(2.8)


def test_emulated_instructions_are_whole_counts() -> None:
    spread = Latency.of([3, 1, 2, 8], "emulated-instructions")
    assert all(isinstance(value, int) for value in (spread.min, spread.p10, spread.median, spread.p90))
    assert spread.min == 1


@given(st.lists(st.integers(min_value=0, max_value=2**53), min_size=1, max_size=50))
def test_statistics_are_ordered_whatever_was_measured(times: list[int]) -> None:
    spread = Latency.of(times, "emulated-instructions")
    assert min(times) == spread.min <= spread.p10 <= spread.median <= spread.p90 <= max(times)


def test_a_report_in_instructions_refuses_fractions() -> None:
    counts = report("emulated-instructions").model_dump(mode="json")
    counts["total"]["median"] = 1.5
    with pytest.raises(ValidationError, match="whole numbers"):
        LatencyReport.model_validate(counts)


def test_the_json_document_has_the_agreed_form_and_reads_back() -> None:
    original = report()
    document = json.loads(original.model_dump_json())
    assert document["clock"] == "wall"
    assert document["threads"] == 1
    assert set(document["total"]) == {"min", "p10", "median", "p90", "n"}
    assert {"name", "op", "scheme", "nonzeros", "macs", "median"} <= set(document["layers"][0])
    assert LatencyReport.model_validate(document) == original


def test_wall_time_quotes_the_median_and_instructions_the_minimum() -> None:
    assert report().quoted(report().total) == 2.0
    assert report("emulated-instructions").quoted(report("emulated-instructions").total) == 1_000_000


def test_reports_of_different_clocks_are_not_compared() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        compare(report("wall"), report("emulated-instructions"))


def test_reports_of_different_threads_are_not_compared() -> None:
    with pytest.raises(UserError, match="threads"):
        compare(report(threads=1), report(threads=2))


def test_layers_are_compared_by_module_path_wherever_they_stand() -> None:
    this = report(layers={"head": [2_000_000], "tail": [1_000_000]})
    other = report(layers={"tail": [4_000_000], "head": [2_000_000], "extra": [1]})
    pairs = {pair.name: pair for pair in compare(this, other)}
    assert list(pairs) == ["head", "tail", "extra"]
    assert pairs["head"].ratio == 1.0
    assert pairs["tail"].ratio == 4.0
    assert pairs["extra"].this is None
    assert total_ratio(this, other) == 1.0


def test_every_layer_of_the_manifest_is_a_row_and_so_are_unknown_events() -> None:
    rows = join(
        [layer("head"), layer("fused")],
        profile({"aten::cumsum": [9, 9], "head": [5, 7]}, "aten::cumsum"),
        2,
        "emulated-instructions",
    )
    assert [(row.name, row.runner, row.min) for row in rows] == [
        ("head", "edge", 5),
        ("fused", "edge", None),
        ("aten::cumsum", "executorch", 9),
    ]


def test_only_the_timed_runs_count_not_those_that_warmed_up() -> None:
    (row,) = join([layer("head")], profile({"head": [1, 50, 60]}), 2, "emulated-instructions")
    assert row.min == 50


def test_the_time_between_layers_is_what_the_layers_leave_of_the_profiled_runs() -> None:
    whole = report(layers={"head": [1_500_000]})
    assert whole.outside_layers() == pytest.approx(0.5)
