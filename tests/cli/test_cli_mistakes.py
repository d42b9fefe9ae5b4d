"""A user's mistake is one sentence that says what to do, exit code 2, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import WDSR, Edgectl, Said, Small, write_recipe


def assert_one_sentence(said: Said, *words: str, code: int = 2) -> None:
    assert said.code == code, said
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said.err
    assert said.err.splitlines()[-1] == errors[0]
    assert "Traceback" not in said.err
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        ('[[prune]]\nmatch = "tail"\nscheme = "block_punched"\nrate = 4\nspeed = 9', ["unknown key", "speed"]),
        ('[[prune]]\nmatch = "tail"\nscheme = "magic"\nrate = 4', ["magic", "block_punched"]),
        ('[[prune]]\nmatch = "nose.*"\nscheme = "filter"\nrate = 4', ["nose.*", "matches no layer"]),
        ('[[prune]]\nmatch = "tail"\nscheme = "unstructured"\nrate = 0.5', ["rate", "0.5"]),
        ('[[prune]]\nmatch = "tail"\nscheme = "unstructured"\nrate = 1e9', ["rate", "number of weights"]),
        ("this is not TOML", ["not valid TOML"]),
    ],
    ids=["unknown key", "unknown scheme", "glob without layer", "rate below 1", "rate above the weights", "no TOML"],
)
def test_a_wrong_recipe_is_named_and_nothing_is_written(edgectl: Edgectl, tmp_path: Path, prune: str, words: list[str]) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", prune)
    assert_one_sentence(edgectl("build", recipe, "--out", tmp_path / "out"), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


QUANT = '[[quant]]\nmatch = "{match}"\nweights = "{weights}"\nbits = {bits}\n'
RANDOM = '[calibrate]\nimages = "random"\ncount = 1\n'


def quant(match: str = "tail", weights: str = "fixed", bits: int = 8, more: str = RANDOM) -> str:
    return QUANT.format(match=match, weights=weights, bits=bits) + more


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (quant(bits=9), ["quant.0.bits", "9", "less than or equal to 8"]),
        (quant(bits=1), ["quant.0.bits", "1", "greater than or equal to 2"]),
        (quant(weights="magic"), ["magic", "fixed", "power_of_two", "sp2", "msq"]),
        (quant(weights="sp2", bits=6), ["sp2 weights of 6 bits", "at most 5 bits"]),
        (quant(more="sp2_rows = 0.5\n" + RANDOM), ["quant.0", "sp2_rows", "msq", "remove it"]),
        (quant(weights="msq", bits=4, more="sp2_rows = [48]\n" + RANDOM), ["tail", "Row 48"]),
        (quant(more='activations = "int4"\n' + RANDOM), ["int4", "int8"]),
        (quant(match="body.*.act"), ["body.*.act", "matches no layer with weights"]),
        (quant(more=""), ["[[quant]]", "add", "[calibrate]", "--images"]),
        (quant(more='[calibrate]\nimages = "nowhere"\n'), ["nowhere", "holds no images"]),
        (quant(more='[calibrate]\nimages = "bad"\n'), ["photo.png", "is not an image"]),
        (quant(more='[calibrate]\nimages = "random"\ncount = 0\n'), ["calibrate.count", "0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_quantisation_is_named_and_nothing_is_written(
    edgectl: Edgectl, tmp_path: Path, rules: str, words: list[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/photo.png").write_bytes(b"not a picture")
    recipe = write_recipe(tmp_path / "recipe.toml", rules)
    assert_one_sentence(edgectl("build", recipe, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_numbers_cannot_be_quantised(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import torch\n\ndef wdsr(scale):\n    model = torch.nn.Conv2d(3, 48, 3)\n"
        "    model.weight.data[0, 0, 0, 0] = float('nan')\n    return model\n"
    )
    recipe = write_recipe(tmp_path / "recipe.toml", quant("*"), model="model.py")
    recipe.write_text("".join(line for line in recipe.read_text().splitlines(True) if not line.startswith('weights = "/')))
    assert_one_sentence(edgectl("build", recipe, "--out", tmp_path / "out"), "weight", "NaN")


def test_a_folder_of_images_for_a_recipe_without_quantisation_is_refused(
    edgectl: Edgectl, dense: Small, tmp_path: Path
) -> None:
    said = edgectl("build", dense.recipe, "--out", tmp_path / "out", "--images", tmp_path)
    assert_one_sentence(said, "no [[quant]] rules", "--images")


def test_a_folder_given_in_the_place_of_the_recipes_is_the_one_that_is_read(edgectl: Edgectl, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", quant())
    (tmp_path / "empty").mkdir()
    said = edgectl("build", recipe, "--out", tmp_path / "out", "--images", tmp_path / "empty")
    assert_one_sentence(said, "empty", "holds no images")


def test_a_recipe_that_is_not_there_is_named(edgectl: Edgectl, tmp_path: Path) -> None:
    assert_one_sentence(edgectl("build", tmp_path / "no.toml", "--out", tmp_path / "out"), "no.toml")


def test_a_model_file_that_is_not_there_is_named(edgectl: Edgectl, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", model="gone.py")
    assert_one_sentence(edgectl("build", recipe, "--out", tmp_path / "out"), "gone.py")


def test_a_build_does_not_replace_an_artifact_unasked(edgectl: Edgectl, dense: Small) -> None:
    before = (dense.artifact / "manifest.json").read_bytes()
    assert_one_sentence(edgectl("build", dense.recipe, "--out", dense.artifact), "--force")
    assert (dense.artifact / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("command", [["push"], ["bench"], ["run", "photo.png", "--out", "x.png"]], ids=lambda c: c[0])
def test_an_artifact_of_another_format_version_is_refused(edgectl: Edgectl, artifact_copy: Path, command: list[str]) -> None:
    manifest = json.loads((artifact_copy / "manifest.json").read_text())
    (artifact_copy / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    name, *rest = command
    assert_one_sentence(edgectl(name, artifact_copy, *rest), "format version 99", "build it again")


def test_an_artifact_whose_model_was_changed_is_refused(edgectl: Edgectl, artifact_copy: Path) -> None:
    model = artifact_copy / "model.pte"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    assert_one_sentence(edgectl("bench", artifact_copy), "model.pte", "build the artifact again")


def test_an_artifact_whose_manifest_vouches_for_no_model_is_refused(edgectl: Edgectl, artifact_copy: Path) -> None:
    manifest = json.loads((artifact_copy / "manifest.json").read_text())
    (artifact_copy / "manifest.json").write_text(json.dumps(manifest | {"model": "../elsewhere.pte"}))
    assert_one_sentence(edgectl("push", artifact_copy), "no hash of ../elsewhere.pte")


def test_a_model_file_that_exits_is_refused(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(0)")
    recipe = write_recipe(tmp_path / "recipe.toml", model="script.py")
    assert_one_sentence(edgectl("build", recipe, "--out", tmp_path / "out"), "script.py", "SystemExit")


def test_a_folder_that_is_no_artifact_is_refused(edgectl: Edgectl, tmp_path: Path) -> None:
    assert_one_sentence(edgectl("bench", tmp_path), "is not an artifact")


def test_an_image_of_the_wrong_size_is_told_the_right_one(edgectl: Edgectl, dense: Small, tmp_path: Path) -> None:
    Image.new("RGB", (33, 21)).save(tmp_path / "in.png")
    said = edgectl("run", dense.artifact, tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert_one_sentence(said, "33x21", "80x45")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 64, (WDSR / "photo.png").read_bytes()[:5000]],
    ids=["empty", "text", "garbage after the magic", "cut short"],
)
def test_a_file_that_is_no_image_is_refused(edgectl: Edgectl, dense: Small, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.png").write_bytes(content)
    said = edgectl("run", dense.artifact, tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert_one_sentence(said, "in.png", "PNG or JPEG")


def test_an_image_that_is_not_there_is_named(edgectl: Edgectl, dense: Small, tmp_path: Path) -> None:
    assert_one_sentence(edgectl("run", dense.artifact, tmp_path / "no.png", "--out", tmp_path / "out.png"), "no.png")


@pytest.mark.parametrize("name", ["out.txt", "out.psd"])
def test_an_output_name_without_an_image_ending_is_refused_before_any_work(
    edgectl: Edgectl, dense: Small, photo: Path, tmp_path: Path, name: str
) -> None:
    assert_one_sentence(edgectl("run", dense.artifact, photo, "--out", tmp_path / name), name, ".png")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("emulator:nobody", ["nobody", "edgectl emulator start"]),
        ("two words", ["two words", "edgectl devices"]),
        ("phone:99999", ["port"]),
    ],
)
def test_an_unknown_device_is_named(edgectl: Edgectl, dense: Small, device: str, words: list[str]) -> None:
    assert_one_sentence(edgectl("push", dense.artifact, "--device", device), *words)


def test_a_device_that_does_not_answer_fails_with_the_step(edgectl: Edgectl, dense: Small) -> None:
    assert_one_sentence(edgectl("push", dense.artifact, "--device", "127.0.0.1:9"), "127.0.0.1:9", code=1)


def test_stopping_an_emulator_that_does_not_run_says_so(edgectl: Edgectl) -> None:
    assert_one_sentence(edgectl("emulator", "stop", "--name", "nobody"), "nobody")


def test_without_qemu_the_package_to_install_is_named(
    edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_one_sentence(edgectl("emulator", "start", "--name", "nobody"), "qemu-system-arm")


def test_without_a_cross_compiler_the_package_to_install_is_named(
    edgectl: Edgectl, dense: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EDGECTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    said = edgectl("push", dense.artifact, "--device", "127.0.0.1:9")
    assert_one_sentence(said, "g++-aarch64-linux-gnu")


@pytest.mark.parametrize(
    "arguments",
    [["bench"], ["bench", "x", "--nonsense"], ["dance"], ["bench", "x", "--runs", "0"], ["bench", "x", "--threads", "many"]],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(edgectl: Edgectl, arguments: list[str]) -> None:
    said = edgectl(*arguments)
    assert said.code == 2
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_wrong_answer_of_a_device_is_an_error_however_fast_it_came(
    edgectl: Edgectl, artifact_copy: Path, history: Path
) -> None:
    """Were the model wrong on the device, its speed would mean nothing."""
    import hashlib

    golden = artifact_copy / "golden/output_0.npy"
    np.save(golden, np.load(golden) + 0.1)
    manifest = json.loads((artifact_copy / "manifest.json").read_text())
    manifest["sha256"]["golden/output_0.npy"] = hashlib.sha256(golden.read_bytes()).hexdigest()
    (artifact_copy / "manifest.json").write_text(json.dumps(manifest))
    assert_one_sentence(edgectl("bench", artifact_copy, "--runs", 1), "differs from PyTorch's", code=1)
    assert not history.exists()
