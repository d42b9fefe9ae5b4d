"""A run asks all properties of an instance, runs the model on counterexamples, and refuses what is too large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.assure.verify.models import Model, open_model
from edgectl.assure.verify.properties import Clause, Property
from edgectl.assure.verify.report import Report, Result
from edgectl.assure.verify.run import Loader, Question, inside, run
from edgectl.assure.verify.verifier import Options
from edgectl.errors import UserError

SUM = """
import torch
from torch import nn

def model():
    layer = nn.Linear(2, 1)
    layer.weight.data[:] = 1
    layer.bias.data[:] = 0
    return nn.Sequential(layer, nn.ReLU())

def example_inputs():
    return (torch.rand(1, 2),)
"""
LARGE = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())

def example_inputs():
    return (torch.rand(1, 1, 400, 400),)
"""


def box(low: float, high: float, most: float) -> Property:
    """No sum of two numbers from `low` to `high` is `most` or more."""
    clause = Clause(torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([-most], dtype=torch.float64))
    sides = (torch.full((2,), side, dtype=torch.float64) for side in (low, high))
    return Property("box", *sides, clauses=(clause,))


def answer(path: Path, properties: list[Property]) -> Result:
    question = Question(path, "model", "property", 20.0, lambda model: properties)
    (result,) = run([question], Report(None), Options(), load=Loader())
    return result


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "sum.py"
    path.write_text(SUM)
    return path


def test_all_boxes_must_hold_and_the_smallest_bound_counts(network: Path) -> None:
    result = answer(network, [box(0, 0.25, 1), box(0.25, 0.375, 1)])
    assert (result.verdict, result.counterexample) == ("verified", None)
    assert result.bound == pytest.approx(0.25, abs=1e-5)


def test_one_box_that_does_not_hold_falsifies(network: Path) -> None:
    result = answer(network, [box(0, 0.25, 1), box(0.25, 0.75, 1)])
    assert result.verdict == "falsified"
    assert result.counterexample is not None
    x = result.counterexample.input
    assert ((x >= 0.25) & (x <= 0.75)).all()
    assert result.counterexample.output.item() == pytest.approx(x.sum()) and x.sum() >= 1


def test_the_edge_of_what_must_not_be_belongs_to_it(network: Path) -> None:
    assert answer(network, [box(0, 0.5, 1)]).verdict == "falsified"


def test_a_counterexample_is_moved_to_float32_numbers_in_the_box() -> None:
    tenth = 0.1  # no float32: the nearest is larger, and the next one below is inside
    lower, upper = (torch.tensor(side, dtype=torch.float64) for side in ([0.0, tenth, tenth], [tenth] * 3))
    prop = Property("p", lower, upper, ())
    point = inside(torch.tensor([0.2, 0.3, 0.1], dtype=torch.float64), prop)
    assert point.dtype == np.float32
    assert float(point[0]) < tenth
    assert float(point[0]) == pytest.approx(tenth)
    assert point[1] == point[2] == np.float32(tenth)  # where nothing is inside, the nearest


def test_a_layer_that_is_too_large_is_refused_before_it_takes_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    path.write_text(LARGE)
    side = torch.zeros(400 * 400, dtype=torch.float64)
    row = torch.zeros(1, 400 * 400, dtype=torch.float64)
    prop = Property("p", side, side + 1, (Clause(row + 1, torch.zeros(1, dtype=torch.float64)),))
    with pytest.raises(UserError, match="too large to verify"):
        answer(path, [prop])


def test_a_digest_changes_with_every_weight_and_shape(network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(SUM.replace("data[:] = 0", "data[:] = 1e-6"))
    assert open_model(network).digest == open_model(network).digest != open_model(other).digest


def test_a_model_is_run_in_pytorch_as_its_author_wrote_it(network: Path) -> None:
    model: Model = open_model(network)
    x = np.array([[0.25, -0.5]], np.float32)
    assert model.runner == "PyTorch"
    assert model.run(x).tolist() == nn.functional.relu(torch.from_numpy(x).sum(1)).tolist()
