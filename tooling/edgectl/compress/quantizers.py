"""Weight quantisation: a codebook for every row, scales by least squares, projection.

A quantised weight is weight[f, ...] = scales[f] * levels[f, ...] (float32 product). Weights are filters first, any shape
[F, ...]: a row is one output filter. Row-mixed quantisation (MSQ) follows Chang et al., "Mix and Match: A Novel
FPGA-Centric Deep Neural Network Quantization Framework", HPCA 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgectl.compress.codebooks import Codebook, codebook
from edgectl.errors import UserError

ScalePer = Literal["row", "layer"]
WEIGHTS = ("fixed", "power_of_two", "sp2", "msq")
SP2_ROWS = 2 / 3

_DISTINCT = 256  # magnitudes that rank scales which put the largest on a level: a row on a grid has no more of them
_SAMPLE = 1024  # weights of a row that rank scales which clip it
_CLIPS = 40  # such scales, evenly spaced in their logarithms
_LEAST_CLIP, _MOST_CLIP = 0.1, 1.35  # alpha / max |w|
_FINALISTS = 2  # of each kind, then compared on all weights
_ROUNDS = 3  # of alternating least squares
_PIECE = 1 << 18  # weights worked on at a time: the temporaries stay in the cache


@dataclass(frozen=True, eq=False)
class Quantised:
    """A quantised weight.

    Attributes:
        codes: uint8, the weight's shape, filters first; see `Codebook.table`.
        scales: float32 [F].
        schemes: the codebook's name of every row.
        bits: of a code.
    """

    codes: Tensor
    scales: Tensor
    schemes: tuple[str, ...]
    bits: int

    @property
    def levels(self) -> Tensor:
        """int64, the weight's shape. Raises UserError for power_of_two with 8 bits, whose levels reach 2^126."""
        levels = torch.empty(self.codes.shape, dtype=torch.int64, device=self.codes.device)
        for book, rows in _by_codebook(self.schemes, self.bits, self.codes.device):
            levels[rows] = book.decode(self.codes[rows])
        return levels

    def weight(self) -> Tensor:
        """scales * levels, the float32 product, of the weight's shape."""
        values = torch.empty(self.codes.shape, dtype=torch.float32, device=self.codes.device)
        for book, rows in _by_codebook(self.schemes, self.bits, self.codes.device):
            values[rows] = book.values(self.codes[rows])
        return values * _per_row(self.scales, values)


def quantise(
    weight: Tensor, weights: str, bits: int, *, sp2_rows: float | Sequence[int] = SP2_ROWS, scale: ScalePer = "row"
) -> Quantised:
    """Projects a weight onto codebooks with scales of least squared error.

    A row that already lies on a grid (float32(s * level), also after it was multiplied by any factor) keeps its values:
    those of the first kind bit for bit (but for power_of_two with 8 bits).

    Args:
        weight: float32 [F, ...].
        weights: `fixed`, `power_of_two`, `sp2`, or `msq` for SP2 and fixed rows (`row_schemes`).
        bits: 2 to 8.
        sp2_rows: of msq, see `row_schemes`.
        scale: one for each row, or one alpha for the layer (each scheme's scale is alpha over its codebook's integer).

    Raises:
        UserError: `weights` is unknown, bits are outside 2 to 8, `sp2_rows` is wrong, or a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise UserError("Weights that are not finite numbers cannot be quantised: load trained weights first.")
    schemes = row_schemes(weight, weights, sp2_rows)
    return project(weight, fit_scales(weight, schemes, bits, scale), schemes, bits)


def project(weight: Tensor, scales: Tensor, schemes: Sequence[str], bits: int) -> Quantised:
    """Projects a weight float32 [F, ...] onto codebooks with given scales, float32 [F]. Ties go to the level nearer to 0."""
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    for book, rows in _by_codebook(schemes, bits, weight.device):
        codes[rows] = book.project(weight[rows], _per_row(scales[rows], weight))
    return Quantised(codes, scales, tuple(schemes), bits)


def row_schemes(weight: Tensor, weights: str, sp2_rows: float | Sequence[int] = SP2_ROWS) -> tuple[str, ...]:
    """The codebook's name of every row. For `msq` rows of low variance are SP2 and the others fixed.

    Args:
        weight: [F, ...].
        weights: one of `WEIGHTS`.
        sp2_rows: of `msq`: the fraction of rows, those of least variance, or the indices of the rows that are SP2. The
            paper's ratios of fixed to SP2 rows are 1:1.5 (0.6) and 1:2 (2/3).

    Raises:
        UserError: `weights` is unknown, the fraction is outside [0, 1], or an index is not a row's.
    """
    if weights not in WEIGHTS:
        raise UserError(f"There is no codebook {weights!r}: choose one of {', '.join(WEIGHTS)}.")
    filters = weight.shape[0]
    if weights != "msq":
        return (weights,) * filters
    if isinstance(sp2_rows, Sequence):
        wrong = [row for row in sp2_rows if not 0 <= row < filters]
        if wrong:
            raise UserError(f"Row {wrong[0]} cannot be SP2: the weight has rows 0 to {filters - 1}.")
        chosen = set(sp2_rows)
    else:
        if not 0 <= sp2_rows <= 1:
            raise UserError(f"A fraction {sp2_rows:g} of rows cannot be SP2: choose 0 to 1.")
        variance = weight.detach().reshape(filters, -1).double().var(dim=1, unbiased=False)
        chosen = set(variance.argsort(stable=True)[: round(sp2_rows * filters)].tolist())
    return tuple("sp2" if row in chosen else "fixed" for row in range(filters))


def fit_scales(weight: Tensor, schemes: Sequence[str], bits: int, scale: ScalePer = "row") -> Tensor:
    """Scales of least squared error, float32 [F], for a finite weight [F, ...] and the codebook's name of every row.

    Tries max |w| / l for every positive level l, which finds rows that lie on a grid, and scales that clip the largest
    weights; improves the best by alternating least squares, s = <w, l> / <l, l>, l being the levels nearest to w / s. A row
    of zeros gets the median of the other rows' scales.
    """
    magnitudes = weight.detach().abs().reshape(weight.shape[0], -1)
    scales = torch.ones(len(schemes), device=weight.device)
    books = _by_codebook(schemes, bits, weight.device)
    if scale == "layer":
        fitted = _fit([(book, magnitudes[rows].reshape(1, -1)) for book, rows in books])
        for (_, rows), of_scheme in zip(books, fitted, strict=True):
            scales[rows] = of_scheme
        return scales
    for book, rows in books:
        for some in rows.split(max(1, _PIECE // max(magnitudes.shape[1], 1))):
            scales[some] = _fit([(book, magnitudes[some])])[0]
    zero = magnitudes.amax(dim=1) == 0
    if zero.any() and not zero.all():
        scales[zero] = scales[~zero].median()
    return scales


_Parts = list[tuple[Codebook, Tensor]]  # magnitudes [G, n]: one alpha for each of G groups, shared by the parts


def _fit(parts: _Parts) -> list[Tensor]:
    """The scales, float32 [G], of each part."""
    distinct = [(book, _distinct(magnitudes)) for book, magnitudes in parts]
    sample = [(book, magnitudes[:, :: -(-magnitudes.shape[1] // _SAMPLE)]) for book, magnitudes in parts]
    best: list[Tensor] = []
    least = torch.full((len(parts[0][1]),), torch.inf, dtype=torch.float64, device=parts[0][1].device)
    for alpha in [*_finalists(distinct, _on_levels(parts)), *_finalists(sample, _clipped(parts))]:
        for _ in range(_ROUNDS):
            alpha, _ = _least_squares(parts, alpha)  # noqa: PLW2901
        rounded = [_to_float32(book, magnitudes, alpha) for book, magnitudes in parts]
        error = torch.stack([error for _, error in rounded]).sum(dim=0)
        scales = [scale for scale, _ in rounded]
        best = [torch.where(error < least, new, old) for new, old in zip(scales, best or scales, strict=True)]
        least = least.minimum(error)
    return best


def _finalists(sample: _Parts, alphas: Iterator[Tensor]) -> Iterator[Tensor]:
    """The alphas, float64 [G], of least error on a sample, each after one step of least squares."""
    tried = [_least_squares(sample, alpha) for alpha in alphas]
    steps, errors = (torch.stack(column) for column in zip(*tried, strict=True))
    yield from steps.gather(0, errors.argsort(dim=0, stable=True)[:_FINALISTS])


def _distinct(magnitudes: Tensor) -> Tensor:
    """[G, n] -> [G, at most _DISTINCT]: evenly spaced among the distinct magnitudes, the largest one included."""
    width = magnitudes.shape[1]
    if width <= _DISTINCT:
        return magnitudes
    ordered = magnitudes.sort(dim=1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    distinct = ordered.masked_fill(repeated, 0).sort(dim=1).values
    last = (distinct > 0).sum(dim=1, keepdim=True) - 1
    fractions = torch.linspace(0, 1, _DISTINCT, dtype=torch.float64, device=magnitudes.device)
    return distinct.gather(1, (width - 1 - last + (last * fractions).round().long()).clamp(max=width - 1))


def _on_levels(parts: _Parts) -> Iterator[Tensor]:
    """Alphas, float64 [G], that put a part's largest magnitude on one of its levels: largest levels first."""
    for book, magnitudes in parts:
        for level in book.levels[: len(book.levels) // 2]:
            yield _largest(magnitudes) * (book.alpha / -level)


def _clipped(parts: _Parts) -> Iterator[Tensor]:
    """Alphas, float64 [G], from a tenth of the largest magnitude of all parts to above it."""
    largest = torch.stack([_largest(magnitudes) for _, magnitudes in parts]).amax(dim=0)
    for i in range(_CLIPS):
        yield largest * (_LEAST_CLIP * (_MOST_CLIP / _LEAST_CLIP) ** (i / (_CLIPS - 1)))


def _largest(magnitudes: Tensor) -> Tensor:
    """The largest of each group, float64 [G], or 1 where all are 0."""
    largest = magnitudes.amax(dim=1).double()
    return largest.where(largest > 0, 1.0)


def _least_squares(parts: _Parts, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(the alpha of least squared error for the levels nearest under `alpha`, the squared error under `alpha`); float64 [G]."""
    wl, ll, error = torch.zeros_like(alpha), torch.zeros_like(alpha), torch.zeros_like(alpha)
    for book, magnitudes in parts:
        for piece in magnitudes.split(max(1, _PIECE // len(alpha)), dim=1):
            w = piece.double()
            levels = book.nearest_levels(w / (alpha / float(book.alpha))[:, None]) / float(book.alpha)
            wl += (w * levels).sum(dim=1)
            ll += levels.square().sum(dim=1)
            error += (w - levels * alpha[:, None]).square_().sum(dim=1)
    return torch.where(ll > 0, wl / ll, alpha), error


def _to_float32(book: Codebook, magnitudes: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(scales float32 [G], squared error of the float32 products): alpha's scale, or one near it under which all is exact.

    Where weights are float32(s * level), least squares and the roundings of s and alpha leave s within three units in the
    last place.
    """
    nearest = (alpha / float(book.alpha)).float().clamp_min(2**-146)  # so that the floats around it are positive
    around = [nearest, *((nearest.view(torch.int32) + step).view(torch.float32) for step in (-1, 1, -2, 2, -3, 3))]
    errors = torch.zeros(len(around), len(alpha), dtype=torch.float64, device=alpha.device)
    for piece in magnitudes.split(max(1, _PIECE // len(alpha)), dim=1):
        levels = book.nearest_levels(piece.double() / nearest.double()[:, None]).float()
        for i, scale in enumerate(around):
            errors[i] += (piece - levels * scale[:, None]).double().square_().sum(dim=1)
    chosen = (errors == 0).int().argmax(dim=0, keepdim=True)
    return torch.stack(around).gather(0, chosen)[0], errors.gather(0, chosen)[0]


def _by_codebook(schemes: Sequence[str], bits: int, device: torch.device) -> list[tuple[Codebook, Tensor]]:
    """Every codebook with the indices of its rows."""
    names = sorted(set(schemes))
    return [
        (codebook(name, bits), torch.tensor([row for row, of_row in enumerate(schemes) if of_row == name], device=device))
        for name in names
    ]


def _per_row(scales: Tensor, weight: Tensor) -> Tensor:
    """[F] -> [F, 1, ...] to broadcast against a weight [F, ...]."""
    return scales.reshape(-1, *[1] * (weight.dim() - 1))
