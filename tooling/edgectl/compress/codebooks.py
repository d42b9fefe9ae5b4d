"""Codebooks: the integer levels that a weight of few bits may have, projection to the nearest, and codes for them.

Chang et al., "Mix and Match: A Novel FPGA-Centric Deep Neural Network Quantization Framework", HPCA 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from edgectl.errors import UserError


@dataclass(frozen=True)
class Codebook:
    """Integer levels that stand for a weight in `bits` bits: symmetric about 0, distinct and sorted.

    Attributes:
        name: `fixed`, `power_of_two` or `sp2`.
        bits: m, 2 to 8.
        levels: all levels, the papers' values times `alpha`.
        alpha: the integer that stands for the papers' alpha, their finest step being 1.
    """

    name: str
    bits: int
    levels: tuple[int, ...]
    alpha: int

    @classmethod
    def fixed(cls, bits: int) -> Codebook:
        """Fixed point: alpha {0, 1/n, ..., 1}, n = 2^(m-1) - 1. Raises UserError for bits outside 2 to 8."""
        top = 2 ** (_checked(bits) - 1) - 1
        return _symmetric("fixed", bits, range(1, top + 1), top)

    @classmethod
    def power_of_two(cls, bits: int) -> Codebook:
        """alpha {0, 2^-(2^(m-1) - 2), ..., 1/2, 1}. Raises UserError for bits outside 2 to 8.

        With 8 bits the finest step is alpha 2^-126, below float32's normal numbers: scales then have fewer digits.
        """
        finest = 2 ** (_checked(bits) - 1) - 2
        return _symmetric("power_of_two", bits, (2**i for i in range(finest + 1)), 2**finest)

    @classmethod
    def sp2(cls, bits: int) -> Codebook:
        """Sums of two powers of two: alpha (q1 + q2), Eq. (8). Raises UserError for bits outside 2 to 8.

        q_i in {0, 2^-1, ..., 2^-(2^m_i - 1)}, m1 + m2 = m - 1, m1 >= m2.
        """
        second = (_checked(bits) - 1) // 2
        first = bits - 1 - second
        finest = 2**first - 1
        q1, q2 = ([0, *(2 ** (finest - i) for i in range(1, 2**m))] for m in (first, second))
        return _symmetric("sp2", bits, (a + b for a in q1 for b in q2), 2**finest)

    @property
    def fits_int8(self) -> bool:
        """Whether the device takes it: all levels lie in [-127, 127]."""
        return self.levels[-1] <= 127

    @property
    def table(self) -> tuple[int, ...]:
        """Code -> level: 16 entries for up to 4 bits, 256 above; 0 for codes that stand for nothing.

        Codes count levels from 0 up, and from 2^m down for negative ones: 0 is level 0 in every codebook, and the codes
        of `fixed` are two's complement.
        """
        entries = [0] * (16 if self.bits <= 4 else 256)
        zero = len(self.levels) // 2
        for position, level in enumerate(self.levels):
            entries[(position - zero) % 2**self.bits] = level
        return tuple(entries)

    def project(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Codes (uint8) of the levels nearest to weight / scales. Ties go to the level nearer to 0.

        Exact for float32 operands: the quotient of two is never rounded onto a midpoint in float64, in which it is taken.

        Args:
            weight: finite float32, any shape.
            scales: positive float32 that broadcasts against it.
        """
        position = self._nearest(weight.abs().double() / scales.double())
        signed = torch.where(weight < 0, -position, position)
        return (signed & (2**self.bits - 1)).to(torch.uint8)

    def encode(self, levels: Tensor) -> Tensor:
        """Integer levels -> codes (uint8). Raises ValueError for one that is not a level."""
        magnitudes, _ = _tables(self)
        position = torch.searchsorted(magnitudes.to(levels.device), levels.abs().double()).clamp(max=len(magnitudes) - 1)
        codes = (torch.where(levels < 0, -position, position) & (2**self.bits - 1)).to(torch.uint8)
        if not torch.equal(self.decode(codes), levels.long()):
            raise ValueError(f"there are values that are not levels of {self.name} with {self.bits} bits")
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (uint8) -> levels (int64), by `table`. Raises UserError for power_of_two with 8 bits (levels to 2^126)."""
        if self.levels[-1] >= 2**63:
            raise UserError(f"The levels of {self.name} with {self.bits} bits exceed 64-bit integers: choose fewer bits.")
        return torch.tensor(self.table, device=codes.device)[codes.long()]

    def values(self, codes: Tensor) -> Tensor:
        """Codes -> levels in float32, in which all of them are exact."""
        return torch.tensor(self.table, dtype=torch.float32, device=codes.device)[codes.long()]

    def nearest_levels(self, x: Tensor) -> Tensor:
        """The levels (float64) nearest to x >= 0 (float64). Ties as in `project`."""
        position = self._nearest(x)
        return _tables(self)[0].to(x.device).index_select(0, position.flatten()).reshape(x.shape)

    def _nearest(self, x: Tensor) -> Tensor:
        """Position (int64) among the levels that are not negative of the one nearest to x >= 0 (float64)."""
        magnitudes, by_half = _tables(self)
        if by_half is None:
            return torch.searchsorted(((magnitudes[1:] + magnitudes[:-1]) / 2).to(x.device), x)
        half = (x * 2).ceil_().clamp_(max=len(by_half) - 1).int()
        return by_half.to(x.device).index_select(0, half.flatten()).reshape(x.shape)


def _checked(bits: int) -> int:
    if not 2 <= bits <= 8:
        raise UserError(f"Weights cannot be quantised to {bits} bits: choose 2 to 8.")
    return bits


def _symmetric(name: str, bits: int, positive: Iterator[int] | range, alpha: int) -> Codebook:
    magnitudes = {*positive} - {0}
    return Codebook(name, bits, tuple(sorted({0} | magnitudes | {-level for level in magnitudes})), alpha)


@cache
def _tables(codebook: Codebook) -> tuple[Tensor, Tensor | None]:
    """(levels that are not negative, float64; position of the level nearest to each x in ((i-1)/2, i/2], or None if many).

    Midpoints of integers are multiples of 1/2, so that one entry serves the whole interval.
    """
    magnitudes = torch.tensor(codebook.levels[len(codebook.levels) // 2 :], dtype=torch.float64)
    if codebook.levels[-1] > 1 << 15:
        return magnitudes, None
    halves = torch.arange(2 * codebook.levels[-1] + 1, dtype=torch.float64) / 2
    return magnitudes, torch.searchsorted((magnitudes[1:] + magnitudes[:-1]) / 2, halves)


def codebook(scheme: str, bits: int) -> Codebook:
    """The codebook `fixed`, `power_of_two` or `sp2` of so many bits.

    Raises:
        UserError: there is none of that name, or bits are outside 2 to 8.
    """
    match scheme:
        case "fixed":
            return Codebook.fixed(bits)
        case "power_of_two":
            return Codebook.power_of_two(bits)
        case "sp2":
            return Codebook.sp2(bits)
    raise UserError(f"There is no codebook {scheme!r}: choose fixed, power_of_two or sp2.")


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 codes below 16, any shape -> uint8 [ceil(n / 2)], two a byte, the first in the low nibble."""
    flat = codes.flatten()
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[0::2] | flat[1::2] << 4


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """The inverse of `pack_nibbles`: the first `count` codes, flat."""
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
