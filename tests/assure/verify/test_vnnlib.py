"""VNN-LIB 1.0 files are read as they mean it, or refused in a sentence."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.assure.verify.properties import Property
from edgectl.assure.verify.vnnlib import read_vnnlib
from edgectl.errors import UserError

DECLARED = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOX = "(assert (>= X_0 0.0))\n(assert (<= X_0 1.0))\n(assert (>= X_1 -2.5e-1))\n(assert (<= X_1 3))\n"


def read(folder: Path, text: str, inputs: int = 2, outputs: int = 2) -> list[Property]:
    path = folder / "property.vnnlib"
    path.write_text(text)
    return read_vnnlib(path, inputs, outputs)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as refused:
        read(folder, text)
    return str(refused.value)


def test_bounds_of_inputs_make_a_box_and_each_case_a_clause(tmp_path: Path) -> None:
    more = "; a comment (assert\n(assert (or (and (<= Y_0 Y_1) (>= Y_0 0.5)) (and (>= Y_1 3.5))))"
    (prop,) = read(tmp_path, DECLARED + BOX + more)
    assert prop.lower.tolist() == [0.0, -0.25]
    assert prop.upper.tolist() == [1.0, 3.0]
    both, one = prop.clauses
    assert both.rows.tolist() == [[1, -1], [-1, 0]]
    assert both.bound.tolist() == [0, -0.5]
    assert (one.rows.tolist(), one.bound.tolist()) == ([[0, -1]], [-3.5])


def test_an_output_violates_the_property_when_a_clause_holds(tmp_path: Path) -> None:
    (prop,) = read(tmp_path, DECLARED + BOX + "(assert (or (and (<= Y_0 Y_1) (>= Y_0 0.5)) (and (>= Y_1 3.5))))")
    wrong = ([0.5, 0.5], [0.0, 3.5])
    right = ([0.4, 1.0], [1.0, 0.9])
    assert all(prop.violated(torch.tensor(output)) for output in wrong)
    assert not any(prop.violated(torch.tensor(output)) for output in right)


def test_assertions_outside_of_a_choice_hold_in_all_of_its_cases(tmp_path: Path) -> None:
    (prop,) = read(tmp_path, DECLARED + BOX + "(assert (<= Y_0 1))(assert (or (<= Y_1 2) (>= Y_1 3)))")
    assert [clause.rows.tolist() for clause in prop.clauses] == [[[1, 0], [0, 1]], [[1, 0], [0, -1]]]


def test_linear_terms_are_summed_up(tmp_path: Path) -> None:
    condition = "(assert (<= (+ (* 2.0 Y_0) (- Y_1) 1.0) (- (* Y_0 0.5) 3)))"
    (prop,) = read(
        tmp_path, DECLARED + BOX.replace("(<= X_0 1.0)", "(<= (* -2.0 X_0) (- 4))") + condition + "(assert (<= X_0 5))"
    )
    assert prop.clauses[0].rows.tolist() == [[1.5, -1]]
    assert prop.clauses[0].bound.tolist() == [-4]
    assert (prop.lower.tolist(), prop.upper.tolist()) == ([2.0, -0.25], [5.0, 3.0])


def test_a_choice_of_boxes_makes_a_property_of_each(tmp_path: Path) -> None:
    choice = "(assert (or (and (<= X_0 0.25) (<= Y_0 0)) (and (>= X_0 0.75) (<= Y_1 0)) (and (<= X_0 0.25) (<= Y_1 9))))"
    left, right = read(tmp_path, DECLARED + BOX + choice)
    assert (left.lower.tolist(), left.upper.tolist()) == ([0.0, -0.25], [0.25, 3.0])
    assert (right.lower.tolist(), right.upper.tolist()) == ([0.75, -0.25], [1.0, 3.0])
    assert (len(left.clauses), len(right.clauses)) == (2, 1)


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "property.vnnlib.gz"
    path.write_bytes(gzip.compress((DECLARED + BOX + "(assert (<= Y_0 1))").encode()))
    assert len(read_vnnlib(path, 2, 2)) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read_vnnlib(path, 2, 2)


Y = "(assert (<= Y_0 1))"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["0 inputs", "model has 2"]),
        (DECLARED + BOX, ["nothing of the outputs"]),
        (DECLARED + BOX.replace("(assert (<= X_1 3))", "") + Y, ["X_1", "no upper bound"]),
        (DECLARED + BOX + "(assert (>= X_0 2))" + Y, ["X_0", "above its upper bound"]),
        (DECLARED + "(declare-const X_2 Real)" + BOX + Y, ["3 inputs", "model has 2"]),
        (DECLARED.replace("X_1", "X_7") + Y, ["X_0 to X_1"]),
        (DECLARED + BOX + Y + "(assert (<= Y_2 0))", ["Y_2", "does not declare"]),
        (DECLARED + BOX + Y + "(assert (<= (+ X_0 X_1) 0))", ["more than one input"]),
        (DECLARED + BOX + "(assert (<= X_0 Y_0))", ["inputs and outputs together"]),
        (DECLARED + BOX + "(assert (<= (* Y_0 Y_1) 0))", ["linear"]),
        (DECLARED + BOX + "(assert (<= Y_0 1e999))", ["not finite"]),
        (DECLARED + BOX + "(assert (<= Y_0 nan))", ["'nan'"]),
        (DECLARED + BOX + "(assert (< Y_0 1))", ["'<'"]),
        (DECLARED + BOX + "(assert (or))", ["'or'"]),
        (DECLARED + BOX + "(assert (<= 0 1))", ["without variables"]),
        (DECLARED + BOX + "(check-sat)" + Y, ["'check-sat'"]),
        (DECLARED + BOX + Y + "(assert (<= Y_0", ["cut short"]),
        (DECLARED + BOX + Y + ")", ["outside of parentheses"]),
        ("(" * 200, ["nests more than"]),
        (DECLARED + BOX + "(assert (or (<= Y_0 1) (<= Y_1 1)))" * 40, ["cases"]),
        ("(vnnlib-version <2.0>)", ["'vnnlib-version'", "VNN-LIB 1.0"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(text: str, words: list[str], tmp_path: Path) -> None:
    said = refusal(tmp_path, text)
    assert "property.vnnlib" in said
    assert "\n" not in said
    assert all(word in said for word in words), said


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "property.vnnlib"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_vnnlib(path, 2, 2)
    with pytest.raises(UserError, match="no property file"):
        read_vnnlib(tmp_path / "none.vnnlib", 2, 2)


WORDS = ["(", ")", "assert", "or", "and", "<=", ">=", "+", "*", "-", "X_0", "Y_0", "1.5", "declare-const", "Real", ";", "\n"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_any_words_are_a_property_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    folder = tmp_path_factory.mktemp("words")
    with contextlib.suppress(UserError):
        read(folder, DECLARED + BOX + Y + " ".join(words))
