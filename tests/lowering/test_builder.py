"""The artifact's folder appears whole or not at all, and one that stood there is not lost."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgectl.lowering.builder import _publish


def test_a_folder_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    out = tmp_path / "new" / "artifact"

    def fill(partial: Path) -> None:
        partial.mkdir(parents=True)
        (partial / "file").write_text("whole")

    def fill_until_the_disk_is_full(partial: Path) -> None:
        partial.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    _publish(out, fill)
    with pytest.raises(OSError, match="No space"):
        _publish(out, fill_until_the_disk_is_full)
    assert (out / "file").read_text() == "whole"
    _publish(out, fill)
    assert [path.name for path in out.parent.iterdir()] == ["artifact"]
