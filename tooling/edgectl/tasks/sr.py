"""Super-resolution: MATLAB-compatible bicubic resizing, Y-channel PSNR, and training patches of photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgectl.errors import UserError
from edgectl.images import IMAGE_SUFFIXES, read_image, to_image, to_input


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, support [-2, 2]."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def bicubic_matrix(size: int, out: int) -> np.ndarray:
    """The matrix [out, size] that resizes a line of pixels as MATLAB's `imresize(..., "bicubic")` does.

    The kernel is widened when shrinking (antialiasing) and the line continues beyond its ends with its edge pixel.
    """
    scale = out / size
    stretch = max(1.0, 1.0 / scale)
    centre = (np.arange(out) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 * stretch).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(4 * stretch)) + 2)
    weights = _cubic((centre[:, None] - taps) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out)[:, None], np.clip(taps, 0, size - 1)), weights)
    return matrix


def _to_8bit(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(image + 0.5), 0, 255)


def bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an 8-bit image [H, W, C] to [height, width, C], columns of pixels first, rounding after each direction.

    This reproduces, bit for bit, the MATLAB reductions that the field's test sets (Set5, Set14) are distributed with.
    """
    rows = bicubic_matrix(image.shape[0], height)
    columns = bicubic_matrix(image.shape[1], width)
    tall = _to_8bit(np.tensordot(rows, image.astype(np.float64), axes=(1, 0)))
    return _to_8bit(np.einsum("xw,ywc->yxc", columns, tall, optimize=True)).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma (16..235) of an 8-bit RGB image [H, W, 3], in float64."""
    return 16.0 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255.0


def psnr_y(image: np.ndarray, reference: np.ndarray, shave: int) -> float:
    """PSNR in dB of two 8-bit RGB images [H, W, 3], on Y, without `shave` pixels at every edge."""
    if image.shape != reference.shape:
        raise ValueError(f"images differ in shape: {image.shape} and {reference.shape}")
    inner = slice(shave, -shave or None)
    difference = (luma(image) - luma(reference))[inner, inner]
    error = float(np.mean(difference**2))
    return float("inf") if error == 0 else 10 * float(np.log10(255.0**2 / error))


def image_files(folder: Path | str) -> list[Path]:
    """The images directly in a folder, by name.

    Where some are named `*_HR.png`, as in Set5, the others are their reductions and are left out.

    Raises:
        UserError: the folder is absent or holds no image.
    """
    folder = Path(folder)
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    files = [file for file in files if file.stem.endswith("_HR")] or files
    if not files:
        raise UserError(f"{folder} holds no images: give a folder of PNG or JPEG photographs.")
    return files


def upscale(model: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Runs a super-resolution model (NCHW, [0, 1]) on an 8-bit image and returns the 8-bit result."""
    with torch.inference_mode():
        return to_image(model(torch.from_numpy(to_input(image))).numpy())


@dataclass(frozen=True)
class Score:
    """Y-PSNR in dB of a model and of bicubic interpolation on one photograph."""

    name: str
    model: float
    bicubic: float


def evaluate(model: torch.nn.Module, photographs: dict[str, np.ndarray], scale: int) -> list[Score]:
    """Shrinks each photograph by `scale`, upscales it again with the model and with bicubic, and scores both.

    Args:
        model: maps [1, 3, H, W] to [1, 3, scale*H, scale*W], both in [0, 1].
        photographs: name -> 8-bit RGB [H, W, 3]; cropped to a multiple of `scale`.
        scale: the factor, and the number of edge pixels that are not scored.
    """
    scores = []
    for name, photograph in photographs.items():
        large, small = pair(photograph, scale)
        plain = bicubic(small, *large.shape[:2])
        scores.append(Score(name, psnr_y(upscale(model, small), large, scale), psnr_y(plain, large, scale)))
    return scores


def pair(photograph: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(high-resolution image cropped to a multiple of `scale`, its bicubic reduction)."""
    height, width = (side // scale * scale for side in photograph.shape[:2])
    large = photograph[:height, :width]
    return large, bicubic(large, height // scale, width // scale)


class Patches:
    """Random aligned training patches of photographs, flipped and turned; everything stays in memory as 8 bits.

    Args:
        folder: where the photographs are (`--data DIR`).
        scale: the super-resolution factor.
        patch: side of the low-resolution patch, pixels.
        progress: called with the fraction of photographs read.
    """

    def __init__(self, folder: Path | str, scale: int, patch: int, progress: Callable[[float], None] = lambda _: None) -> None:
        self.scale, self.patch = scale, patch
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        files = image_files(folder)
        for index, file in enumerate(files):
            large, small = pair(read_image(file), scale)
            if min(small.shape[:2]) >= patch:
                self.pairs.append((large, small))
            progress((index + 1) / len(files))
        if not self.pairs:
            raise UserError(f"Every image in {folder} is smaller than {patch * scale} pixels: give larger photographs.")

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One (low, high) pair of 8-bit patches [patch, patch, 3] and [scale*patch, scale*patch, 3]."""
        large, small = self.pairs[generator.integers(len(self.pairs))]
        top, left = (int(generator.integers(side - self.patch + 1)) for side in small.shape[:2])
        low = small[top : top + self.patch, left : left + self.patch]
        s, p = self.scale, self.scale * self.patch
        high = large[top * s : top * s + p, left * s : left * s + p]
        turns, flip = int(generator.integers(4)), bool(generator.integers(2))
        low, high = np.rot90(low, turns), np.rot90(high, turns)
        return (low[:, ::-1], high[:, ::-1]) if flip else (low, high)

    def batch(self, size: int, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Float [size, 3, patch, patch] and [size, 3, scale*patch, scale*patch] in [0, 1]."""
        low, high = zip(*(self.sample(generator) for _ in range(size)), strict=True)
        return _stack(low), _stack(high)


def _stack(patches: tuple[np.ndarray, ...]) -> torch.Tensor:
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float().div_(255)
