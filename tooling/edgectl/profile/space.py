"""An operator space: ranges of layers, and small networks drawn from them at random, to be measured layer by layer.

A layer's time depends on its neighbours: what runs in one chain (edgectl.lowering.chains) reads its input from a cache, a layer
by itself reads it from memory. So layers are measured where they will run, in whole networks made of the blocks that a
search puts together, and every point of the space is a layer of such a network.
"""

from __future__ import annotations

import hashlib
import math
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from edgectl.errors import UserError
from edgectl.recipe import CalibrateSpec, ModelSpec, PruneRule, QuantRule, Recipe

LayerScheme = Literal["none", "unstructured", "filter", "pattern", "block_punched", "block_column"]
BlockName = Literal["conv", "wdsr_a", "wdsr_b", "separable", "inverted"]

_FEWEST_WEIGHTS = 128  # of a layer that is pruned
_TRIES = 100


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Space(_Strict):
    """Ranges from which networks are drawn. Ranges of numbers are (least, most).

    A network is a 3x3 convolution from RGB to some channels, blocks, and either, for super-resolution by `scale`, a 3x3
    convolution to 3 scale^2 channels and a pixel shuffle, or the pooled maps and a linear layer to `classes`, or nothing.

    Attributes:
        maps: (height, width) of the network's input.
        channels: of the maps between blocks.
        alike: every block keeps the channels of the first convolution.
        blocks: kinds of blocks: a convolution; WDSR's of two 3x3 convolutions (A) or of 1x1, 1x1 and 3x3 (B); a depthwise
            convolution and a 1x1; 1x1, depthwise and 1x1.
        length: blocks in a network.
        kernels: of `conv`.
        expansion: channels inside a block over those of its input.
        strides: of `conv`, `separable` and `inverted`.
        schemes: of pruned layers; `none` prunes nothing.
        rates: of pruned layers, weights / non-zeros.
        blocks_of_zeros: (filters, channels) that `block_punched` prunes together.
        bits: of a network's weights: 32 (float), or 8 (activations int8).
        most_macs: multiply-adds of a layer of a block.
        scale: of super-resolution; 0 for none.
        classes: of classification; 0 for none.
    """

    name: str = Field(min_length=1)
    maps: list[tuple[int, int]] = Field(min_length=1)
    channels: tuple[int, int]
    alike: bool = False
    blocks: list[BlockName] = Field(min_length=1)
    length: tuple[int, int]
    kernels: list[Literal[1, 3, 5]] = Field(default=[3], min_length=1)
    expansion: tuple[float, float] = (2, 6)
    strides: list[Literal[1, 2]] = Field(default=[1], min_length=1)
    schemes: list[LayerScheme] = Field(min_length=1)
    rates: tuple[float, float] = (1.5, 8)
    blocks_of_zeros: list[tuple[int, int]] = Field(default=[(8, 4), (4, 4), (4, 2)], min_length=1)
    bits: list[Literal[8, 32]] = Field(default=[32], min_length=1)
    most_macs: int = 300_000_000
    scale: int = Field(default=0, ge=0, le=4)
    classes: int = Field(default=0, ge=0)

    @classmethod
    def load(cls, which: str) -> Space:
        """A space by its name (`sr`, `wdsr`, `classify`, `detect`), or from a TOML file that sets these attributes.

        Raises:
            UserError: there is no such space or file, or nothing can be drawn from it.
        """
        if which in SPACES:
            return SPACES[which]
        path = Path(which)
        if not path.is_file():
            raise UserError(f"There is no space {which}: choose one of {', '.join(SPACES)}, or a TOML file.")
        try:
            space = cls.model_validate({"name": path.stem} | tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid TOML: {error}.") from error
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(f"{path}: `{key}` is {problem['input']!r}: {problem['msg'].lower()}.") from error
        space.network(0, 0)
        return space

    def networks(self, seed: int) -> Iterator[Network]:
        """Networks without end, the same ones for the same seed."""
        number = 0
        while True:
            yield self.network(seed, number)
            number += 1

    def network(self, seed: int, number: int) -> Network:
        """The network of that number.

        Raises:
            UserError: the space is empty: no network is within its ranges.
        """
        ranges = (self.channels, self.length, self.expansion, self.rates)
        if any(not 0 < low <= high for low, high in ranges) or self.rates[0] < 1:
            raise UserError(f"The space {self.name} is empty: in every range the first number must be at most the second.")
        chance = random.Random(f"{self.model_dump_json()}/{seed}/{number}")
        size = chance.choice(self.maps)
        for _ in range(_TRIES):
            drawn = _Draw(self, chance, size).network(seed, number)
            if drawn is not None:
                return drawn
        raise UserError(
            f"The space {self.name} is empty: no network of {self.length[0]} blocks of {self.channels[0]} channels or more "
            f"has layers of at most {self.most_macs} multiply-adds on its maps."
        )


@dataclass(frozen=True)
class Network:
    """A network to measure: the recipe prunes and quantises `module`, or its own model where that is None."""

    name: str
    recipe: Recipe
    module: nn.Module | None = None


def of_recipe(path: Path) -> Network:
    """A recipe's network, under a name that changes with its file.

    Raises:
        UserError: the recipe is wrong.
    """
    recipe = Recipe.load(path)
    return Network(f"recipe {path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}", recipe)


SPACES = {
    space.name: space
    for space in (
        Space(
            name="sr",
            maps=[(90, 160), (120, 160), (180, 320), (180, 320), (270, 480), (360, 640), (360, 640)],
            channels=(8, 64),
            blocks=["conv", "wdsr_a", "wdsr_b", "wdsr_b", "separable"],
            length=(3, 6),
            kernels=[1, 3, 3, 5],
            schemes=["none", "filter", "pattern", "block_punched", "block_column", "unstructured"],
            most_macs=400_000_000,
            scale=2,
        ),
        Space(
            name="wdsr",
            maps=[(90, 160), (120, 160), (180, 320)],
            channels=(8, 24),
            alike=True,
            blocks=["wdsr_a", "wdsr_b"],
            length=(1, 4),
            schemes=["none", "filter", "pattern", "block_punched", "block_column"],
            most_macs=200_000_000,
            scale=2,
        ),
        Space(
            name="classify",
            maps=[(96, 96), (160, 160), (224, 224)],
            channels=(16, 256),
            blocks=["conv", "separable", "inverted"],
            length=(4, 8),
            kernels=[1, 3, 3],
            strides=[1, 1, 2],
            schemes=["none", "filter", "pattern", "block_punched", "block_column", "unstructured"],
            classes=100,
        ),
        Space(
            name="detect",
            maps=[(160, 160), (320, 320), (248, 216)],
            channels=(16, 256),
            blocks=["conv", "conv", "inverted"],
            length=(4, 8),
            kernels=[1, 3, 3],
            strides=[1, 1, 2],
            schemes=["none", "filter", "pattern", "block_punched", "block_column", "unstructured"],
        ),
    )
}


class _Block(nn.Sequential):
    """Layers one after the other; `residual` adds the input to the output."""

    residual = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, F, H / stride, W / stride]."""
        y = x
        for layer in self:
            y = layer(y)
        return x + y if self.residual else y


class _Drawn(nn.Module):
    """A network of a space; [1, 3, H, W] in."""

    centre: torch.Tensor

    def __init__(self, body: nn.Sequential, tail: nn.Module | None, skip: nn.Module | None, scale: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.full((1, 3, 1, 1), -0.5))
        self.body, self.tail, self.skip = body, tail, skip
        self.shuffle = nn.PixelShuffle(scale) if scale else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled RGB, logits, or the last maps."""
        if self.shuffle is None:
            y = self.body(x)
            return y if self.tail is None else self.tail(y)
        x = x + self.centre
        y = self.tail(self.body(x)) if self.tail is not None else self.body(x)
        return self.shuffle(y if self.skip is None else y + self.skip(x))


class _Draw:
    """One draw from a space."""

    def __init__(self, space: Space, chance: random.Random, size: tuple[int, int]) -> None:
        self.space, self.chance = space, chance
        self.height, self.width = size

    def network(self, seed: int, number: int) -> Network | None:
        """None where what was drawn first leaves no room for a layer. Its name is another if anything about it is."""
        space, chance = self.space, self.chance
        shape = [1, 3, self.height, self.width]
        torch_state = torch.get_rng_state()
        torch.manual_seed(chance.randrange(1 << 31))  # of the weights
        try:
            module = self._module()
        finally:
            torch.set_rng_state(torch_state)
        if module is None:
            return None
        bits = chance.choice(space.bits)
        recipe = Recipe(
            model=ModelSpec(file="space.py", factory="network", args={"seed": seed, "number": number}, input=shape),
            prune=self._rules(module),
            quant=[QuantRule(match="*", weights="fixed", bits=bits)] if bits < 32 else [],
            calibrate=CalibrateSpec(images="random", count=2) if bits < 32 else None,
        )
        content = hashlib.sha256(f"{module}{recipe.model_dump_json()}".encode()).hexdigest()[:8]
        return Network(f"{space.name}/{seed}/{number}-{content}", recipe, module.eval())

    def _module(self) -> nn.Module | None:
        space, chance = self.space, self.chance
        first = self._most(3, 9, self._between(*space.channels))
        if first < space.channels[0]:
            return None
        features, layers = first, [nn.Sequential(nn.Conv2d(3, first, 3, padding=1), nn.ReLU())]
        if space.alike:
            layers = [nn.Sequential(nn.Conv2d(3, first, 3, padding=1))]
        for _ in range(chance.randint(*space.length)):
            block, features = self._block(features)
            if block is None:
                return None
            layers.append(block)
        body = nn.Sequential(*layers)
        if space.scale:
            out = 3 * space.scale**2
            skip = nn.Conv2d(3, out, 5, padding=2) if space.alike or chance.random() < 0.5 else None
            return _Drawn(body, nn.Conv2d(features, out, 3, padding=1), skip, space.scale)
        if space.classes:
            head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, space.classes))
            return _Drawn(body, head, None, 0)
        return _Drawn(body, None, None, 0)

    def _block(self, features: int) -> tuple[_Block | None, int]:
        """A block for so many channels and the channels that it gives; None where it would be too large."""
        space, chance = self.space, self.chance
        kind = chance.choice(space.blocks)
        stride = chance.choice(space.strides) if kind in ("conv", "separable", "inverted") else 1
        out = features if space.alike or kind in ("wdsr_a", "wdsr_b") else self._between(*space.channels)
        wide = round(features * chance.uniform(*space.expansion))
        before = self.height, self.width
        self.height, self.width = -(-self.height // stride), -(-self.width // stride)
        convolutions: list[nn.Module] = []
        if kind == "conv":
            kernel = chance.choice(space.kernels)
            out = self._most(features, kernel**2, out)
            convolutions = [_conv(features, out, kernel, stride)] + ([nn.ReLU()] if chance.random() < 0.5 else [])
        elif kind == "wdsr_a":
            wide = self._most(features, 9, wide)
            convolutions = [_conv(features, wide, 3), nn.ReLU(), _conv(wide, out, 3)]
        elif kind == "wdsr_b":
            wide, narrow = self._most(features, 1, wide), max(1, round(features * chance.uniform(0.5, 1)))
            convolutions = [_conv(features, wide, 1), nn.ReLU(), _conv(wide, narrow, 1), _conv(narrow, out, 3)]
        elif kind == "separable":
            convolutions = [_conv(features, features, 3, stride, features), nn.ReLU(), _conv(features, out, 1)]
        else:
            inside = [_conv(wide, wide, 3, stride, wide), nn.ReLU()]
            convolutions = [_conv(features, wide, 1), nn.ReLU(), *inside, _conv(wide, out, 1)]
        block = _Block(*convolutions)
        block.residual = kind.startswith("wdsr") or (out == features and stride == 1 and chance.random() < 0.5)
        largest = max(layer.weight.numel() for layer in block if isinstance(layer, nn.Conv2d))
        if (
            min(out, wide) < space.channels[0]
            or largest * math.prod(before if kind == "inverted" else (self.height, self.width)) > space.most_macs
        ):
            return None, features
        return block, out

    def _rules(self, module: nn.Module) -> list[PruneRule]:
        """A scheme and a rate for every layer but the first, the skip and the last linear one."""
        space, chance, rules = self.space, self.chance, []
        for path, layer in module.named_modules():
            if not isinstance(layer, nn.Conv2d) or layer.groups > 1 or path in ("body.0.0", "skip"):
                continue
            fitting = [scheme for scheme in space.schemes if _fits(scheme, layer)]
            scheme = chance.choice(fitting) if fitting else "none"
            if scheme == "none" or layer.weight.numel() < _FEWEST_WEIGHTS:
                continue
            low, high = (math.log(rate) for rate in space.rates)
            rate = math.exp(chance.uniform(low, high))
            if scheme == "filter":
                rate = min(rate, layer.out_channels)
            zeros = chance.choice(space.blocks_of_zeros) if scheme == "block_punched" else None
            rules.append(PruneRule(match=path, scheme=scheme, rate=round(rate, 3), block=zeros))
        return rules

    def _most(self, channels: int, taps: int, filters: int) -> int:
        """As many filters as a layer may have, `filters` at most."""
        return min(filters, self.space.most_macs // (channels * taps * self.height * self.width))

    def _between(self, low: float, high: float) -> int:
        """A whole number whose logarithm is evenly distributed."""
        return round(math.exp(self.chance.uniform(math.log(low), math.log(high))))


def _conv(channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(channels, max(1, filters), kernel, stride, kernel // 2, groups=groups)


def _fits(scheme: str, layer: nn.Conv2d) -> bool:
    pointwise = layer.kernel_size == (1, 1)
    if scheme == "pattern":
        return layer.kernel_size == (3, 3)
    return pointwise if scheme == "block_column" else not (pointwise and scheme == "block_punched")
