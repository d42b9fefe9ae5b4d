"""The runner: what it prints of a good run, and that it says in one sentence what is wrong with a bad one."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgectl.native import runner_bundle

from .conftest import Ended, Model, RunRunner, refused


@pytest.fixture(scope="module")
def input_file(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "x.npy"
    np.save(path, small.x)
    return path


def test_a_run_agrees_with_pytorch_and_describes_itself(
    runner: RunRunner, small: Model, input_file: Path, tmp_path: Path
) -> None:
    arguments = ["--input", input_file, "--output", tmp_path / "y", "--warmup", "2", "--runs", "3", "--threads", "1"]
    code, document = runner("--model", small.path, *arguments)
    assert code == 0
    assert document["version"] == 1
    assert document["threads"] == 1
    assert document["warmup"] == 2
    assert len(document["runs_ns"]) == 3
    assert min(document["load_ns"], *document["runs_ns"], document["peak_rss_kb"]) > 0
    assert document["inputs"] == [{"shape": [1, 3, 16, 16], "dtype": "float32"}]
    assert document["outputs"] == [{"shape": [1, 4], "dtype": "float32", "path": str(tmp_path / "y_0.npy")}]
    np.testing.assert_allclose(np.load(tmp_path / "y_0.npy"), small.y, atol=1e-5)


def test_a_model_with_three_kinds_of_operators_agrees_with_pytorch(
    runner: RunRunner, mixed: Model, input_file: Path, tmp_path: Path
) -> None:
    assert runner("--model", mixed.path, "--input", input_file, "--output", tmp_path / "y").code == 0
    np.testing.assert_allclose(np.load(tmp_path / "y_0.npy"), mixed.y, atol=1e-4)


def test_raw_input_is_the_same_as_npy(runner: RunRunner, small: Model, tmp_path: Path) -> None:
    raw = tmp_path / "x.raw"
    raw.write_bytes(small.x.tobytes())
    assert runner("--model", small.path, "--input", raw, "--output", tmp_path / "y").code == 0
    np.testing.assert_allclose(np.load(tmp_path / "y_0.npy"), small.y, atol=1e-5)


def test_inputs_that_are_not_given_are_zeros(runner: RunRunner, small: Model, tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.npy"
    np.save(zeros, np.zeros_like(small.x))
    assert runner("--model", small.path, "--output", tmp_path / "a").code == 0
    assert runner("--model", small.path, "--input", zeros, "--output", tmp_path / "b").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a_0.npy"), np.load(tmp_path / "b_0.npy"))


def test_many_examples_are_each_run_once_and_answered_in_order(
    runner: RunRunner, small: Model, mixed: Model, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).random((5, *small.x.shape), dtype=np.float32)
    x[3] = small.x
    np.save(tmp_path / "x.npy", x)
    for model in (small, mixed):
        arguments = ["--model", model.path, "--input", tmp_path / "x.npy", "--output", tmp_path / "y", "--examples", "5"]
        code, document = runner(*arguments)
        assert code == 0
        assert len(document["runs_ns"]) == 5
        answers = np.load(tmp_path / "y_0.npy")
        assert document["outputs"][0]["shape"] == list(model.y.shape)
        np.testing.assert_allclose(answers[3], model.y, atol=1e-4)
        for example, answer in zip(x, answers, strict=True):
            np.save(tmp_path / "one.npy", example)
            assert runner("--model", model.path, "--input", tmp_path / "one.npy", "--output", tmp_path / "one").code == 0
            np.testing.assert_array_equal(answer, np.load(tmp_path / "one_0.npy"))
    refused(runner(*arguments[:-1], "4"), "inputs", "(5, 1, 3, 16, 16)")
    refused(runner(*arguments, "--runs", "2"), "usage", "--runs")


def test_it_uses_as_many_threads_as_it_is_told(runner: RunRunner, small: Model) -> None:
    assert runner("--model", small.path, "--threads", "3").document["threads"] == 3


def test_it_stays_on_the_cpus_of_the_mask(runner: RunRunner, small: Model) -> None:
    allowed = min(os.sched_getaffinity(0))
    assert runner("--model", small.path, "--cpu-mask", f"{1 << allowed:x}").code == 0
    refused(runner("--model", small.path, "--cpu-mask", "8" + "0" * 200), "usage", "--cpu-mask")
    refused(runner("--model", small.path, "--cpu-mask", "0"), "usage", "names no CPU")
    refused(runner("--model", small.path, "--cpu-mask", "fish"), "usage", "hexadecimal")


@pytest.mark.parametrize("threads", [1, 2])
def test_it_measures_the_peaks_of_the_device(runner: RunRunner, threads: int) -> None:
    code, document = runner("--peaks", "--threads", threads, "--cpu-mask", f"{sum(1 << n for n in os.sched_getaffinity(0)):x}")
    assert code == 0
    assert set(document) == {"version", "threads", "flops_per_ns", "bytes_per_ns"}
    assert (document["version"], document["threads"]) == (1, threads)
    assert min(document["flops_per_ns"], document["bytes_per_ns"]) > 0


def test_without_the_memory_to_read_it_says_so(tmp_path: Path) -> None:
    program = runner_bundle("host").files["runner"]
    limited = f"ulimit -v 120000; exec {program} --peaks"
    done = subprocess.run(["sh", "-c", limited], capture_output=True, check=False)
    refused(Ended(done.returncode, json.loads(done.stdout)), "run", "not enough memory")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model"),
        (["--modle", "x"], "--modle"),
        (["--model"], "needs a value"),
        (["--model", "x", "--runs", "0"], "whole number"),
        (["--model", "x", "--runs", "3x"], "whole number"),
        (["--model", "x", "--warmup", "-1"], "whole number"),
        (["--model", "x", "--threads", "99999999999999999999"], "whole number"),
        (["--peaks", "--threads", "0"], "whole number"),
        (["--peaks", "--model", "x"], "no --model"),
        (["--runs", "3", "--peaks"], "no --runs"),
        (["--peaks", "2"], "no argument 2"),
    ],
)
def test_a_wrong_command_line_is_refused(runner: RunRunner, arguments: list[str], words: str) -> None:
    refused(runner(*arguments), "usage", words)


def test_help_carries_an_example() -> None:
    program = runner_bundle("host").files["runner"]
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert "example:" in done.stdout


def npy(descr: str = "<f4", order: str = "False", shape: str = "(1, 3, 16, 16)", data: bytes = bytes(3072)) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(descr="<f8", data=bytes(6144)), "not float32"),
        (npy(order="True"), "Fortran"),
        (npy(shape="(1, 3, 8, 32)"), "(1, 3, 8, 32)"),
        (npy(shape="(768,)"), "(768,)"),
        (npy(data=bytes(3071)), "3071 bytes"),
        (npy(data=bytes(3073)), "3073 bytes"),
        (npy(shape="(99999999999999999999,)"), "too large"),
        (npy(shape="(" + "1," * 40 + ")"), "too many dimensions"),
        (npy(shape="(1, -3, 16, 16)"), "shape is damaged"),
        (npy(shape="1"), "header is damaged"),
        (npy()[:20], "cut short"),
        (npy()[:9], "not a .npy"),
        (b"", "not a .npy"),
        (b"GIF89a" * 100, "not a .npy"),
        (b"\x93NUMPY\x07\x00" + bytes(100), "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "too long"),
        (npy().replace(b"'shape'", b"'shade'"), "unexpected key"),
        (npy().replace(b"}", b" "), "damaged"),
    ],
)
def test_an_input_that_is_not_what_the_model_takes_is_refused(
    runner: RunRunner, small: Model, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    refused(runner("--model", small.path, "--input", path), "inputs", words)


def test_a_missing_or_superfluous_input_is_refused(runner: RunRunner, small: Model, input_file: Path, tmp_path: Path) -> None:
    refused(runner("--model", small.path, "--input", tmp_path / "none.npy"), "inputs", "No such file")
    refused(runner("--model", small.path, "--input", input_file, "--input", input_file), "inputs", "takes 1 input")


def test_a_full_or_missing_folder_for_the_output_is_reported(runner: RunRunner, small: Model, tmp_path: Path) -> None:
    refused(runner("--model", small.path, "--output", tmp_path / "none" / "y"), "output", "cannot be created")
    full = tmp_path / "y_0.npy"
    full.symlink_to("/dev/full")
    refused(runner("--model", small.path, "--output", tmp_path / "y"), "output", "No space left")
    refused(runner("--model", small.path, "--profile", "/dev/full"), "output", "cannot be written")


def test_a_missing_model_is_refused(runner: RunRunner, tmp_path: Path) -> None:
    refused(runner("--model", tmp_path / "none.pte"), "load", "no readable model")
    refused(runner("--model", tmp_path), "load", "not a model")


def test_a_model_for_a_backend_that_is_not_there_is_refused_by_that_name(
    runner: RunRunner, small: Model, tmp_path: Path
) -> None:
    path = tmp_path / "other.pte"
    path.write_bytes(small.path.read_bytes().replace(b"EdgeKernelsBackend", b"FishKernelsBackend"))
    ended = runner("--model", path)
    refused(ended, "load", "FishKernelsBackend")
    assert "XnnpackBackend" in ended.document["error"]["message"]


def test_a_plan_of_another_version_is_refused(runner: RunRunner, small: Model, tmp_path: Path) -> None:
    data = bytearray(small.path.read_bytes())
    data[data.index(b"EDGEPLAN") + 8] = 99
    path = tmp_path / "newer.pte"
    path.write_bytes(data)
    refused(runner("--model", path), "load", "version")


def test_damaged_models_never_crash_the_runner(runner: RunRunner, small: Model, mixed: Model, tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "damaged.pte"
    for turn in range(150):
        data = bytearray(rng.choice([small, mixed]).path.read_bytes())
        if turn % 5 == 0:
            data = data[: rng.randrange(len(data))]
        elif turn % 5 == 1:
            data = bytearray(rng.randbytes(rng.randrange(4000)))
        else:
            for _ in range(rng.choice([1, 4, 16])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        code, document = runner("--model", path, "--warmup", "0", "--threads", "1")
        if code == 0:
            assert "outputs" in document
        else:
            assert code == 1, (turn, code)
            assert document["error"]["message"], (turn, document)


def test_a_second_run_after_an_error_is_as_good_as_a_first(runner: RunRunner, small: Model, input_file: Path) -> None:
    assert runner("--model", small.path, "--input", "/dev/null").code == 1
    assert runner("--model", small.path, "--input", input_file).code == 0


def test_the_document_is_complete_when_nobody_holds_a_terminal(small: Model, tmp_path: Path) -> None:
    program = runner_bundle("host").files["runner"]
    with (tmp_path / "out.json").open("wb") as out:
        subprocess.run(
            [program, "--model", small.path], stdin=subprocess.DEVNULL, stdout=out, start_new_session=True, check=True
        )
    assert json.loads((tmp_path / "out.json").read_text())["version"] == 1
