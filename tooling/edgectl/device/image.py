"""The emulated phone's kernel and initramfs, built once from Debian packages and cached by what they are made of."""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgectl.device.base import Progress
from edgectl.device.cpio import Initramfs
from edgectl.device.debian import PrivateApt, machine_source, unpack
from edgectl.device.elf import needed_libraries
from edgectl.device.facts import MARKER
from edgectl.errors import ToolError
from edgectl.paths import cache_root

_STEP = "building the emulator's image"
_ADBD, _ADBD_SUITE = "adbd", "bookworm-backports"
_KERNEL, _SHELL = "linux-image-cloud-arm64", "busybox-static"
_SUITES = ("bookworm", _ADBD_SUITE)
_LIBRARY_FOLDERS = ("usr/lib/aarch64-linux-gnu/android", "usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu", "lib")
_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
)
"""What the network card needs, in the order the kernel wants them."""


@dataclass(frozen=True)
class Image:
    """What qemu boots."""

    kernel: Path
    initramfs: Path


def ensure_image(progress: Progress) -> Image:
    """The image, built when the cache has none; of several builders at once one builds and the others wait.

    Raises:
        UserError: this machine has no apt or no Debian source.
        ToolError: a package cannot be fetched or unpacked.
    """
    root = cache_root() / "emulator"
    folder = root / _recipe_hash()
    image = Image(folder / "kernel", folder / "initramfs.cpio")
    if not folder.is_dir():
        progress("preparing the emulator's image", None)
        with _locked(root):
            if not folder.is_dir():
                _build(root, folder, progress)
    return image


def _init_script() -> bytes:
    return Path(__file__).with_name("guest_init.sh").read_bytes()


def _recipe_hash() -> str:
    """Changes when what an image is made of changes; the packages' versions are those of the day it was built."""
    recipe = [_ADBD, _KERNEL, _SHELL, *_SUITES, *_MODULES, MARKER]
    sources = [_init_script(), *(Path(__file__).with_name(name).read_bytes() for name in ("image.py", "cpio.py"))]
    return hashlib.sha256("\n".join(recipe).encode() + b"\0".join(sources)).hexdigest()[:16]


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ToolError(_STEP, f"{error.filename or root}: {error.strerror or error}") from error


def _build(root: Path, folder: Path, progress: Progress) -> None:
    source = machine_source()
    for left in root.glob(".building-*"):  # by a builder that was killed: no other one builds now
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=root) as scratch_name:
        scratch = Path(scratch_name)
        apt = PrivateApt(scratch / "apt", source, "arm64", _SUITES)
        apt.update(progress)
        packages = apt.download_with_dependencies(_ADBD, _ADBD_SUITE, progress)
        packages += apt.download([_SHELL, apt.dependency(_KERNEL)], progress)
        progress("unpacking the emulator's packages", None)
        versions = unpack(packages, scratch / "root")
        progress("writing the emulator's initramfs", None)
        made = scratch / "image"
        made.mkdir()
        shutil.copyfile(_one(scratch / "root/boot", "vmlinuz-*"), made / "kernel")
        (made / "initramfs.cpio").write_bytes(_initramfs(scratch / "root"))
        manifest = {"architecture": "arm64", "packages": versions}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        made.rename(folder)
    progress("the emulator's image is built", 1.0)


def _initramfs(root: Path) -> bytes:
    """busybox, adbd with the libraries it needs, the network card's modules, and the init script."""
    files = Initramfs()
    for name in ("proc", "sys", "dev", "tmp", "data", "root", "mnt", "var/run"):
        files.folder(name)
    files.character_device("dev/console", 5, 1)
    files.file("init", _init_script(), executable=True)
    files.file("bin/busybox", (root / "bin/busybox").read_bytes(), executable=True)
    files.symlink("system/bin/sh", "/bin/busybox")
    files.file("etc/passwd", b"root:x:0:0:root:/data/local/tmp:/system/bin/sh\n")
    files.file(MARKER, b"clock=instructions\n")
    adbd = root / "usr/lib/android-sdk/platform-tools/adbd"
    files.file("usr/sbin/adbd", adbd.read_bytes(), executable=True)
    for name, path in sorted(_closure(root, adbd).items()):
        files.file(f"lib/{name}", path.read_bytes(), executable=True)
    for module in _MODULES:
        files.file(f"modules/{module}.ko", _module(root, module))
    files.file("modules/order", "\n".join(_MODULES).encode() + b"\n")
    return files.archive()


def _closure(root: Path, program: Path) -> dict[str, Path]:
    """Every shared library that a program needs, directly or not, by the name it is asked for."""
    found: dict[str, Path] = {}
    todo = [program]
    while todo:
        for name in needed_libraries(todo.pop()):
            if name in found:
                continue
            candidates = [root / folder / name for folder in _LIBRARY_FOLDERS]
            path = next((p for p in candidates if p.is_file()), None)
            if path is None:
                raise ToolError(_STEP, f"none of the packages holds {name}, which adbd needs")
            found[name] = path
            todo.append(path)
    return found


def _module(root: Path, name: str) -> bytes:
    path = _one(root / "lib/modules", f"**/{name}.ko*")
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _one(folder: Path, pattern: str) -> Path:
    path = next(iter(sorted(folder.glob(pattern))), None)
    if path is None:
        raise ToolError(_STEP, f"the kernel package has no {pattern}")
    return path
