"""PyTorch modules are read as PyTorch runs them, or refused in a sentence that names the operation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgectl.assure.verify.graph import Affine, Graph
from edgectl.assure.verify.torch_reader import read_module
from edgectl.errors import UserError


class Everything(nn.Module):
    """Every operation that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=2, bias=False)
        self.short = nn.Conv2d(8, 8, 1, stride=2)
        self.last = nn.Linear(16, 5)
        self.register_buffer("factor", torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.5) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
        x = F.relu(self.norm(self.first(F.pad(x, (1, 0, 0, 1)))))
        y = F.leaky_relu(self.grouped(x), 0.1) + self.short(x)
        y = F.max_pool2d(y, 2)
        z = F.avg_pool2d(y * torch.sqrt(self.factor) + 2, 2, 1, 1)
        z = F.adaptive_avg_pool2d(z, 1)
        y = y.mean((2, 3), keepdim=True)
        y = torch.cat([F.relu6(y * 8 - 1), F.dropout(z, 0.5, self.training)], 1).permute(0, 2, 3, 1).flatten(1)
        return self.last(3 - torch.clamp(-y, max=0.5))


def randomised(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def error(graph: Graph, module: nn.Module, shape: tuple[int, ...]) -> float:
    x = torch.rand(shape)
    with torch.no_grad():
        return float((graph.forward(x.double()) - module(x)).abs().max())


def test_the_graph_computes_what_pytorch_does() -> None:
    torch.manual_seed(0)
    module = randomised(Everything())
    graph = read_module(module, torch.rand(1, 3, 13, 11))
    assert error(graph, module, (1, 3, 13, 11)) < 1e-5


def test_nodes_are_named_by_their_modules_and_batch_norm_is_affine() -> None:
    graph = read_module(randomised(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())), torch.rand(1, 1, 5, 5))
    assert [node.name for node in graph.nodes[1:]] == ["0", "1", "2"]
    assert isinstance(graph.nodes[2], Affine)


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), (1, 4), ["sigmoid", "(1)", "no relaxation"]),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 2)), (1, 1, 4, 4), ["transposed"]),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), (1, 1, 5, 5), ["cut off"]),
        (nn.LSTM(4, 3), (1, 4), ["no relaxation"]),
        (nn.Linear(4, 3), (1, 5), ["torch.export cannot trace"]),
    ],
    ids=["sigmoid", "transposed convolution", "ceil", "lstm", "wrong shape"],
)
def test_what_cannot_be_verified_is_named(module: nn.Module, shape: tuple[int, ...], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        read_module(module.eval(), torch.rand(shape))
    assert all(word in str(refused.value) for word in words)


def test_weights_that_are_no_numbers_are_refused() -> None:
    module = nn.Linear(4, 3)
    module.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        read_module(module.eval(), torch.rand(1, 4))
