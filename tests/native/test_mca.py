"""The NEON inner loops run at the speed of their FMA and load ports, by llvm-mca's model of a Neoverse N1 (Cortex-A76)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgectl.native.cmake import run
from edgectl.native.products import kernels
from edgectl.native.toolchain import ARM64_TRIPLE, Toolchain, arm64_linux, arm64_static

OBJDUMP = f"{ARM64_TRIPLE}-objdump"
# LLVM 16 is the first that models the Neoverse N1; before, it silently took a Cortex-A57 for it.
MCA = next((found for n in range(30, 15, -1) if (found := shutil.which(f"llvm-mca-{n}"))), None)
_KERNELS = Path("CMakeFiles/edge_kernels.dir/src/kernels")
OBJECTS = (_KERNELS / "conv/neon/conv_neon.cc.o", _KERNELS / "half/fp16/half_fp16.cc.o")  # float32 and float16

ITERATIONS = 200
PORTS = 2  # for multiply-adds, and as many for loads
LATENCY = 4  # cycles from a multiply-add to the next one on its sum
LIMIT = 1.25  # of the bound

pytestmark = [
    pytest.mark.skipif(MCA is None, reason="llvm-mca is not installed (apt-get install llvm-19)"),
    pytest.mark.skipif(
        shutil.which(OBJDUMP) is None, reason=f"{OBJDUMP} is not installed (apt-get install g++-{ARM64_TRIPLE})"
    ),
]


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembler: where it is, what it does, and where it jumps to."""

    address: int
    text: str
    target: int | None

    @property
    def loads(self) -> int:
        """How many load ports it takes for a cycle. A pair of vector registers takes two, however short they are."""
        if not re.match(r"ldr|ldur|ldp|ld[1-4]", self.text):
            return 0
        return 2 if re.match(r"ldp\s+[qds]\d", self.text) else 1


@dataclass(frozen=True)
class Loop:
    """An innermost loop of a kernel."""

    kernel: str
    body: tuple[Instruction, ...]

    @property
    def kind(self) -> str:
        """The kernel less the width of its tile."""
        return re.sub(r"((?:Conv|Half)Tile<\d+), \d+", r"\1", self.kernel)

    @property
    def fmlas(self) -> int:
        return sum(instruction.text.startswith("fmla") for instruction in self.body)

    @property
    def loads(self) -> int:
        return sum(instruction.loads for instruction in self.body)

    @property
    def bound(self) -> float:
        """Cycles an iteration that no arrangement of these multiply-adds and loads can beat."""
        return max(self.fmlas, self.loads) / PORTS

    def touches_the_stack(self) -> bool:
        return any(re.search(r"\[(sp|x29)\b", instruction.text) for instruction in self.body)

    def region(self) -> str:
        """What llvm-mca reads: branches go to a label, since it looks at no address."""
        lines = [re.sub(r"\S+$", "0b", i.text) if i.target is not None else i.text for i in self.body]
        return "\n".join([f"# LLVM-MCA-BEGIN {self.kernel}", "0:", *lines, "# LLVM-MCA-END", ""])


def keep_objects(tree: Path, out: Path) -> None:
    for number, path in enumerate(OBJECTS):
        shutil.copy2(tree / path, out / f"{number}.o")


def disassemble(chain: Toolchain) -> str:
    """The NEON kernels as the project builds them with this compiler."""
    build = replace(
        kernels(chain),
        what=f"the NEON kernels for {chain.name}",
        name=f"neon-{chain.name}",
        targets=tuple(map(str, OBJECTS)),
        keep=keep_objects,
    )
    objects = [str(path) for path in sorted(run(build).iterdir())]
    command = [OBJDUMP, "--disassemble", "--demangle", "--no-show-raw-insn", *objects]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def functions(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Every ConvTile, LinearRows and RunLinearDot of float32, and HalfTile and RunLinearSums of float16, as instructions."""
    kinds = r"\b(ConvTile|LinearRows|RunLinearDot|HalfTile|RunLinearSums)<edge::(?:neon::Vec4|fp16::\w+), ([\d, ]+)>"
    for part in re.split(r"\n\n(?=[0-9a-f]{16} <)", text):
        name = re.match(rf"[0-9a-f]{{16}} <.*?{kinds}", part)
        if not name:
            continue
        code = []
        for line in re.finditer(r"^ *([0-9a-f]+):\t(.*)$", part, re.MULTILINE):
            words = re.sub(r"\s*(//.*|<.*>)", "", line[2]).strip()
            jump = re.match(r"(?:b\.?\w*|cbn?z|tbn?z)\s(?:.*,\s*)?([0-9a-f]+)$", words)
            code.append(Instruction(int(line[1], 16), words, int(jump[1], 16) if jump else None))
        yield f"{name[1]}<{name[2]}>", code


def inner_loops(kernel: str, code: list[Instruction]) -> list[Loop]:
    """The loops with multiply-adds that hold no other loop, branch or call."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    spans = [(index[i.target], n) for n, i in enumerate(code) if i.target is not None and index.get(i.target, n + 1) <= n]
    loops = [
        Loop(kernel, tuple(code[first : last + 1]))
        for first, last in spans
        if not any(first <= other[0] and other[1] <= last and other != (first, last) for other in spans)
    ]
    return [loop for loop in loops if loop.fmlas and all(i.target is None for i in loop.body[:-1])]


def cycles(loops: list[Loop]) -> list[float]:
    """llvm-mca's estimate for one iteration of each."""
    text = "".join(loop.region() for loop in loops)
    assert MCA is not None
    command = [MCA, "-mtriple=aarch64", "-mcpu=neoverse-n1", f"-iterations={ITERATIONS}", "--json", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [region["SummaryView"]["TotalCycles"] / ITERATIONS for region in json.loads(done.stdout)["CodeRegions"]]


def table(rows: list[tuple[Loop, float]]) -> str:
    """What was found, for whoever has to mend it."""
    head = f"{'loop':24} {'instructions':>12} {'fmla':>5} {'loads':>5} {'bound':>6} {'cycles':>7} {'ratio':>6}"
    lines = [
        f"{loop.kernel:24} {len(loop.body):12} {loop.fmlas:5} {loop.loads:5} {loop.bound:6.1f}"
        f" {cost:7.2f} {cost / loop.bound:6.2f}"
        for loop, cost in rows
    ]
    return "\n".join(["", head, *lines])


def full_width(loops: list[Loop]) -> list[Loop]:
    """What most of the time goes to: the widest tile of every number of filters, and the unrolled loops of linear."""
    most: dict[str, int] = {}
    for loop in loops:
        most[loop.kind] = max(most.get(loop.kind, 0), loop.fmlas)
    return [loop for loop in loops if loop.fmlas == most[loop.kind]]


def busy_edges(loops: list[Loop]) -> list[Loop]:
    """The narrower tiles, at the end of rows, with sums enough to keep the ports busy while a multiply-add waits for another.

    None with a single filter: as it loads pixels for every multiply-add, it also waits for where the next entry's are.
    """
    tiles = [loop for loop in loops if re.match(r"(Conv|Half)Tile<(?!1>)", loop.kind)]
    return [loop for loop in tiles if loop.fmlas >= PORTS * LATENCY and loop not in full_width(loops)]


@pytest.fixture(scope="module", params=[arm64_linux, arm64_static], ids=["gcc", "zig"])
def loops(request: pytest.FixtureRequest) -> list[Loop]:
    """Every innermost loop, from the compiler of the devices' runner and from Clang."""
    chain: Toolchain = request.param()
    return [loop for kernel, code in functions(disassemble(chain)) for loop in inner_loops(kernel, code)]


def test_inner_loops_run_within_a_quarter_of_what_their_ports_allow(loops: list[Loop]) -> None:
    widest = full_width(loops)
    assert {loop.kernel.split(",")[0] for loop in widest} == {
        *(f"ConvTile<{filters}" for filters in (1, 2, 4, 8)),
        *(f"LinearRows<{vectors}" for vectors in (1, 2, 4)),
        *(f"RunLinearDot<{filters}>" for filters in (1, 2)),
        *(f"HalfTile<{filters}" for filters in (1, 2, 4, 8)),
        *(f"RunLinearSums<{filters}>" for filters in (4, 8, 16)),
    }
    measured = [*widest, *busy_edges(loops)]
    rows = list(zip(measured, cycles(measured), strict=True))
    print(table(rows))
    over = [(loop, cost) for loop, cost in rows if cost > LIMIT * loop.bound]
    assert not over, table(over)


def test_no_inner_loop_spills_to_the_stack(loops: list[Loop]) -> None:
    spilled = [loop for loop in loops if loop.touches_the_stack()]
    assert not spilled, table(list(zip(spilled, cycles(spilled), strict=True)))
