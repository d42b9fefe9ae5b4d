"""The command line in this process, and small artifacts that it built."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from edgectl.cli import main

WDSR = Path(__file__).parents[2] / "models/wdsr"
SMALL = (45, 80)
"""Height and width of the small artifacts' input: a sixteenth of the photograph's area."""

PRUNE = """
[[prune]]
match = "body.*.conv"
scheme = "block_punched"
rate = 4.0

[[prune]]
match = "tail"
scheme = "block_punched"
rate = 4.0
"""
PRUNED_LAYERS = {"body.0.conv", "body.1.conv", "body.2.conv", "body.3.conv", "tail"}


class Said(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


Edgectl = Callable[..., Said]


def run_main(arguments: tuple[object, ...]) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    assert isinstance(done.value.code, int)
    return done.value.code


@pytest.fixture
def edgectl(capfd: pytest.CaptureFixture[str]) -> Edgectl:
    """Calls the command line as a shell would: `edgectl("build", recipe, "--out", out)`."""

    def call(*arguments: object) -> Said:
        capfd.readouterr()
        code = run_main(arguments)
        sys.stdout.flush()
        return Said(code, *capfd.readouterr())

    return call


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A history of this test's own, with the emulators still known."""
    import edgectl.profile.history

    monkeypatch.setattr(edgectl.profile.history, "state_root", lambda: tmp_path / "state")
    yield tmp_path / "state/history.sqlite"


def write_recipe(path: Path, prune: str = "", *, size: tuple[int, int] = SMALL, model: str | None = None) -> Path:
    """A recipe of the trained x4 model for a small picture."""
    path.write_text(
        f"""
[model]
file = "{model or WDSR / "model.py"}"
factory = "wdsr"
args = {{ scale = 4 }}
weights = "{WDSR / "x4.safetensors"}"
input = [1, 3, {size[0]}, {size[1]}]
task = "sr"
scale = 4
{prune}"""
    )
    return path


class Small(NamedTuple):
    """A recipe and the artifact built from it."""

    recipe: Path
    artifact: Path


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return _build(tmp_path_factory.mktemp("dense"), "dense", "")


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return _build(tmp_path_factory.mktemp("pruned"), "pruned", PRUNE)


def _build(folder: Path, name: str, prune: str) -> Small:
    recipe = write_recipe(folder / f"{name}.toml", prune)
    assert run_main(("build", recipe, "--out", folder / name)) == 0
    return Small(recipe, folder / name)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed photograph, at the small artifacts' input size."""
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(WDSR / "photo.png") as image:
        image.convert("RGB").resize((SMALL[1], SMALL[0]), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def artifact_copy(dense: Small, tmp_path: Path) -> Path:
    """A copy of the dense artifact to damage."""
    return Path(shutil.copytree(dense.artifact, tmp_path / "copy"))
