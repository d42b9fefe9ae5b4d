"""One pruned MobileNetV1 in three forms: ours, stock LiteRT dense, and LiteRT's own sparse form, which is alive on arm64."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from edgectl.compress.prune import prune_oneshot
from edgectl.lowering.compile import compile_module
from edgectl.native import Bundle, runner_bundle
from edgectl.recipe import Recipe, load_model

FOLDER = Path(__file__).parents[2] / "models/mobilenetv1"
SMALL = {"classes": 10, "width": 0.25}
LAYERS = 13  # 1x1 convolutions
QEMU = "qemu-aarch64"


class Forms(NamedTuple):
    """Where the forms are, with an input and what PyTorch makes of it."""

    folder: Path
    x: np.ndarray
    y: np.ndarray


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    spec = importlib.util.spec_from_file_location("write_tflite", FOLDER / "write_tflite.py")
    assert spec is not None and spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    folder = tmp_path_factory.mktemp("forms")
    recipe = Recipe.load(FOLDER / "unstructured.toml")
    network = load_model(recipe.model_copy(update={"model": recipe.model.model_copy(update={"args": SMALL})}))
    prune_oneshot(network, recipe.prune)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (folder / "ours.pte").write_bytes(compile_module(network, x).program)
    for name, sparse in (("dense", False), ("sparse", True)):
        (folder / f"{name}.tflite").write_bytes(writer.write(network, x.shape, sparse))
    np.save(folder / "nchw.npy", x.numpy())
    np.save(folder / "nhwc.npy", np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)))
    with torch.inference_mode():
        return Forms(folder, x.numpy(), network(x).numpy())


def run(forms: Forms, command: list[str], model: str, cwd: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The output of a runner and its profile, which a `.tflite` only has."""
    ours = model.endswith(".pte")
    source = forms.folder / ("nchw.npy" if ours else "nhwc.npy")
    arguments = ["--model", str(forms.folder / model), "--input", str(source), "--output", str(forms.folder / "out")]
    profile = forms.folder / "profile.json"
    subprocess.run([*command, *arguments, "--profile", str(profile), "--warmup", "0"], cwd=cwd, check=True, capture_output=True)
    return np.load(forms.folder / "out_0.npy"), {} if ours else json.loads(profile.read_text())


@pytest.mark.parametrize("model", ["ours.pte", "dense.tflite", "sparse.tflite"])
def test_the_three_forms_answer_alike_on_this_machine(forms: Forms, model: str) -> None:
    bundle = runner_bundle("host", "pte" if model.endswith(".pte") else "litert")
    answer, _ = run(forms, bundle.command, model, bundle.folder)
    np.testing.assert_allclose(answer, forms.y, atol=1e-5)


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An emulated arm64 processor, whose description LiteRT reads in /proc/cpuinfo, and how to start a runner on it."""
    root = tmp_path_factory.mktemp("root")
    (root / "proc").mkdir()
    facts = "processor\t: 0\nFeatures\t: fp asimd atomics fphp asimdhp asimddp\nCPU implementer\t: 0x41\n"
    (root / "proc/cpuinfo").write_text(
        facts + "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
    )
    return root, [QEMU, "-cpu", "cortex-a76", "-L", str(root)]


def started(bundle: Bundle, phone: list[str]) -> list[str]:
    return [*phone, *bundle.command]


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed (apt-get install qemu-user)")
@pytest.mark.parametrize(("model", "sparse"), [("ours.pte", 0), ("dense.tflite", 0), ("sparse.tflite", LAYERS)])
def test_on_arm64_too_where_litert_runs_the_sparse_form_sparsely(forms: Forms, phone, model: str, sparse: int) -> None:
    bundle = runner_bundle("android-arm64", "pte" if model.endswith(".pte") else "litert")
    answer, profile = run(forms, started(bundle, phone[1]), model, bundle.folder)
    np.testing.assert_allclose(answer, forms.y, atol=1e-5)
    names = [event["name"] for events in profile.get("runs", []) for event in events["events"]]
    assert sum("SPMM" in name for name in names) == sparse
