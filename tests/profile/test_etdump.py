"""The profile reader, on ETDumps that the runner wrote."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgectl.errors import ToolError
from edgectl.lowering.compile import compile_module
from edgectl.native import runner_bundle
from edgectl.profile import etdump

RUNS = 4


class Net(nn.Module):
    """Layers for our backend around a tanh for XNNPACK and cumulative sums for ExecuTorch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleDict({"down": nn.Conv2d(8, 8, 3, stride=2, padding=1)})
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.body["down"](self.stem(x)))
        return self.head(torch.cumsum(torch.cumsum(x, 2), 3))


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("etdump")
    torch.manual_seed(0)
    (folder / "net.pte").write_bytes(compile_module(Net().eval(), torch.rand(1, 3, 32, 32)).program)
    runner = runner_bundle("host").files["runner"]
    arguments = ["--model", folder / "net.pte", "--warmup", "2", "--runs", str(RUNS), "--threads", "1"]
    subprocess.run([runner, *arguments, "--profile", folder / "net.etdp"], check=True, capture_output=True)
    return folder / "net.etdp"


def test_layers_bear_their_module_paths_in_execution_order(dump: Path) -> None:
    profile = etdump.read(dump)
    ours = [name for name in profile if profile.runners[name] == "edge"]
    assert ours == ["stem", "body.down", "head"]
    others = [name for name in profile if profile.runners[name] == "executorch"]
    assert others == ["cumsum.out", "cumsum.out #2"]
    assert any("TanH" in name for name in profile if profile.runners[name] == "xnnpack")


def test_every_timed_run_is_there_and_no_other(dump: Path) -> None:
    profile = etdump.read(dump)
    assert len(profile.totals) == RUNS
    assert {len(times) for times in profile.values()} == {RUNS}
    assert min(profile["stem"]) > 0


def test_layers_of_a_run_do_not_exceed_its_total(dump: Path) -> None:
    profile = etdump.read(dump)
    for run, total in enumerate(profile.totals):
        explained = sum(times[run] for times in profile.values())
        assert 0.3 * total < explained <= total + 2000, "XNNPACK's own clock ticks in microseconds"


def test_reading_does_not_import_pytorch(dump: Path) -> None:
    script = "import sys; from edgectl.profile import etdump; etdump.read(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, dump], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_it_agrees_with_executorchs_own_reader(dump: Path) -> None:
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

    theirs = deserialize_from_etdump_flatcc(dump.read_bytes())
    for run, block in enumerate(theirs.run_data):
        events = [event.profile_event for event in block.events or [] if event.profile_event]
        for name in ("stem", "body.down", "head"):
            expected = sum(e.end_time - e.start_time for e in events if e.delegate_debug_id_str == name)
            assert etdump.read(dump)[name][run] == expected


def test_a_damaged_profile_is_a_tool_error(dump: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    good = dump.read_bytes()
    damaged = tmp_path / "damaged.etdp"
    for turn in range(400):
        data = bytearray(good)
        if turn % 2:
            data = data[: rng.randrange(len(data))]
        else:
            for _ in range(rng.choice([1, 8, 64])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        damaged.write_bytes(data)
        try:
            etdump.read(damaged)
        except ToolError as error:
            assert "damaged.etdp" in error.step
    for content in (b"", b"GIF89a" * 50, good[:-1], good + b"\0"):
        damaged.write_bytes(content)
        with pytest.raises(ToolError, match="damaged or cut short"):
            etdump.read(damaged)
    with pytest.raises(ToolError, match="No such file"):
        etdump.read(tmp_path / "none.etdp")
