"""Which examples a step sees depends on the seed and the step alone, whoever asks and however many help."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from edgectl.errors import UserError
from edgectl.training.batches import Order, batches


class Numbers:
    """Examples that are their own numbers, with a draw of the generator beside them."""

    def __init__(self, count: int) -> None:
        self.count, self.threads = count, set[str]()

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int], generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        self.threads.add(threading.current_thread().name)
        if 13 in indices and self.count == 14:
            raise UserError("example 13 is damaged")
        return torch.tensor(indices), torch.from_numpy(generator.random(len(indices)))


def collected(order: Order, first: int, last: int, workers: int = 1) -> list[tuple[list[int], list[float]]]:
    return [(x.tolist(), y.tolist()) for x, y in batches(Numbers(order.examples), order, first, last, workers)]


def test_an_epoch_sees_every_example_once_and_the_next_one_in_another_order() -> None:
    order = Order(examples=12, batch=4, seed=0)
    first, second = ([i for x, _ in collected(order, start, start + 3) for i in x] for start in (0, 3))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_step_is_the_same_after_a_resume_and_with_more_workers() -> None:
    order = Order(examples=30, batch=7, seed=5)
    whole = collected(order, 0, 11)
    assert collected(order, 6, 11) == whole[6:]
    assert collected(order, 0, 11, workers=3) == whole
    assert collected(Order(examples=30, batch=7, seed=6), 0, 11) != whole


def test_processes_share_a_batch_without_overlap() -> None:
    alone = collected(Order(examples=20, batch=8, seed=1), 0, 4)
    shares = [collected(Order(examples=20, batch=8, seed=1, rank=rank, world=2), 0, 4) for rank in range(2)]
    for step, (x, _) in enumerate(alone):
        assert shares[0][step][0] + shares[1][step][0] == x
        assert shares[0][step][1] != shares[1][step][1]  # augmented each in its own way
    with pytest.raises(UserError, match="batch of 8 cannot be shared by 3"):
        Order(examples=20, batch=8, seed=1, rank=0, world=3)


def test_steps_of_whole_and_broken_epochs() -> None:
    order = Order(examples=100, batch=32, seed=0)
    assert (order.steps_per_epoch, order.steps(1), order.steps(2.5), order.steps(0.01)) == (3, 3, 8, 1)


def test_what_is_wrong_with_an_example_is_said_by_the_loop() -> None:
    with pytest.raises(UserError, match="example 13 is damaged"):
        collected(Order(examples=14, batch=7, seed=0), 0, 2, workers=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
