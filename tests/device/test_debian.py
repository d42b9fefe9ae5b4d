"""Where the emulator's packages come from, and how they are taken apart."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgectl.device.cpio import Initramfs
from edgectl.device.debian import PrivateApt, Source, machine_source
from edgectl.device.elf import needed_libraries
from edgectl.errors import ToolError, UserError

DEB822 = """# the distribution
Types: deb
URIs: http://mirror.example/debian
# a comment in the middle
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def etc(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        path = tmp_path / ("sources.list" if name == "sources_list" else f"sources.list.d/{name.replace('__', '.')}")
        path.write_text(text)
    return tmp_path


def test_deb822_sources_are_read(tmp_path: Path) -> None:
    source = machine_source(etc(tmp_path, debian__sources=DEB822))
    assert source == Source("http://mirror.example/debian", (("signed-by", "/usr/share/keyrings/debian.gpg"),))


def test_one_line_sources_are_read(tmp_path: Path) -> None:
    text = "# deb http://old.example/debian bookworm main\ndeb-src http://src.example/debian bookworm main\n"
    text += "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main non-free # here\n"
    assert machine_source(etc(tmp_path, sources_list=text)) == Source(
        "http://mirror.example/debian/", (("signed-by", "/k.gpg"),)
    )


def test_other_repositories_are_not_taken_for_debian(tmp_path: Path) -> None:
    others = "deb http://other.example/linux/debian bookworm stable\ndeb http://pg.example/apt bookworm-pgdg main\n"
    disabled = DEB822.replace("Types: deb\nURIs: http://mirror.example/debian\n", "Types: deb\nEnabled: no\nURIs: http://x/y\n")
    folder = etc(tmp_path, other__list=others, debian__sources=disabled, old__disabled=DEB822)
    with pytest.raises(UserError, match="no Debian source stands in"):
        machine_source(folder)


def test_bookworm_itself_is_preferred(tmp_path: Path) -> None:
    text = "deb http://a.example/debian sid main\ndeb http://b.example/debian bookworm main\n"
    assert machine_source(etc(tmp_path, sources_list=text)).uri == "http://b.example/debian"


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="this machine has no apt-get: build it on Debian 12"):
        machine_source(etc(tmp_path))


def test_a_mirror_that_cannot_be_reached_fails_with_apts_words(tmp_path: Path) -> None:
    apt = PrivateApt(tmp_path / "apt", Source(f"file:{tmp_path}/no-mirror", (("trusted", "yes"),)), "arm64", ("bookworm",))
    with pytest.raises(ToolError, match=r"^fetching the emulator's Debian packages failed: E"):
        apt.update(lambda *_: None)


def test_a_private_apt_leaves_the_machines_own_lists_alone(tmp_path: Path) -> None:
    apt = PrivateApt(tmp_path / "apt", Source("file:/nowhere"), "arm64", ("bookworm",))
    said = subprocess.run(
        ["apt-config", "dump"],
        env=dict(os.environ, APT_CONFIG=str(tmp_path / "apt/apt.conf")),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    del apt
    for setting in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourceparts"):
        assert f'{setting} "{tmp_path}/apt' in said
    assert 'APT::Architecture "arm64"' in said


def test_needed_libraries_are_those_that_readelf_sees() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf on this machine")
    for program in ("/bin/sh", "/usr/bin/env", "/bin/bash"):
        path = Path(program).resolve()
        lines = subprocess.run([readelf, "-d", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
        assert needed_libraries(path) == [line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line]


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 200])
def test_what_is_no_elf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="ELF"):
        needed_libraries(tmp_path / "file")


def test_an_initramfs_is_a_cpio_archive(tmp_path: Path) -> None:
    files = Initramfs()
    files.file("a/b/run", b"#!/bin/sh\n", executable=True)
    files.file("a/data", b"\0" * 5)
    files.symlink("a/link", "b/run")
    files.folder("a/b")
    cpio = shutil.which("cpio")
    if cpio is None:
        pytest.skip("no cpio on this machine")
    subprocess.run([cpio, "-id", "--quiet"], input=files.archive(), cwd=tmp_path, check=True)
    assert (tmp_path / "a/b/run").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "a/b/run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/data").read_bytes() == b"\0" * 5
    assert (tmp_path / "a/link").readlink() == Path("b/run")
