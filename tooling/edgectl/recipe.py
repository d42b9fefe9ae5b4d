"""What to build: a TOML recipe naming a model, a compression plan and a target, checked before anything runs."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from edgectl.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Cpu = Literal["arm64", "x86-64", "x86-64-v4"]
Format = Literal["pte", "litert"]
Precision = Literal["fp32", "fp16"]
SchemeName = Literal["unstructured", "filter", "pattern", "block_punched", "block_column"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Strict):
    """`[model]`: a Python file next to the recipe and a function in it that returns an `nn.Module`."""

    file: str
    factory: str
    args: dict[str, Any] = {}
    weights: str | None = None
    input: list[int] = Field(min_length=1, max_length=4)
    task: Literal["sr", "classify", "detect2d", "detect3d"] | None = None
    scale: int | None = Field(default=None, ge=1)

    @field_validator("input")
    @classmethod
    def _positive(cls, value: list[int]) -> list[int]:
        if any(size < 1 for size in value):
            raise ValueError("every size must be at least 1")
        return value


class PruneRule(_Strict):
    """`[[prune]]`: layers whose module path matches the glob `match` get `scheme` at `rate` (weights / non-zeros)."""

    match: str
    scheme: SchemeName
    rate: float = Field(ge=1, allow_inf_nan=False)
    block: tuple[int, int] | None = None
    connectivity: float | None = Field(default=None, ge=1, allow_inf_nan=False)


class QuantRule(_Strict):
    """`[[quant]]`: layers whose module path matches the glob `match` read int8 activations and `weights` of `bits` bits.

    `sp2_rows`, of msq: the fraction of a layer's rows that are SP2, or their numbers. `scale`: one for each row, or one for
    the layer.
    """

    match: str
    weights: Literal["fixed", "power_of_two", "sp2", "msq"]
    bits: int = Field(ge=2, le=8)
    sp2_rows: Annotated[float, Field(ge=0, le=1)] | list[int] = 2 / 3
    scale: Literal["row", "layer"] = "row"
    activations: Literal["int8"] = "int8"

    @model_validator(mode="after")
    def _rows_are_of_msq(self) -> QuantRule:
        if "sp2_rows" in self.model_fields_set and self.weights != "msq":
            raise ValueError(f"sets sp2_rows, which is for msq, not {self.weights}: remove it")
        return self


class CalibrateSpec(_Strict):
    """`[calibrate]`: what the ranges of int8 activations come from: `count` images of a folder at most, or `"random"` ones."""

    images: str
    count: int = Field(default=16, ge=1)


class TrainSpec(_Strict):
    """`[train]`: how `edgectl train` and `edgectl compress` train; `compress` may override any of it in its own table.

    `rate` is the first learning rate; it rises linearly over `warmup` of the steps, then falls to zero as a cosine.
    """

    epochs: float = Field(default=30, gt=0, allow_inf_nan=False)
    batch: int = Field(default=128, ge=1)
    optimiser: Literal["sgd", "adam"] = "sgd"
    rate: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    warmup: float = Field(default=0.05, ge=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)


class CompressSpec(_Strict):
    """`[compress]`: how `edgectl compress` finds the zeros of `[[prune]]` and the levels of `[[quant]]`.

    `search` is the fraction of all steps that looks for them, the rest retrains; `refreshes` how often duals (admm), weights
    of groups (reweighted) or masks (gradual) are brought up to date in it. `rho` is the last penalty of ADMM, reached from a
    thousandth of it; `strength` the factor of the reweighted penalty. `keep` is what `reweighted` may keep of `of`; without
    it, as many weights as the rules' rates keep. `latency` is that which is predicted for `device`, with `threads`, from what
    `edgectl profile-space` has measured there. `quantise` is how weights come onto their levels, `activation_bits` the bits
    that activations of quantised layers are trained with. `teacher`, weights of the dense model, is distilled from with the
    factor `distil`. `train` replaces keys of `[train]`.
    """

    method: Literal["magnitude", "gradual", "admm", "reweighted"] = "admm"
    search: float = Field(default=0.4, ge=0, lt=1)
    refreshes: int = Field(default=12, ge=1)
    rho: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    strength: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    keep: float | None = Field(default=None, gt=0, le=1)
    of: Literal["weights", "macs", "latency"] = "weights"
    device: str = "host"
    threads: int = Field(default=1, ge=1)
    quantise: Literal["ste", "admm"] = "ste"
    activation_bits: int | None = Field(default=8, ge=2, le=8)
    teacher: str | None = None
    distil: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    train: dict[str, Any] = {}

    @model_validator(mode="after")
    def _latency_is_kept(self) -> CompressSpec:
        if self.of == "latency" and (self.keep is None or self.method != "reweighted"):
            raise ValueError('has of = "latency", which needs method = "reweighted" and `keep`, the fraction of it to keep')
        return self


class TargetSpec(_Strict):
    """`[target]`: the format to compile to, and the processor for whose kernels weights are packed; it runs on any.

    `pte` is ExecuTorch's, `litert` makes a `.tflite`. `layout` is that of images in and out of a `.tflite`. `precision` is that
    of weights and of maps between layers, where our backend runs them in floating point.
    """

    format: Format = "pte"
    cpu: Cpu = "arm64"
    layout: Literal["nchw", "nhwc"] = "nchw"
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _layout_is_of_litert(self) -> TargetSpec:
        if self.layout != "nchw" and self.format != "litert":
            raise ValueError(f'sets layout = "{self.layout}", which is for format = "litert", not "{self.format}": remove it')
        return self


class Recipe(_Strict):
    """A whole recipe. `Recipe.load` is the way to make one."""

    model: ModelSpec
    prune: list[PruneRule] = []
    quant: list[QuantRule] = []
    calibrate: CalibrateSpec | None = None
    train: TrainSpec = TrainSpec()
    compress: CompressSpec = CompressSpec()
    target: TargetSpec = TargetSpec()
    _path: Path = PrivateAttr(default=Path("recipe.toml"))

    @property
    def compress_train(self) -> TrainSpec:
        """How `compress` trains: `[train]` with what `[compress] train` replaces.

        Raises:
            UserError: that has a key or a value which `[train]` may not have.
        """
        try:
            return TrainSpec.model_validate(self.train.model_dump() | self.compress.train)
        except ValidationError as error:
            raise UserError(f"{self._path}: in `compress.train` {first_problem(error)}") from error

    @property
    def path(self) -> Path:
        """Where the recipe was read from; files it names are relative to its folder."""
        return self._path

    @classmethod
    def load(cls, path: Path | str, changes: Sequence[str] = ()) -> Recipe:
        """Reads and checks a recipe.

        `changes` replace or add values, such as `train.epochs=6` or `compress.method="gradual"`; `prune.rate=8` is for every
        rule there is. A value that is no TOML is a string.

        Raises:
            UserError: the file is missing or not TOML, a change is not `key=value`, or a key, scheme, rate or shape is not one
                that edgectl knows.
        """
        path = Path(path)
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"There is no recipe at {path}.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path} is not valid TOML: {error}.") from error
        for each in changes:
            change(raw, each)
        try:
            recipe = cls.model_validate(raw)
        except ValidationError as error:
            raise UserError(f"{path}: {first_problem(error)}") from error
        recipe._path = path
        return recipe

    def to_format(self, format: Format) -> Recipe:
        """The same recipe for another format; a layout that is not of it is given up."""
        target = self.target.model_dump() | {"format": format} | ({"layout": "nchw"} if format == "pte" else {})
        return self.model_copy(update={"target": TargetSpec.model_validate(target)})

    def beside(self, name: str) -> Path:
        """The path of a file that the recipe names."""
        return self._path.parent / name


def change(raw: dict[str, Any], text: str) -> None:
    """Sets one value of a recipe as TOML gives it; raises UserError where `text` does not say which and what."""
    name, equals, given = text.partition("=")
    *tables, key = name.strip().split(".")
    if not equals or not all((*tables, key)):
        raise UserError(f"{text!r} is no change of a recipe: write it as `train.epochs=6`.")
    try:
        value = tomllib.loads(f"value = {given}")["value"]
    except tomllib.TOMLDecodeError:
        value = given.strip()
    places = [raw]
    for table in tables:
        inner = [place.setdefault(table, {}) for place in places]
        places = [each for place in inner for each in (place if isinstance(place, list) else [place])]
        if not places or not all(isinstance(place, dict) for place in places):
            raise UserError(f"{text!r} changes nothing: the recipe has no table or rule `{table}`.")
    for place in places:
        place[key] = value


def as_format(name: str) -> Format:
    """A format by its name.

    Raises:
        UserError: there is none of that name.
    """
    for known in get_args(Format):
        if name == known:
            return cast(Format, known)
    raise UserError(f"There is no format {name}: choose one of {', '.join(get_args(Format))}.")


def first_problem(error: ValidationError) -> str:
    """A clause about the first thing that is wrong, with its place."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"unknown key `{where}`; remove it or correct its name."
    if kind == "missing":
        return f"the key `{where}` is missing."
    if kind == "literal_error":
        return f"`{where}` is {problem['input']!r}, but must be one of {problem['ctx']['expected']}."
    if kind == "value_error" and isinstance(problem["input"], dict):
        return f"`{where}` {problem['ctx']['error']}."
    return f"`{where}` is {problem['input']!r}: {problem['msg'].lower()}."


def load_model(recipe: Recipe) -> nn.Module:
    """Runs the recipe's factory and loads its weights. The module comes back in eval mode, float32, on the CPU.

    The model file is the user's own Python and is executed; the weights are safetensors and are not.

    Raises:
        UserError: a file is missing, the factory is missing or fails, or the weights do not fit the module.
    """
    from torch import nn  # noqa: PLC0415

    spec = recipe.model
    factory = load_function(recipe.beside(spec.file), spec.factory)
    try:
        model = factory(**spec.args)
    except Exception as error:
        raise UserError(f"{spec.factory}(**{spec.args}) in {recipe.beside(spec.file)} failed: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec.factory} in {spec.file} must return a torch.nn.Module, not {type(model).__name__}.")
    if spec.weights is not None:
        load_weights(model, recipe.beside(spec.weights))
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file into a module, strictly.

    Raises:
        UserError: the file is missing, damaged, or its names or shapes are not the module's.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    if not path.is_file():
        raise UserError(f"There is no weights file at {path}.")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}.") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        own = model.state_dict()
        differ = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        problems = (
            (own.keys() - state.keys(), "missing"),
            (state.keys() - own.keys(), "not the model's"),
            (differ, "of another shape"),
        )
        said = ", ".join(f"{_first_of(names)} {what}" for names, what in problems if names)
        raise UserError(f"The weights in {path} do not fit the model: {said or error}.") from error


def _first_of(names: Collection[str]) -> str:
    """`a.weight is`, or `a.weight and 3 more are`."""
    return f"{min(names)} and {len(names) - 1} more are" if len(names) > 1 else f"{min(names)} is"


def load_function(file: Path, name: str) -> Any:
    """Executes a user's Python file and returns a function of it.

    Raises:
        UserError: the file is missing or cannot be imported, or it has no such function.
    """
    if not file.is_file():
        raise UserError(f"There is no model file at {file}.")
    spec = importlib.util.spec_from_file_location(f"edgectl_model_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
    folder = str(file.parent.resolve())
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UserError(f"{file} has no function `{name}`.")
    return factory
