"""How many CROWN bounds a second, image by image, all layers included; beside auto_LiRPA where that can be imported.

python tests/assure/verify/bench_bounds.py [images] [threads]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from test_bounds import cnn_a
from torch import Tensor, nn

from edgectl.assure.verify.ascent import Rates
from edgectl.assure.verify.bounds import Box, Rows
from edgectl.assure.verify.network import normal_form
from edgectl.assure.verify.root import intermediate, output_bounds


def rate(bound: Callable[[Tensor, Tensor], Tensor], images: Tensor, rows: list[Tensor]) -> float:
    """Output bounds a second of the processor, after one image to warm up."""
    bound(images[0], rows[0])
    begin = time.process_time()
    count = sum(bound(x, c).numel() for x, c in zip(images, rows, strict=True))
    return count / (time.process_time() - begin)


def ours(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """CROWN of this package."""
    network = normal_form(cnn_a()[0], dtype)

    def bound(x: Tensor, c: Tensor) -> Tensor:
        with torch.inference_mode():
            box = Box((x - 0.3).clamp(min=0)[:, None].to(dtype), (x + 0.3).clamp(max=1)[:, None].to(dtype))
            root = intermediate(network, box, Rates(0))
            rows = c.to(dtype)
            return output_bounds(root, Rows(rows, rows.new_zeros(9, 1)), torch.eye(9, dtype=dtype), Rates(0))[0]

    return bound


def theirs() -> Callable[[Tensor, Tensor], Tensor]:
    """CROWN of auto_LiRPA, float32. Raises ImportError where it is not installed."""
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm

    nodes = cnn_a()[0].nodes
    layers = [nn.Conv2d(1, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1), nn.Linear(1568, 100), nn.Linear(100, 10)]
    with torch.no_grad():
        for layer, node in zip(layers, (nodes[1], nodes[3], nodes[6], nodes[8]), strict=True):
            layer.weight.copy_(node.weight)  # type: ignore[attr-defined]
            layer.bias.copy_(node.bias)  # type: ignore[attr-defined]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Flatten(), layers[2], nn.ReLU(), layers[3])
    bounded = BoundedModule(model, torch.zeros(1, 1, 28, 28), device="cpu")

    def bound(x: Tensor, c: Tensor) -> Tensor:
        x = x.float().reshape(1, 1, 28, 28)
        ball = PerturbationLpNorm(norm=float("inf"), x_L=(x - 0.3).clamp(min=0), x_U=(x + 0.3).clamp(max=1))
        with torch.no_grad():
            return bounded.compute_bounds((BoundedTensor(x, ball),), C=c.float()[None], method="backward", bound_upper=False)[0]

    return bound


if __name__ == "__main__":
    number, threads = (int(a) for a in (sys.argv[1:] + ["30", "1"][len(sys.argv) - 1 :]))
    torch.set_num_threads(threads)
    _, images, labels = cnn_a()
    eye = torch.eye(10, dtype=torch.float64)
    rows = [(eye[y] - eye)[[c for c in range(10) if c != y]] for y in labels.tolist()[:number]]
    for name, bound in (("edgectl float32", ours(torch.float32)), ("edgectl float64", ours(torch.float64))):
        print(f"{name}: {rate(bound, images[:number], rows):.0f} bounds/s")
    try:
        print(f"auto_LiRPA float32: {rate(theirs(), images[:number], rows):.0f} bounds/s")
    except ImportError as error:
        print(f"auto_LiRPA: {error}")
