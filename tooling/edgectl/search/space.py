"""The space of a super-resolution search: which networks there are, how a trial's parameters name one, what it is made of."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgectl.recipe import PruneRule, SchemeName
from edgectl.search.network import narrow

SKIP = "skip"
Choice = Literal["none", "filter", "pattern", "block"]
"""How a layer is pruned: not at all, by filters, by patterns and kernels, or by blocks (of a 1x1 convolution, columns)."""
_LAYERS = {"a": (("expand", 3), ("reduce", 3)), "b": (("expand", 1), ("reduce", 1), ("conv", 3))}
"""Convolutions of a block in their order, and the side of their kernels."""
_PLACES = ("first", "second", "third")
_BLOCK_OF_ZEROS = (8, 4)


@dataclass(frozen=True)
class Cell:
    """A block by its name (edgectl.search.network) and how each of its convolutions is pruned."""

    block: str
    schemes: tuple[Choice, ...]

    def layers(self) -> Iterator[tuple[str, int, Choice]]:
        """(name, side of the kernel, how it is pruned) of each convolution."""
        for (name, side), scheme in zip(_LAYERS[self.block[0]], self.schemes, strict=True):
            yield name, side, scheme


@dataclass(frozen=True)
class Candidate:
    """One network of a space: channels, the blocks that are not skipped, how `tail` is pruned, and the rate of all that is.

    `rate` is 1 where nothing is pruned.
    """

    features: int
    cells: tuple[Cell, ...]
    positions: tuple[int, ...]
    tail: Choice = "none"
    rate: float = 1.0

    def __str__(self) -> str:
        """Such as `16: b6(none block block) a2(pattern block), tail block, at 3x`."""
        cells = " ".join(f"{cell.block}({' '.join(cell.schemes)})" for cell in self.cells)
        rate = f", at {self.rate:g}x" if self.rate > 1 else ""
        return f"{self.features}: {cells or 'no blocks'}, tail {self.tail}{rate}"

    @property
    def blocks(self) -> list[str]:
        """Names of its blocks."""
        return [cell.block for cell in self.cells]

    def schemes(self) -> dict[str, SchemeName]:
        """Module path -> scheme, of every layer that is pruned."""
        chosen = {
            f"body.{i}.{name}": _scheme(scheme, side)
            for i, cell in enumerate(self.cells)
            for name, side, scheme in cell.layers()
            if scheme != "none"
        }
        return chosen | ({"tail": _scheme(self.tail, 3)} if self.tail != "none" else {})

    def rules(self, rates: Mapping[str, float] | None = None) -> list[PruneRule]:
        """A rule for every layer that is pruned, at the network's rate or each at its own by module path."""
        rules = []
        for path, scheme in self.schemes().items():
            rate = self.rate if rates is None else rates[path]
            block = _BLOCK_OF_ZEROS if scheme == "block_punched" else None
            rules.append(PruneRule(match=path, scheme=scheme, rate=rate, block=block))
        return rules

    def dense(self) -> Candidate:
        """The same network, nothing of it pruned."""
        return Candidate(self.features, tuple(dense_cell(cell.block) for cell in self.cells), self.positions)


def dense_cell(block: str) -> Cell:
    """A block of which nothing is pruned."""
    nothing: Choice = "none"
    return Cell(block, (nothing,) * len(_LAYERS[block[0]]))


class SrSpace(BaseModel):
    """Networks of WDSR blocks that enlarge images by `scale`.

    Attributes:
        scale: the factor.
        input: (height, width) of the image that is enlarged when latency is measured.
        features: channels between blocks that there are to choose from.
        cells: places for a block; each may be skipped.
        blocks: blocks that there are to choose from (edgectl.search.network); all share weights in the supernet.
        schemes: how a layer may be pruned.
        rates: weights / weights kept, one for all layers of a network that are pruned while networks are compared; the layers
            of the one that is found get rates of their own.
        baseline: the block of the dense network that others are compared with, which has all cells and most features.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Literal[2, 3, 4] = 2
    input: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = (360, 640)
    features: list[Annotated[int, Field(ge=4, le=128)]] = Field(default=[8, 12, 16], min_length=1)
    cells: int = Field(default=4, ge=1, le=32)
    blocks: list[str] = Field(default=["a1", "a2", "b3", "b6"], min_length=1)
    schemes: list[Choice] = Field(default=["none", "filter", "pattern", "block"], min_length=1)
    rates: list[Annotated[float, Field(gt=1, le=16)]] = Field(default=[2.0, 3.0, 4.5, 7.0], min_length=1)
    baseline: str = "a2"

    @field_validator("blocks", "baseline")
    @classmethod
    def _are_blocks(cls, value: str | list[str]) -> str | list[str]:
        for name in [value] if isinstance(value, str) else value:
            if name[:1] not in _LAYERS or not name[1:].isdigit() or not 1 <= int(name[1:]) <= 16:
                raise ValueError(f"{name!r} is no block: write a2 (WDSR-A, twice as wide inside) or b6 (WDSR-B, six times)")
        return value

    @model_validator(mode="after")
    def _baseline_is_in_it(self) -> SrSpace:
        if self.baseline not in self.blocks:
            raise ValueError(f"has the baseline {self.baseline!r}, which is not among its blocks")
        return self

    @property
    def shape(self) -> list[int]:
        """Of the input, [1, 3, H, W]."""
        return [1, 3, *self.input]

    def parameters(self) -> dict[str, Sequence[Any]]:
        """Name -> choices of each parameter of a trial."""
        names: dict[str, Sequence[Any]] = {"features": sorted(set(self.features)), "rate": self.rates, "tail": self.schemes}
        for i in range(self.cells):
            names[f"cell{i}"] = [SKIP, *self.blocks]
            names |= {f"cell{i}.{place}": self.schemes for place in _PLACES}
        return names

    def candidate(self, parameters: Mapping[str, Any]) -> Candidate:
        """The network that a trial's parameters name; many name the same one, since a skipped block has no layers."""
        cells, positions = [], []
        for i in range(self.cells):
            block = parameters[f"cell{i}"]
            if block == SKIP:
                continue
            sides = [side for _, side in _LAYERS[block[0]]]
            schemes = (_possible(parameters[f"cell{i}.{place}"], side) for place, side in zip(_PLACES, sides, strict=False))
            cells.append(Cell(block, tuple(schemes)))
            positions.append(i)
        tail = parameters["tail"]
        pruned = tail != "none" or any(scheme != "none" for cell in cells for scheme in cell.schemes)
        rate = float(parameters["rate"]) if pruned else 1.0
        return Candidate(parameters["features"], tuple(cells), tuple(positions), tail, rate)

    def random(self, chance: random.Random) -> dict[str, Any]:
        """Parameters drawn evenly."""
        return {name: chance.choice(list(choices)) for name, choices in self.parameters().items()}

    def dense(self) -> Candidate:
        """The baseline."""
        cells = (dense_cell(self.baseline),) * self.cells
        return Candidate(max(self.features), cells, tuple(range(self.cells)))

    def smallest(self) -> Candidate:
        """The least there is: fewest features, no block, `tail` pruned if that is allowed."""
        tail = "block" if "block" in self.schemes else self.schemes[-1]
        return Candidate(min(self.features), (), (), tail, max(self.rates) if tail != "none" else 1.0)

    def uniform(self) -> Iterator[dict[str, Any]]:
        """Parameters of networks that are the same throughout: every block, every scheme, every rate; most features."""
        for block, scheme, rate in itertools.product(self.blocks, self.schemes, sorted(self.rates)):
            parameters: dict[str, Any] = dict.fromkeys(self.parameters(), scheme)
            parameters |= dict.fromkeys((f"cell{i}" for i in range(self.cells)), block)
            yield parameters | {"features": max(self.features), "rate": rate}

    def encode(self, parameters: Mapping[str, Any]) -> list[float]:
        """What predictors see of a network: choices as flags, those that make no difference at 0, and its sizes."""
        candidate = self.candidate(parameters)
        found = dict(zip(candidate.positions, candidate.cells, strict=True))
        row = [candidate.features / max(self.features), len(candidate.cells) / self.cells, 1 / candidate.rate]
        row += [float(candidate.tail == scheme) for scheme in self.schemes]
        dense, kept = self.weights(candidate)
        whole, _ = self.weights(self.dense())
        row += [dense / whole, kept / whole]
        for i in range(self.cells):
            cell = found.get(i)
            row += [float(cell is not None and cell.block == block) for block in self.blocks]
            for place in range(len(_PLACES)):
                scheme = cell.schemes[place] if cell is not None and place < len(cell.schemes) else None
                row += [float(scheme == other) for other in self.schemes]
        return row

    def weights(self, candidate: Candidate) -> tuple[float, float]:
        """(weights of its convolutions, those that are kept)."""
        f, out = candidate.features, 3 * self.scale**2
        pruned = set(candidate.schemes())
        sizes = {"head": 27 * f, "skip": 75 * out, "tail": 9 * f * out}
        for i, cell in enumerate(candidate.cells):
            wide, n = int(cell.block[1:]) * f, narrow(f)
            inside = (9 * f * wide, 9 * wide * f) if cell.block[0] == "a" else (f * wide, wide * n, 9 * n * f)
            sizes |= {f"body.{i}.{name}": size for (name, _, _), size in zip(cell.layers(), inside, strict=True)}
        kept = sum(size / (candidate.rate if path in pruned else 1) for path, size in sizes.items())
        return float(sum(sizes.values())), kept


def _possible(scheme: Choice, side: int) -> Choice:
    return "block" if scheme == "pattern" and side == 1 else scheme


def _scheme(choice: Choice, side: int) -> SchemeName:
    """The scheme of a layer that is pruned."""
    if choice == "filter":
        return "filter"
    if choice == "pattern" and side == 3:
        return "pattern"
    return "block_column" if side == 1 else "block_punched"
