"""Codebooks are the paper's, projection is to the nearest level, grids are recovered exactly, codes come back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from edgectl.compress.codebooks import Codebook, codebook, pack_nibbles, unpack_nibbles
from edgectl.compress.quantizers import fit_scales, project, quantise, row_schemes
from edgectl.errors import UserError

BOOKS = [(name, bits) for name in ("fixed", "power_of_two", "sp2") for bits in range(2, 9)]
books = pytest.mark.parametrize(("name", "bits"), BOOKS)
# the scales of power_of_two(8) are denormal
books_of_normal_scales = pytest.mark.parametrize(("name", "bits"), [book for book in BOOKS if book != ("power_of_two", 8)])


def random_levels(book: Codebook, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Levels of a codebook in float32, in which all are exact."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(book.levels, dtype=torch.float64).float()
    return levels[torch.randint(len(levels), shape, generator=generator)]


def test_codebooks_hold_the_papers_levels():
    assert Codebook.fixed(4).levels == tuple(range(-7, 8)) and Codebook.fixed(4).alpha == 7
    assert Codebook.power_of_two(3).levels == (-4, -2, -1, 0, 1, 2, 4) and Codebook.power_of_two(3).alpha == 4
    assert Codebook.power_of_two(4).levels[8:] == (1, 2, 4, 8, 16, 32, 64)
    assert Codebook.sp2(2).levels == (-1, 0, 1) and Codebook.sp2(2).alpha == 2
    assert Codebook.sp2(4).levels == (-8, -6, -5, -4, -2, -1, 0, 1, 2, 4, 5, 6, 8) and Codebook.sp2(4).alpha == 8
    assert Codebook.sp2(5).levels[8:] == (1, 2, 3, 4, 5, 6, 8)
    assert len(Codebook.sp2(4).levels) == 13 and len(Codebook.sp2(8).levels) == 187


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_level_of_sp2_is_eq_8(bits):
    m2 = (bits - 1) // 2
    m1 = bits - 1 - m2
    q1 = [0.0] + [2.0**-i for i in range(1, 2**m1)]
    q2 = [0.0] + [2.0**-i for i in range(1, 2**m2)]
    values = {sign * (a + b) for a in q1 for b in q2 for sign in (-1, 1)}
    book = Codebook.sp2(bits)
    assert [level / book.alpha for level in book.levels] == sorted(values)


@books
def test_levels_are_sorted_distinct_symmetric_and_hold_zero(name, bits):
    levels = codebook(name, bits).levels
    assert list(levels) == sorted(set(levels)) and 0 in levels and len(levels) < 2**bits
    assert [-level for level in reversed(levels)] == list(levels)


def test_the_device_takes_the_codebooks_whose_levels_fit_in_int8():
    fitting = [(name, bits) for name, bits in BOOKS if codebook(name, bits).fits_int8]
    expected = [("fixed", bits) for bits in range(2, 9)]
    expected += [("power_of_two", bits) for bits in (2, 3, 4)] + [("sp2", bits) for bits in (2, 3, 4, 5)]
    assert fitting == expected


@books
def test_projection_equals_brute_force_over_a_million_values(name, bits):
    book = codebook(name, bits)
    count = 1_000_000
    generator = torch.Generator().manual_seed(bits)
    scale = torch.tensor(0.37 / book.alpha)
    weight = torch.randn(count, generator=generator) * 0.2
    weight[: count // 4] *= 2.0 ** -torch.randint(0, 20, (count // 4,), generator=generator)
    got = project(weight.reshape(1, -1), scale.reshape(1), [name], bits).weight()[0].double().numpy()
    levels = np.array(book.levels, np.float64)
    distance = np.full(count, np.inf)
    for level in levels:  # scale * level has fewer than 53 bits: exact
        distance = np.minimum(distance, np.abs(weight.double().numpy() - float(scale) * level))
    products = (scale * torch.tensor(book.levels, dtype=torch.float64).float()).double().numpy()
    got_levels = levels[np.searchsorted(products, got)]
    assert (np.abs(weight.double().numpy() - float(scale) * got_levels) == distance).all()


@books
def test_ties_go_to_the_level_nearer_to_zero(name, bits):
    book = codebook(name, bits)
    positive = [level for level in book.levels if level >= 0]
    middles = [(low + high) / 2 for low, high in pairwise(positive)]
    weight = torch.tensor([middles, [-middle for middle in middles]])
    got = project(weight, torch.ones(2), [name, name], bits).weight()
    assert got[0].tolist() == positive[:-1] and (-got[1]).tolist() == positive[:-1]


@books
def test_codes_come_back_as_the_levels_they_stand_for(name, bits):
    book = codebook(name, bits)
    assert len(book.table) == (16 if bits <= 4 else 256)
    if book.levels[-1] >= 2**63:
        with pytest.raises(UserError, match="exceed 64-bit integers"):
            book.decode(torch.zeros(1, dtype=torch.uint8))
        return
    levels = torch.tensor(book.levels)
    codes = book.encode(levels)
    assert codes.dtype == torch.uint8 and int(codes.max()) < 2**bits and len(codes.unique()) == len(levels)
    assert torch.equal(book.decode(codes), levels)
    assert [book.table[code] for code in codes.tolist()] == list(book.levels)
    assert book.table[0] == 0


def test_codes_of_fixed_point_are_twos_complement_and_others_are_refused():
    assert Codebook.fixed(4).encode(torch.tensor([-7, -1, 0, 7])).tolist() == [9, 15, 0, 7]
    with pytest.raises(ValueError, match="not levels of sp2 with 4 bits"):
        Codebook.sp2(4).encode(torch.tensor([3]))
    with pytest.raises(ValueError, match="not levels of fixed with 4 bits"):
        Codebook.fixed(4).encode(torch.tensor([8]))


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_two_codes_a_byte_come_back(count):
    codes = torch.arange(count, dtype=torch.uint8) * 7 % 16
    packed = pack_nibbles(codes)
    assert len(packed) == (count + 1) // 2 and torch.equal(unpack_nibbles(packed, count), codes)
    assert count < 2 or packed[0] == 0x70


@books_of_normal_scales
def test_weights_on_a_grid_come_back_bit_for_bit(name, bits):
    book = codebook(name, bits)
    torch.manual_seed(bits)
    for shape in ((40, 7, 3, 3), (3, 1000)):
        scales = torch.rand(shape[0]) * (0.3 / book.alpha) + 1e-3 / book.alpha
        weight = random_levels(book, shape) * scales.reshape(-1, *[1] * (len(shape) - 1))
        quantised = quantise(weight, name, bits)
        assert torch.equal(quantised.weight(), weight)
        assert torch.equal(quantise(quantised.weight(), name, bits).weight(), weight)


@books_of_normal_scales
def test_rows_on_a_grid_are_recovered_after_any_factor(name, bits):
    book = codebook(name, bits)
    torch.manual_seed(bits)
    levels = random_levels(book, (64, 300))
    weight = levels * (torch.rand(64, 1) * (0.3 / book.alpha))
    folded = weight * (torch.randn(64, 1) * 3)
    quantised = quantise(folded, name, bits)
    # within the two roundings that folding and one float32 product make
    torch.testing.assert_close(quantised.weight(), folded, rtol=3e-7, atol=0)
    assert torch.equal(quantise(quantised.weight(), name, bits).weight(), quantised.weight())


def test_a_layer_scale_and_mixed_rows_are_recovered_too():
    for seed, scale in [(seed, scale) for seed in range(10) for scale in ("row", "layer")]:
        torch.manual_seed(seed)
        weight = torch.randn(24, 9, 3, 3) * torch.rand(24, 1, 1, 1)
        once = quantise(weight, "msq", 4, scale=scale)
        rows = [row for row, scheme in enumerate(once.schemes) if scheme == "sp2"]
        again = quantise(once.weight(), "msq", 4, sp2_rows=rows, scale=scale)
        assert torch.equal(again.weight(), once.weight()) and again.schemes == once.schemes


def test_a_sparse_row_on_a_grid_with_one_odd_weight_is_recovered():
    weight = torch.zeros(1, 5000)
    weight[0, ::2] = 64 * 0.013
    weight[0, 4321] = 0.013
    assert torch.equal(quantise(weight, "fixed", 8).weight(), weight)


@pytest.mark.parametrize("name", ["fixed", "power_of_two", "sp2"])
@pytest.mark.parametrize("width", [200, 2000])
def test_row_scales_are_as_good_as_a_fine_search(name, width):
    torch.manual_seed(0)
    weight = torch.randn(8, width)
    book = codebook(name, 4)
    got = ((quantise(weight, name, 4).weight() - weight) ** 2).sum(dim=1)
    top = weight.abs().amax(dim=1)
    searched = [
        ((project(weight, top * part / book.alpha, [name] * 8, 4).weight() - weight) ** 2).sum(dim=1)
        for part in torch.linspace(0.3, 1.3, 200)
    ]
    assert (got <= torch.stack(searched).amin(dim=0) * 1.02).all()


def test_zeros_stay_zero_and_a_row_of_zeros_has_an_ordinary_scale():
    torch.manual_seed(0)
    weight = torch.randn(6, 50)
    weight[torch.rand(6, 50) < 0.5] = 0
    weight[2] = 0
    for name in ("fixed", "power_of_two", "sp2", "msq"):
        quantised = quantise(weight, name, 4)
        values = quantised.weight()
        assert (values[weight == 0] == 0).all() and not torch.signbit(values[weight == 0]).any()
        assert quantised.scales.min() <= quantised.scales[2] <= quantised.scales.max()
    assert (quantise(torch.zeros(2, 3), "sp2", 4, scale="layer").weight() == 0).all()


def test_one_alpha_for_the_layer_gives_each_scheme_one_scale():
    torch.manual_seed(0)
    quantised = quantise(torch.randn(9, 40), "msq", 4, scale="layer")
    by_scheme = {
        name: {float(s) for s, n in zip(quantised.scales, quantised.schemes, strict=True) if n == name}
        for name in ("sp2", "fixed")
    }
    (sp2,), (fixed,) = by_scheme["sp2"], by_scheme["fixed"]
    assert sp2 * 8 == pytest.approx(fixed * 7, rel=1e-6)


def test_sp2_is_better_than_fixed_for_rows_of_low_variance_under_one_alpha():
    """The crossover of a shared alpha is where a row's deviation is 0.17 of it."""
    torch.manual_seed(0)
    better = {}
    for deviation in (0.12, 0.14, 0.20, 0.22):
        weight = torch.randn(20, 5000) * deviation
        errors = {}
        for name, alpha in (("sp2", 8), ("fixed", 7)):
            values = project(weight, torch.full((20,), 1 / alpha), [name] * 20, 4).weight()
            errors[name] = float(((values - weight) ** 2).mean())
        better[deviation] = errors["sp2"] < errors["fixed"]
    assert better == {0.12: True, 0.14: True, 0.20: False, 0.22: False}


def test_rows_of_least_variance_are_sp2():
    weight = torch.randn(6, 100, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 1, 4, 2, 6, 3])[:, None]
    assert row_schemes(weight, "msq", 4) == ("fixed", "sp2", "sp2", "sp2", "fixed", "sp2")
    assert row_schemes(weight, "msq", 4, 0.0) == ("fixed",) * 6 and row_schemes(weight, "msq", 4, 1) == ("sp2",) * 6
    assert row_schemes(weight, "msq", 4, [0, 4]) == ("sp2", "fixed", "fixed", "fixed", "sp2", "fixed")
    assert quantise(weight, "msq", 4, sp2_rows=[0]).levels[0].unique().tolist() != list(range(-7, 8))


@pytest.mark.parametrize("shape", [(12, 16, 3, 3), (6, 3000)])
def test_rows_that_lie_on_one_grid_keep_its_codebook_whatever_their_variance(shape):
    is_sp2 = torch.arange(shape[0]) % 2 == 0
    per_row = (-1, *[1] * (len(shape) - 1))
    levels = random_levels(Codebook.sp2(4), shape).where(is_sp2.reshape(per_row), random_levels(Codebook.fixed(4), shape))
    weight = levels * torch.linspace(0.04, 0.01, shape[0]).reshape(per_row)
    for fraction in (0.0, 0.5, 1.0):
        quantised = quantise(weight, "msq", 4, sp2_rows=fraction)
        assert quantised.schemes == tuple("sp2" if row else "fixed" for row in is_sp2)
        assert torch.equal(quantised.weight(), weight)
    assert row_schemes(weight, "msq", 4, [1]) == ("fixed", "sp2", *("fixed",) * (shape[0] - 2))
    on_both = torch.tensor([0.0, 1, -2, 4]).repeat(shape[0], 2)
    assert row_schemes(on_both, "msq", 4, 0.0) == ("fixed",) * shape[0]


def test_levels_are_integers_that_give_the_weight():
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    quantised = quantise(weight, "msq", 4)
    levels = quantised.levels
    assert levels.dtype == torch.int64 and levels.shape == weight.shape
    assert torch.equal(levels.to(torch.int8).float() * quantised.scales[:, None, None, None], quantised.weight())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fixed", 1), "cannot be quantised to 1 bits: choose 2 to 8"),
        (("sp2", 9), "cannot be quantised to 9 bits: choose 2 to 8"),
        (("apot", 4), "no codebook 'apot': choose one of fixed, power_of_two, sp2, msq"),
        (("msq", 4, 1.5), "fraction 1.5 of rows cannot be SP2: choose 0 to 1"),
        (("msq", 4, [3]), "Row 3 cannot be SP2: the weight has rows 0 to 1"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    weights, bits, *rows = arguments
    with pytest.raises(UserError, match=message):
        quantise(torch.ones(2, 3), weights, bits, **({"sp2_rows": rows[0]} if rows else {}))


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite"):
        quantise(torch.tensor([[1.0, float("nan")]]), "fixed", 8)


def test_fit_scales_are_positive_float32():
    scales = fit_scales(torch.randn(4, 10), ["sp2"] * 4, 4)
    assert scales.dtype == torch.float32 and (scales > 0).all()
