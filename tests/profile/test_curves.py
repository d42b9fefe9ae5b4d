"""The picture of a comparison: its points are exact, and it is one that can be looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgectl.profile.compare import Comparison, Row
from edgectl.profile.curves import Point, curves, draw
from edgectl.profile.picture import write_picture
from edgectl.profile.report import Latency

MS = 1_000_000


def row(runtime: str, variant: str, median: int, spread: int = 0) -> Row:
    """A row of 11 runs of `median` ms, but for two `spread` ms faster and two slower."""
    times = [median - spread] * 2 + [median] * 7 + [median + spread] * 2
    return Row(runtime, variant, Latency.of([time * MS for time in times], "wall"), 0.0)


COMPARED = Comparison(
    rows=[
        row("edgectl", "dense", 60, 20),
        row("edgectl", "recipe", 1),
        row("edgectl", "block_punched@8", 12, 2),
        row("edgectl", "block_punched@2", 40, 10),
        row("edgectl", "pattern@2.25", 30),
        row("edgectl", "pattern@2.25:body.*", 50),
        row("executorch-xnnpack", "dense", 90),
        row("onnxruntime", "dense", 75),
        row("openvino", "dense", 48),
        row("torch", "dense", 120),
    ]
)


def test_a_point_is_the_dense_median_over_the_row_and_its_percentiles() -> None:
    found = curves(COMPARED)
    assert found.dense == Point(1.0, 1.0, 60 / 80, 60 / 40)
    assert found.schemes == {
        "block_punched": [Point(2.0, 60 / 40, 60 / 50, 60 / 30), Point(8.0, 60 / 12, 60 / 14, 60 / 10)],
        "pattern": [Point(2.25, 2.0, 2.0, 2.0)],
        "pattern:body.*": [Point(2.25, 60 / 50, 60 / 50, 60 / 50)],
    }
    assert found.rates == [1.0, 2.0, 2.25, 8.0]


def test_the_three_fastest_other_runtimes_are_relative_to_our_dense_row() -> None:
    assert list(curves(COMPARED).peers.items()) == [
        ("openvino", 60 / 48),
        ("onnxruntime", 60 / 75),
        ("executorch-xnnpack", 60 / 90),
    ]


def test_a_quantised_scheme_has_a_line_of_its_own_from_the_row_that_is_only_quantised() -> None:
    quantised = [row("edgectl", "int8", 30), row("edgectl", "block_punched@2+int8", 20)]
    schemes = curves(Comparison(rows=COMPARED.rows + quantised)).schemes
    assert schemes["block_punched+int8"] == [Point(1.0, 2.0, 2.0, 2.0), Point(2.0, 3.0, 3.0, 3.0)]
    assert [point.rate for point in schemes["block_punched"]] == [2.0, 8.0]


@pytest.mark.parametrize("kept", ["everything", "no peers, one rate"])
def test_the_picture_can_be_looked_at_and_says_what_it_shows(
    tmp_path: Path, kept: str, picture_of: Callable[[Path], dict[str, str]]
) -> None:
    rows = COMPARED.rows if kept == "everything" else [COMPARED.rows[0], COMPARED.rows[3]]
    out = tmp_path / "new" / "curves.png"
    write_picture(draw(curves(Comparison(rows=rows)), tmp_path / "wdsr" / "recipe.toml", 2), out)
    assert picture_of(out)["Title"] == "wdsr/recipe.toml on this machine, 2 threads"
    assert [path.name for path in out.parent.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(("missing", "words"), [("dense", "dense row"), ("block_punched@2", "no variant")])
def test_there_is_no_curve_without_a_dense_row_and_a_variant(missing: str, words: str) -> None:
    rows = [row("edgectl", "dense", 60), row("edgectl", "recipe", 30), row("edgectl", "block_punched@2", 40)]
    with pytest.raises(ValueError, match=words):
        curves(Comparison(rows=[row for row in rows if row.variant != missing]))
