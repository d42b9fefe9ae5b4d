"""Bounds against exact minima: what no bound may exceed, and what the best one reaches."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import box_of, drawn, inside, minimum, values
from torch import Tensor

from edgectl.assure.verify.ascent import Multipliers, Problem, Rates
from edgectl.assure.verify.bounds import Box, Rows, Splits, interval
from edgectl.assure.verify.graph import Conv, Graph, Input, Linear, Relu, Reshape, chain
from edgectl.assure.verify.network import Network, normal_form
from edgectl.assure.verify.root import Root, intermediate, narrow, output_bounds

DATA = Path(os.environ.get("EDGECTL_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data") / "vnn"
ROW = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
NONE = torch.zeros(1, 1, dtype=torch.float64)
ONE = torch.ones(1, 1, dtype=torch.float64)
STEPS = 2000
SLACK = 1e-6  # HiGHS's own tolerance


def loose(network: Network, box: Box) -> list[tuple[Tensor, Tensor]]:
    return [(low[:, 0], high[:, 0]) for low, high in interval(network, box)[:-1]]


def unstable(root: Root) -> list[tuple[int, int]]:
    """(layer, neuron) of every row of the stacked unstable neurons."""
    return [(k, i) for k, layer in enumerate(root.network.layers) for i in range(layer.unstable)]


def layers(root: Root) -> list[tuple[Tensor, Tensor]]:
    """The root's bounds by layer, `[unstable]` each."""
    sizes = [layer.unstable for layer in root.network.layers[:-1]]
    return list(zip(root.lower[:, 0].split(sizes), root.upper[:, 0].split(sizes), strict=True))


def some_splits(root: Root, x: Tensor, seed: int, most: int) -> tuple[Splits, dict[tuple[int, int], int]]:
    """Random splits that the point `x` `[inputs, 1]` fulfils."""
    z = torch.cat([v[: layer.unstable] for v, layer in zip(values(root.network, x), root.network.layers, strict=True)])
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:most]
    sign = torch.where(z[order] >= 0, -1.0, 1.0).double()
    where = unstable(root)
    return Splits(order[:, None], sign), {where[int(r)]: int(s) for r, s in zip(order, sign[:, 0], strict=True)}


def ascended(root: Root, splits: Splits | None, rates: Rates, beta: bool = True) -> tuple[float, Multipliers]:
    """The bound of ROW in float64."""
    problem = Problem(root.relax(1, splits=splits), Rows(ROW, NONE), ONE)
    at = problem.first()
    if not beta:
        at.beta = None
    return float(problem.ascend(at, rates)), at


@pytest.mark.parametrize("seed", range(18))
def test_normal_form_computes_what_the_graph_does(seed: int) -> None:
    graph = drawn(seed)
    x = inside(box_of(graph, seed), 50)
    want = graph.forward(x.reshape(50, *graph.input.shape)).reshape(50, -1)
    torch.testing.assert_close(normal_form(graph, torch.float64).forward(x.t()).t(), want)


def check_soundness(seed: int) -> None:
    graph = drawn(seed)
    box = box_of(graph, seed)
    network = normal_form(graph, torch.float64)
    exact = minimum(network, box, ROW[0], loose(network, box))
    x = inside(box, 200, seed)
    y = graph.forward(x.reshape(200, *graph.input.shape)).reshape(200, -1)
    least = float((y @ ROW[0]).min())
    assert exact <= least + SLACK
    low, high = interval(network, box)[-1]
    assert float(ROW.clamp(min=0) @ low + ROW.clamp(max=0) @ high) <= exact + SLACK
    for steps in (0, 15):
        root = intermediate(network, box, Rates(steps))
        for z, (lower, upper) in zip(values(root.network, x.t())[:-1], layers(root), strict=True):
            assert (z[: len(lower)] >= lower[:, None] - SLACK).all()
            assert (z[: len(upper)] <= upper[:, None] + SLACK).all()
        torch.testing.assert_close(root.network.forward(x.t()).t(), y)  # what is left out is never positive in the box
        bound, _ = output_bounds(root, Rows(ROW, NONE), ONE, Rates(steps))
        assert float(bound) <= exact + SLACK
    splits, fixed = some_splits(root, x[:1].t(), seed, 1 + seed % 5)
    split_exact = minimum(root.network, box, ROW[0], layers(root), fixed)
    bound_, _ = ascended(root, splits, Rates(20))
    assert bound_ <= split_exact + SLACK
    threshold = (exact + least) / 2 + 0.05
    rows = Rows(ROW, torch.full_like(NONE, threshold))
    alpha = torch.ones(len(root.lower) + 1, 1)
    narrowed = narrow(root, rows, ONE, alpha, Rates(10, 0.2, 0.2, 0.5), first=0)
    assert narrowed is not None
    reaching = (y @ ROW[0] <= threshold).nonzero()[:, 0]
    for z, (lower, upper) in zip(values(narrowed[0].network, x[reaching].t())[:-1], layers(narrowed[0]), strict=True):
        assert (z[: len(lower)] >= lower[:, None] - SLACK).all()
        assert (z[: len(upper)] <= upper[:, None] + SLACK).all()


@pytest.mark.parametrize("seed", range(24))
def test_no_bound_exceeds_the_exact_minimum(seed: int) -> None:
    check_soundness(seed)


@pytest.mark.slow
def test_no_bound_exceeds_the_exact_minimum_on_500_networks() -> None:
    for seed in range(100, 600):
        check_soundness(seed)


def tightness(seeds: range) -> tuple[list[float], list[float]]:
    """Relative gaps to the triangle LP with splits, and what the split multipliers gain."""
    gaps, gains = [], []
    for seed in seeds:
        graph = drawn(seed)
        box = box_of(graph, seed)
        root = intermediate(normal_form(graph, torch.float64), box, Rates(0))
        splits, fixed = some_splits(root, inside(box, 1, seed).t(), seed, 3)
        lp = minimum(root.network, box, ROW[0], layers(root), fixed, relaxed=True)
        bound, _ = ascended(root, splits, Rates(STEPS, 0.1, 0.1, decay=0.997))
        without, _ = ascended(root, splits, Rates(STEPS, 0.1, 0.0, decay=0.997))
        gaps.append((lp - bound) / max(1.0, abs(lp)))
        gains.append(bound - without)
    return gaps, gains


@pytest.mark.slow
def test_the_optimised_bound_is_the_triangle_relaxation_with_splits() -> None:
    gaps, gains = tightness(range(50))
    assert min(gaps) > -SLACK
    assert max(gaps) < 1e-3
    assert sum(gains) / len(gains) > 1e-3


def cnn_a() -> tuple[Graph, Tensor, np.ndarray]:
    """The published MNIST CNN-A-Adv and its 200 images `[200, 784]`."""
    folder = DATA / "sdp"
    if not (folder / "mnist_cnn_a_adv.model").is_file():
        pytest.skip(f"no MNIST CNN-A-Adv in {folder}")
    w = torch.load(folder / "mnist_cnn_a_adv.model", weights_only=True)
    nodes = (
        Input("x", (), (1, 28, 28)),
        Conv("c1", (), (), w["0.weight"], w["0.bias"], (2, 2), (1, 1)),
        Relu("r1", (), ()),
        Conv("c2", (), (), w["2.weight"], w["2.bias"], (2, 2), (1, 1)),
        Relu("r2", (), ()),
        Reshape("f", (), (1568,)),
        Linear("l", (), (), w["5.weight"], w["5.bias"]),
        Relu("r3", (), ()),
        Linear("y", (), (), w["7.weight"], w["7.bias"]),
    )
    images = torch.from_numpy(np.load(folder / "mnist" / "X_sdp.npy")).permute(0, 3, 1, 2).reshape(200, -1)
    return chain(nodes), images.double(), np.load(folder / "mnist" / "y_sdp.npy")


@pytest.mark.slow
def test_plain_crown_verifies_2_of_200_images_of_cnn_a_adv() -> None:
    graph, images, labels = cnn_a()
    network = normal_form(graph, torch.float64)
    verified = 0
    with torch.inference_mode():
        for x, label in zip(images[:, :, None], labels.tolist(), strict=True):
            root = intermediate(network, Box((x - 0.3).clamp(min=0), (x + 0.3).clamp(max=1)), Rates(0))
            others = [c for c in range(10) if c != label]
            rows = torch.eye(10, dtype=torch.float64)[label] - torch.eye(10, dtype=torch.float64)[others]
            bounds, _ = output_bounds(root, Rows(rows, rows.new_zeros(9, 1)), torch.eye(9, dtype=torch.float64), Rates(0))
            verified += bool((bounds > 0).all())
    assert verified == 2
