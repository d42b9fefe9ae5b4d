"""Comparing runtimes: every one computes what PyTorch does, and a variant prunes the layers that it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.errors import ToolError, UserError
from edgectl.paths import state_root
from edgectl.profile.compare import INT8_RUNTIMES, Comparison, compare
from edgectl.profile.hosted import XNNPACK_INT8
from edgectl.profile.variants import Variant, parse_variant, prune_rules
from edgectl.profile.worker import PEERS
from edgectl.recipe import SchemeName

NETWORK = """
import torch
from torch import nn

def model():
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1)]
    return nn.Sequential(*body)

def example_inputs():
    return (torch.rand(1, 3, 24, 20),)
"""
"""Its weights and its input are others each time it is loaded: all rows must still compute the same."""
TWO_HEADS = """
import torch
from torch import nn

class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Mish(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.left, self.pool, self.right = nn.Conv2d(16, 5, 1), nn.MaxPool2d(2), nn.Conv2d(16, 7, 3)

    def forward(self, x):
        x = self.body(x)
        return self.left(x), self.right(self.pool(x))

model = TwoHeads

def example_inputs():
    return (torch.rand(1, 3, 25, 19),)
"""
PEERS_TO_TRY = [
    pytest.param(name, marks=pytest.mark.skipif(not peer.installed(), reason=f"{name} is not installed"))
    for name, peer in PEERS.items()
]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "small.py"
    path.write_text(NETWORK)
    return path


@pytest.fixture(scope="module")
def compared(network: Path) -> Comparison:
    runtimes = ["torch", "edgectl", "onnxruntime", "executorch-xnnpack"]
    return compare(network, runtimes=runtimes, variants=["block_punched@4"], runs=7)


def test_each_runtime_has_a_row_and_ours_one_for_each_variant(compared: Comparison) -> None:
    assert [(row.runtime, row.variant) for row in compared.rows] == [
        ("edgectl", "dense"),
        ("edgectl", "block_punched@4"),
        ("executorch-xnnpack", "dense"),
        ("onnxruntime", "dense"),
        ("torch", "dense"),
    ]
    assert compared.warnings == []


def test_each_row_has_all_its_runs_and_the_answer_of_pytorch(compared: Comparison) -> None:
    for row in compared.rows:
        assert row.latency.n == 7
        assert 0 < row.latency.p10 <= row.latency.median <= row.latency.p90
        assert row.max_rel_err < 1e-5


def test_the_fastest_peer_is_not_one_of_our_rows(compared: Comparison) -> None:
    assert compared.fastest_peer() == min(row.latency.median for row in compared.rows if row.runtime != "edgectl")


@pytest.mark.parametrize("runtime", PEERS_TO_TRY)
def test_a_peer_computes_every_output_that_pytorch_does_in_float32_or_int8(tmp_path: Path, runtime: str) -> None:
    path = tmp_path / "two_heads.py"
    path.write_text(TWO_HEADS)
    result = compare(path, runtimes=[runtime], runs=2)
    quantised = runtime in INT8_RUNTIMES
    assert [(row.runtime, row.variant) for row in result.rows] == [(runtime, "int8" if quantised else "dense")]
    assert result.warnings == []
    if quantised:
        assert 1e-4 < result.rows[0].max_rel_err < 0.1
    else:
        assert result.rows[0].max_rel_err < 1e-4


def test_xnnpack_computes_in_int8_what_pytorch_does(network: Path) -> None:
    result = compare(network, runtimes=[XNNPACK_INT8], runs=2)
    assert [(row.runtime, row.variant) for row in result.rows] == [(XNNPACK_INT8, "int8")]
    assert result.warnings == []
    assert 1e-4 < result.rows[0].max_rel_err < 0.1


def test_int8_outputs_that_have_little_to_do_with_pytorchs_are_warned_of(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.profile.compare._outputs", lambda module, example: [np.ones((1, 8, 24, 20), np.float32)])
    (warning,) = compare(network, runtimes=[XNNPACK_INT8], runs=1).warnings
    assert warning.startswith("The output of xnnpack-int8 (int8) differs from PyTorch's by ")


def test_a_killed_comparison_leaves_nothing_for_longer_than_the_next_one(network: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    killed, running = (state_root() / f"compare-x-{pid}" for pid in (ended.pid, os.getpid()))
    for folder in (killed, running):
        (folder / "ours-0").mkdir(parents=True)
    compare(network, runtimes=["torch"], runs=1)
    assert [folder.exists() for folder in (killed, running)] == [False, True]
    assert list(state_root().glob("compare-*")) == [running]
    shutil.rmtree(running)


def test_a_peer_that_cannot_convert_the_network_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "branching.py"
    path.write_text(
        NETWORK.replace("return nn.Sequential(*body)", "return Branching()")
        + "class Branching(nn.Module):\n"
        + "    def forward(self, x):\n"
        + "        return x + 1 if float(x.sum()) > 0 else x - 1\n"
    )
    result = compare(path, runtimes=["executorch-xnnpack", "torch"], runs=1)
    assert [row.runtime for row in result.rows] == ["torch"]
    (warning,) = result.warnings
    assert warning.startswith("executorch-xnnpack is left out: ")
    with pytest.raises(ToolError, match="executorch-xnnpack is left out"):
        compare(path, runtimes=["executorch-xnnpack"], runs=1)


def test_a_runtime_that_is_not_installed_is_left_out_unless_it_is_named(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, peer in PEERS.items():
        if name != "torch":
            monkeypatch.setattr(peer, "needs", ("a_module_that_nobody_has",))
    with pytest.raises(UserError, match=r"openvino is not installed: .*edgectl\[peers\]"):
        compare(network, runtimes=["edgectl", "openvino"])
    assert [row.runtime for row in compare(network, runs=1).rows] == ["edgectl", "executorch-xnnpack", "torch"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def model(): pass", "has no function `example_inputs`"),
        (NETWORK.replace("(torch.rand(1, 3, 24, 20),)", "torch.rand(3)"), "a tuple of one tensor"),
        (NETWORK.replace("(torch.rand(1, 3, 24, 20),)", "(torch.ones(3, dtype=int),)"), "float32"),
        (NETWORK.replace("(torch.rand(1, 3, 24, 20),)", "1 / 0"), "division by zero"),
        (NETWORK.replace("nn.Sequential(*body)", "body"), "must return a torch.nn.Module"),
    ],
    ids=["no inputs", "no tuple", "integers", "inputs fail", "no module"],
)
def test_a_python_file_that_is_not_as_it_must_be_is_refused(tmp_path: Path, body: str, words: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(body)
    with pytest.raises(UserError, match=words):
        compare(path, runtimes=["torch"], runs=1)


def layers() -> nn.Sequential:
    convolutions = [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 5)]
    return nn.Sequential(*convolutions, nn.Linear(8, 8))


@pytest.mark.parametrize(
    ("scheme", "match", "paths"),
    [
        ("block_punched", None, ["0", "2", "3"]),
        ("pattern", None, ["0"]),
        ("block_column", None, ["2", "4"]),
        ("block_punched", "[14]", ["1", "4"]),
        ("pattern", "*", ["0", "1"]),
    ],
)
def test_a_variant_prunes_the_layers_that_its_scheme_fits(scheme: SchemeName, match: str | None, paths: list[str]) -> None:
    torch.manual_seed(0)
    assert [rule.match for rule in prune_rules(layers(), scheme, 2.0, match)] == paths


def test_a_variant_that_fits_no_layer_is_refused() -> None:
    with pytest.raises(UserError, match="fits no layer"):
        prune_rules(layers(), "pattern", 2.0, "3")


@pytest.mark.parametrize(
    ("text", "variant", "name"),
    [
        ("block_punched@6", Variant("block_punched", 6.0), "block_punched"),
        ("pattern@2.25:body.*", Variant("pattern", 2.25, "body.*"), "pattern:body.*"),
        ("int8", Variant(quant="int8"), "dense+int8"),
        ("block_punched@6+msq4", Variant("block_punched", 6.0, quant="msq4"), "block_punched+msq4"),
        ("pattern@3:body.*+sp2_4", Variant("pattern", 3.0, "body.*", "sp2_4"), "pattern:body.*+sp2_4"),
    ],
)
def test_a_variant_says_how_it_is_pruned_and_quantised(text: str, variant: Variant, name: str) -> None:
    assert parse_variant(text) == variant
    assert variant.name == name


@pytest.mark.parametrize(("quant", "rule"), {"int8": ("fixed", 8), "sp2_4": ("sp2", 4), "msq4": ("msq", 4)}.items())
def test_a_quantised_variant_quantises_every_layer(quant: str, rule: tuple[str, int]) -> None:
    assert [(rule.match, rule.weights, rule.bits) for rule in Variant(quant=quant).quant_rules()] == [("*", *rule)]
    assert Variant("pattern", 3.0).quant_rules() == []


@pytest.mark.parametrize("text", ["int7", "pattern@3+int7", "pattern+int8", "int8+pattern@3", "pattern@0.5+int8"])
def test_a_variant_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is no variant: write .*msq4"):
        parse_variant(text)
