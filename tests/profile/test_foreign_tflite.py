"""A .tflite that others made runs on LiteRT alone, and every operation of it is named and timed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.native import runner_bundle
from edgectl.recipe import Recipe, load_model

BLOCKS = 3
RECIPE = Path(__file__).parents[2] / "models/mobilenetv1/recipe.toml"


@pytest.fixture(scope="module")
def stock_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of a narrow MobileNetV1 with a classifier, in int8, as litert-torch quantises and converts it."""
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    recipe = Recipe.load(RECIPE)
    narrow = load_model(recipe.model_copy(update={"model": recipe.model.model_copy(update={"args": {"width": 0.25}})}))
    narrow.blocks = narrow.blocks[:BLOCKS]
    narrow.classifier = nn.Linear(narrow.blocks[-1].pointwise.conv.out_channels, 10)
    x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(narrow, (x,)).module(), quantizer)
        prepared(x)
        converted = convert_pt2e(prepared, fold_quantize=False)
    path = tmp_path_factory.mktemp("stock") / "int8.tflite"
    litert_torch.convert(converted, (x,), quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(str(path))
    return path


def by_interpreter(path: Path) -> np.ndarray:
    """What LiteRT's own interpreter answers to zeros."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], np.zeros(source["shape"], source["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])


def test_a_stock_int8_network_answers_as_in_litert_and_every_operation_is_named_and_timed(
    stock_int8: Path, tmp_path: Path
) -> None:
    bundle = runner_bundle("host", "litert")
    command = [*bundle.command, "--model", stock_int8, "--output", tmp_path / "y", "--profile", tmp_path / "profile.json"]
    done = subprocess.run([*command, "--runs", "3"], cwd=bundle.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    (output,) = json.loads(done.stdout)["outputs"]
    np.testing.assert_array_equal(np.load(output["path"]), by_interpreter(stock_int8))
    runs = json.loads((tmp_path / "profile.json").read_text())["runs"]
    assert len(runs) == 3
    for run in runs:
        names = [event["name"] for event in run["events"]]
        assert sum("QC8" in name and "DWConv" in name for name in names) == BLOCKS, names
        assert sum("QC8" in name and "DWConv" not in name for name in names) == BLOCKS + 2, names  # stem, 1x1, classifier
        assert {event["runner"] for event in run["events"]} <= {"xnnpack", "litert"}
        assert 0 < sum(event["ns"] for event in run["events"]) <= run["total_ns"]
