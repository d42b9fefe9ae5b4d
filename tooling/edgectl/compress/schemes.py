"""Sparsity schemes: pure functions from a weight tensor, a rate and a config to the mask of the weights to keep.

Every scheme sees weights filters first: [F, C, kh, kw], C being the input channels that one filter reads (input
channels / groups for a grouped convolution, 1 for a depthwise one); a linear layer is [out, in, 1, 1].
`edgectl.compress.prune` turns the layers of a model into that form and back.

The rate is weights / weights kept. A scheme removes whole groups of weights, so it is met within one group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT_IN_PATTERN = 4
PATTERNS_IN_USE = 8
PATTERN_RATE = 9 / KEPT_IN_PATTERN
DEFAULT_PUNCHED_BLOCK = (8, 4)
DEFAULT_COLUMN_BLOCK = (8, 1)
_DEFAULT_BLOCKS = {"block_punched": DEFAULT_PUNCHED_BLOCK, "block_column": DEFAULT_COLUMN_BLOCK}
_AXES_OF_GROUPS = {"filter": 1, "pattern": 2, "unstructured": 4}


class SchemeError(ValueError):
    """A scheme that cannot be applied to this weight tensor, in one clause that says why."""


@dataclass(frozen=True)
class SchemeConfig:
    """What a scheme needs besides the rate.

    Attributes:
        block: (filters, channels) that are pruned together; None for the scheme's own default.
        connectivity: kernels / kernels kept of `pattern`; None lets the rate decide.
        patterns: bool [P, 3, 3], the pattern library of `pattern` (see `natural_patterns`); None for the tensor's own.
        groups: groups of the convolution; blocks do not reach over them.
    """

    block: tuple[int, int] | None = None
    connectivity: float | None = None
    patterns: Tensor | None = None
    groups: int = 1


Scheme = Callable[[Tensor, float, SchemeConfig], Tensor]


def unstructured(weight: Tensor, rate: float, config: SchemeConfig) -> Tensor:
    """Keeps the weights of largest magnitude. weight [F, C, kh, kw] -> bool mask of that shape."""
    del config
    return _largest(weight.abs().flatten(), round(weight.numel() / rate)).reshape(weight.shape)


def filter_(weight: Tensor, rate: float, config: SchemeConfig) -> Tensor:
    """Keeps the filters of largest L2 norm. weight [F, C, kh, kw] -> bool mask of that shape."""
    keep = _largest(weight.flatten(1).norm(dim=1), round(weight.shape[0] / rate))
    return keep[group_index("filter", weight, config)]


def block_punched(weight: Tensor, rate: float, config: SchemeConfig) -> Tensor:
    """Removes kernel positions, one at a time, from blocks of filters x channels (`config.block`, 8 x 4 by default).

    The score of (block, position) is the sum over the block's channels of the L2 norm over its filters (YOLObile, Cai
    et al., 2021); the threshold is over the whole layer. Blocks at the edges may be smaller, so scores are divided by
    what equal weights would have given: no block is removed for its size. Blocks stay within one group of a grouped
    convolution; in a depthwise one they are of adjacent filters x 1.
    """
    return _punch("block_punched", weight, rate, config)


def block_column(weight: Tensor, rate: float, config: SchemeConfig) -> Tensor:
    """Removes columns from blocks of rows of a matrix (1x1 convolutions and linear layers).

    Default block: 8 rows x 1 column. Each block of rows loses its own columns, those of least L2 norm, the threshold
    being over the whole layer. `config.block` = (rows, columns) removes that many neighbouring columns together.

    Raises:
        SchemeError: the kernel is larger than 1x1.
    """
    if weight.shape[2:] != (1, 1):
        raise SchemeError(f"block_column is for 1x1 convolutions and linear layers, the kernel is {_size(weight)}")
    return _punch("block_column", weight, rate, config)


def pattern(weight: Tensor, rate: float, config: SchemeConfig) -> Tensor:
    """Keeps 4 weights of a 3x3 kernel in one of the library's patterns, and removes whole kernels to reach the rate.

    Each kernel takes the pattern that keeps most of its L2 norm. Patterns alone give a rate of 9/4. Above it, kernels
    are kept by the L2 norm of their 4 weights (connectivity pruning). Below it, only some kernels take a pattern,
    those that lose least, and the rest stay whole. `config.connectivity` sets kernels / kernels kept instead, and then
    enough of the kept kernels take a pattern to reach the rate, which must be in [connectivity, 9/4 connectivity].

    Raises:
        SchemeError: the kernel is not 3x3, or the connectivity cannot give the rate.
    """
    if weight.shape[2:] != (3, 3):
        raise SchemeError(f"pattern is for 3x3 kernels, the kernel is {_size(weight)}")
    connectivity = max(1.0, rate / PATTERN_RATE) if config.connectivity is None else config.connectivity
    if not 1 <= connectivity <= rate * (1 + 1e-9) or rate > connectivity * PATTERN_RATE * (1 + 1e-9):
        raise SchemeError(
            f"connectivity {connectivity:g} cannot give rate {rate:g}: "
            f"choose it between {max(1.0, rate / PATTERN_RATE):.3g} and {rate:g}"
        )
    library = natural_patterns([weight]) if config.patterns is None else config.patterns.to(weight.device)
    energy = weight.detach().double().square().reshape(-1, 9)
    best, choice = (energy @ library.reshape(-1, 9).double().T).max(dim=1)
    kernels, target = energy.shape[0], weight.numel() / rate
    if config.connectivity is None and connectivity > 1:
        kept = _largest(best, round(target / KEPT_IN_PATTERN))
        patterned = kept
    else:
        kept = _largest(best, round(kernels / connectivity))
        count = min(int(kept.sum()), max(0, round((9 * int(kept.sum()) - target) / (9 - KEPT_IN_PATTERN))))
        gain = (best - energy.sum(dim=1)).masked_fill(~kept, -math.inf)
        patterned = _largest(gain, count) if count else torch.zeros_like(kept)
    mask = kept[:, None] & (library.reshape(-1, 9)[choice] | ~patterned[:, None])
    return mask.reshape(weight.shape)


def natural_patterns(weights: Iterable[Tensor], count: int = PATTERNS_IN_USE) -> Tensor:
    """The pattern library of a network: bool [<= count, 3, 3], most frequent first.

    The natural pattern of a kernel is its centre and the three largest of its other magnitudes (PatDNN). Kernels that
    are zero have none; if no kernel has one, the centre with three of its four neighbours are the library.

    Args:
        weights: 3x3 weights [F, C, 3, 3] of all layers that share the library.
        count: how many patterns to keep.
    """
    ring = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
    tally = torch.zeros(512, dtype=torch.long)
    for weight in weights:
        kernels = weight.detach().abs().reshape(-1, 9).cpu()
        kernels = kernels[kernels.amax(dim=1) > 0]
        if len(kernels):
            top = ring[kernels[:, ring].argsort(dim=1, descending=True, stable=True)[:, : KEPT_IN_PATTERN - 1]]
            tally += torch.bincount((1 << top).sum(dim=1) | 1 << 4, minlength=512)
    codes = tally.argsort(descending=True, stable=True)[:count]
    codes = codes[tally[codes] > 0]
    if not len(codes):
        codes = torch.tensor([sum(1 << p for p in (1, 3, 4, 5, 7) if p != out) for out in (1, 3, 5, 7)])
    return (codes[:, None] >> torch.arange(9) & 1).bool().reshape(-1, 3, 3)


SCHEMES: dict[str, Scheme] = {
    "unstructured": unstructured,
    "filter": filter_,
    "pattern": pattern,
    "block_punched": block_punched,
    "block_column": block_column,
}


def group_index(scheme: str, weight: Tensor, config: SchemeConfig) -> Tensor:
    """The number of the group that each weight is kept or removed with: int64 of the shape of the weight, [F, C, kh, kw].

    Groups are single weights (unstructured), filters, kernel positions of blocks, or kernels (pattern, whose kept kernels
    also lose weights).
    """
    if scheme in _DEFAULT_BLOCKS:
        return _Blocks.of(scheme, weight, config).number(weight.device)
    shape = (*weight.shape[: _AXES_OF_GROUPS[scheme]], 1, 1, 1, 1)[:4]
    return torch.arange(math.prod(shape), device=weight.device).reshape(shape).expand(weight.shape)


def _size(weight: Tensor) -> str:
    return "x".join(str(side) for side in weight.shape[2:])


def _largest(scores: Tensor, count: int) -> Tensor:
    """Bool [N] with exactly `count` (at least 1) of the largest scores; of equal ones, the first."""
    count = min(max(count, 1), scores.numel())
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    keep = scores > threshold
    equal = (scores == threshold).nonzero().flatten()
    keep[equal[: count - int(keep.sum())]] = True
    return keep


@dataclass(frozen=True)
class _Blocks:
    """How a weight [F, C, kh, kw] is cut into blocks of rows x columns; blocks at the edges are filled up with zeros.

    A group is one kernel position of one block.
    """

    shape: torch.Size
    parts: int
    tall: int
    rows: int
    wide: int
    columns: int

    @classmethod
    def of(cls, scheme: str, weight: Tensor, config: SchemeConfig) -> _Blocks:
        rows, columns = config.block or _DEFAULT_BLOCKS[scheme]
        filters, channels = weight.shape[:2]
        depthwise = channels == 1 and filters == config.groups
        parts = 1 if depthwise or filters % config.groups else config.groups
        rows, columns = min(rows, filters // parts), min(columns, channels)
        return cls(weight.shape, parts, -(-filters // parts // rows), rows, -(-channels // columns), columns)

    def split(self, tensor: Tensor) -> Tensor:
        """[F, C, kh, kw] -> [parts, tall, rows, wide, columns, kh, kw]."""
        filters, channels, *kernel = self.shape
        padded = tensor.new_zeros(self.parts, self.tall * self.rows, self.wide * self.columns, *kernel)
        padded[:, : filters // self.parts, :channels] = tensor.reshape(self.parts, -1, channels, *kernel)
        return padded.reshape(self.parts, self.tall, self.rows, self.wide, self.columns, *kernel)

    def number(self, device: torch.device) -> Tensor:
        """The number of every weight's group, [F, C, kh, kw]."""
        filters, channels, *kernel = self.shape
        count = self.parts * self.tall * self.wide * math.prod(kernel)
        numbers = torch.arange(count, device=device).reshape(self.parts, self.tall, 1, self.wide, 1, *kernel)
        numbers = numbers.expand(self.parts, self.tall, self.rows, self.wide, self.columns, *kernel)
        numbers = numbers.reshape(self.parts, self.tall * self.rows, self.wide * self.columns, *kernel)
        return numbers[:, : filters // self.parts, :channels].reshape(self.shape)


def _punch(scheme: str, weight: Tensor, rate: float, config: SchemeConfig) -> Tensor:
    """The mask of `block_punched`, for any block."""
    blocks = _Blocks.of(scheme, weight, config)

    def score(tensor: Tensor) -> Tensor:
        return blocks.split(tensor).square().sum(dim=2).sqrt().sum(dim=3).flatten()

    ones = torch.ones(weight.shape, dtype=torch.float64, device=weight.device)
    sizes = blocks.split(ones).sum(dim=(2, 4)).flatten()
    keep = _until(score(weight.detach().double()) / score(ones), sizes, weight.numel() / rate)
    return keep[blocks.number(weight.device)]


def _until(scores: Tensor, sizes: Tensor, target: float) -> Tensor:
    """Bool [N]: groups in falling order of score, at least one, until their sizes add up to nearest `target`."""
    order = scores.argsort(descending=True, stable=True)
    reached = sizes[order].cumsum(dim=0)
    count = int((reached - target).abs().argmin()) + 1
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[order[:count]] = True
    return keep
