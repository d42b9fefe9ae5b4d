"""Super-resolution: MATLAB-compatible bicubic resizing, PSNR and SSIM on Y, training patches, and the task of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgectl.errors import UserError
from edgectl.images import IMAGE_SUFFIXES, read_image, to_image, to_input, to_inputs
from edgectl.tasks.task import Predict, Progress, Score

PATCH = 48
"""Side of a low-resolution training patch, pixels."""
PATCHES = 16
"""Patches of each photograph that make an epoch."""
_MARGIN = 16
"""Pixels at the inner edges of a tile that are thrown away, where there is room: the reach of a model's convolutions."""


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


def ssim_y(image: np.ndarray, reference: np.ndarray, shave: int) -> float:
    """SSIM of two 8-bit RGB images [H, W, 3], on Y, without `shave` pixels at every edge (Wang et al., 2004).

    A Gaussian window of 11x11 and sigma 1.5, where it lies within the image; K1 = 0.01, K2 = 0.03, L = 255.
    """
    if image.shape != reference.shape:
        raise ValueError(f"images differ in shape: {image.shape} and {reference.shape}")
    inner = slice(shave, -shave or None)
    x, y = luma(image)[inner, inner], luma(reference)[inner, inner]
    mx, my = _blurred(x), _blurred(y)
    vx, vy, cov = _blurred(x * x) - mx * mx, _blurred(y * y) - my * my, _blurred(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def _blurred(values: np.ndarray) -> np.ndarray:
    """[H, W] under the Gaussian window: [H - 10, W - 10]."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        values = np.lib.stride_tricks.sliding_window_view(values, 11, axis) @ kernel
    return values


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
class PhotographScore:
    """Y-PSNR in dB of a model and of bicubic interpolation on one photograph."""

    name: str
    model: float
    bicubic: float


def evaluate(model: torch.nn.Module, photographs: dict[str, np.ndarray], scale: int) -> list[PhotographScore]:
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
        scores.append(PhotographScore(name, psnr_y(upscale(model, small), large, scale), psnr_y(plain, large, scale)))
    return scores


def pair(photograph: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(high-resolution image cropped to a multiple of `scale`, its bicubic reduction)."""
    height, width = (side // scale * scale for side in photograph.shape[:2])
    large = photograph[:height, :width]
    return large, bicubic(large, height // scale, width // scale)


class Patches:
    """Random aligned training patches of photographs, flipped and turned; everything stays in memory as 8 bits.

    Args:
        photographs: the folder that they are in (`--data DIR`), or their files.
        scale: the super-resolution factor.
        patch: side of the low-resolution patch, pixels.
        progress: called with the fraction of photographs read.
    """

    def __init__(
        self,
        photographs: Path | str | Sequence[Path],
        scale: int,
        patch: int = PATCH,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.scale, self.patch = scale, patch
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        files = image_files(photographs) if isinstance(photographs, Path | str) else photographs
        for index, file in enumerate(files):
            large, small = pair(read_image(file), scale)
            if min(small.shape[:2]) >= patch:
                self.pairs.append((large, small))
            progress((index + 1) / len(files))
        if not self.pairs:
            folder = photographs if isinstance(photographs, Path | str) else files[0].parent
            raise UserError(f"Every image in {folder} is smaller than {patch * scale} pixels: give larger photographs.")

    def sample(self, generator: np.random.Generator, photograph: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One (low, high) pair of 8-bit patches [patch, patch, 3] and [scale*patch, scale*patch, 3], of `photograph` or any."""
        large, small = self.pairs[generator.integers(len(self.pairs)) if photograph is None else photograph]
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
    return torch.from_numpy(to_inputs(np.stack(patches)))


class PatchExamples:
    """Training patches: an epoch is `PATCHES` of every photograph."""

    def __init__(self, patches: Patches) -> None:
        self.patches = patches

    def __len__(self) -> int:
        return PATCHES * len(self.patches.pairs)

    def batch(self, indices: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Low and high resolution, float32 [N, 3, p, p] and [N, 3, scale*p, scale*p] in [0, 1]."""
        count = len(self.patches.pairs)
        low, high = zip(*(self.patches.sample(generator, index % count) for index in indices), strict=True)
        return _stack(low), _stack(high)


class SuperResolution:
    """Upscaling of photographs by a whole factor.

    Data is a folder with `train` and `test` in it, or a folder of photographs that is both. Test photographs are reduced by
    MATLAB's bicubic; of a pair `x_HR.png`, `x_LR.png`, the latter is the reduction.

    Args:
        shape: the model's input [N, 3, H, W].
        scale: the factor; None where the recipe does not say it.

    Raises:
        UserError: there is no factor, or the shape is no RGB image's.
    """

    def __init__(self, shape: Sequence[int], scale: int | None) -> None:
        if scale is None:
            raise UserError(
                "The recipe does not say by how much its model enlarges: write `scale = 2` (or 3, 4) under [model]."
            )
        if len(shape) != 4 or shape[1] != 3:
            raise UserError(f"The model takes an input of shape {list(shape)}, not RGB images [N, 3, H, W].")
        self.scale = scale

    def examples(self, data: Path, progress: Progress) -> PatchExamples:
        """Patches of the photographs in `train`.

        Raises:
            UserError: as `Patches`.
        """
        return PatchExamples(
            Patches(photographs_of(data, "train"), self.scale, progress=lambda done: progress("reading photographs", done))
        )

    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean absolute difference.

        Raises:
            UserError: the model enlarges by another factor.
        """
        if output.shape != target.shape:
            raise UserError(
                f"The model makes images of {list(output.shape)} where the recipe's scale asks for {list(target.shape)}."
            )
        return F.l1_loss(output, target)

    def distillation(self, output: Any, teacher: Any) -> Tensor:
        """Mean absolute difference."""
        return F.l1_loss(output, teacher)

    @torch.no_grad()
    def score(self, predict: Predict, data: Path, *, fixed: Sequence[int] | None = None, progress: Progress) -> Score:
        """Mean Y-PSNR in dB without `scale` pixels at every edge; SSIM, bicubic and each photograph in the details.

        With `fixed`, photographs are upscaled in overlapping tiles, mirrored where they are smaller than one.

        Raises:
            UserError: there are no photographs, a reduction is not of its photograph's size, or the model's output is not.
        """
        files = image_files(photographs_of(data, "test"))
        figures, details = [], {}
        for index, file in enumerate(files):
            large, small = test_pair(file, self.scale)
            image = _upscaled(predict, small, self.scale, fixed)
            plain = bicubic(small, *large.shape[:2])
            figures.append(
                (psnr_y(image, large, self.scale), ssim_y(image, large, self.scale), psnr_y(plain, large, self.scale))
            )
            details[f"PSNR of {file.stem}"] = figures[-1][0]
            progress("scoring", (index + 1) / len(files))
        psnr, ssim, floor = (float(mean) for mean in np.mean(figures, axis=0))
        return Score("Y-PSNR", "dB", psnr, None, len(files), {"SSIM": ssim, "bicubic": floor, **details})


def photographs_of(data: Path, name: str) -> Path:
    """The folder of the `train` or `test` photographs: the one of that name in `data`, or `data` itself."""
    return data / name if (data / name).is_dir() else data


def test_pair(file: Path, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(high, low) resolution of a test photograph: the given reduction, or ours.

    Raises:
        UserError: the photograph is too small, or the reduction is not of its size.
    """
    photograph = read_image(file)
    if min(photograph.shape[:2]) < 11 + 2 * scale:
        raise UserError(f"{file} is too small to be scored: give photographs of more than {10 + 2 * scale} pixels a side.")
    given = file.with_name(f"{file.stem.removesuffix('_HR')}_LR{file.suffix}")
    if not file.stem.endswith("_HR") or not given.is_file():
        return pair(photograph, scale)
    small = read_image(given)
    height, width = (side * scale for side in small.shape[:2])
    if (height, width) != tuple(side // scale * scale for side in photograph.shape[:2]):
        raise UserError(f"{given} is not {file.name} reduced by {scale}: give pairs of that scale, or photographs alone.")
    return photograph[:height, :width], small


def _upscaled(predict: Predict, image: np.ndarray, scale: int, fixed: Sequence[int] | None) -> np.ndarray:
    """An 8-bit image [H, W, 3] through a model: [scale*H, scale*W, 3]."""
    inputs = torch.from_numpy(to_input(image))
    if fixed is None:
        return to_image(_enlarged(predict, inputs, scale).numpy())
    batch, _, tall, wide = fixed
    height, width = image.shape[:2]
    lack = ((0, max(0, tall - height)), (0, max(0, wide - width)), (0, 0))
    whole = torch.from_numpy(to_input(np.pad(image, lack, mode="symmetric")))
    spans = [(y, x) for y in _spans(whole.shape[2], tall) for x in _spans(whole.shape[3], wide)]
    result = torch.zeros(1, 3, scale * whole.shape[2], scale * whole.shape[3])
    for start in range(0, len(spans), batch):
        chosen = spans[start : start + batch]
        tiles = torch.cat([whole[:, :, y[0] : y[0] + tall, x[0] : x[0] + wide] for y, x in chosen])
        for tile, (y, x) in zip(_enlarged(predict, tiles, scale), chosen, strict=True):
            (top, first, last), (left, begin, end) = ([scale * at for at in span] for span in (y, x))
            result[0, :, first:last, begin:end] = tile[:, first - top : last - top, begin - left : end - left]
    return to_image(result[:, :, : scale * height, : scale * width].numpy())


def _enlarged(predict: Predict, inputs: Tensor, scale: int) -> Tensor:
    """The model's output for inputs [N, 3, H, W], float32 on the CPU."""
    output = predict(inputs)
    output = output if isinstance(output, Tensor) else output[0]
    wanted = [*inputs.shape[:2], *(scale * side for side in inputs.shape[2:])]
    if list(output.shape) != wanted:
        raise UserError(f"The model makes images of {list(output.shape)} where the recipe's scale asks for {wanted}.")
    return output.detach().float().cpu()


def _spans(size: int, tile: int) -> list[tuple[int, int, int]]:
    """Tiles along a side of `size` >= `tile` pixels: (start, first pixel to keep, end of those to keep).

    The first and last are aligned to the image's edges, where what a model sees beyond them is as in the whole image.
    """
    margin = min(_MARGIN, tile // 4)
    starts = [*range(0, size - tile, tile - 2 * margin), size - tile]
    ends = [*(start + tile - margin for start in starts[:-1]), size]
    return list(zip(starts, [0, *ends[:-1]], ends, strict=True))
