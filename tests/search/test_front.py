"""The front of a search: which networks are on it, and that picture and page show all of them, in their places."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from edgectl.search.front import Dot, Front, best_of, page, picture

DOTS = [
    Dot(30.0, 36.0, "16: b6(none none none), tail <block>", "predicted"),
    Dot(20.0, 35.5, "12: a2(block block), tail block", "measured"),
    Dot(25.0, 35.4, "beaten", "measured"),
    Dot(10.0, 33.0, 'the "smallest"', "predicted"),
    Dot(21.0, 35.9, "found", "found"),
    Dot(40.0, 36.1, "dense", "baseline"),
]
FRONT = Front(DOTS, "ms on host", "Y-PSNR, dB", 22.0)


class Page(HTMLParser):
    """Its elements with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def text(self, tag: str) -> list[str]:
        return ["".join(text).strip() for name, _, text in self.elements if name == tag]

    def dots(self) -> list[tuple[str, float, float]]:
        """(kind, x, y) of each mark."""
        found = []
        for _, attributes, _ in self.elements:
            kinds = attributes.get("class", "").split()
            if kinds[:1] == ["dot"]:
                x, y = map(float, re.findall(r"[\d.]+", attributes["transform"]))
                found.append((kinds[1], x, y))
        return found


def test_the_front_is_what_no_other_network_beats_in_latency_and_quality() -> None:
    chance = np.random.default_rng(0)
    dots = [Dot(float(t), float(q), "", "predicted") for t, q in chance.integers(0, 12, size=(60, 2))]
    front = {(dot.latency, dot.quality) for dot in best_of(dots)}
    for dot in dots:
        beaten = any(
            other.latency <= dot.latency
            and other.quality >= dot.quality
            and (other.latency, other.quality) != (dot.latency, dot.quality)
            for other in dots
        )
        assert ((dot.latency, dot.quality) in front) != beaten


def test_what_was_trained_to_its_end_is_not_on_the_front_of_what_was_only_tried() -> None:
    assert [dot.label for dot in FRONT.best] == ['the "smallest"', DOTS[1].label, DOTS[0].label]


def test_the_page_has_a_mark_for_every_network_at_its_place() -> None:
    marks = Page(page(FRONT, "six networks")).dots()
    assert [kind for kind, _, _ in marks] == [dot.kind for dot in DOTS]
    x, y = np.array([mark[1:] for mark in marks]).T
    for places, values in ((x, [dot.latency for dot in DOTS]), (-y, [dot.quality for dot in DOTS])):
        slope, offset = np.polyfit(values, places, 1)
        assert slope > 0
        assert np.allclose(np.polyval((slope, offset), values), places, atol=0.02)


def test_the_page_tells_every_networks_layers_numbers_units_and_where_its_latency_is_from() -> None:
    told = [text for text in Page(page(FRONT, "six networks")).text("title") if text != "six networks"]
    assert len(told) == len(DOTS)
    assert told[0] == f"{DOTS[0].label}: Y-PSNR, dB 36.00, latency 30 ms on host; tried, latency predicted"
    for dot, text in zip(DOTS, told, strict=True):
        assert text.startswith(f"{dot.label}: ")
        assert (f"latency {dot.kind}" in text) or (dot.kind in ("found", "baseline") and "trained to its end" in text)


def test_the_page_draws_the_budget_where_it_is_and_lists_the_front() -> None:
    shown = Page(page(FRONT, "six networks"))
    (line,) = (attributes for _, attributes, _ in shown.elements if attributes.get("class") == "budget")
    x = {dot.latency: mark[1] for dot, mark in zip(DOTS, shown.dots(), strict=True)}
    assert line["x1"] == line["x2"]
    assert float(line["x1"]) == pytest.approx(x[20.0] + 0.2 * (x[30.0] - x[20.0]), abs=0.02)
    assert "budget, 22" in shown.text("text")
    assert "latency, ms on host" in shown.text("text")
    cells = shown.text("td")
    assert [cells[i : i + 4] for i in range(0, len(cells), 4)] == [
        ["10", "33.00", "predicted", 'the "smallest"'],
        ["20", "35.50", "measured", DOTS[1].label],
        ["30", "36.00", "predicted", DOTS[0].label],
    ]
    rows = [attributes["data-dot"] for tag, attributes, _ in shown.elements if tag == "tr" and attributes]
    assert rows == ["dot3", "dot1", "dot0"]


def test_the_page_needs_nothing_from_elsewhere_and_no_label_becomes_markup() -> None:
    nasty = Front([Dot(1.0, 2.0, "</script><img src=x onerror=alert(1)> $rows", "predicted")], "ms <b>", "dB", 1.0)
    text = page(nasty, "<i>$plot</i>")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\b(src|href)=\"", text)
    shown = Page(text)
    assert {"img", "b", "i"}.isdisjoint(tag for tag, _, _ in shown.elements)
    assert shown.text("h1") == ["<i>$plot</i>"]


def test_instructions_are_written_in_millions_not_in_powers_of_ten() -> None:
    front = Front([Dot(1.234e8, 35.0, "a", "measured"), Dot(9.5e8, 36.0, "b", "measured")], "emulated-instructions", "dB", 5e8)
    shown = Page(page(front, "t"))
    assert "budget, 500M" in shown.text("text")
    assert "123.4M" in shown.text("td")
    assert "e+0" not in page(front, "t")


@pytest.mark.parametrize("dots", [[], DOTS[:1], DOTS[:1] * 3])
def test_a_search_with_few_networks_has_a_page_and_a_picture_too(dots: list[Dot]) -> None:
    front = Front(dots, "ms on host", "dB", 22.0)
    assert len(Page(page(front, "few")).dots()) == len(dots)
    assert Image.open(io.BytesIO(picture(front, "few"))).format == "PNG"


def test_the_picture_shows_every_kind_of_network_and_the_budget() -> None:
    image = Image.open(io.BytesIO(picture(FRONT, "six networks")))
    assert image.info["Title"] == "six networks"
    assert "6 networks: Y-PSNR, dB against latency, ms on host" in image.info["Description"]
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((31, 119, 180), (44, 160, 44), (214, 39, 40)):  # measured, found, budget
        assert (np.abs(pixels - np.array(colour)).max(axis=1) < 8).sum() > 50
