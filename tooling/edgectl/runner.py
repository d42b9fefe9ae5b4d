"""Runs an artifact on a device: pushes the runner and the model, starts it, reads its JSON, fetches its outputs."""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from edgectl.artifact import MODEL_FILES, Artifact
from edgectl.device import Device, Progress, PushResult
from edgectl.errors import ToolError, UserError
from edgectl.native import runner_bundle

_TIMEOUT_SECONDS = 3600.0


class Reply(BaseModel):
    """What the runner says of a good run; times in ns of the device's own clock, `isa` the instruction set of our kernels."""

    version: int
    threads: int
    isa: str
    warmup: int
    load_ns: int
    runs_ns: list[int]
    peak_rss_kb: int
    outputs: list[dict[str, Any]]


class Peaks(BaseModel):
    """What a device does at most with some threads: float operations, and bytes read from memory, in a ns of its clock.

    Per ns of time these are GFLOP/s and GB/s; in the emulated phone they are per executed instruction.
    """

    version: int
    threads: int
    flops_per_ns: float = Field(gt=0)
    bytes_per_ns: float = Field(gt=0)


_Said = TypeVar("_Said", Reply, Peaks)


class Session:
    """An artifact on a device, ready to run. `Session.open` pushes what the device lacks."""

    def __init__(self, artifact: Artifact, device: Device, command: Sequence[str], pushed: list[PushResult]) -> None:
        self.artifact = artifact
        self.device = device
        self.pushed = pushed
        self._command = list(command)
        self._folder = remote_folder(artifact)

    @classmethod
    def open(cls, artifact: Artifact, device: Device, progress: Progress | None = None) -> Session:
        """Pushes the runner, the model and its golden inputs; files that are there already are left alone.

        Raises:
            ToolError: the runner cannot be built, or the device fails.
        """
        bundle = runner_bundle(device.target, artifact.manifest.format, progress)
        golden = {f"golden_{i}.npy": path for i, path in enumerate(artifact.golden_inputs)}
        files = {MODEL_FILES[artifact.manifest.format]: artifact.model, **golden}
        pushed = [
            device.push(bundle.files, runner_folder(artifact), progress=progress),
            device.push(files, remote_folder(artifact), progress=progress),
        ]
        return cls(artifact, device, bundle.command, pushed)

    def run(
        self,
        inputs: Sequence[np.ndarray] | None = None,
        *,
        want_outputs: bool = False,
        warmup: int = 0,
        runs: int = 1,
        examples: int | None = None,
        threads: int = 1,
        cpu_mask: str | None = None,
        profile: Path | None = None,
        isa: str | None = None,
    ) -> tuple[Reply, list[np.ndarray]]:
        """Runs the model on `inputs` (None: the golden ones, or zeros where there are none).

        Returns the runner's reply and, if wanted, the outputs.

        Args:
            examples: how many examples every input holds along an axis in front, as the outputs then do; the model runs once
                for each. None: one, without that axis, `runs` times.
            cpu_mask: hexadecimal mask of the cores to run on.
            profile: where to keep the profile; None runs without a profiler.
            isa: the instruction set whose kernels to use, as runtime_kernels/README.md names them; None for the best.

        Raises:
            UserError: the model is somebody else's, and LiteRT cannot load it.
            ToolError: the device or the runner fails, the device lacks the instruction set, or what was returned cannot be
                read.
        """
        mark = uuid.uuid4().hex[:12]
        remote: list[str] = []  # what this run leaves in the artifact's folder on the device
        try:
            names = self._push_inputs(inputs, mark, remote)
            arguments = ["--model", self._path(MODEL_FILES[self.artifact.manifest.format])]
            for name in names:
                arguments += ["--input", self._path(name)]
            arguments += ["--warmup", str(warmup), "--threads", str(threads)]
            arguments += ["--runs", str(runs)] if examples is None else ["--examples", str(examples)]
            if cpu_mask is not None:
                arguments += ["--cpu-mask", cpu_mask]
            if profile is not None:
                remote.append(f"{mark}.profile")
                arguments += ["--profile", self._path(remote[-1])]
            if want_outputs:
                outputs = [f"{mark}_{i}.npy" for i in range(len(self.artifact.manifest.outputs))]
                remote += outputs
                arguments += ["--output", self._path(mark)]
            reply = self._ask(arguments, Reply, [] if isa is None else ["env", f"EDGE_ISA={isa}"])
            if isa not in (None, reply.isa):
                raise ToolError(f"running on {self.device.name}", f"its processor does not have {isa}: {reply.isa} was used")
            if profile is not None:
                self.device.pull(f"{mark}.profile", profile, self._folder)
            return reply, [self._pull_array(name) for name in outputs] if want_outputs else []
        finally:
            if remote:
                with contextlib.suppress(ToolError):  # the device may be gone; its next push does not trip over leftovers
                    self.device.run(["rm", "-f", *remote], folder=self._folder, timeout=30)

    def peaks(self, threads: int = 1) -> Peaks:
        """Measures what the device does at most with `threads` threads; the artifact is not run.

        Raises:
            ToolError: the device or the runner fails, or lacks the memory to read.
        """
        return self._ask(["--peaks", "--threads", str(threads)], Peaks)

    def check(self, outputs: Sequence[np.ndarray]) -> float:
        """The largest difference of a golden run's outputs from the golden ones, over their largest value.

        Raises:
            ToolError: it is above what the manifest allows.

        Returns 0 where nobody says what the answer should be.
        """
        manifest = self.artifact.manifest
        if manifest.golden_by is None:
            return 0.0
        _, wanted = self.artifact.golden()
        worst = max(relative_difference(got, want) for got, want in zip(outputs, wanted, strict=True))
        if not worst <= manifest.golden_tolerance:
            whose = "PyTorch's" if manifest.golden_by == "PyTorch" else f"its golden output, that of {manifest.golden_by},"
            raise ToolError(
                f"checking {self.artifact.folder} on {self.device.name}",
                f"its output differs from {whose} by {worst:.2e} of the largest value, "
                f"and {manifest.golden_tolerance:.0e} is allowed",
            )
        return worst

    def _path(self, name: str) -> str:
        return f"{self.device.workdir}/{self._folder}/{name}"

    def _push_inputs(self, inputs: Sequence[np.ndarray] | None, mark: str, remote: list[str]) -> list[str]:
        if inputs is None:
            return [f"golden_{i}.npy" for i in range(len(self.artifact.golden_inputs))]
        names = [f"{mark}_in_{i}.npy" for i in range(len(inputs))]
        remote += names
        with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
            files = {name: Path(folder) / name for name in names}
            for path, array in zip(files.values(), inputs, strict=True):
                np.save(path, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
            self.device.push(files, self._folder)
        return names

    def _pull_array(self, name: str) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
            local = Path(folder) / name
            self.device.pull(name, local, self._folder)
            try:
                array: np.ndarray = np.load(local, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise ToolError(f"reading an output of {self.device.name}", str(error)) from error
            return array

    def _ask(self, arguments: Sequence[str], kind: type[_Said], before: Sequence[str] = ()) -> _Said:
        what = self.artifact.folder.name if kind is Reply else "the measurement of its peaks"
        step = f"running {what} on {self.device.name}"
        result = self.device.run(
            [*before, *self._command, *arguments],
            folder=runner_folder(self.artifact),
            timeout=_TIMEOUT_SECONDS,
            label=what,
        )
        try:
            document = json.loads(result.stdout)
        except ValueError:
            document = None
        if isinstance(document, dict) and isinstance(document.get("error"), dict):
            if document["error"].get("step") == "load" and self.artifact.manifest.golden_by is None:
                raise UserError(f"{self.artifact.folder} cannot be run: {document['error'].get('message')}")
            raise ToolError(step, str(document["error"].get("message", document["error"])))
        if result.code != 0 or document is None:
            said = (result.stderr.strip() or result.stdout.strip())[-1500:]
            raise ToolError(step, f"the runner ended with code {result.code}" + (f": {said}" if said else ""))
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            raise ToolError(step, f"the runner's reply cannot be read: {error.errors()[0]['msg']}") from error


def execute(
    artifact: Artifact,
    device: Device,
    inputs: Sequence[np.ndarray],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Runs an artifact once on a device: float32 inputs in, float32 outputs out, images in NCHW whatever the artifact's layout.

    Raises:
        UserError: the inputs are not of the artifact's shapes, or it takes others than float32.
        ToolError: the device or the runner fails.
    """
    specs = artifact.manifest.inputs
    if any(spec.dtype != "float32" for spec in specs):
        raise UserError(
            f"{artifact.folder} takes {', '.join(spec.dtype for spec in specs)}; edgectl gives float32 inputs only."
        )
    wanted = [tuple(spec.torch_shape) for spec in specs]
    given = [array.shape for array in inputs]
    if wanted != given:
        raise UserError(f"{artifact.folder} takes inputs of shapes {wanted}, not {given}.")
    session = Session.open(artifact, device, progress)
    if progress:
        progress(f"running on {device.name}", None)
    arranged = [spec.from_nchw(array) for spec, array in zip(specs, inputs, strict=True)]
    _, outputs = session.run(arranged, want_outputs=True, threads=threads)
    return [spec.to_nchw(array) for spec, array in zip(artifact.manifest.outputs, outputs, strict=True)]


def reference(artifact: Artifact, recipe_path: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the golden outputs' author computes for `inputs` (NCHW): PyTorch or, of a quantised network, the integer reference.

    It runs the model that the artifact was built from, compressed as the recipe says.

    Raises:
        UserError: the artifact was built from another recipe, its model has changed since, or the recipe does not load.
    """
    import torch  # noqa: PLC0415

    from edgectl.lowering.builder import compress  # noqa: PLC0415
    from edgectl.lowering.compile import compile_module  # noqa: PLC0415
    from edgectl.lowering.golden import golden, pytorch  # noqa: PLC0415
    from edgectl.recipe import Recipe, load_model  # noqa: PLC0415

    manifest = artifact.manifest
    recipe = Recipe.load(recipe_path).to_format(manifest.format)
    if recipe.model_dump(mode="json") != manifest.recipe:
        raise UserError(f"{artifact.folder} was not built from {recipe_path}: build it again, or name its own recipe.")
    golden_inputs, golden_outputs = (
        [spec.to_nchw(array) for spec, array in zip(specs, arrays, strict=True)]
        for specs, arrays in zip((manifest.inputs, manifest.outputs), artifact.golden(), strict=True)
    )
    example = torch.from_numpy(golden_inputs[0])
    model = compress(recipe, load_model(recipe), example)
    expected = golden(compile_module(model, example, target=recipe.target), model) if recipe.quant else pytorch(model)
    near = manifest.golden_tolerance / 10
    differences = map(relative_difference, expected.forward(golden_inputs), golden_outputs)
    if not all(difference <= near for difference in differences):
        raise UserError(f"The model of {recipe_path} has changed since {artifact.folder} was built from it: build it again.")
    return expected.forward(inputs)


def runner_folder(artifact: Artifact) -> str:
    """Where the runner of an artifact's format lives below a device's work folder."""
    return "runner" if artifact.manifest.format == "pte" else f"{artifact.manifest.format}_runner"


def remote_folder(artifact: Artifact) -> str:
    """Where an artifact lives below a device's work folder: by content, so that two of one name do not mix."""
    return f"artifacts/{model_hash(artifact)[:16]}"


def model_hash(artifact: Artifact) -> str:
    """SHA-256 of the model file, from the manifest."""
    return artifact.manifest.sha256[artifact.manifest.model]


def largest_difference(got: np.ndarray, want: np.ndarray) -> float:
    """max |got - want|; infinite for other shapes or NaN."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got.astype(np.float64) - want).max(initial=0.0))


def relative_difference(got: np.ndarray, want: np.ndarray) -> float:
    """`largest_difference` over max |want| (over 1 where `want` is all zero)."""
    return largest_difference(got, want) / (float(np.abs(want).max(initial=0.0)) or 1.0)
