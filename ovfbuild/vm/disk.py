"""Disk images, through qemu-img: what they are, and what stands under and over them.

A path is always handed over absolute: qemu-img takes `nbd:…`, `json:{…}` and `-x` for something else.
A format is always named: a guest can write any magic number into a raw disk. What comes from outside
goes through `probe` first, which lets nothing pass that would make QEMU open another file.

qcow2's header: QEMU's docs/interop/qcow2.txt. VMDK's: VMware's Virtual Disk Format 5.0.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovfbuild.errors import FileError, ProgramError
from ovfbuild.files import published
from ovfbuild.progress import Progress, Silent
from ovfbuild.vm.process import run

SECTOR = 512
_PROBE_SECONDS = 30
_MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk Descriptor", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)
_NO_DISKS = (
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"\xfd7zXZ\0", "compressed by xz"),
    (0, b"BZh", "compressed by bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
)
_EXPORTS = {"qcow2": ("-c", "-o", "compression_type=zstd"), "vhdx": ("-o", "subformat=dynamic"), "raw": ()}
"""How qemu-img writes each. In order, so that the same disk gives the same bytes: `-W` is faster and does not."""
_QCOW2_HEADER = struct.Struct(">4sIQIIQI")
"""Magic, version, offset and size of the backing file's name, cluster bits, size, encryption."""
_QCOW2_DATA_FILE = 1 << 2
"""Among the incompatible features, 8 bytes at 72: the data are in another file."""


@dataclass(frozen=True)
class Image:
    """A disk image as qemu-img describes it. Sizes are bytes."""

    format: str
    virtual_size: int
    """A multiple of 512."""
    backing: str = ""
    """The whole name of the image that it lies over."""


def probe(path: Path, image_format: str | None = None, *, trusted: bool = False) -> Image:
    """What an image is; its format by its own magic number if none is named.

    Args:
        trusted: we made it, so it may lie over another one. Otherwise it must be complete in itself.

    Raises:
        FileError: no such file, no disk image, encrypted, or one that refers to other files.
        ProgramError: qemu-img is missing.
    """
    found = image_format or _detect(path)
    if not trusted:
        _refuse_references(path, found)
    facts = info(path, found)[0]
    backing = facts.get("full-backing-filename") or facts.get("backing-filename") or ""
    inner = facts.get("format-specific", {}).get("data", {})
    outside = [extent.get("filename") for extent in inner.get("extents", ())]
    if not trusted and (backing or inner.get("data-file") or outside not in ([], [str(path.absolute())])):
        raise _refers(path)
    if facts.get("encrypted"):
        raise FileError(f"{path} is encrypted", "give an image without encryption")
    return Image(found, -(-int(facts["virtual-size"]) // SECTOR) * SECTOR, backing)


def overlay(base: Path, base_format: str, path: Path, size: int | None = None) -> None:
    """Makes a qcow2 that holds only what is written over `base`; `size` in bytes, by default the base's.

    Raises:
        FileError: `size` is less than the base's: its end, the second partition table too, would be cut off.
    """
    least = probe(base, base_format, trusted=True).virtual_size
    if size is not None and size < least:
        raise FileError(
            f"{base} is a disk of {least} bytes, too large for one of {size}",
            f"give the disk at least {-(-least >> 30)} GiB",
        )
    over: list[str | Path] = ["-b", base.absolute(), "-F", base_format]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *over, path.absolute(), str(size or least)])


def convert(
    source: Path, source_format: str, target: Path, target_format: str, progress: Progress | None = None
) -> None:
    """Writes a disk, with all that lies under it, as an image of its own; it appears whole or not at all."""
    with published(target) as partial:
        _convert(source, source_format, partial, target_format, progress or Silent())


def convert_inside(
    archive: Path, offset: int, size: int, target: Path, target_format: str, progress: Progress | None = None
) -> None:
    """Writes a VMDK that lies within another file as an image of its own; it appears whole or not at all.

    Raises:
        FileError: it is no sparse VMDK that is complete in itself.
    """
    with archive.open("rb") as stream:
        stream.seek(offset)
        head = stream.read(20)
    if not head.startswith(b"KDMV") or head[12:20] == bytes(8):
        # The text form, or a header of no sectors: both list extents in other files.
        raise FileError(
            f"{archive.name}: a disk in it is no VMDK that is complete in itself", "ovfbuild check says more"
        )
    argv = ["qemu-img", "convert", "--image-opts", "-O", target_format, inside(archive, offset, size)]
    with published(target) as partial, watched(partial, progress or Silent()):
        run([*argv, partial.absolute()], timeout=4 * 3600)


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, as an OVA is."""
    return _head(path)[257:262] == b"ustar"


def export(
    source: Path, source_format: str, target: Path, target_format: str, progress: Progress | None = None
) -> None:
    """Writes a disk as people hand it on: qcow2 compressed by zstd, VHDX that grows, raw with holes; no copy between.

    Raises:
        ProgramError: qemu-img is missing, failed, or knows no zstd (before QEMU 5.1).
    """
    _convert(source, source_format, target, target_format, progress or Silent(), _EXPORTS[target_format])


def flatten(source: Path, target: Path, progress: Progress | None = None) -> None:
    """An overlay and all that it lies over, as one qcow2."""
    convert(source, "qcow2", target, "qcow2", progress)


def check(path: Path, image_format: str) -> None:
    """Reads an image's own tables.

    Raises:
        FileError: they are damaged. Lost clusters only cost space, and a format without a check has none.
    """
    try:
        run(["qemu-img", "check", "-q", "-f", image_format, path.absolute()], ok=(0, 3, 63))
    except ProgramError as error:
        raise FileError(f"{path} is damaged: {_last_line(error)}", "make or download it again") from error


def described(path: Path, image_format: str) -> str:
    """An image in the words of qemu-img's --image-opts."""
    return f"driver={image_format},file.driver=file,file.filename={_escape(path)}"


def inside(archive: Path, offset: int, size: int, image_format: str = "vmdk") -> str:
    """An image that lies within another file, an OVA say, in the words of --image-opts; in bytes."""
    return (
        f"driver={image_format},file.driver=raw,file.offset={offset},file.size={size},"
        f"file.file.driver=file,file.file.filename={_escape(archive)}"
    )


def compare(one: str, other: str) -> bool:
    """Whether two disks, in the words of --image-opts, have the same content; a longer one ends in zeros.

    Raises:
        ProgramError: one of them can't be read.
    """
    said = run(["qemu-img", "compare", "--image-opts", one, other], ok=(0, 1), timeout=3600)
    return "Images are identical" in said


def _detect(path: Path) -> str:
    """The format that a file's magic number tells. Raises FileError."""
    if not path.is_file():
        raise FileError(f"{path} is no file" if path.exists() else f"{path} does not exist", "name a disk image")
    head = _head(path)
    for place, magic, image_format in _MAGICS:
        if head.startswith(magic, place):
            return image_format
    for place, magic, what in _NO_DISKS:
        if head.startswith(magic, place):
            raise FileError(f"{path} is no disk image: it is {what}", "unpack it first")
    size = path.stat().st_size
    if size == 0 or size % SECTOR:
        raise FileError(
            f"{path} is no disk image: no magic number, and {size} bytes are no whole number of sectors",
            "give a qcow2, VMDK, VDI, VHDX, VHD or raw image",
        )
    with path.open("rb") as stream:
        stream.seek(-SECTOR, os.SEEK_END)
        return "vpc" if stream.read(8) == b"conectix" else "raw"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(SECTOR)
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror}", "name a disk image") from error


def _refuse_references(path: Path, image_format: str) -> None:
    """Refuses an image that names other files before qemu-img, which would open them, sees it."""
    head = _head(path)
    if image_format == "qcow2" and len(head) >= 104 and head.startswith(b"QFI\xfb"):
        _, version, backing, _, _, _, encryption = _QCOW2_HEADER.unpack_from(head)
        features = int.from_bytes(head[72:80], "big") if version >= 3 else 0
        if backing or features & _QCOW2_DATA_FILE:
            raise _refers(path)
        if encryption:
            raise FileError(f"{path} is encrypted", "give an image without encryption")
    if image_format == "vmdk" and (head.startswith(b"# Disk") or head[12:20] == bytes(8)):
        # The text form, or a sparse one of no sectors: both list extents in other files.
        raise _refers(path)


def _refers(path: Path) -> FileError:
    return FileError(
        f"{path} is only a part of a disk: it refers to other files",
        f"make one of it where the others are: qemu-img convert -O qcow2 {path.name} whole.qcow2",
    )


def info(path: Path, image_format: str, *more: str) -> list[dict[str, Any]]:
    """What `qemu-img info` says of an image, or of a chain of them. Raises FileError."""
    argv = ["qemu-img", "info", "--output=json", "-f", image_format, *more]
    try:
        said = json.loads(run([*argv, path.absolute()], timeout=_PROBE_SECONDS))
    except ProgramError as error:
        if "not installed" in error.message:
            raise
        raise FileError(f"{path} is no {image_format} image: {_last_line(error)}", "check the file") from error
    return said if isinstance(said, list) else [said]


def _last_line(error: ProgramError) -> str:
    return error.message.rstrip().rpartition("\n")[2].removeprefix("qemu-img: ")


def _escape(path: Path) -> str:
    """A path as a value in a list of options, where a comma stands doubled."""
    return str(path.absolute()).replace(",", ",,")


def _convert(
    source: Path, source_format: str, target: Path, target_format: str, progress: Progress, more: Sequence[str] = ()
) -> None:
    argv = ["qemu-img", "convert", "-f", source_format, "-O", target_format, *more]
    with watched(target, progress):
        run([*argv, source.absolute(), target.absolute()], timeout=4 * 3600)


@contextmanager
def watched(target: Path, progress: Progress) -> Iterator[None]:
    """Reports how much of a file is on the disk while the block writes it (holes don't count)."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            if target.exists():
                progress.bytes(target.stat().st_blocks * 512, None)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
