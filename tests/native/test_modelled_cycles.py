"""`modelled_cycles.py` on programs whose instructions and cycles are known."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "runtime_kernels/bench/modelled_cycles.py"
COMPILER = "aarch64-linux-gnu-gcc"
LOOPS = 1000
BODY = {
    "chain": ["fadd v0.4s, v0.4s, v1.4s"] * 8,  # 2 cycles each, one after the other
    "loads": ["ldr q0, [%1]", "ldr q1, [%1, 16]"] * 8,  # two ports
    "unknown": ["casal x4, x5, [%1]", "add x4, x4, x5"],
}
SOURCE = """
#include <stdlib.h>
static long memory[8] __attribute__((aligned(64)));
int main(int argc, char** argv) {{
  for (long n = LOOPS * atol(argv[argc - 1]); n > 0;) {{
    __asm__ volatile("1: {body}\\n subs %0, %0, 1\\n b.ne 1b" : "+r"(n) : "r"(memory)
                     : "x4", "x5", "v0", "v1", "v2", "v3", "memory", "cc");
  }}
  return argc > 4;
}}
"""

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, (COMPILER, "qemu-aarch64", "llvm-mca-19"))),
    reason="needs apt-get install g++-aarch64-linux-gnu qemu-user llvm-19",
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("modelled_cycles", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("programs")
    for name, body in BODY.items():
        (folder / f"{name}.c").write_text(SOURCE.format(body="\\n ".join(body)))
        command = [COMPILER, "-O2", "-march=armv8.2-a", f"-DLOOPS={LOOPS}", folder / f"{name}.c", "-o", folder / name]
        subprocess.run(command, check=True)
    return {name: str(folder / name) for name in BODY}


@pytest.mark.parametrize(("name", "cycles"), [("chain", 16), ("loads", 8)])
def test_a_run_has_the_instructions_and_the_cycles_of_its_loop_alone(tool, programs, name, cycles):
    found = tool.measure([programs[name]])
    executed = LOOPS * (len(BODY[name]) + 2)
    assert executed <= found.instructions <= executed + 50
    assert found.cycles == pytest.approx(LOOPS * cycles, rel=0.05)
    assert not found.unknown
    assert found.blocks[0].count == pytest.approx(LOOPS, abs=1)
    assert found.blocks[0].instructions[-1].startswith("b.ne")


def test_several_runs_are_averaged(tool, programs):
    one, three = tool.measure([programs["chain"]]), tool.measure([programs["chain"]], runs=3)
    assert three.instructions == pytest.approx(one.instructions, rel=0.01)


def test_instructions_without_a_model_are_named_and_counted(programs):
    command = [sys.executable, str(SCRIPT), "--show", "1", "--", programs["unknown"]]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "1,000 of the instructions are unknown to llvm-mca and not in the cycles" in out
    assert "1,000 casal x4, x5, [" in out
    assert "modelled" in out


def test_a_program_that_fails_is_reported_with_its_exit_code(tool, programs):
    with pytest.raises(tool.Failure, match="ended with 1"):
        tool.measure([programs["chain"], "one", "two"])
