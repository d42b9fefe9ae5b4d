"""Shifts and additions give the integer product of the table, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgectl.compress.codebooks import codebook
from edgectl.compress.quantizers import quantise
from edgectl.compress.shift_add import ShiftAdd

REPRESENTABLE = [("sp2", bits) for bits in range(2, 9)] + [("power_of_two", bits) for bits in range(2, 8)]


@pytest.mark.parametrize(("name", "bits"), REPRESENTABLE)
def test_every_level_is_a_sign_and_at_most_two_shifts(name, bits):
    book = codebook(name, bits)
    parts = ShiftAdd.of(book.levels)
    for level, sign, first, second in zip(book.levels, parts.sign, parts.first, parts.second, strict=True):
        assert level == int(sign) * (2 ** int(first) + (2 ** int(second) if second >= 0 else 0))
        assert second < first or level == 0
    assert name == "sp2" or (parts.second == -1).all()


@pytest.mark.parametrize(("name", "bits"), REPRESENTABLE)
def test_the_product_is_the_tables_bit_for_bit(name, bits):
    book = codebook(name, bits)
    random = np.random.default_rng(bits)
    codes = book.encode(torch.from_numpy(random.choice(book.levels, (17, 33))))
    levels = book.decode(codes).numpy()
    activations = random.integers(-128, 128, (33, 29), dtype=np.int64)
    assert np.array_equal(ShiftAdd.of(levels).matmul(activations), levels @ activations)


def test_a_quantised_layer_runs_without_multiplication():
    torch.manual_seed(0)
    levels = quantise(torch.randn(8, 64), "sp2", 4).levels.numpy()
    activations = np.random.default_rng(0).integers(-128, 128, (64, 5), dtype=np.int64)
    product = ShiftAdd.of(levels).matmul(activations)
    assert np.array_equal(product.astype(np.int32), levels.astype(np.int32) @ activations.astype(np.int32))


def test_a_level_of_three_powers_is_refused():
    with pytest.raises(ValueError, match="7 is not a sum of at most two powers of two"):
        ShiftAdd.of([[1, 7]])
