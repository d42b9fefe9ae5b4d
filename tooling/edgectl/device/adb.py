"""A device behind adb: a real phone, Android's emulator or ours; over TCP (`HOST:PORT`) or USB (`SERIAL`)."""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from adb_shell.exceptions import PushFailedError

from edgectl.artifact import sha256
from edgectl.device import facts
from edgectl.device.adb_errors import CONNECTION_ERRORS, cause
from edgectl.device.base import DeviceInfo, Progress, PushResult, RunResult, checked_files, checked_name, size_text
from edgectl.device.connection import Connection, TimedOut
from edgectl.device.keys import signer
from edgectl.errors import ToolError
from edgectl.paths import owner_is_gone

WORKDIR = "/data/local/tmp/edgectl"
"""The shell user of a stock Android may write and execute here."""

_COMMAND_S = 120.0
_PID_LINE = "edgectl-pid="


class AdbDevice:
    """Talks to one device, connecting when first needed and again after the connection was lost.

    Args:
        name: how the user calls the device; used in messages.
        dial: makes an unconnected connection.
        address: what `dial` reaches, for messages.
        reply_s: seconds to wait for the first answer.
        user_s: seconds to wait for the user to accept the dialog on the phone.
    """

    target: Literal["host", "android-arm64"] = "android-arm64"
    workdir = WORKDIR

    def __init__(
        self, name: str, dial: Callable[[], Connection], address: str, *, reply_s: float = 10.0, user_s: float = 30.0
    ) -> None:
        self.name = name
        self._dial = dial
        self._address = address
        self._reply_s = reply_s
        self._user_s = user_s
        self._link: Connection | None = None
        self._lock = threading.RLock()

    def describe(self) -> DeviceInfo:
        """Facts about the device; see `Device.describe`."""
        step = f"describing {self.name}"
        _, out, _ = self._shell(facts.SCRIPT, step)
        return facts.device_info(self.name, "adb", out)

    def push(self, files: Mapping[str, Path], folder: str, progress: Progress | None = None) -> PushResult:
        """Copies files into a folder of the work folder; see `Device.push`."""
        checked = checked_files(files)
        if not checked:
            return PushResult()
        step = f"pushing {next(iter(checked)) if len(checked) == 1 else f'{len(checked)} files'} to {self.name}"
        root = self._folder(folder)
        digests = {name: sha256(local) for name, local in checked.items()}
        sizes = {name: local.stat().st_size for name, local in checked.items()}
        with self._lock:
            there = self._prepare(root, list(checked), step)
            todo = [name for name in checked if there[name][0] != digests[name]]
            missing = sum(sizes[name] - there[name][1] for name in todo)
            free = self._free(root, step)
            if free is not None and missing > free:
                raise ToolError(step, _full(missing, free))
            total, done = sum(sizes[name] for name in todo), 0
            for name in todo:
                report = _reporter(progress, f"pushing {name}", done, total)
                self._push_one(checked[name], f"{root}/{name}", digests[name], report)
                done += sizes[name]
        if progress:
            progress("pushed", 1.0)
        return PushResult(todo, [name for name in checked if name not in todo], total)

    def run(self, argv: Sequence[str], *, folder: str, timeout: float | None = None, label: str | None = None) -> RunResult:
        """Runs a command in a folder of the work folder; see `Device.run`."""
        step = f"running {label or PurePosixPath(argv[0]).name} on {self.name}"
        root = self._folder(folder)
        command = f"cd {shlex.quote(root)} || exit 1; echo {_PID_LINE}$$ >&2; exec {shlex.join(argv)} </dev/null"
        with self._connected(step) as link:
            try:
                code, out, err = link.execute(command, timeout, _PID_LINE.encode())
            except TimedOut as error:
                self._kill(error.pid)
                raise ToolError(step, f"it did not finish within {timeout:g} s and was stopped") from error
        first, _, rest = err.decode(errors="replace").partition("\n")
        if not first.startswith(_PID_LINE):
            raise ToolError(step, f"there is no folder {root} on the device: push to it first")
        return RunResult(code, out.decode(errors="replace"), rest)

    def pull(self, remote: str, local: Path, folder: str) -> None:
        """Copies a file out of the work folder; see `Device.pull`."""
        step = f"pulling {remote} from {self.name}"
        path = f"{self._folder(folder)}/{checked_name(remote)}"
        partial = local.with_name(f"{local.name}.partial-{os.getpid()}")
        with self._lock:
            digest, size = self._hashes([path], step)[0]
            if not digest:
                raise ToolError(step, f"there is no file {remote} in {folder}")
            try:
                local.parent.mkdir(parents=True, exist_ok=True)
                with self._connected(step) as link:
                    link.pull(path, str(partial), read_timeout_s=_COMMAND_S)
                if partial.stat().st_size != size or sha256(partial) != digest:
                    raise ToolError(step, "what arrived differs from what is on the device: is it being changed?")
                partial.replace(local)
            except OSError as error:
                raise ToolError(step, f"{local}: {error.strerror or error}") from error
            finally:
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Hangs up. The next verb connects again."""
        with self._lock:
            if self._link is not None:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    self._link.close()
                self._link = None

    def _folder(self, folder: str) -> str:
        return f"{self.workdir}/{checked_name(folder)}"

    @contextlib.contextmanager
    def _connected(self, step: str) -> Iterator[Connection]:
        """A working connection for one stream. Any failure on it hangs up and becomes a ToolError that names the step."""
        with self._lock:
            if self._link is not None and not self._link.alive():
                self.close()
            fresh = self._link is None
            try:
                if self._link is None:
                    self._link = self._dial()
                    self._link.connect_as(signer(), reply_s=self._reply_s, user_s=self._user_s)
                    fresh = False
                yield self._link
            except TimedOut:
                self.close()
                raise
            except CONNECTION_ERRORS as error:
                asked = fresh and self._link is not None and self._link.waits_for_user
                self.close()
                raise ToolError(step, cause(error, self._address, connecting=fresh, asked=asked)) from error
            except BaseException:
                self.close()
                raise

    def _shell(self, command: str, step: str) -> tuple[int, str, str]:
        with self._connected(step) as link:
            try:
                code, out, err = link.execute(command, _COMMAND_S)
            except TimedOut as error:
                raise ToolError(step, f"the device did not answer within {_COMMAND_S:g} s") from error
        return code, out.decode(errors="replace"), err.decode(errors="replace")

    def _checked_shell(self, command: str, step: str) -> str:
        code, out, err = self._shell(command, step)
        if code:
            raise ToolError(step, err.strip() or f"the device's shell ended with exit code {code}")
        return out

    def _hashes(self, paths: Sequence[str], step: str) -> list[tuple[str, int]]:
        """SHA-256 and size of each remote file; an empty hash and 0 where there is none."""
        listed = " ".join(shlex.quote(path) for path in paths)
        one = 'if [ -f "$f" ]; then sha256sum <"$f" && stat -c %s "$f" || exit 1; else echo; echo 0; fi'
        loop = f"for f in {listed}; do {one}; done"
        lines = self._checked_shell(loop, step).split("\n")
        try:
            return [(lines[2 * i].partition(" ")[0], int(lines[2 * i + 1])) for i in range(len(paths))]
        except (IndexError, ValueError) as error:
            raise ToolError(step, "the device's sha256sum gave an answer that could not be read") from error

    def _prepare(self, root: str, names: Sequence[str], step: str) -> dict[str, tuple[str, int]]:
        """Makes the folders, clears what dead pushes left, and hashes the files that are there."""
        parents = [shlex.quote(p) for p in sorted({str(PurePosixPath(root, name).parent) for name in names})]
        globs = " ".join(f"{parent}/*.partial-*" for parent in parents)
        left = self._checked_shell(f"mkdir -p {' '.join(parents)} && {{ ls -d {globs} 2>/dev/null; true; }}", step)
        stale = " ".join(shlex.quote(path) for path in left.splitlines() if owner_is_gone(path))
        if stale:
            self._checked_shell(f"rm -f {stale}", step)
        return dict(zip(names, self._hashes([f"{root}/{name}" for name in names], step), strict=True))

    def _free(self, root: str, step: str) -> int | None:
        """Bytes free for files in a folder, or None when the device does not say."""
        _, out, _ = self._shell(f"df -kP {shlex.quote(root)}", step)
        fields = out.strip().split("\n")[-1].split()
        return int(fields[3]) * 1024 if len(fields) >= 6 and fields[3].isdigit() else None

    def _push_one(self, local: Path, remote: str, digest: str, report: Callable[[int], None]) -> None:
        step = f"pushing {PurePosixPath(remote).name} to {self.name}"
        partial = f"{remote}.partial-{os.getpid()}"
        mode = 0o755 if os.access(local, os.X_OK) else 0o644
        size = local.stat().st_size
        try:
            with self._connected(step) as link:
                link.send_file(local, partial, mode, report)
            if self._hashes([partial], step)[0] != (digest, size):
                raise ToolError(step, "what arrived on the device differs from what was sent: is the file being changed?")
            moved = f"chmod {mode:o} {shlex.quote(partial)} && mv -f {shlex.quote(partial)} {shlex.quote(remote)}"
            self._checked_shell(moved, step)
        except PushFailedError as error:
            self.close()
            free = self._remove(partial, step)
            reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes | bytearray) else str(error)
            raise ToolError(step, _full(size, free) if "No space left" in reason else reason) from error
        except BaseException:
            self._remove(partial, step)
            raise

    def _remove(self, path: str, step: str) -> int | None:
        """Removes a half-written file if the device can still be reached; returns the bytes free then."""
        with contextlib.suppress(ToolError):
            self._shell(f"rm -f {shlex.quote(path)}", step)
            return self._free(str(PurePosixPath(path).parent), step)
        return None

    def _kill(self, pid: int | None) -> None:
        """Ends a process that ran too long, and what it started: adbd gives every command a session of its own."""
        if pid is not None:
            with contextlib.suppress(ToolError):
                self._shell(f"kill -9 -{pid} 2>/dev/null; kill -9 {pid} 2>/dev/null", f"stopping process {pid}")


def _full(needed: int, free: int | None) -> str:
    known = f", {size_text(free)} are free" if free is not None else ""
    return f"No space left on device: {size_text(needed)} are needed{known}"


def _reporter(progress: Progress | None, message: str, before: int, total: int) -> Callable[[int], None]:
    done = before

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(message, min(done / total, 1.0) if total else None)

    report(0)
    return report
