"""What `edgectl build` writes: one folder with the model, a manifest and a golden input/output pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import edgectl
from edgectl import tflite
from edgectl.errors import UserError
from edgectl.recipe import Format

FORMAT_VERSION = 1
GOLDEN_TOLERANCE = 1e-3
"""How far a device's outputs may be from the golden ones, over the largest value there; quantised networks have their own."""

GoldenBy = Literal["PyTorch", "the integer reference"]
Runner = Literal["edge", "xnnpack", "executorch", "litert"]
MODEL_FILES: dict[Format, str] = {"pte": "model.pte", "litert": "model.tflite"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TensorSpec(_Strict):
    """Shape and dtype of one input or output; `channels_last` images are NHWC, others NCHW."""

    shape: list[int]
    dtype: str
    channels_last: bool = False

    @classmethod
    def of(cls, shape: Sequence[int], channels_last: bool) -> TensorSpec:
        """Of a float32 tensor that has `shape` in PyTorch; `channels_last` says how images are."""
        if not channels_last or len(shape) != 4:
            return cls(shape=list(shape), dtype="float32")
        n, c, h, w = shape
        return cls(shape=[n, h, w, c], dtype="float32", channels_last=True)

    @property
    def torch_shape(self) -> list[int]:
        """The shape as in PyTorch."""
        if not self.channels_last:
            return self.shape
        n, h, w, c = self.shape
        return [n, c, h, w]

    def from_nchw(self, array: np.ndarray) -> np.ndarray:
        """An array that is as in PyTorch as the model takes it, in C order."""
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if self.channels_last else array)

    def to_nchw(self, array: np.ndarray) -> np.ndarray:
        """An array of the model's as in PyTorch, in C order."""
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2) if self.channels_last else array)


class Layer(_Strict):
    """One layer as it runs: the PyTorch module path, and what was found in its weights.

    `rate` is weights / non-zeros; `scheme` is what the packer recognised (`dense` when next to nothing is zero).
    `bits` are those of a weight, and `quant` is their codebook (`fixed`, `power_of_two`, `sp2`, `msq`), empty for float32
    and for float16 (16 bits).
    `runner` is `edge`, `xnnpack`, `executorch` or `litert`. `fused` are the operations that it does as well, among them its
    `activation` and, where it adds another map, its `residual`.
    """

    name: str
    op: str
    runner: Runner
    input_shape: list[int]
    output_shape: list[int]
    scheme: str = "dense"
    rate: float = 1.0
    weights: int = 0
    nonzeros: int = 0
    bits: int = 32
    quant: str = ""
    macs: int = 0
    effective_macs: int = 0
    bytes: int = 0
    block: int = 0
    fused: list[str] = []
    activation: str = ""
    residual: bool = False


class Manifest(_Strict):
    """manifest.json.

    `golden_by` (None: there are none) computed the golden outputs, with the same pruned and quantised weights, and a device's
    may differ from them by `golden_tolerance` times their largest value; edgectl.lowering.golden says how they are chosen.
    """

    format_version: int = FORMAT_VERSION
    edgectl: str
    plan_version: int
    format: Format
    model: str
    recipe: dict[str, Any]
    git_revision: str | None
    sha256: dict[str, str]
    inputs: list[TensorSpec] = Field(min_length=1)
    outputs: list[TensorSpec] = Field(min_length=1)
    golden_by: GoldenBy | None = "PyTorch"
    golden_tolerance: float = Field(default=GOLDEN_TOLERANCE, gt=0)
    layers: list[Layer]


class Artifact:
    """A built artifact on disk. Opening it checks the manifest and the files' hashes.

    A `.tflite` file that somebody else made is an artifact too, of one file, whose `manifest.golden_by` is None: nobody says
    what it should answer. Its `folder` is then the file.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path | str) -> Artifact:
        """Reads and checks an artifact.

        Raises:
            UserError: no such artifact, another format version, or a file that is missing or differs from its hash.
        """
        folder = Path(folder)
        if folder.is_file():
            return cls(folder, _manifest_of(folder))
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"{folder} is not an artifact: it has no manifest.json. Make one with `edgectl build`.")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version = raw.get("format_version") if isinstance(raw, dict) else None
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read as JSON: {error}") from error
        if version != FORMAT_VERSION:
            raise UserError(
                f"{folder} has artifact format version {version}, this edgectl reads {FORMAT_VERSION}: build it again."
            )
        try:
            manifest = Manifest.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path} is damaged at {where}: {first['msg']}. Build the artifact again.") from error
        artifact = cls(folder, manifest)
        for name in {manifest.model, *_golden("input", manifest.inputs), *_golden("output", manifest.outputs)}:
            if name not in manifest.sha256:
                raise UserError(f"{path} is damaged: it has no hash of {name}. Build the artifact again.")
        for name, digest in manifest.sha256.items():
            file = (folder / name).resolve()
            if not file.is_relative_to(folder.resolve()) or not file.is_file():
                raise UserError(f"{folder} lacks {name}: build the artifact again.")
            if sha256(file) != digest:
                raise UserError(f"{folder / name} differs from the hash in its manifest: build the artifact again.")
        return artifact

    @property
    def model(self) -> Path:
        """Path of the model file."""
        return self.folder if self.manifest.golden_by is None else self.folder / self.manifest.model

    @property
    def golden_inputs(self) -> list[Path]:
        """Paths of the golden inputs."""
        if self.manifest.golden_by is None:
            return []
        return [self.folder / name for name in _golden("input", self.manifest.inputs)]

    def golden(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The golden inputs and the outputs that `golden_by` of the manifest computed for them."""
        return self._load("input", self.manifest.inputs), self._load("output", self.manifest.outputs)

    def _load(self, kind: str, specs: list[TensorSpec]) -> list[np.ndarray]:
        return [np.load(self.folder / name, allow_pickle=False) for name in _golden(kind, specs)]


def _manifest_of(file: Path) -> Manifest:
    """What is known of a `.tflite` by itself."""
    if file.suffix.lower() != ".tflite":
        raise UserError(f"{file} is not an artifact: name a folder that `edgectl build` made, or a .tflite file.")
    inputs, outputs = tflite.inputs_and_outputs(file)
    return Manifest(
        edgectl=edgectl.__version__,
        plan_version=0,
        format="litert",
        model=file.name,
        recipe={},
        git_revision=None,
        sha256={file.name: sha256(file)},
        inputs=[TensorSpec(shape=tensor.shape, dtype=tensor.dtype, channels_last=_is_rgb(tensor)) for tensor in inputs],
        outputs=[TensorSpec(shape=tensor.shape, dtype=tensor.dtype, channels_last=_is_rgb(tensor)) for tensor in outputs],
        golden_by=None,
        layers=[],
    )


def _is_rgb(tensor: tflite.Tensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[1] != 3 and tensor.shape[3] == 3


def _golden(kind: str, specs: list[TensorSpec]) -> list[str]:
    return [f"golden/{kind}_{i}.npy" for i in range(len(specs))]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
