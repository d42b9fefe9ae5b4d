"""Reads VNN-LIB 1.0: boxes of inputs X_i and linear conditions on outputs Y_j that describe a counterexample.

The parsers on PyPI read VNN-LIB 2.0, another language, so this is a small one of our own. Files come from anywhere: nothing in
them is executed, and their size, depth and number of cases are limited.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch

from edgectl.assure.verify.files import read_limited
from edgectl.assure.verify.properties import Clause, Property, check_sizes
from edgectl.errors import UserError

_MOST_BYTES = 1 << 28
_MOST_DEPTH = 100
_MOST_CASES = 100_000
_MOST_VARIABLES = 1 << 24
_TOKEN = re.compile(r"[()]|[^\s()]+")
_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")

Term: TypeAlias = "str | list[Term]"


class _Wrong(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


@dataclass
class _Linear:
    """A linear expression: coefficients by variable, `("X", 3)`, and a constant."""

    terms: dict[tuple[str, int], float] = field(default_factory=dict)
    constant: float = 0.0

    def add(self, other: _Linear, factor: float) -> _Linear:
        terms = dict(self.terms)
        for variable, value in other.terms.items():
            terms[variable] = terms.get(variable, 0.0) + factor * value
        return _Linear(terms, self.constant + factor * other.constant)


@dataclass
class _Case:
    """One conjunction: bounds of inputs, and rows `(coefficients, bound)` of outputs: sum of coefficients * Y <= bound."""

    lower: dict[int, float] = field(default_factory=dict)
    upper: dict[int, float] = field(default_factory=dict)
    rows: list[tuple[dict[int, float], float]] = field(default_factory=list)

    def joined(self, other: _Case) -> _Case:
        lower, upper = dict(self.lower), dict(self.upper)
        for i, value in other.lower.items():
            lower[i] = max(value, lower.get(i, value))
        for i, value in other.upper.items():
            upper[i] = min(value, upper.get(i, value))
        return _Case(lower, upper, self.rows + other.rows)


def read_vnnlib(path: Path, inputs: int, outputs: int) -> list[Property]:
    """The properties of a VNN-LIB 1.0 file (`.vnnlib`, `.vnnlib.gz`), one for each box; all must hold.

    Args:
        path: the file.
        inputs: how many inputs the model has; X_i is number i in row-major order.
        outputs: how many outputs.

    Raises:
        UserError: the file is missing or damaged, is not VNN-LIB 1.0, or is about another number of inputs or outputs.
    """
    text = _read(path)
    try:
        declared, cases = _assertions(text)
        for letter, have, want in (("X", declared["X"], inputs), ("Y", declared["Y"], outputs)):
            if have != set(range(have_most := len(have))):
                raise _Wrong(f"declares {have_most} variables {letter}, but not {letter}_0 to {letter}_{have_most - 1}")
            if len(have) != want:
                what = "inputs" if letter == "X" else "outputs"
                raise _Wrong(f"is about {len(have)} {what}, but the model has {want}: they do not belong together")
        properties = list(_properties(path.name, cases, inputs, outputs))
    except _Wrong as wrong:
        raise UserError(f"{path} {wrong}.") from None
    check_sizes(properties, inputs, outputs, str(path))
    return properties


def _read(path: Path) -> str:
    try:
        return read_limited(path, "property file", _MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _terms(text: str) -> Iterator[list[Term]]:
    """The expressions in parentheses of a file."""
    stack: list[list[Term]] = []
    for token in _TOKEN.findall(re.sub(r";[^\n]*", "", text)):
        if token == "(":
            if len(stack) >= _MOST_DEPTH:
                raise _Wrong(f"nests more than {_MOST_DEPTH} parentheses")
            stack.append([])
        elif not stack:
            raise _Wrong(f"has {token[:40]!r} outside of parentheses")
        elif token == ")":
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        else:
            stack[-1].append(token)
    if stack:
        raise _Wrong("ends within parentheses: it is cut short")


def _assertions(text: str) -> tuple[dict[str, set[int]], list[_Case]]:
    """Which X and Y are declared, and the file's assertions in disjunctive normal form."""
    declared: dict[str, set[int]] = {"X": set(), "Y": set()}
    common, choices = _Case(), list[list[_Case]]()
    for term in _terms(text):
        match term:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                letter, number = _variable(name)
                if number >= _MOST_VARIABLES:
                    raise _Wrong(f"declares {name}: more than {_MOST_VARIABLES} variables are refused")
                declared[letter].add(number)
            case ["assert", condition]:
                cases = _cases(condition, declared)
                if len(cases) == 1:
                    (case,) = cases
                    _narrow(common, case)
                else:
                    choices.append(cases)
            case [str(word), *_]:
                raise _Wrong(f"has a {word[:40]!r} as VNN-LIB 1.0 does not know it: declare-const and assert are all there is")
            case _:
                raise _Wrong("is not VNN-LIB 1.0")
    if math.prod(map(len, choices)) > _MOST_CASES:
        raise _Wrong(f"has more than {_MOST_CASES} cases")
    joined = []
    for choice in itertools.product(*choices):
        case = common
        for part in choice:
            case = case.joined(part)
        joined.append(case)
    return declared, joined


def _narrow(common: _Case, case: _Case) -> None:
    """Joins a case to `common` in place: files have thousands of them."""
    for i, value in case.lower.items():
        common.lower[i] = max(value, common.lower.get(i, value))
    for i, value in case.upper.items():
        common.upper[i] = min(value, common.upper.get(i, value))
    common.rows += case.rows


def _cases(condition: Term, declared: dict[str, set[int]]) -> list[_Case]:
    """A condition in disjunctive normal form."""
    match condition:
        case ["or", *parts] if parts:
            cases = [case for part in parts for case in _cases(part, declared)]
        case ["and", *parts] if parts:
            cases = [_Case()]
            for part in parts:
                others = _cases(part, declared)
                if len(cases) * len(others) > _MOST_CASES:
                    raise _Wrong(f"has more than {_MOST_CASES} cases")
                if len(cases) == len(others) == 1:
                    _narrow(cases[0], others[0])
                else:
                    cases = [case.joined(other) for case in cases for other in others]
        case ["<=", left, right]:
            cases = [_atom(_linear(left, declared).add(_linear(right, declared), -1.0))]
        case [">=", left, right]:
            cases = [_atom(_linear(right, declared).add(_linear(left, declared), -1.0))]
        case [str(word), *_]:
            raise _Wrong(f"has the condition {word[:40]!r}: and, or, <= and >= of two terms are what VNN-LIB 1.0 has")
        case _:
            raise _Wrong("has a condition that is no list in parentheses")
    if len(cases) > _MOST_CASES:
        raise _Wrong(f"has more than {_MOST_CASES} cases")
    return cases


def _atom(difference: _Linear) -> _Case:
    """`difference <= 0`."""
    terms = {variable: value for variable, value in difference.terms.items() if value != 0}
    values = [*terms.values(), difference.constant]
    if not all(map(math.isfinite, values)):
        raise _Wrong("has a number that is not finite")
    letters = {letter for letter, _ in terms}
    if letters == {"Y"}:
        return _Case(rows=[({number: value for (_, number), value in terms.items()}, -difference.constant)])
    if letters == {"X"} and len(terms) == 1:
        (((_, number), value),) = terms.items()
        bound = -difference.constant / value
        return _Case(upper={number: bound}) if value > 0 else _Case(lower={number: bound})
    if not letters:
        raise _Wrong("has a condition without variables")
    raise _Wrong("has a condition on more than one input, or on inputs and outputs together: inputs must be in a box")


def _linear(term: Term, declared: dict[str, set[int]]) -> _Linear:
    """A number, a variable, or a sum, difference or multiple of them."""
    match term:
        case str(word) if _NUMBER.fullmatch(word):
            return _Linear(constant=float(word))
        case str(word):
            variable = _variable(word)
            if variable[1] not in declared[variable[0]]:
                raise _Wrong(f"uses {word}, which it does not declare")
            return _Linear({variable: 1.0})
        case ["+", *parts] if parts:
            total = _Linear()
            for part in parts:
                total = total.add(_linear(part, declared), 1.0)
            return total
        case ["-", only]:
            return _Linear().add(_linear(only, declared), -1.0)
        case ["-", first, *parts] if parts:
            total = _linear(first, declared)
            for part in parts:
                total = total.add(_linear(part, declared), -1.0)
            return total
        case ["*", left, right]:
            factors = _linear(left, declared), _linear(right, declared)
            number = next((f for f in factors if not f.terms), None)
            if number is None:
                raise _Wrong("multiplies variables with each other: conditions must be linear")
            return _Linear().add(factors[0] if number is factors[1] else factors[1], number.constant)
    raise _Wrong("has a term that is neither a number, a variable nor a sum, difference or multiple of them")


def _variable(word: str) -> tuple[str, int]:
    match = _VARIABLE.fullmatch(word)
    if match is None:
        raise _Wrong(f"has {word[:40]!r} where a number, X_0, X_1, ... or Y_0, Y_1, ... should be")
    return match[1], int(match[2])


def _properties(name: str, cases: list[_Case], inputs: int, outputs: int) -> Iterator[Property]:
    """One property for each different box, with the clauses of all its cases."""
    boxes: dict[tuple[tuple[float, ...], tuple[float, ...]], list[Clause]] = {}
    for case in cases:
        if not case.rows:
            raise _Wrong("says nothing of the outputs, so that every input would be a counterexample")
        for i in range(inputs):
            for bounds, word in ((case.lower, "lower"), (case.upper, "upper")):
                if i not in bounds:
                    raise _Wrong(f"gives X_{i} no {word} bound")
            if case.lower[i] > case.upper[i]:
                raise _Wrong(f"gives X_{i} a lower bound, {case.lower[i]}, above its upper bound, {case.upper[i]}")
        box = tuple(case.lower[i] for i in range(inputs)), tuple(case.upper[i] for i in range(inputs))
        boxes.setdefault(box, []).append(_clause(case, outputs))
    for number, ((lower, upper), clauses) in enumerate(boxes.items()):
        label = name if len(boxes) == 1 else f"{name}, box {number}"
        low, high = (torch.tensor(side, dtype=torch.float64) for side in (lower, upper))
        yield Property(label, low, high, tuple(clauses))


def _clause(case: _Case, outputs: int) -> Clause:
    rows = torch.zeros(len(case.rows), outputs, dtype=torch.float64)
    for row, (terms, _) in zip(rows, case.rows, strict=True):
        for number, value in terms.items():
            row[number] = value
    return Clause(rows, torch.tensor([bound for _, bound in case.rows], dtype=torch.float64))
