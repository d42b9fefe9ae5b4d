"""A real task that is learned in seconds: scikit-learn's 8x8 digits, and a small network with batch norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from edgectl.compress.strategy import Phases, Strategy

STEPS = 160
PHASES = Phases(steps=STEPS, search=100, refresh=10)


@dataclass(frozen=True)
class Spec:
    method: str = "admm"
    rho: float = 1.0
    strength: float = 1e-2
    keep: float | None = None
    of: str = "weights"
    quantise: str = "ste"
    activation_bits: int | None = 8


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(images [1200, 1, 8, 8], labels, test images [597, 1, 8, 8], test labels)."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    y = torch.tensor(labels)[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Training:
    """SGD with momentum; all of its state can be saved and loaded."""

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], Sequence[Strategy]] = lambda model: ()) -> None:
        self.model = model.train()
        self.strategies = list(make(model))
        self.optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def run(self, first: int, last: int) -> None:
        """Steps first + 1 to last."""
        x, y, _, _ = digits()
        for step in range(first + 1, last + 1):
            some = torch.randint(len(x), (32,), generator=torch.Generator().manual_seed(step))
            loss = F.cross_entropy(self.model(x[some]), y[some])
            loss = sum((strategy.penalty() for strategy in self.strategies), loss)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            for strategy in self.strategies:
                strategy.update(step)

    def state(self) -> dict[str, Any]:
        strategies = [strategy.state_dict() for strategy in self.strategies]
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "strategies": strategies}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for strategy, of_strategy in zip(self.strategies, state["strategies"], strict=True):
            strategy.load_state_dict(of_strategy)


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    _, _, x, y = digits()
    return float((model.eval()(x).argmax(dim=1) == y).float().mean())


@cache
def dense_state() -> dict[str, Tensor]:
    training = Training(net())
    training.run(0, 200)
    return training.model.state_dict()


def dense() -> nn.Sequential:
    model = net()
    model.load_state_dict(dense_state())
    return model


def resumed_alike(make: Callable[[nn.Module], Sequence[Strategy]], stop: int, path: Any) -> bool:
    """Whether a run that stops, is saved and goes on in new objects ends with the very state of an unbroken one."""
    straight, first, second = (Training(dense(), make) for _ in range(3))
    straight.run(0, STEPS)
    first.run(0, stop)
    torch.save(first.state(), path)
    second.load(torch.load(path, weights_only=True))
    second.run(stop, STEPS)
    state, other = straight.model.state_dict(), second.model.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
