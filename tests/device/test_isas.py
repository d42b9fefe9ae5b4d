"""Quantised networks give the integer reference's outputs, bit for bit, by every instruction set; float16 ones nearly."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.artifact import Artifact
from edgectl.device import Device, open_device
from edgectl.device import emulator as emulators
from edgectl.errors import ToolError
from edgectl.lowering import build
from edgectl.recipe import Recipe, load_function, load_model
from edgectl.runner import Session, relative_difference

MODELS = Path(__file__).parents[2] / "models"


class Basic(nn.Module):
    """ResNet's block with two 3x3 convolutions."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet(blocks: int) -> nn.Module:
    """For 32x32 images: three stages of so many blocks; 3 make ResNet-20."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for out in (16, 32, 64):
        for _ in range(blocks):
            layers.append(Basic(channels, out, 1 if out == channels else 2))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenet() -> nn.Module:
    """MobileNetV2's blocks, three of them."""
    conv_bn = load_function(MODELS / "mobilenetv2/model.py", "ConvBN")
    block = load_function(MODELS / "mobilenetv2/model.py", "InvertedResidual")
    blocks = [block(16, 8, 1, 1), block(8, 12, 2, 6), block(12, 12, 1, 6)]
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), *blocks, conv_bn(12, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def wdsr() -> nn.Module:
    """Narrow, of two blocks."""
    model: nn.Module = load_function(MODELS / "wdsr/model.py", "WDSR")(scale=2, features=12, blocks=2)
    return model


def of_recipe(name: str) -> Callable[[], nn.Module]:
    """A network of the zoo."""
    return lambda: load_model(Recipe.load(MODELS / name))


QUANT = '[[quant]]\nmatch = "*"\nweights = "{}"\nbits = {}\n'
INT8, MSQ4 = QUANT.format("fixed", 8), QUANT.format("msq", 4)
PUNCHED = '[[prune]]\nmatch = "{}"\nscheme = "block_punched"\nrate = 4.0\n'
Networks = dict[str, tuple[Callable[[], nn.Module], list[int], str]]
"""Of a name, the network, the shape of its input, and the rules of its recipe."""
SMALL: Networks = {
    "mobilenet int8": (mobilenet, [1, 3, 32, 32], INT8),
    "resnet int8": (lambda: resnet(1), [1, 3, 32, 32], INT8),
    "wdsr int8": (wdsr, [1, 3, 13, 18], INT8),
    "wdsr msq4 punched": (wdsr, [1, 3, 13, 18], MSQ4 + PUNCHED.format("body.*.conv")),
}
FP16 = '[target]\nprecision = "fp16"\n'
HALF: Networks = {
    "mobilenet": (mobilenet, [1, 3, 32, 32], FP16),
    "resnet": (lambda: resnet(1), [1, 3, 32, 32], FP16),
    "wdsr punched": (wdsr, [1, 3, 13, 18], FP16 + PUNCHED.format("body.*.conv")),
}
WHOLE: Networks = {
    "mobilenetv2 int8": (of_recipe("mobilenetv2/recipe.toml"), [1, 3, 64, 64], INT8),
    "resnet20 int8": (lambda: resnet(3), [1, 3, 32, 32], INT8),
    "resnet20 msq4": (lambda: resnet(3), [1, 3, 32, 32], MSQ4),
    "resnet20 punched": (lambda: resnet(3), [1, 3, 32, 32], INT8 + PUNCHED.format("*.conv?")),
    "wdsr int8": (of_recipe("wdsr/x4.toml"), [1, 3, 24, 40], INT8),
    "wdsr msq4": (of_recipe("wdsr/x4.toml"), [1, 3, 24, 40], MSQ4),
}


def build_all(networks: Networks, folder: Path) -> dict[str, Artifact]:
    built = {}
    for name, (make, shape, rules) in networks.items():
        path = folder / f"{name}.toml"
        head = f'[model]\nfile = "net.py"\nfactory = "net"\ninput = {shape}\n[calibrate]\nimages = "random"\ncount = 2\n'
        path.write_text(head + rules)
        torch.manual_seed(0)
        model = make()
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        built[name] = build(Recipe.load(path), folder / name, model=model).artifact
    return built


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return build_all(SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return build_all(HALF, tmp_path_factory.mktemp("half"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return build_all(WHOLE, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def newest(state_of_the_session: Path) -> Iterator[Device]:
    """An emulated phone with all instructions that there are."""
    emulators.start("newest", cpu="max")
    yield open_device("emulator:newest")
    emulators.stop("newest")


def has(words: str) -> bool:
    """Whether this machine's processor lists all these features."""
    return set(words.split()) <= set(Path("/proc/cpuinfo").read_text().split())


def agree_nearly(networks: dict[str, Artifact], device: Device, isa: str) -> None:
    """Of float16 networks, whose sums round otherwise on every processor."""
    for name, artifact in networks.items():
        _, (want,) = artifact.golden()
        reply, (got,) = Session.open(artifact, device).run(want_outputs=True, isa=isa)
        assert reply.isa == isa
        assert 0 < relative_difference(got, want) < 0.01, name


def agree(networks: dict[str, Artifact], device: Device, isa: str) -> None:
    for name, artifact in networks.items():
        assert artifact.manifest.golden_by == "the integer reference"
        assert artifact.manifest.golden_tolerance == 1e-3
        _, (want,) = artifact.golden()
        assert len(np.unique(want)) > 8, name
        reply, (got,) = Session.open(artifact, device).run(want_outputs=True, isa=isa)
        assert reply.isa == isa
        assert np.array_equal(got, want), name


ISAS = {"fallback": "", "avx2": "avx2 fma", "avx512": "avx512bw avx512vl", "avx512vnni": "avx512_vnni avx512bw avx512vl"}
ISAS |= {"neon": "asimd", "fp16": "asimdhp", "dotprod": "asimddp", "i8mm": "asimddp i8mm"}


@pytest.mark.parametrize("isa", ISAS)
def test_on_this_machine(small: dict[str, Artifact], isa: str) -> None:
    if not has(ISAS[isa]):
        pytest.skip(f"this processor does not have {isa}")
    agree(small, open_device("host"), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_float16_on_this_machine(half: dict[str, Artifact], isa: str) -> None:
    if not has(ISAS[isa]):
        pytest.skip(f"this processor does not have {isa}")
    agree_nearly(half, open_device("host"), isa)


def test_an_instruction_set_that_is_not_there_is_not_quietly_another(small: dict[str, Artifact]) -> None:
    missing = "dotprod" if platform.machine() == "x86_64" else "avx2"
    with pytest.raises(ToolError, match=f"does not have {missing}"):
        Session.open(small["wdsr int8"], open_device("host")).run(isa=missing)


@pytest.mark.device
@pytest.mark.parametrize("isa", ["neon", "dotprod"])  # neon's integer kernels are the fallback's
def test_on_an_emulated_phone(small: dict[str, Artifact], emulator: Device, isa: str) -> None:
    agree(small, emulator, isa)


@pytest.mark.device
@pytest.mark.parametrize("isa", ["neon", "fp16", "dotprod"])  # neon converts to float32, the others multiply in float16
def test_float16_on_an_emulated_phone(half: dict[str, Artifact], emulator: Device, isa: str) -> None:
    agree_nearly(half, emulator, isa)


@pytest.mark.device
def test_on_an_emulated_phone_that_multiplies_matrices(small: dict[str, Artifact], newest: Device) -> None:
    agree(small, newest, "i8mm")


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_whole_networks_on_this_machine(whole: dict[str, Artifact], isa: str) -> None:
    if not has(ISAS[isa]):
        pytest.skip(f"this processor does not have {isa}")
    agree(whole, open_device("host"), isa)


@pytest.mark.slow
@pytest.mark.device
@pytest.mark.parametrize(("phone", "isa"), [("emulator", "dotprod"), ("newest", "i8mm")])
def test_whole_networks_on_emulated_phones(
    whole: dict[str, Artifact], request: pytest.FixtureRequest, phone: str, isa: str
) -> None:
    agree(whole, request.getfixturevalue(phone), isa)
