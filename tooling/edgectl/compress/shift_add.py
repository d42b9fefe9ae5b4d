"""What hardware computes with SP2 and power-of-two weights: shifts and additions in integers, no multiplication."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShiftAdd:
    """Integer weights as sign * (2^first + 2^second), element by element; all arrays have the weights' shape.

    Attributes:
        sign: int8, -1, 0 or 1.
        first: int8, the larger power's shift.
        second: int8, the smaller power's shift; -1 where there is only one power.
    """

    sign: npt.NDArray[np.int8]
    first: npt.NDArray[np.int8]
    second: npt.NDArray[np.int8]

    @classmethod
    def of(cls, levels: npt.ArrayLike) -> ShiftAdd:
        """Takes integer levels (int64, any shape) apart.

        Raises:
            ValueError: a level is not a sum of at most two powers of two.
        """
        levels = np.asarray(levels, np.int64)
        rest = np.abs(levels)
        shifts = []
        for _ in range(2):
            shift = np.full(levels.shape, -1, np.int8)
            for bit in range(63):  # the last one found is the highest
                shift[(rest >> bit & 1) == 1] = bit
            rest = np.where(shift >= 0, rest ^ np.left_shift(1, np.maximum(shift, 0), dtype=np.int64), rest)
            shifts.append(shift)
        if rest.any():
            raise ValueError(f"{levels[rest != 0].flat[0]} is not a sum of at most two powers of two")
        return cls(np.sign(levels).astype(np.int8), np.maximum(shifts[0], 0), shifts[1])

    def matmul(self, right: npt.ArrayLike) -> IntArray:
        """[M, K] weights times integers [K, N] -> [M, N], int64: the product of the levels, bit for bit (modulo 2^64)."""
        right = np.asarray(right, np.int64)
        result = np.zeros((self.sign.shape[0], right.shape[1]), np.int64)
        for k, row in enumerate(right):
            sign, first, second = self.sign[:, k, None], self.first[:, k, None], self.second[:, k, None]
            terms = np.left_shift(row, first, dtype=np.int64)
            terms += np.where(second >= 0, np.left_shift(row, np.maximum(second, 0), dtype=np.int64), 0)
            result += np.where(sign < 0, -terms, np.where(sign > 0, terms, 0))
        return result
