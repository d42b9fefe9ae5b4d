"""Photographs in and out of a model: 8-bit RGB [H, W, 3] on disk, float32 [1, 3, H, W] in [0, 1] in the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgectl.errors import ToolError, UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_image(path: Path | str) -> np.ndarray:
    """Reads an image file as 8-bit RGB [H, W, 3], upright where its camera noted the angle, without transparency.

    Raises:
        UserError: there is no such file, or it is not an image, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no image {path}: check the path.")
    return decode_image(path, path)


def decode_image(file: Path | BinaryIO, name: Path | str, *, grey: bool = False) -> np.ndarray:
    """Decodes an image as `read_image` does, or as 8-bit grey [H, W, 1]; messages call it `name`.

    Raises:
        UserError: it is not an image, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                upright = ImageOps.exif_transpose(image)
                return np.asarray(upright.convert("L"))[..., None] if grey else np.asarray(upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image: give a PNG or JPEG file.") from error
    except Exception as error:  # a decoder raises nearly anything on a damaged file
        raise UserError(f"{name} cannot be read as an image ({error}): give a PNG or JPEG file.") from error


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Writes an 8-bit RGB image [H, W, 3]; the suffix chooses the format.

    Raises:
        UserError: the suffix is no image format's.
        ToolError: the file cannot be written.
    """
    check_image_name(path)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    except OSError as error:
        raise ToolError(f"writing {path}", error.strerror or str(error)) from error


def check_image_name(path: Path | str) -> None:
    """Refuses a name whose suffix is no image format, before any work is done for it.

    Raises:
        UserError: it is not.
    """
    if Image.registered_extensions().get(Path(path).suffix.lower()) not in Image.SAVE:
        raise UserError(f"{Path(path).name} does not end as an image does: use .png, .jpg or .webp.")


def to_input(image: np.ndarray) -> np.ndarray:
    """8-bit RGB [H, W, 3] -> float32 [1, 3, H, W] in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def to_inputs(images: np.ndarray) -> np.ndarray:
    """8-bit images [N, H, W, C] -> float32 [N, C, H, W] in [0, 1], channels last in memory.

    In numpy, which computes in the thread that asks: an operation of torch in a thread that makes batches would start a second
    pool of threads there, and the two pools would fight for the cores.
    """
    made: np.ndarray = np.divide(images, np.float32(255), dtype=np.float32).transpose(0, 3, 1, 2)
    return made


def to_image(output: np.ndarray) -> np.ndarray:
    """Float [1, 3, H, W] in [0, 1] -> 8-bit RGB [H, W, 3], clipped and rounded.

    Raises:
        UserError: the shape is not an RGB image's.
    """
    if output.ndim != 4 or output.shape[:2] != (1, 3):
        raise UserError(f"The model's output has shape {tuple(output.shape)}, not an RGB image's (1, 3, H, W).")
    return np.floor(np.clip(output[0].transpose(1, 2, 0), 0, 1) * 255 + 0.5).astype(np.uint8)


def read_input(path: Path | str, shape: Sequence[int]) -> np.ndarray:
    """Reads an image file as a model input of `shape` (1, 3, height, width), float32 in [0, 1].

    Raises:
        UserError: as `read_image`; or `shape` is not an image's, or the image has another size.
    """
    if len(shape) != 4 or tuple(shape[:2]) != (1, 3):
        raise UserError(f"This artifact takes an input of shape {tuple(shape)}, not an RGB image (1, 3, H, W).")
    image = read_image(path)
    height, width = image.shape[:2]
    if (height, width) != tuple(shape[2:]):
        raise UserError(
            f"{path} is {width}x{height}, but this artifact takes {shape[3]}x{shape[2]}: resize or crop it to "
            f"{shape[3]}x{shape[2]}, or build the artifact for {width}x{height}."
        )
    return to_input(image)
