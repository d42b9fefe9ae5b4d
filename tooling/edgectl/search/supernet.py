"""The supernet: every network of a space in one set of weights, trained together by the sandwich rule."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgectl.recipe import TrainSpec, load_weights
from edgectl.search.held_out import SearchTask
from edgectl.search.network import Network, narrow, network
from edgectl.search.space import SKIP, Candidate, SrSpace
from edgectl.tasks.task import Progress
from edgectl.training.batches import Order
from edgectl.training.folder import WEIGHTS, RunFolder
from edgectl.training.loop import Hardware, Training

_BETWEEN = 2  # random networks of a step, beside the largest and the smallest


class Supernet(nn.Module):
    """The weights of all networks of a space; a smaller one has the first channels of a larger one's.

    In training, `forward` gives the outputs of the largest network, the smallest and random ones between (the sandwich rule
    of Yu & Huang, "Universally slimmable networks", ICCV 2019), drawn by PyTorch's generator; in eval mode that of the
    space's baseline. [N, 3, H, W] -> [N, 3, scale*H, scale*W].
    """

    centre: Tensor

    def __init__(self, space: SrSpace) -> None:
        super().__init__()
        self.space = space
        features = max(space.features)
        widest = {kind: max((int(b[1:]) for b in space.blocks if b[0] == kind), default=0) for kind in "ab"}
        largest = network(space.scale, features, [f"{kind}{wide}" for kind, wide in widest.items() if wide] * space.cells)
        assert isinstance(largest, Network)
        self.head, self.tail, self.skip, self.shuffle = largest.head, largest.tail, largest.skip, largest.shuffle
        self.register_buffer("centre", largest.centre, persistent=False)
        kinds = [kind for kind, wide in widest.items() if wide]
        made = list(largest.body.children())
        self.cells = nn.ModuleList(
            nn.ModuleDict(dict(zip(kinds, made[i * len(kinds) : (i + 1) * len(kinds)], strict=True)))
            for i in range(space.cells)
        )
        self.largest_blocks = [f"{kind}{widest[kind]}" for kind in kinds]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """See the class."""
        if not self.training:
            return self.run(x, self.space.dense())
        chance = random.Random(int(torch.randint(1 << 30, ())))
        return [self.run(x, candidate) for candidate in self._sandwich(chance)]

    def run(self, x: Tensor, candidate: Candidate) -> Tensor:
        """What one network of the space answers, unpruned."""
        f = candidate.features
        x = x + self.centre
        y = _convolve(self.head, x, 3, f)
        for position, cell in zip(candidate.positions, candidate.cells, strict=True):
            y = y + _branch(self._block(position, cell.block), y, cell.block, f)
        return torch.as_tensor(self.shuffle(_convolve(self.tail, y, f, self.tail.out_channels) + self.skip(x)))

    @torch.no_grad()
    def extract(self, candidate: Candidate) -> nn.Module:
        """One network by itself, with copies of its weights."""
        f = candidate.features
        made = network(self.space.scale, f, candidate.blocks)
        assert isinstance(made, Network)
        pairs: list[tuple[nn.Module, nn.Module]] = [(made.head, self.head), (made.tail, self.tail), (made.skip, self.skip)]
        for own, position, cell in zip(made.body.children(), candidate.positions, candidate.cells, strict=True):
            shared = self._block(position, cell.block)
            pairs += [
                (layer, shared.get_submodule(name)) for name, layer in own.named_children() if isinstance(layer, nn.Conv2d)
            ]
        for layer, source in pairs:
            assert isinstance(layer, nn.Conv2d) and isinstance(source, nn.Conv2d)
            layer.weight.copy_(source.weight[: layer.out_channels, : layer.in_channels])
            assert layer.bias is not None and source.bias is not None
            layer.bias.copy_(source.bias[: layer.out_channels])
        return made

    def _block(self, position: int, block: str) -> nn.Module:
        cell = self.cells[position]
        assert isinstance(cell, nn.ModuleDict)
        return cell[block[0]]

    def _sandwich(self, chance: random.Random) -> list[Candidate]:
        """The largest network, its blocks of either kind; the smallest; random ones."""
        space = self.space
        drawn = [space.random(chance) for _ in range(_BETWEEN + 2)]
        for i in range(space.cells):
            drawn[0][f"cell{i}"] = chance.choice(self.largest_blocks)
            drawn[1][f"cell{i}"] = SKIP
        drawn[0]["features"], drawn[1]["features"] = max(space.features), min(space.features)
        return [space.candidate(parameters) for parameters in drawn]


def _branch(block: nn.Module, x: Tensor, name: str, f: int) -> Tensor:
    """What a block adds to its input, with the first channels of its weights."""
    wide = int(name[1:]) * f
    y = torch.relu(_convolve(block.get_submodule("expand"), x, f, wide))
    if name[0] == "a":
        return _convolve(block.get_submodule("reduce"), y, wide, f)
    y = _convolve(block.get_submodule("reduce"), y, wide, narrow(f))
    return _convolve(block.get_submodule("conv"), y, narrow(f), f)


def _convolve(layer: nn.Module, x: Tensor, channels: int, filters: int) -> Tensor:
    """The first filters of a convolution, on the first channels."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    return F.conv2d(x, layer.weight[:filters, :channels], layer.bias[:filters], padding=layer.padding)


def train_supernet(
    space: SrSpace, spec: TrainSpec, task: SearchTask, data: Path, out: Path, hardware: Hardware, progress: Progress
) -> Supernet:
    """Trains the supernet of a space in the folder `out`, or reads it from there; a killed training goes on.

    Raises:
        UserError: the data is wrong, `out` holds another run, or the loss diverges.
        ToolError: `out` cannot be written.
    """
    shared = space.model_dump(mode="json", include={"scale", "features", "cells", "blocks"})
    asked = {"space": shared, "train": spec.model_dump(mode="json"), "data": str(data.resolve())}
    folder = RunFolder(out, asked | {"processes": hardware.devices, "precision": hardware.precision})
    folder.check(force=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        supernet = Supernet(space)
    if not (out / WEIGHTS).is_file():
        fabric = hardware.launch()
        examples = task.examples(data, progress)
        order = Order(len(examples), min(spec.batch, len(examples)), spec.seed, fabric.global_rank, fabric.world_size)
        supernet.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        Training(fabric, task, supernet, spec, data, order, folder).run(examples, hardware.workers, progress)
        if fabric.is_global_zero:
            folder.write_weights({name: tensor.cpu() for name, tensor in supernet.state_dict().items()})
        fabric.barrier()
    load_weights(supernet, out / WEIGHTS)
    return supernet.cpu().eval()
