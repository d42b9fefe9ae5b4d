"""Fetches Debian packages of another architecture without touching this machine's apt: a private configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.device.base import Progress
from edgectl.errors import ToolError, UserError

_SUITES = ("bookworm", "trixie", "bullseye", "oldstable", "stable", "testing", "sid", "unstable")
_STEP = "fetching the emulator's Debian packages"


@dataclass(frozen=True)
class Source:
    """Where this machine gets Debian from, and the options (`signed-by`, `trusted`) it trusts that by."""

    uri: str
    options: tuple[tuple[str, str], ...] = ()


def machine_source(etc: Path = Path("/etc/apt")) -> Source:
    """The Debian mirror that this machine's own apt uses.

    Raises:
        UserError: apt is not there, or no source of Debian's main component is configured.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise UserError(
            "The emulator is made of Debian packages, and this machine has no apt-get: build it on Debian 12, "
            "or use a real device by HOST:PORT or USB serial."
        )
    found: list[tuple[int, Source]] = []
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for path in files:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for suites, components, source in _deb822(text) if path.suffix == ".sources" else _one_line(text):
                ranks = [_SUITES.index(suite) for suite in suites if suite in _SUITES]
                if ranks and "main" in components:
                    found.append((min(ranks), source))
    if not found:
        raise UserError(
            f"The emulator is made of Debian packages, and no Debian source stands in {etc}/sources.list or sources.list.d: "
            "add one (suite bookworm, component main)."
        )
    return min(found, key=lambda entry: entry[0])[1]


def _one_line(text: str) -> list[tuple[list[str], list[str], Source]]:
    entries = []
    for line in text.splitlines():
        matched = re.match(
            r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]*)", line
        )
        if matched:
            options = dict(word.split("=", 1) for word in (matched["options"] or "").split() if "=" in word)
            source = Source(matched["uri"], _trust({key.lower(): value for key, value in options.items()}))
            entries.append(([matched["suite"]], matched["components"].split(), source))
    return entries


def _deb822(text: str) -> list[tuple[list[str], list[str], Source]]:
    entries = []
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {key.lower(): value.strip() for key, value in re.findall(r"(?m)^([\w-]+):((?:.*\n?)(?:[ \t].*\n?)*)", stanza)}
        words = {key: value.split() for key, value in fields.items()}
        if "deb" in words.get("types", []) and words.get("uris") and fields.get("enabled", "yes").lower() != "no":
            source = Source(words["uris"][0], _trust(fields))
            entries.append((words.get("suites", []), words.get("components", []), source))
    return entries


def _trust(options: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, options[key]) for key in ("signed-by", "trusted") if key in options)


class PrivateApt:
    """An apt of its own in a folder: own sources, lists, cache and an empty package database.

    Args:
        folder: where all of it lives; nothing outside is written.
        architecture: Debian's name, such as `arm64`.
        suites: the suites to take packages from.
    """

    def __init__(self, folder: Path, source: Source, architecture: str, suites: Sequence[str]) -> None:
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial", "sources"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        fields = "".join(f"{key.title()}: {value}\n" for key, value in source.options)
        (folder / "sources/debian.sources").write_text(
            f"Types: deb\nURIs: {source.uri}\nSuites: {' '.join(suites)}\nComponents: main\n{fields}", encoding="utf-8"
        )
        settings = {
            "APT::Architecture": architecture,
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": str(folder / "sources"),
            "Dir::State": str(folder / "state"),
            "Dir::State::status": str(folder / "status"),
            "Dir::Cache": str(folder / "cache"),
        }
        lines = [f'{key} "{value}";\n' for key, value in settings.items()]
        lines.append(f'APT::Architectures {{ "{architecture}"; }};\n')
        (folder / "apt.conf").write_text("".join(lines), encoding="utf-8")

    def update(self, progress: Progress) -> None:
        """Reads the package lists."""
        self._apt("apt-get", ["update"], progress, "reading Debian's package lists")

    def dependency(self, package: str) -> str:
        """The first package that a package depends on (what a meta-package stands for)."""
        matched = re.search(r"Depends: (\S+)", self._apt("apt-cache", ["depends", package]))
        if matched is None:
            raise ToolError(_STEP, f"{package} depends on nothing")
        return matched[1]

    def download_with_dependencies(self, package: str, suite: str, progress: Progress) -> list[Path]:
        """Downloads a package and all that it needs, preferring a suite."""
        arguments = ["install", "-y", "--download-only", "-t", suite, package]
        self._apt("apt-get", arguments, progress, f"downloading {package} for the emulator")
        return sorted((self._folder / "cache/archives").glob("*.deb"))

    def download(self, packages: Sequence[str], progress: Progress) -> list[Path]:
        """Downloads just these packages."""
        folder = self._folder / "single"
        folder.mkdir(exist_ok=True)
        self._apt("apt-get", ["download", *packages], progress, "downloading the emulator's kernel", cwd=folder)
        return sorted(folder.glob("*.deb"))

    def _apt(
        self, program: str, arguments: list[str], progress: Progress | None = None, message: str = "", cwd: Path | None = None
    ) -> str:
        """Runs apt with the private configuration; returns what it wrote, less the progress lines."""
        command = [program, "-q", *(["-o", "APT::Status-Fd=1"] if progress else []), *arguments]
        environment = dict(os.environ, APT_CONFIG=str(self._folder / "apt.conf"), LC_ALL="C", DEBIAN_FRONTEND="noninteractive")
        said: list[str] = []
        if progress:
            progress(message, None)
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                matched = re.match(r"dlstatus:\d+:([\d.]+):", line)
                if matched and progress:
                    progress(message, min(float(matched[1]) / 100, 1.0))
                elif not matched:
                    said.append(line)
        if process.returncode:
            errors = [line for line in said if line.startswith(("E:", "Err:"))] or said[-5:]
            raise ToolError(_STEP, " ".join(line.strip() for line in errors[:5]) + " (is the network there?)")
        return "".join(said)


def unpack(packages: Sequence[Path], folder: Path) -> dict[str, str]:
    """Unpacks packages into a folder; nothing is installed. Returns their names and versions."""
    versions: dict[str, str] = {}
    for package in packages:
        for command in (["dpkg-deb", "-x", str(package), str(folder)], ["dpkg-deb", "-f", str(package), "Package", "Version"]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ToolError(f"unpacking {package.name}", done.stderr)
        fields = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
        versions[fields["Package"]] = fields["Version"]
    return versions
