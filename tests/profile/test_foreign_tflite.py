"""A .tflite that others made runs on LiteRT alone, and every operation of it is named and timed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from edgectl.native import runner_bundle
from edgectl.recipe import Recipe, load_model

RECIPE = Path(__file__).parents[2] / "models/mobilenetv1/recipe.toml"
SMALL = {"classes": 10, "width": 0.25}

pytest.importorskip("litert_torch", reason="needs pip install 'edgectl[litert]'")


@pytest.fixture(scope="module")
def stock_int8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A small MobileNetV1 in int8, as litert-torch quantises and converts it; an input, and what float32 makes of it."""
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    recipe = Recipe.load(RECIPE)
    network = load_model(recipe.model_copy(update={"model": recipe.model.model_copy(update={"args": SMALL})}))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with torch.no_grad():
        y = network(x).numpy()
        prepared = prepare_pt2e(torch.export.export(network, (x,)).module(), quantizer)
        prepared(x)
        converted = convert_pt2e(prepared, fold_quantize=False)
    path = tmp_path_factory.mktemp("stock") / "int8.tflite"
    litert_torch.convert(converted, (x,), quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(str(path))
    return path, x.numpy(), y


def test_a_stock_int8_network_is_profiled_operation_by_operation(stock_int8, tmp_path: Path) -> None:
    path, x, y = stock_int8
    np.save(tmp_path / "x.npy", x)
    bundle = runner_bundle("host", "tflite")
    arguments = ["--model", path, "--input", tmp_path / "x.npy", "--output", tmp_path / "y", "--profile", tmp_path / "p", "--runs", "3"]
    done = subprocess.run([*bundle.command, *map(str, arguments)], cwd=bundle.folder, capture_output=True, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    (output,) = document["outputs"]
    print(document)
    runs = json.loads((tmp_path / "p").read_text())["runs"]
    assert len(runs) == 3
    for run in runs:
        for event in run["events"]: print(event)
