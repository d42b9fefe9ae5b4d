"""A run's folder: recipes that build from it wherever it lies, checkpoints of other runs refused, files whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgectl.errors import ToolError, UserError
from edgectl.recipe import Recipe
from edgectl.training.folder import RunFolder, recipe_text

RECIPE = """
[model]
file = "model.py"
factory = "model"
args = { name = 'a "quoted" \\ name', widths = [8, 16], deep = { on = true, rate = 0.5 } }
weights = "dense.safetensors"
input = [1, 3, 8, 8]
task = "classify"

[[prune]]
match = "*"
scheme = "filter"
rate = 2

[[quant]]
match = "*.conv"
weights = "msq"
bits = 4
sp2_rows = [0, 3]

[calibrate]
images = "photos"
count = 3

[compress]
teacher = "dense.safetensors"

[target]
format = "litert"
layout = "nhwc"
"""


def test_the_recipe_of_a_run_says_the_same_but_for_weights_and_zeros(tmp_path: Path) -> None:
    source, out = tmp_path / "models/x", tmp_path / "runs/é 1"
    source.mkdir(parents=True)
    out.mkdir(parents=True)
    (source / "r.toml").write_text(RECIPE)
    given = Recipe.load(source / "r.toml")
    (out / "recipe.toml").write_text(recipe_text(given, out), encoding="utf-8")
    made = Recipe.load(out / "recipe.toml")
    assert made.model.args == given.model.args
    assert made.beside(made.model.file).resolve() == (source / "model.py").resolve()
    assert made.calibrate is not None
    assert made.beside(made.calibrate.images).resolve() == (source / "photos").resolve()
    assert (made.quant, made.target, made.model.task) == (given.quant, given.target, given.model.task)
    assert made.prune == []
    assert made.model.weights == "weights.safetensors"


def test_a_checkpoint_comes_back_and_another_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"rate": 1})
    folder.check(force=False)
    assert folder.load() is None
    folder.save({"step": 3, "weights": torch.arange(4.0)})
    state = RunFolder(tmp_path / "run", {"rate": 1}).load()
    assert state is not None
    assert state["step"] == 3
    other = RunFolder(tmp_path / "run", {"rate": 2})
    with pytest.raises(UserError, match="another recipe, data or options"):
        other.check(force=False)
    other.check(force=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for force in (False, True):
        with pytest.raises(UserError, match="not a training run"):
            RunFolder(tmp_path, {}).check(force=force)
    assert (tmp_path / "thesis.txt").exists()


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / "run").mkdir()
    torch.save({"version": 1, "asked": Evil()}, tmp_path / "run/checkpoint.ckpt")
    with pytest.raises(UserError, match="no readable checkpoint"):
        RunFolder(tmp_path / "run", {}).check(force=False)
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    folder.save({"step": 1})
    with pytest.raises(ToolError, match="checkpoint"):
        folder.save({"step": 2, "bad": _Full()})
    state = folder.load()
    assert state is not None
    assert state["step"] == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.ckpt"]


class _Full:
    """Writing it fails as on a full disk."""

    def __reduce__(self) -> tuple[object, ...]:
        raise OSError(28, "No space left on device")
