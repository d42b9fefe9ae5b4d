"""Every scheme's mask has exactly its structure, keeps the largest groups, and meets the rate within one group."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.compress.schemes import (
    DEFAULT_COLUMN_BLOCK,
    DEFAULT_PUNCHED_BLOCK,
    PATTERNS_IN_USE,
    SCHEMES,
    SchemeConfig,
    SchemeError,
    natural_patterns,
)

sides = st.integers(1, 20)
rates = st.floats(1, 12)
blocks = st.one_of(st.none(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
quick = settings(max_examples=40, deadline=None)


@st.composite
def weights(draw, kernel=None):
    kernel = kernel or draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.randn(draw(sides), draw(sides), *kernel, generator=generator)


def blocks_of(mask, rows, columns):
    """All blocks of filters x channels, ragged ones at the edges as they are."""
    for top in range(0, mask.shape[0], rows):
        for left in range(0, mask.shape[1], columns):
            yield mask[top : top + rows, left : left + columns]


@quick
@given(weights(), rates)
def test_unstructured_keeps_exactly_the_largest_weights(weight, rate):
    mask = SCHEMES["unstructured"](weight, rate, SchemeConfig())
    assert int(mask.sum()) == max(1, round(weight.numel() / rate))
    if not mask.all():
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


@quick
@given(weights(), rates)
def test_filter_keeps_whole_filters_of_largest_norm(weight, rate):
    mask = SCHEMES["filter"](weight, rate, SchemeConfig()).flatten(1)
    kept = mask.all(dim=1)
    assert (kept == mask.any(dim=1)).all()
    assert int(kept.sum()) == max(1, round(weight.shape[0] / rate))
    norms = weight.flatten(1).norm(dim=1)
    if not kept.all():
        assert norms[kept].min() >= norms[~kept].max()


@quick
@given(weights(), rates, blocks)
def test_block_punched_keeps_or_removes_a_kernel_position_of_a_whole_block(weight, rate, block):
    mask = SCHEMES["block_punched"](weight, rate, SchemeConfig(block=block))
    rows, columns = block or DEFAULT_PUNCHED_BLOCK
    for part in blocks_of(mask, rows, columns):
        positions = part.flatten(0, 1)
        assert (positions.all(dim=0) == positions.any(dim=0)).all()
    assert abs(int(mask.sum()) - weight.numel() / rate) <= rows * columns


@quick
@given(weights(kernel=(3, 3)), rates)
def test_block_punched_keeps_the_groups_of_largest_score(weight, rate):
    rows, columns = 2, 2
    weight = weight.repeat(2, 2, 1, 1)
    mask = SCHEMES["block_punched"](weight, rate, SchemeConfig(block=(rows, columns)))
    score = torch.stack([part.norm(dim=0).sum(dim=0) for part in blocks_of(weight, rows, columns)])
    kept = torch.stack([part[0, 0] for part in blocks_of(mask, rows, columns)])
    if not kept.all():
        assert score[kept].min() >= score[~kept].max() - 1e-5


@quick
@given(weights(kernel=(1, 1)), rates, blocks)
def test_block_column_removes_columns_from_blocks_of_rows(weight, rate, block):
    mask = SCHEMES["block_column"](weight, rate, SchemeConfig(block=block))
    rows, columns = block or DEFAULT_COLUMN_BLOCK
    for part in blocks_of(mask[:, :, 0, 0], rows, columns):
        assert part.all() or not part.any()
    assert abs(int(mask.sum()) - weight.numel() / rate) <= rows * columns


@quick
@given(weights(kernel=(3, 3)), rates)
def test_pattern_leaves_kernels_whole_patterned_or_empty_and_uses_few_patterns(weight, rate):
    mask = SCHEMES["pattern"](weight, rate, SchemeConfig()).reshape(-1, 9)
    counts = mask.sum(dim=1)
    assert set(counts.tolist()) <= ({4, 9} if rate <= 9 / 4 else {0, 4})
    assert len(mask[counts == 4].unique(dim=0)) <= PATTERNS_IN_USE
    assert mask[counts > 0, 4].all()
    assert abs(int(mask.sum()) - weight.numel() / rate) <= 5


@quick
@given(weights(kernel=(3, 3)), st.floats(1, 4), st.floats(1, 9 / 4))
def test_pattern_with_a_connectivity_removes_that_share_of_kernels(weight, connectivity, rest):
    rate = connectivity * rest
    mask = SCHEMES["pattern"](weight, rate, SchemeConfig(connectivity=connectivity)).reshape(-1, 9)
    kept = int(mask.any(dim=1).sum())
    assert kept == max(1, round(len(mask) / connectivity))
    assert abs(int(mask.sum()) - weight.numel() / rate) <= 9


@quick
@given(weights(kernel=(3, 3)))
def test_pattern_takes_the_library_pattern_that_keeps_most(weight):
    library = natural_patterns([weight]).reshape(-1, 9)
    mask = SCHEMES["pattern"](weight, 9 / 4, SchemeConfig()).reshape(-1, 9)
    energy = weight.square().reshape(-1, 9)
    kept = (energy * mask).sum(dim=1)
    assert torch.allclose(kept, (energy @ library.float().T).amax(dim=1))


@quick
@given(st.sampled_from(sorted(SCHEMES)), rates, st.data())
def test_pruning_a_pruned_weight_again_changes_nothing(scheme, rate, data):
    kernel = {"pattern": (3, 3), "block_column": (1, 1)}.get(scheme)
    weight = data.draw(weights(kernel=kernel))
    config = SchemeConfig(patterns=natural_patterns([weight]) if scheme == "pattern" else None)
    mask = SCHEMES[scheme](weight, rate, config)
    assert (SCHEMES[scheme](weight * mask, rate, config) == mask).all()


@quick
@given(st.sampled_from(sorted(SCHEMES)), st.data())
def test_the_mask_depends_on_magnitudes_alone_and_rate_one_keeps_all(scheme, data):
    kernel = {"pattern": (3, 3), "block_column": (1, 1)}.get(scheme)
    weight = data.draw(weights(kernel=kernel))
    function, config = SCHEMES[scheme], SchemeConfig()
    assert function(weight, 1.0, config).all()
    assert (function(-weight, 3.0, config) == function(weight, 3.0, config)).all()


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_equal_weights_are_pruned_to_the_rate_all_the_same(scheme):
    kernel = (1, 1) if scheme == "block_column" else (3, 3)
    for value in (0.0, 1.0):
        weight = torch.full((16, 16, *kernel), value)
        kept = int(SCHEMES[scheme](weight, 4.0, SchemeConfig()).sum())
        assert abs(kept - weight.numel() / 4) <= 32


def test_blocks_do_not_reach_over_the_groups_of_a_grouped_convolution():
    weight = torch.randn(12, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = SCHEMES["block_punched"](weight, 4.0, SchemeConfig(groups=3))
    for group in mask.split(4):
        positions = group.flatten(0, 1)
        assert (positions.all(dim=0) == positions.any(dim=0)).all()


def test_depthwise_filters_are_punched_in_blocks_of_neighbours():
    weight = torch.randn(32, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = SCHEMES["block_punched"](weight, 3.0, SchemeConfig(groups=32))
    for part in mask.split(8):
        assert (part.all(dim=0) == part.any(dim=0)).all()
    assert int(mask.sum()) == 32 * 9 // 3


def test_a_small_block_at_the_edge_is_not_removed_for_its_size():
    weight = torch.randn(9, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[8] *= 3
    assert SCHEMES["block_punched"](weight, 2.0, SchemeConfig())[8].all()


def test_natural_patterns_are_the_most_frequent_ones_of_the_network():
    corner = torch.tensor([[9.0, 8, 1], [7, 5, 1], [1, 1, 1]])
    cross = torch.tensor([[0.0, 8, 1], [7, 5, 6], [0, 1, 0]])
    library = natural_patterns([corner.expand(3, 4, 3, 3), cross.expand(2, 2, 3, 3), torch.zeros(5, 5, 3, 3)])
    assert library.int().tolist() == [[[1, 1, 0], [1, 1, 0], [0, 0, 0]], [[0, 1, 0], [1, 1, 1], [0, 0, 0]]]


@pytest.mark.parametrize(("scheme", "kernel"), [("pattern", (5, 5)), ("pattern", (1, 1)), ("block_column", (3, 3))])
def test_a_scheme_refuses_kernels_it_is_not_for(scheme, kernel):
    with pytest.raises(SchemeError, match="the kernel is"):
        SCHEMES[scheme](torch.ones(8, 8, *kernel), 2.0, SchemeConfig())


@pytest.mark.parametrize("connectivity", [0.5, 1.0, 7.0, math.nan])
def test_a_connectivity_that_cannot_give_the_rate_is_refused_with_the_range_that_can(connectivity):
    with pytest.raises(SchemeError, match=r"choose it between 2\.67 and 6"):
        SCHEMES["pattern"](torch.randn(8, 8, 3, 3), 6.0, SchemeConfig(connectivity=connectivity))
