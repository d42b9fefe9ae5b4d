"""Packing keeps every weight, and puts filters with like zeros in a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgectl.compress.schemes import SCHEMES, SchemeConfig
from edgectl.lowering.compile import compile_module
from edgectl.lowering.pack import Packed, Taps, pack, recognise
from edgectl.lowering.plan import NONE
from edgectl.recipe import Cpu, TargetSpec

Runner = Callable[[bytes, torch.Tensor], list[torch.Tensor]]

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


def wide() -> tuple[nn.Module, torch.Tensor]:
    """Filters that each keep other weights, over maps wide enough for rows of whole cache lines, and tall enough for bands."""
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(6, 40, 3, padding=1),
        nn.Conv2d(40, 20, 5, padding=2),
        nn.Conv2d(20, 30, 3, padding=1, stride=2),
        nn.Conv2d(30, 9, 1),
    ]
    for conv in convs:
        conv.weight.data *= torch.rand_like(conv.weight) < 0.2
    return nn.Sequential(convs[0], nn.ReLU(), *convs[1:]).eval(), torch.randn(1, 6, 90, 301)


@pytest.mark.parametrize("cpu", get_args(Cpu))
def test_what_was_packed_for_another_processor_runs_on_this_one(run_pte: Runner, cpu: Cpu) -> None:
    module, x = wide()
    compiled = compile_module(module, x, target=TargetSpec(cpu=cpu))
    assert {layer.block for layer in compiled.layers if layer.block} == {1}
    (got,) = run_pte(compiled.program, x)
    with torch.no_grad():
        torch.testing.assert_close(got, module(x), rtol=1e-4, atol=1e-5)


def test_the_entries_of_a_filter_alone_lie_by_their_place_in_a_vector_where_kernels_read_whole_ones() -> None:
    random = np.random.default_rng(4)
    weight = (random.normal(size=(8, 288)) * (random.random((8, 288)) < 1 / 6)).astype(np.float32)
    taps = np.arange(288)
    offsets = (taps // 9 * 4096 + taps % 9 // 3 * 336 + taps % 3 - 1).astype(np.int32)  # 32 channels, rows of 336
    group = Taps(weight, offsets, np.arange(8, dtype=np.uint32))
    changes = {}
    for cpu in get_args(Cpu):
        made = pack([group], np.zeros(8, np.float32), cpu)
        assert made.block == 1
        places = np.frombuffer(made.blob, np.uint64, 5, 16)
        got = np.frombuffer(made.blob, np.int32, made.nonzeros, int(places[2]))
        np.testing.assert_array_equal(np.sort(got), np.sort(np.concatenate([offsets[row != 0] for row in weight])))
        changes[cpu] = np.count_nonzero(np.diff(got % 16)) / 8  # a filter
    assert changes["x86-64-v4"] <= 6  # three places in each of two pieces of 16 channels
    assert changes["arm64"] == changes["x86-64"] > 20
