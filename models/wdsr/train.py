"""Trains WDSR on photographs: dense, with one-shot pruning masks kept, or with quantised weights (README.md: commands)."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from model import WDSR, wdsr
from safetensors.torch import load_file, save_file
from torch.nn.utils.parametrizations import weight_norm

from edgectl.compress.parametrize import attach, refit
from edgectl.compress.prune import apply_masks, prune_oneshot
from edgectl.compress.quantizers import SP2_ROWS, WEIGHTS, ScalePer
from edgectl.images import read_image
from edgectl.tasks.sr import Patches, evaluate, image_files


@dataclass(frozen=True)
class Rule:
    """One pruning rule, as a recipe's `[[prune]]` would hold it."""

    match: str
    scheme: str
    rate: float
    block: tuple[int, int] | None = None
    connectivity: float | None = None


@dataclass(frozen=True)
class QuantRule:
    """One quantisation rule, as a recipe's `[[quant]]` would hold it."""

    match: str
    weights: str
    bits: int
    sp2_rows: float | list[int] = SP2_ROWS
    scale: ScalePer = "row"


REFIT = 50
"""Steps between new scales of quantised weights."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photographs")
    parser.add_argument("--test", type=Path, help="folder of photographs to score, such as Set5/x4")
    parser.add_argument("--out", type=Path, required=True, help="weights to write (.safetensors)")
    parser.add_argument("--start", type=Path, help="weights to start from; tensors of another shape are left out")
    parser.add_argument("--checkpoint", type=Path, help="where to keep the state; training resumes from it if it exists")
    parser.add_argument("--scale", type=int, default=4, choices=(2, 4))
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--stop", type=int, help="stop early at this step; the same command without it goes on")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=32, help="side of a low-resolution patch, pixels")
    parser.add_argument("--rate", type=float, default=1e-3, help="first learning rate; falls to zero as a cosine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=500, help="steps between scores, checkpoints and weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prune", nargs="*", default=[], help="layers to prune before training, as globs")
    parser.add_argument("--prune-scheme", default="block_punched")
    parser.add_argument("--prune-rate", type=float, default=4.0)
    parser.add_argument("--quant", choices=WEIGHTS, help="train weights that stay on this codebook")
    parser.add_argument("--quant-bits", type=int, default=4)
    parser.add_argument("--quant-fixed8", nargs="*", default=[], help="layers that have 8-bit fixed point instead, as globs")
    return parser.parse_args()


def add_weight_norm(model: torch.nn.Module) -> None:
    """Weight = g * v / |v| for every convolution; it trains faster and is folded away by `plain_weights`."""
    for layer in list(model.modules()):
        if isinstance(layer, torch.nn.Conv2d):
            weight_norm(layer)


def plain_weights(model: WDSR) -> dict[str, torch.Tensor]:
    """The weights as the plain network has them, without weight norm, on their codebooks; the model is left as it was."""
    weights = {}
    for path, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            weights[f"{path}.weight"] = layer.weight.detach().contiguous().clone()
            weights[f"{path}.bias"] = layer.bias.detach().contiguous().clone()
    return weights


def learning_rate(step: int, steps: int, first: float) -> float:
    """A linear warm-up of 100 steps, then a cosine from `first` to zero."""
    return first * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Training:
    """Model, optimiser and masks, with the step they have reached."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.step = args, 0
        self.model = wdsr(scale=args.scale, blocks=args.blocks)
        if args.start:
            own = self.model.state_dict()
            kept = {name: t for name, t in load_file(args.start).items() if name in own and own[name].shape == t.shape}
            self.model.load_state_dict(kept, strict=False)
        rules = [Rule(match, args.prune_scheme, args.prune_rate) for match in args.prune]
        self.masks = prune_oneshot(self.model, rules) if rules else {}
        if args.quant:
            eight = [QuantRule(match, "fixed", 8) for match in args.quant_fixed8]
            attach(self.model, [QuantRule("*", args.quant, args.quant_bits), *eight])
        elif not rules:
            add_weight_norm(self.model)
        self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=args.rate, betas=(0.9, 0.99))
        if args.checkpoint and args.checkpoint.exists():
            self.load(args.checkpoint)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint of a run with the same options."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.masks = state["masks"]

    def save(self) -> None:
        """Writes the weights, and the checkpoint if one is wanted; a kill leaves the previous files whole."""
        new = self.args.out.with_suffix(".new")
        save_file(plain_weights(self.model), new)
        new.replace(self.args.out)
        if self.args.checkpoint:
            new = self.args.checkpoint.with_suffix(".new")
            state = {"step": self.step, "model": self.model.state_dict(), "masks": self.masks}
            torch.save({**state, "optimiser": self.optimiser.state_dict()}, new)
            new.replace(self.args.checkpoint)

    def update(self, patches: Patches) -> float:
        """One step of Adam on the L1 loss; the batch depends on the seed and the step alone. Returns the loss."""
        low, high = patches.batch(self.args.batch, np.random.default_rng([self.args.seed, self.step]))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.args.steps, self.args.rate)
        self.optimiser.zero_grad(set_to_none=True)
        loss = (self.model(low.to(memory_format=torch.channels_last)) - high).abs().mean()
        loss.backward()
        self.optimiser.step()
        apply_masks(self.model, self.masks)
        self.step += 1
        if self.step % REFIT == 0:
            refit(self.model)
        return loss.item()

    def score(self) -> str:
        """Mean Y-PSNR on the test photographs, in words."""
        if not self.args.test:
            return ""
        photographs = {file.stem: read_image(file) for file in image_files(self.args.test)}
        scores = evaluate(self.model, photographs, self.args.scale)
        mean, plain = (float(np.mean([getattr(s, kind) for s in scores])) for kind in ("model", "bicubic"))
        return f"  Y-PSNR {mean:.3f} dB, bicubic {plain:.3f} dB"


def main() -> None:
    """Trains, printing one line every `--every` steps."""
    args = arguments()
    torch.set_num_threads(args.threads)
    training = Training(args)
    patches = Patches(args.data, args.scale, args.patch)
    print(f"{len(patches.pairs)} photographs, step {training.step} of {args.steps}{training.score()}", flush=True)
    begin, first, losses = time.monotonic(), training.step, []
    last = min(args.steps, args.stop or args.steps)
    while training.step < last:
        losses.append(training.update(patches))
        if training.step % args.every == 0 or training.step == last:
            training.save()
            left = (time.monotonic() - begin) / (training.step - first) * (args.steps - training.step)
            line = f"step {training.step}  L1 {np.mean(losses):.5f}{training.score()}  {left / 60:.0f} min left"
            print(line, flush=True)
            losses.clear()


if __name__ == "__main__":
    main()
