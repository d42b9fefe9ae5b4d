"""What a run leaves on disk: checkpoints that are whole or not there, weights, a recipe that builds from them, a report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from edgectl.errors import ToolError, UserError
from edgectl.recipe import Recipe

CHECKPOINT, WEIGHTS, RECIPE, REPORT, LOGS = "checkpoint.ckpt", "weights.safetensors", "recipe.toml", "report.json", "logs"
_VERSION = 1


class RunFolder:
    """The folder of one run. Files are written under another name and renamed, so that a kill leaves the former ones whole.

    Args:
        path: the folder; made when the first file is written.
        asked: everything that decides what the run computes; a checkpoint of anything else is refused.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path = path
        self._asked = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()

    def check(self, force: bool) -> None:
        """Raises UserError where the folder holds anything but a run of the same; with `force` another run is deleted."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not self.begun:
            raise UserError(f"{self.path} exists and is not a training run: choose another --out.")
        if force:
            shutil.rmtree(self.path)
        elif (state := self.load()) and state["asked"] != self._asked:
            raise UserError(
                f"{self.path} holds a run of another recipe, data or options: choose another --out, or --force to delete it."
            )

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.path / CHECKPOINT).is_file()

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, or None where there is none.

        Raises:
            UserError: it is damaged, or of another version.
        """
        if not self.begun:
            return None
        path = self.path / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"{path} is no readable checkpoint: delete {self.path}, or choose another --out.") from error
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            raise UserError(f"{path} was written by another version of edgectl: choose another --out.")
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint. Raises ToolError."""
        self._write(CHECKPOINT, lambda new: torch.save({"version": _VERSION, "asked": self._asked, **state}, new))

    def finish(self, recipe: Recipe, weights: Mapping[str, Tensor], report: Mapping[str, Any]) -> None:
        """Writes the weights, the report and then the recipe that builds from them. Raises ToolError."""
        self.write_weights(weights)
        self._write(REPORT, lambda new: new.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8"))
        text = recipe_text(recipe, self.path)
        self._write(RECIPE, lambda new: new.write_text(text, encoding="utf-8"))

    def write_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Writes the weights alone. Raises ToolError."""
        self._write(WEIGHTS, lambda new: new.write_bytes(save({name: t.contiguous() for name, t in weights.items()})))

    def _write(self, name: str, write: Any) -> None:
        new = self.path / f".{name}.new"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write(new)
            new.replace(self.path / name)
        except (OSError, RuntimeError) as error:
            raise ToolError(f"writing {self.path / name}", str(error)) from error
        finally:
            new.unlink(missing_ok=True)


def recipe_text(recipe: Recipe, folder: Path) -> str:
    """The TOML of a recipe whose weights are those in `folder`: its zeros are in the weights, so it has no `[[prune]]`.

    Quantisation stays: weights that lie on a codebook are found on it again, bit for bit.
    """

    def relative(name: str) -> str:
        return Path(os.path.relpath(recipe.beside(name).resolve(), folder.resolve())).as_posix()

    model = recipe.model.model_dump(exclude_defaults=True) | {"file": relative(recipe.model.file), "weights": WEIGHTS}
    tables: list[tuple[str, Mapping[str, Any]]] = [("[model]", model)]
    tables += [("[[quant]]", rule.model_dump(exclude_defaults=True)) for rule in recipe.quant]
    if recipe.calibrate is not None:
        images = recipe.calibrate.images
        tables.append(
            ("[calibrate]", {"images": images if images == "random" else relative(images), "count": recipe.calibrate.count})
        )
    if target := recipe.target.model_dump(exclude_defaults=True):
        tables.append(("[target]", target))
    return toml_text(tables)


def toml_text(tables: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """TOML of (heading, keys and values) of tables."""
    return "\n".join(f"{name}\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in table.items()) for name, table in tables)


def _toml(value: Any) -> str:
    """A value of a recipe: string, number, boolean, list or table."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
