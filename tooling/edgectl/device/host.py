"""This machine as a device: a folder under the state folder, and processes in it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from edgectl.artifact import sha256
from edgectl.device import facts
from edgectl.device.base import DeviceInfo, Progress, PushResult, RunResult, checked_files, checked_name, size_text
from edgectl.errors import ToolError
from edgectl.paths import state_root


class HostDevice:
    """Runs models on this machine, through the same verbs as a phone."""

    name = "host"
    target: Literal["host", "android-arm64"] = "host"

    def __init__(self) -> None:
        self.workdir = str((state_root() / "host").absolute())

    def describe(self) -> DeviceInfo:
        """Facts about this machine."""
        answer = subprocess.run(["sh", "-c", facts.SCRIPT], capture_output=True, text=True, errors="replace", check=False)
        return facts.device_info(self.name, "host", answer.stdout)

    def push(self, files: Mapping[str, Path], folder: str, progress: Progress | None = None) -> PushResult:
        """Copies files into a folder of the work folder; see `Device.push`."""
        checked, root = checked_files(files), self._folder(folder)
        pushed: list[str] = []
        skipped: list[str] = []
        total, done = sum(local.stat().st_size for local in checked.values()), 0
        sent = 0
        for name, local in checked.items():
            size, final = local.stat().st_size, root / name
            if progress:
                progress(f"pushing {name}", done / total if total else None)
            if final.is_file() and sha256(final) == sha256(local):
                skipped.append(name)
            else:
                self._copy(local, final, f"pushing {name} to {self.name}", mode=True)
                pushed.append(name)
                sent += size
            done += size
        if progress:
            progress("pushed", 1.0)
        return PushResult(pushed, skipped, sent)

    def run(self, argv: Sequence[str], *, folder: str, timeout: float | None = None, label: str | None = None) -> RunResult:
        """Runs a command in its own process group; see `Device.run`."""
        step = f"running {label or PurePosixPath(argv[0]).name} on {self.name}"
        root = self._folder(folder)
        if not root.is_dir():
            raise ToolError(step, f"there is no folder {root}: push to it first")
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            # What a shell on the device would answer.
            return RunResult(127 if error.errno == errno.ENOENT else 126, "", f"{argv[0]}: {error.strerror}\n")
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # all it started too, even when it has ended itself
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ToolError(step, f"it did not finish within {timeout:g} s and was stopped") from error
            raise
        code = process.returncode
        return RunResult(code if code >= 0 else 128 - code, out, err)

    def pull(self, remote: str, local: Path, folder: str) -> None:
        """Copies a file out of the work folder; see `Device.pull`."""
        step = f"pulling {remote} from {self.name}"
        source = self._folder(folder) / checked_name(remote)
        if not source.is_file():
            raise ToolError(step, f"there is no file {remote} in {folder}")
        self._copy(source, local, step)

    def _folder(self, folder: str) -> Path:
        return Path(self.workdir) / checked_name(folder)

    def _copy(self, source: Path, final: Path, step: str, *, mode: bool = False) -> None:
        partial = final.with_name(f"{final.name}.partial-{os.getpid()}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial)
            if sha256(partial) != sha256(source):
                raise ToolError(step, "what was written differs from what was read: is the file being changed?")
            if mode:
                partial.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
            partial.replace(final)
        except OSError as error:
            detail = error.strerror or str(error)
            if error.errno == errno.ENOSPC:
                free = shutil.disk_usage(final.parent).free
                detail += f": {size_text(source.stat().st_size)} are needed, {size_text(free)} are free"
            raise ToolError(step, detail) from error
        finally:
            partial.unlink(missing_ok=True)
