"""The delegate library inside LiteRT's Python interpreter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, load_delegate

from edgectl.native import host_litert_delegate

from .conftest import Model
from .tflite_writer import PLAN_MAGIC, TfliteWriter, plans_in


@pytest.fixture(scope="module")
def library() -> Path:
    return host_litert_delegate()


def interpreter(library: Path, model: Path, threads: str = "1") -> Any:
    return Interpreter(str(model), experimental_delegates=[load_delegate(str(library), {"threads": threads})])


def run(ready: Any, x: np.ndarray) -> np.ndarray:
    ready.set_tensor(ready.get_input_details()[0]["index"], x)
    ready.invoke()
    return np.asarray(ready.get_tensor(ready.get_output_details()[0]["index"]))


def test_the_library_exports_what_load_delegate_looks_for_and_nothing_else(library: Path) -> None:
    done = subprocess.run(["nm", "--dynamic", "--defined-only", library], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    assert names == {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}


def test_a_model_agrees_with_pytorch(library: Path, small_tflite: Model) -> None:
    ready = interpreter(library, small_tflite.path)
    ready.allocate_tensors()
    for _ in range(2):
        np.testing.assert_allclose(run(ready, small_tflite.x), small_tflite.y, atol=1e-5)


def test_two_models_run_side_by_side(library: Path, small_tflite: Model, mixed_tflite: Model) -> None:
    both = [(interpreter(library, model.path), model) for model in (small_tflite, mixed_tflite)]
    for ready, _ in both:
        ready.allocate_tensors()
    for _ in range(2):
        for ready, model in both:
            np.testing.assert_allclose(run(ready, model.x), model.y, atol=1e-4)


@pytest.mark.parametrize("threads", ["1", "3", "6"])
def test_the_option_chooses_the_number_of_threads(library: Path, small_tflite: Model, threads: str) -> None:
    before = set(os.listdir("/proc/self/task"))
    ready = interpreter(library, small_tflite.path, threads)
    ready.allocate_tensors()
    started = set(os.listdir("/proc/self/task")) - before
    np.testing.assert_allclose(run(ready, small_tflite.x), small_tflite.y, atol=1e-5)
    assert len(started) == int(threads) - 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": "0"}, "from 1 to 256, not 0"),
        ({"threads": "257"}, "from 1 to 256, not 257"),
        ({"threads": "fish"}, "from 1 to 256, not fish"),
        ({"threads": "-1"}, "from 1 to 256, not -1"),
        ({"speed": "11"}, "no option speed"),
    ],
)
def test_a_wrong_option_is_refused(library: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_delegate(str(library), options)


def test_constants_that_are_not_aligned_give_the_same(library: Path, small: Model, tmp_path: Path) -> None:
    (plan,) = plans_in(small.path.read_bytes())
    for alignment in (1, 4, 16):
        writer = TfliteWriter()
        x, y = writer.tensor(small.x.shape), writer.tensor(small.y.shape)
        writer.plan(plan, [x], [y])
        ready = interpreter(library, writer.write(tmp_path / "model.tflite", [x], [y], alignment))
        ready.allocate_tensors()
        np.testing.assert_allclose(run(ready, small.x), small.y, atol=1e-5)


def test_shapes_may_differ_from_the_plans_but_not_sizes(library: Path, small: Model, tmp_path: Path) -> None:
    (plan,) = plans_in(small.path.read_bytes())
    writer = TfliteWriter()
    x, y = writer.tensor([3, 256]), writer.tensor([2, 2])
    writer.plan(plan, [x], [y])
    ready = interpreter(library, writer.write(tmp_path / "model.tflite", [x], [y]))
    ready.allocate_tensors()
    np.testing.assert_allclose(run(ready, small.x.reshape(3, 256)).ravel(), small.y.ravel(), atol=1e-5)
    ready.resize_tensor_input(0, [3, 255])
    with pytest.raises(RuntimeError, match="765 elements"):
        ready.allocate_tensors()


Change = Callable[[TfliteWriter, bytes], tuple[Sequence[int], Sequence[int]]]


def ours(
    writer: TfliteWriter,
    plan: bytes,
    x: Sequence[int] = (1, 3, 16, 16),
    y: Sequence[int] = (1, 4),
    types: tuple[str, str] = ("float32", "float32"),
) -> Any:
    ins, outs = [writer.tensor(x, types[0])], [writer.tensor(y, types[1])]
    writer.plan(plan, ins, outs)
    return ins, outs


def damaged(at: int, value: int) -> Change:
    return lambda writer, plan: ours(writer, plan[:at] + bytes([value]) + plan[at + 1 :])


def without_plan(writer: TfliteWriter, plan: bytes) -> Any:
    ins, outs = [writer.tensor([1, 3, 16, 16])], [writer.tensor([1, 4])]
    writer.op("EdgeKernels", ins, outs)
    return ins, outs


def with_nothing(writer: TfliteWriter, plan: bytes) -> Any:
    ins, outs = [writer.tensor([1, 3, 16, 16])], [writer.tensor([1, 4])]
    writer.op("EdgeKernels", [], outs)
    return ins, outs


def with_two_outputs(writer: TfliteWriter, plan: bytes) -> Any:
    ins, outs = [writer.tensor([1, 3, 16, 16])], [writer.tensor([1, 4]), writer.tensor([1, 4])]
    writer.plan(plan, ins, outs)
    return ins, outs


def with_two_inputs(writer: TfliteWriter, plan: bytes) -> Any:
    ins, outs = [writer.tensor([1, 3, 16, 16]), writer.tensor([1, 3, 16, 16])], [writer.tensor([1, 4])]
    writer.plan(plan, ins, outs)
    return ins, outs


def with_a_plan_that_is_no_constant(writer: TfliteWriter, plan: bytes) -> Any:
    ins, outs = [writer.tensor([1, 3, 16, 16]), writer.tensor([len(plan)], "uint8")], [writer.tensor([1, 4])]
    writer.op("EdgeKernels", ins, outs)
    return ins, outs


def with_an_input_left_out(writer: TfliteWriter, plan: bytes) -> Any:
    ins, outs = [writer.tensor([1, 3, 16, 16])], [writer.tensor([1, 4])]
    writer.plan(plan, [-1], outs)
    return ins, outs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damaged(0, 0), "not an edgectl plan"),
        (damaged(8, 99), "another format version"),
        (damaged(12, 0xFF), "plan"),
        (damaged(40, 7), "damaged"),
        (lambda writer, plan: ours(writer, plan[:-1]), "cut short"),
        (lambda writer, plan: ours(writer, plan[:50]), "cut short"),
        (lambda writer, plan: ours(writer, plan, x=(1, 3, 16, 15)), "input 0 has 720 elements, the plan was compiled for 768"),
        (lambda writer, plan: ours(writer, plan, y=(1, 5)), "output 0 has 5 elements"),
        (lambda writer, plan: ours(writer, plan, x=()), "input 0 has 1 elements"),
        (lambda writer, plan: ours(writer, plan, types=("int32", "float32")), "input 0 is not float32"),
        (lambda writer, plan: ours(writer, plan, types=("float32", "int32")), "output 0 is not float32"),
        (without_plan, "not a plan"),
        (with_nothing, "not a plan"),
        (with_two_outputs, "another number of inputs or outputs"),
        (with_two_inputs, "another number of inputs or outputs"),
        (with_a_plan_that_is_no_constant, "not a plan"),
        (with_an_input_left_out, "input 0 is not float32"),
    ],
)
def test_an_op_that_does_not_fit_its_plan_is_refused(
    library: Path, small: Model, tmp_path: Path, change: Change, words: str
) -> None:
    (plan,) = plans_in(small.path.read_bytes())
    assert plan.startswith(PLAN_MAGIC)
    writer = TfliteWriter()
    ins, outs = change(writer, plan)
    path = writer.write(tmp_path / "model.tflite", ins, outs)
    with pytest.raises((RuntimeError, ValueError), match=words):
        interpreter(library, path).allocate_tensors()
