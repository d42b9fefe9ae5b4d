"""What `edgectl build` writes: one folder with the model, a manifest and a golden input/output pair."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgectl.errors import UserError

FORMAT_VERSION = 1
GOLDEN_TOLERANCE = 1e-3
"""How far a device's outputs may be from the golden ones, over the largest value there; quantised networks have their own."""

GoldenBy = Literal["PyTorch", "the integer reference"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TensorSpec(_Strict):
    """Shape and dtype of one input or output (`float32` only, for now)."""

    shape: list[int]
    dtype: str


class Layer(_Strict):
    """One layer as it runs: the PyTorch module path, and what was found in its weights.

    `rate` is weights / non-zeros; `scheme` is what the packer recognised (`dense` when next to nothing is zero).
    `bits` are those of a weight, and `quant` is their codebook (`fixed`, `power_of_two`, `sp2`, `msq`), empty for float32.
    `runner` is `edge`, `xnnpack` or `executorch`.
    """

    name: str
    op: str
    runner: Literal["edge", "xnnpack", "executorch"]
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


class Manifest(_Strict):
    """manifest.json.

    `golden_by` computed the golden outputs, with the same pruned and quantised weights, and a device's may differ from them by
    `golden_tolerance` times their largest value; edgectl.lowering.golden says how they are chosen.
    """

    format_version: int = FORMAT_VERSION
    edgectl: str
    plan_version: int
    format: Literal["pte"]
    model: str
    recipe: dict[str, Any]
    git_revision: str | None
    sha256: dict[str, str]
    inputs: list[TensorSpec] = Field(min_length=1)
    outputs: list[TensorSpec] = Field(min_length=1)
    golden_by: GoldenBy = "PyTorch"
    golden_tolerance: float = Field(default=GOLDEN_TOLERANCE, gt=0)
    layers: list[Layer]


class Artifact:
    """A built artifact on disk. Opening it checks the manifest and the files' hashes."""

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
        return self.folder / self.manifest.model

    def golden(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The golden inputs and the outputs that `golden_by` of the manifest computed for them."""
        return self._load("input", self.manifest.inputs), self._load("output", self.manifest.outputs)

    def _load(self, kind: str, specs: list[TensorSpec]) -> list[np.ndarray]:
        return [np.load(self.folder / name, allow_pickle=False) for name in _golden(kind, specs)]


def _golden(kind: str, specs: list[TensorSpec]) -> list[str]:
    return [f"golden/{kind}_{i}.npy" for i in range(len(specs))]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
