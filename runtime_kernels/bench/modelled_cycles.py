"""Modelled cycles of an arm64 program on a Neoverse N1 (Cortex-A76), on any machine: executed blocks, scored by llvm-mca.

    python runtime_kernels/bench/modelled_cycles.py -- PROGRAM ARGS...

PROGRAM takes `--runs N`, as `runner` and `litert_runner` do; it is run with two different N, and the difference, for one
run, is what is reported: starting up and loading fall out. A plugin of the emulator qemu-aarch64 counts how often every
block of instructions (up to a branch) is executed; llvm-mca says how many cycles a block takes when it follows upon itself.

These figures are modelled, not measured. There is no model of caches, of memory, of mispredicted branches or of waiting for
other threads: every load hits the first cache. Compare programs by them that do the same work; take them for nobody's time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PLUGIN = Path(__file__).with_name("executed_blocks.c")
CPU = "neoverse-n1"
"""For both. Under the names cortex-a76, a77, a78 and x1 llvm-mca 19 silently models a Cortex-A57."""
OLDEST_LLVM = 16
"""The first that models the Neoverse N1; before, it too was silently a Cortex-A57."""
CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0c
CPU revision\t: 1

"""
"""What the program finds in /proc/cpuinfo: LiteRT's libraries crash on that of another architecture."""
LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
"""Debian's cross compiler's, for programs that bring none of their own."""
ITERATIONS = 100
MCA = ("-mtriple=aarch64", f"-mcpu={CPU}", "-mattr=+all", f"-iterations={ITERATIONS}", "--json")

Block = tuple[str, ...]
"""A block's instructions, each in hexadecimal."""


class Failure(Exception):
    """A tool that is missing or failed, or a program that did, in one sentence."""


@dataclass(frozen=True)
class Scored:
    """A block: how often one run executes it, the cycles that one execution takes, and its instructions as text."""

    count: float
    cycles: float
    instructions: tuple[str, ...]


@dataclass(frozen=True)
class Modelled:
    """One run of a program.

    Attributes:
        blocks: every block that it executes, those that take most cycles first.
        unknown: instructions that llvm-mca does not know -> executions. The cycles are without them.
    """

    blocks: list[Scored]
    unknown: dict[str, float]

    @property
    def instructions(self) -> float:
        """Executed instructions, unknown ones among them."""
        return sum(block.count * len(block.instructions) for block in self.blocks)

    @property
    def cycles(self) -> float:
        """Modelled cycles."""
        return sum(block.count * block.cycles for block in self.blocks)


def measure(command: Sequence[str], runs: int = 1) -> Modelled:
    """Counts and scores what one run of `command --runs N` executes: the mean of `runs` of them, starting up left out.

    Raises:
        Failure: the emulator or LLVM is missing, or the program or a tool failed.
    """
    with tempfile.TemporaryDirectory(prefix="modelled-cycles-") as temporary:
        folder = Path(temporary)
        compiler = [os.environ.get("CC", "cc"), "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
        tool([*compiler, str(PLUGIN), "-o", str(folder / "plugin.so")])
        (folder / "root/proc").mkdir(parents=True)
        (folder / "root/proc/cpuinfo").write_text(CPUINFO)
        (folder / "root/lib").symlink_to(LIBRARIES)
        counts = executed([*command, "--runs", str(1 + runs)], folder)
        counts.subtract(executed([*command, "--runs", "1"], folder))
    return score({block: count / runs for block, count in counts.items() if count})


def executed(command: Sequence[str], folder: Path) -> Counter[Block]:
    """How often `command` executes each block, under the emulator, with `folder/root` laid over the file system."""
    out = folder / "blocks"
    plugin = f"{folder / 'plugin.so'},out={out}"
    tool(["qemu-aarch64", "-cpu", CPU, "-L", str(folder / "root"), "-plugin", plugin, *command])
    counts: Counter[Block] = Counter()
    with out.open() as file:
        for line in file:
            count, *words = line.split()
            counts[tuple(words)] += int(count)
    return counts


def score(counts: dict[Block, float]) -> Modelled:
    """The modelled cycles of blocks that are executed so often."""
    texts = disassembled({word for block in counts for word in block})
    asm = []
    for index, block in enumerate(counts):
        lines = [modelled_as(texts[word]) for word in block]
        asm += [f"# LLVM-MCA-BEGIN {index}", *lines, f"# LLVM-MCA-END {index}"]
    done = tool([llvm("llvm-mca"), *MCA, "-skip-unsupported-instructions=any", "-"], "\n".join(asm) + "\n")
    regions = {int(r["Name"]): r for r in json.loads(done.stdout)["CodeRegions"]}
    cycles = {index: region["SummaryView"]["TotalCycles"] / ITERATIONS for index, region in regions.items()}
    skipped = {line.expandtabs() for line in re.findall(r"^note: instruction: \t(.*)$", done.stderr, re.MULTILINE)}
    unknown: dict[str, float] = defaultdict(float)
    for block, count in counts.items():
        for word in block:
            if modelled_as(texts[word]).expandtabs() in skipped:
                unknown[texts[word]] += count
    scored = [
        Scored(count, cycles.get(index, 0.0), tuple(texts[word] for word in block))
        for index, (block, count) in enumerate(counts.items())
    ]
    return Modelled(sorted(scored, key=lambda b: -b.count * b.cycles), dict(unknown))


def disassembled(words: set[str]) -> dict[str, str]:
    """Instruction in hexadecimal -> its text; what is no instruction becomes one that llvm-mca does not know, `udf`."""
    order = sorted(words)
    lines = [" ".join(f"0x{byte:02x}" for byte in bytes.fromhex(word)[::-1]) for word in order]
    done = tool([llvm("llvm-mc"), "--disassemble", "-triple=aarch64", "-mattr=+all"], "\n".join(lines) + "\n")
    invalid = {int(n) - 1 for n in re.findall(r"^<stdin>:(\d+):\d+: warning: invalid", done.stderr, re.MULTILINE)}
    found = [re.sub(r"\s*//.*", "", line).strip() for line in done.stdout.splitlines()]
    texts = iter([line for line in found if line and not line.startswith(".")])
    named = {word: f"udf\t#0x{word}" if i in invalid else next(texts, "") for i, word in enumerate(order)}
    if next(texts, None) is not None or "" in named.values():
        raise Failure("llvm-mc disassembled another number of instructions than it was given.")
    return named


def modelled_as(text: str) -> str:
    """What llvm-mca is given for an instruction: of a call the jump alone, since it takes any call for one of 100 cycles."""
    return re.sub(r"^bl(r?)\b", r"b\1", text)


def llvm(name: str) -> str:
    """An LLVM tool of a version that models the CPU."""
    for version in range(40, OLDEST_LLVM - 1, -1):
        if found := shutil.which(f"{name}-{version}"):
            return found
    raise Failure(f"{name} of LLVM {OLDEST_LLVM} or newer is missing: install it with `apt-get install llvm-19`.")


def tool(command: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, with `text` as its input."""
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        hint = ": install it with `apt-get install qemu-user`" if command[0] == "qemu-aarch64" else ""
        raise Failure(f"{command[0]} is missing{hint}.") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip())[-2000:]
        raise Failure(f"{' '.join(command)[:500]} ended with {error.returncode}: {said}") from error


def report(modelled: Modelled, show: int) -> None:
    """Prints the totals, what they leave out, and the blocks that take most cycles."""
    cycles, instructions = modelled.cycles, modelled.instructions
    print(f"{instructions:16,.0f} instructions executed in a run")
    print(f"{cycles:16,.0f} cycles, modelled as a Neoverse N1 without caches ({instructions / cycles:.2f} instructions each)")
    missing = sum(modelled.unknown.values())
    print(f"{missing:16,.0f} of the instructions are unknown to llvm-mca and not in the cycles")
    for text, count in sorted(modelled.unknown.items(), key=lambda item: -item[1]):
        print(f"{count:20,.0f} {text.expandtabs(1)}")
    for block in modelled.blocks[:show]:
        share = 100 * block.count * block.cycles / cycles
        print(f"\n{share:.1f} % of the cycles: {block.count:,.0f} times {block.cycles:.2f} cycles")
        print("\n".join(f"    {text.expandtabs(8)}" for text in block.instructions))


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="take the mean of N runs (default 1)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="show the N blocks that take most cycles")
    parser.add_argument("command", nargs="+", metavar="PROGRAM ARGS", help="after --; without --runs")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs must be 1 or more")
    try:
        report(measure(args.command, args.runs), args.show)
    except Failure as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
