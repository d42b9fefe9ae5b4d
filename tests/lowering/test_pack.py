"""Packing keeps every weight, and puts filters with like zeros in a block."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.compress.schemes import SCHEMES, SchemeConfig
from edgectl.lowering.pack import Packed, Taps, pack, recognise
from edgectl.lowering.plan import NONE
from edgectl.recipe import Cpu

Array = np.ndarray[Any, Any]


def packed(weight: Array, cpu: Cpu = "arm64", *, over_filters: bool = False) -> Packed:
    filters, taps = weight.shape
    group = Taps(weight.astype(np.float32), np.arange(taps, dtype=np.int32) * 3, np.arange(filters, dtype=np.uint32))
    return pack([group], np.arange(filters, dtype=np.float32), cpu, over_filters=over_filters)


def unpacked(made: Packed, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The weights and biases that the kernels would see."""
    block, n_blocks, n_entries, _ = (int(n) for n in np.frombuffer(made.blob, np.uint32, 4))
    places = np.frombuffer(made.blob, np.uint64, 5, 16)

    def array(i: int, kind: type, count: int) -> Array:
        return np.frombuffer(made.blob, kind, count, int(places[i]))

    rows, filters = array(0, np.uint32, n_blocks + 1), array(1, np.uint32, n_blocks * block).reshape(-1, block)
    offsets, values = array(2, np.int32, n_entries), array(3, np.float32, n_entries * block).reshape(-1, block)
    biases = array(4, np.float32, n_blocks * block).reshape(-1, block)
    weight, bias = np.zeros(shape, np.float32), np.full(shape[0], np.nan)
    for b in range(n_blocks):
        for lane, number in enumerate(filters[b]):
            if number == NONE:
                assert (filters[b][lane:] == NONE).all(), "the loader refuses an unused lane before a used one"
                continue
            weight[number, offsets[rows[b] : rows[b + 1]] // 3] = values[rows[b] : rows[b + 1], lane]
            bias[number] = biases[b][lane]
    return weight, bias


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.floats(0, 1), st.integers(1, 9), st.booleans(), st.integers(0, 1000))
def test_every_weight_is_kept(filters: int, taps: int, kept: float, alike: int, over_filters: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    support = np.repeat(random.random((-(-filters // alike), taps)) < kept, alike, axis=0)[:filters]
    weight = (random.normal(size=(filters, taps)) * support[random.permutation(filters)]).astype(np.float32)
    made = packed(weight, over_filters=over_filters)
    got, bias = unpacked(made, weight.shape)
    np.testing.assert_array_equal(got, weight)
    np.testing.assert_array_equal(bias, np.arange(filters))
    assert made.nonzeros == np.count_nonzero(weight) <= made.stored
    assert made.costs[made.block] == min(made.costs.values()) == 1.0


def punched(random: np.random.Generator) -> Array:
    """Filters pruned alike in eights, then shuffled, as another tool's numbering would have them."""
    support = np.repeat(random.random((16, 288)) < 1 / 6, 8, axis=0)
    weight: Array = random.normal(size=support.shape) * support
    return weight[random.permutation(len(support))]


def test_filters_that_were_pruned_together_share_a_block_again() -> None:
    made = packed(punched(np.random.default_rng(0)))
    assert (made.block, made.order, made.stored) == (8, "by their zeros", made.nonzeros)


def test_filters_that_are_only_alike_share_a_block_too() -> None:
    random = np.random.default_rng(1)
    weight = punched(random)
    weight *= random.random(weight.shape) < 0.97
    made = packed(weight)
    assert (made.block, made.order) == (8, "by likeness")
    assert made.stored < 1.05 * made.nonzeros


@pytest.mark.parametrize("cpu", get_args(Cpu))
@pytest.mark.parametrize(("kept", "block"), [(1.0, 8), (1 / 6, 1)])
def test_the_block_follows_the_zeros(kept: float, block: int, cpu: Cpu) -> None:
    random = np.random.default_rng(2)
    made = packed(random.normal(size=(64, 576)) * (random.random((64, 576)) < kept), cpu)
    assert (made.block, made.order) == (block, "as they are")


def test_a_filter_alone_is_cheaper_on_arm64_where_it_has_registers_enough() -> None:
    random = np.random.default_rng(3)
    weight = random.normal(size=(64, 576)) * (random.random((64, 576)) < 0.6)
    assert (packed(weight, "arm64").block, packed(weight, "x86-64").block) == (1, 2)


def in_four_bits(weight: torch.Tensor) -> Array:
    """Fixed point, one scale a filter: some 13 % of normal weights become zero."""
    scale = 2.3 * weight.std(dim=(1, 2, 3), keepdim=True) / 7 + 1e-9
    rounded: Array = (scale * torch.clamp(torch.round(weight / scale), -7, 7)).numpy()
    return rounded


@pytest.mark.parametrize(("scheme", "rate"), [(None, 1.0), *((name, rate) for name in SCHEMES for rate in (2.0, 3.0, 6.0))])
def test_rounding_hides_no_scheme_and_makes_none(scheme: str | None, rate: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 32, *((1, 1) if scheme == "block_column" else (3, 3)))
    mask = torch.ones_like(weight) if scheme is None else SCHEMES[scheme](weight, rate, SchemeConfig())
    assert recognise((weight * mask).numpy()) == (scheme or "dense")
    rounded = in_four_bits(weight)
    assert 0.1 < np.mean(rounded == 0) < 0.2
    assert recognise(rounded * mask.numpy(), quantised=True) == (scheme or "dense")
