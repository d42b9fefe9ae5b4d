"""Weight quantisation: a codebook for every row, scales by least squares, projection.

A quantised weight is weight[f, ...] = scales[f] * levels[f, ...] (float32 product). Weights are filters first, any shape
[F, ...]: a row is one output filter. Row-mixed quantisation (MSQ) follows Chang et al., "Mix and Match: A Novel
FPGA-Centric Deep Neural Network Quantization Framework", HPCA 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from edgectl.compress.codebooks import Codebook, codebook
from edgectl.errors import UserError

ScalePer = Literal["row", "layer"]
WEIGHTS = ("fixed", "power_of_two", "sp2", "msq")
SP2_ROWS = 2 / 3

_DISTINCT = 128  # magnitudes other than 0 at most of a row that may lie on a grid
_CLIPS = 40  # scales that clip a row, evenly spaced in their logarithms
_TOP_LEVELS = 24  # of a codebook: scales that put the largest weight of any row on one of them
_LEAST_CLIP, _MOST_CLIP = 0.1, 1.35  # alpha / max |w|
_FINALISTS = 2  # of each kind, then improved
_ROUNDS = 3  # of alternating least squares
_ROUNDING = 1e-12  # of a sum of squares: more than float32 roundings of weights leave, less than any other error
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
    schemes = row_schemes(weight, weights, bits, sp2_rows)
    return project(weight, fit_scales(weight, schemes, bits, scale), schemes, bits)


def project(weight: Tensor, scales: Tensor, schemes: Sequence[str], bits: int) -> Quantised:
    """Projects a weight float32 [F, ...] onto codebooks with given scales, float32 [F]. Ties go to the level nearer to 0."""
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    for book, rows in _by_codebook(schemes, bits, weight.device):
        codes[rows] = book.project(weight[rows], _per_row(scales[rows], weight))
    return Quantised(codes, scales, tuple(schemes), bits)


def row_schemes(weight: Tensor, weights: str, bits: int, sp2_rows: float | Sequence[int] = SP2_ROWS) -> tuple[str, ...]:
    """The codebook's name of every row. For `msq` rows of low variance are SP2 and the others fixed.

    Rows that lie on the grid of only one of the two, as after training on it, keep that one unless indices are given.

    Args:
        weight: [F, ...].
        weights: one of `WEIGHTS`.
        bits: 2 to 8.
        sp2_rows: of `msq`: the fraction of rows, those of least variance, or the indices of the rows that are SP2. The
            paper's ratios of fixed to SP2 rows are 1:1.5 (0.6) and 1:2 (2/3).

    Raises:
        UserError: `weights` is unknown, the fraction is outside [0, 1], an index is not a row's, or, for `msq`, bits are
            outside 2 to 8.
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
        on_sp2, on_fixed = (_on_grid(weight, codebook(name, bits)) for name in ("sp2", "fixed"))
        chosen = chosen - (on_fixed - on_sp2) | (on_sp2 - on_fixed)
    return tuple("sp2" if row in chosen else "fixed" for row in range(filters))


def fit_scales(weight: Tensor, schemes: Sequence[str], bits: int, scale: ScalePer = "row") -> Tensor:
    """Scales of least squared error, float32 [F], for a finite weight [F, ...] and the codebook's name of every row.

    Tries scales that clip the largest weights, and max |w| / l for the largest levels l, or all of them for rows of few
    distinct magnitudes, which may lie on a grid; improves the best by alternating least squares, s = <w, l> / <l, l>, l being
    the levels nearest to w / s. A row of zeros gets the median of the other rows' scales.
    """
    magnitudes = weight.detach().abs().reshape(weight.shape[0], -1)
    scales = torch.ones(len(schemes), device=weight.device)
    books = _by_codebook(schemes, bits, weight.device)
    if scale == "layer":
        fitted = _fit([_Part(book, magnitudes[rows].reshape(1, -1)) for book, rows in books])
        for (_, rows), of_scheme in zip(books, fitted, strict=True):
            scales[rows] = of_scheme
        return scales
    for book, rows in books:
        for some in rows.split(max(1, _PIECE // max(magnitudes.shape[1], _DISTINCT))):
            scales[some] = _fit([_Part(book, magnitudes[some])])[0]
    zero = magnitudes.amax(dim=1) == 0
    if zero.any() and not zero.all():
        scales[zero] = scales[~zero].median()
    return scales


class _Part:
    """Magnitudes of G groups under one codebook, in order: the error of a scale then needs no pass over them.

    Args:
        book: the codebook.
        magnitudes: [G, n].
    """

    def __init__(self, book: Codebook, magnitudes: Tensor) -> None:
        self.book = book
        self.values = magnitudes.sort(dim=1).values.double()
        self.squares = self.values.square().sum(dim=1)
        self._below = nn.functional.pad(self.values.cumsum(dim=1), (1, 0))
        positive = torch.tensor([0, *book.levels[-(len(book.levels) // 2) :]], dtype=torch.float64, device=magnitudes.device)
        levels = positive / float(book.alpha)
        self._midpoints = (levels[1:] + levels[:-1]) / 2
        self._steps, self._square_steps = levels.diff(), levels.square().diff()

    @property
    def largest(self) -> Tensor:
        """The largest of each group, float64 [G], or 1 where all are 0."""
        largest = self.values[:, -1]
        return largest.where(largest > 0, 1.0)

    def products(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """(<w, l>, <l, l>) of every group, l being the levels nearest to w / alpha over the codebook's integer; float64 [G].

        With count and sum of the w above the midpoint of l_(k-1) and l_k, N_k and W_k,
        <w, l> = sum_k (l_k - l_(k-1)) W_k and <l, l> = sum_k (l_k^2 - l_(k-1)^2) N_k.
        """
        if self.values.shape[1] <= len(self._midpoints):
            levels = self.book.nearest_levels(self.values / (alpha / float(self.book.alpha))[:, None]) / float(self.book.alpha)
            return (self.values * levels).sum(dim=1), levels.square().sum(dim=1)
        below = torch.searchsorted(self.values, alpha[:, None] * self._midpoints, right=True)
        above = self._below[:, -1:] - self._below.gather(1, below)
        return above @ self._steps, (self.values.shape[1] - below).double() @ self._square_steps

    def is_new(self) -> Tensor:
        """Whether a value is not 0 and larger than the one before it: bool [G, n]."""
        return self.values.diff(dim=1, prepend=self.values.new_zeros(len(self.values), 1)) > 0

    def distinct(self, groups: Tensor) -> _Part:
        """Every distinct value of some groups (bool [G]) once, filled up with 0."""
        is_new = self.is_new()[groups]
        return _Part(self.book, self.values[groups].where(is_new, 0).sort(dim=1).values[:, -int(is_new.sum(dim=1).max()) :])


def _fit(parts: list[_Part]) -> list[Tensor]:
    """The scales, float32 [G], of each part. One alpha for each of G groups is shared by the parts."""
    few = torch.stack([part.is_new().sum(dim=1) <= _DISTINCT for part in parts]).all(dim=0)
    finalists = _best(*_tried(parts, chain(_clipped(parts), _on_levels(parts, _TOP_LEVELS))))
    on_grid = few.new_zeros(len(few))
    exact: list[Tensor] = []
    if few.any():
        distinct = [part.distinct(few) for part in parts]
        steps, errors = _tried(distinct, _on_levels(distinct))
        more = _best(steps, errors)
        finalists = torch.cat([finalists, finalists[: len(more)].index_copy(1, few.nonzero()[:, 0], more)])
        on_grid[few], exact = _exact(distinct, steps, errors)
    best, least = finalists[0], torch.full_like(finalists[0], torch.inf)
    for finalist in finalists:
        alpha = finalist
        for _ in range(_ROUNDS):
            alpha, _ = _least_squares(parts, alpha)
        _, error = _least_squares(parts, alpha)
        best, least = torch.where(error < least, alpha, best), least.minimum(error)
    scales = [_float32(part, best) for part in parts]
    for scale, of_part in zip(scales, exact, strict=False):
        scale[on_grid] = of_part[on_grid[few]]
    return scales


def _tried(parts: list[_Part], alphas: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Alphas after one step of least squares, and the errors before it: float64 [candidates, G]."""
    steps, errors = zip(*(_least_squares(parts, alpha) for alpha in alphas), strict=True)
    return torch.stack(steps), torch.stack(errors)


def _best(steps: Tensor, errors: Tensor) -> Tensor:
    """The alphas of least error, [_FINALISTS or fewer, G]."""
    return steps.gather(0, errors.argsort(dim=0, stable=True)[:_FINALISTS])


def _on_levels(parts: list[_Part], most: int | None = None) -> Iterator[Tensor]:
    """Alphas, float64 [G], that put a part's largest magnitude on one of its levels: largest levels first, all or so many."""
    for part in parts:
        for level in part.book.levels[: len(part.book.levels) // 2][:most]:
            yield part.largest * (part.book.alpha / -level)


def _clipped(parts: list[_Part]) -> Iterator[Tensor]:
    """Alphas, float64 [G], from a tenth of the largest magnitude of all parts to above it."""
    largest = torch.stack([part.largest for part in parts]).amax(dim=0)
    for i in range(_CLIPS):
        yield largest * (_LEAST_CLIP * (_MOST_CLIP / _LEAST_CLIP) ** (i / (_CLIPS - 1)))


def _least_squares(parts: list[_Part], alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(the alpha of least squared error for the levels nearest under `alpha`, the squared error under `alpha`); float64 [G]."""
    wl, ll = (torch.stack(column).sum(dim=0) for column in zip(*(part.products(alpha) for part in parts), strict=True))
    error = sum(part.squares for part in parts) - 2 * alpha * wl + alpha.square() * ll
    return torch.where(ll > 0, wl / ll, alpha), error


def _on_grid(weight: Tensor, book: Codebook) -> set[int]:
    """The rows of a weight [F, ...] that are float32(s * level) for some s each."""
    magnitudes = weight.detach().abs().reshape(weight.shape[0], -1)
    some = _Part(book, magnitudes[:, : 2 * _DISTINCT])  # enough to leave out most rows
    few = (some.is_new().sum(dim=1) <= len(book.levels) // 2).nonzero()[:, 0]
    if not len(few):
        return set()
    part = _Part(book, magnitudes[few])
    is_few = part.is_new().sum(dim=1) <= len(book.levels) // 2
    if not is_few.any():
        return set()
    distinct = [part.distinct(is_few)]
    found, _ = _exact(distinct, *_tried(distinct, _on_levels(distinct)))
    return set(few[is_few][found].tolist())


def _exact(distinct: list[_Part], steps: Tensor, errors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(bool [G], scales float32 [G] of each part): the scales, where there are any, whose float32 products are all the values.

    Where weights are float32(s * level), least squares and the roundings of s and alpha leave s within three units in the
    last place.
    """
    close = errors <= _ROUNDING * sum(part.squares for part in distinct)
    found = close.new_zeros(close.shape[1])
    scales = [torch.ones(len(found), device=found.device) for _ in distinct]
    for alpha, is_close in zip(steps, close, strict=True):
        groups = (is_close & ~found).nonzero()[:, 0]
        if len(groups):
            found[groups] = True
            for part, of_part in zip(distinct, scales, strict=True):
                of_part[groups], is_exact = _exact_scale(part, groups, alpha[groups])
                found[groups] &= is_exact
    return found, scales


def _exact_scale(part: _Part, groups: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(a scale float32 for each of some groups, whether its float32 products are the values)."""
    values, nearest = part.values[groups], _float32(part, alpha)
    levels = part.book.nearest_levels(values / nearest.double()[:, None]).float()
    steps = torch.tensor([0, -1, 1, -2, 2, -3, 3], dtype=torch.int32, device=alpha.device)
    around = (nearest.view(torch.int32) + steps[:, None]).view(torch.float32)
    is_exact = torch.stack([(levels * scale[:, None] == values).all(dim=1) for scale in around])
    chosen = is_exact.int().argmax(dim=0, keepdim=True)
    return around.gather(0, chosen)[0], is_exact.gather(0, chosen)[0]


def _float32(part: _Part, alpha: Tensor) -> Tensor:
    """The scale nearest to an alpha's, float32 [G], so that the floats around it are positive too."""
    return (alpha / float(part.book.alpha)).float().clamp_min(2**-146)


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
