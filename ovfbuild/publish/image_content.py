"""A package's disks as they go into images, which hold one each: which there are, and the bytes of each.

Disks are counted from 1 in the order of the descriptor's DiskSection (DSP0243, 9.1), the empty ones too. The first that
has a content is what the machine boots from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.files import absorb
from ovfbuild.formats import ova
from ovfbuild.formats.envelope import Disk
from ovfbuild.progress import step
from ovfbuild.publish.cloud import Surroundings
from ovfbuild.publish.nova import DiskFormat
from ovfbuild.verify.package import Package
from ovfbuild.verify.rules import size_of
from ovfbuild.vm import disk as images
from ovfbuild.vm.extract import capacity as capacity_of
from ovfbuild.vm.extract import extract

_GIB = 2**30


@dataclass(frozen=True)
class PackedDisk:
    """A disk of a package; `member` is None of an empty one. Sizes are bytes."""

    number: int
    declared: Disk
    capacity: int
    member: ova.Member | None

    @property
    def gibibytes(self) -> int:
        """What a flavor's disk or a volume must have at least."""
        return -(-self.capacity // _GIB)


def disks_of(package: Package) -> tuple[PackedDisk, ...]:
    """A package's disks.

    Raises:
        FileError: none has a content, or one is not a streamOptimized VMDK that lies in the package as it is.
    """
    stored = {one.disk.disk_id: one for one in package.stored_disks}
    section = package.envelope.disk_section
    found = []
    for number, declared in enumerate(section.disks if section else (), 1):
        if declared.file_ref is None:
            found.append(PackedDisk(number, declared, size_of(declared) or 0, None))
            continue
        file = stored.get(declared.disk_id)
        if file is None or not file.plain or "streamOptimized" not in (declared.format or ""):
            said = f"{declared.disk_id} of {package.path.name} is no streamOptimized VMDK in one piece"
            raise FileError(said, "ovfbuild fix makes one of it")
        (member,) = file.members
        capacity = capacity_of(images.inside(package.path, member.offset, member.size))
        found.append(PackedDisk(number, declared, capacity, member))
    if not any(one.member for one in found):
        raise FileError(f"{package.path.name} has no disk with a content", "an image is made of one")
    return tuple(found)


@dataclass(frozen=True)
class Content:
    """What an image gets: `size` bytes of a file, from `offset` on."""

    path: Path
    offset: int
    size: int

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        with ova.window(self.path, ova.Member(self.path.name, self.offset, self.size)) as stream:
            yield stream

    def digest(self, algorithm: str) -> str:
        """In hex, by one of hashlib's algorithms."""
        running = hashlib.new(algorithm)
        with self.opened() as stream:
            absorb(stream, running)
        return running.hexdigest()


class Contents:
    """Gives the content of one disk after the other: the VMDK as it lies in the OVA, or a qcow2 that is made of it.

    Of what was made only the last is kept, for another try: several large disks never lie in the cache folder together.
    """

    def __init__(self, disk_format: DiskFormat, around: Surroundings) -> None:
        self._disk_format = disk_format
        self._around = around
        self._kept = ExitStack()
        self._made: tuple[tuple[Path, int], Content] | None = None

    def of(self, package: Package, disk: PackedDisk) -> Content:
        """The content of a disk that has one; it lasts until that of another is asked for."""
        assert disk.member is not None
        if self._disk_format == "vmdk":
            return Content(package.path, disk.member.offset, disk.member.size)
        if self._made is None or self._made[0] != (package.path, disk.number):
            self.close()
            self._made = (package.path, disk.number), self._converted(package, disk, disk.member)
        return self._made[1]

    def close(self) -> None:
        """Removes what was made."""
        self._made = None
        self._kept.close()

    def _converted(self, package: Package, disk: PackedDisk, member: ova.Member) -> Content:
        progress = self._around.progress
        workspace = self._kept.enter_context(self._around.workspace())
        qcow2 = workspace / "disk.qcow2"
        said = "the disk" if len(package.stored_disks) == 1 else f"disk {disk.number}"
        with step(progress, f"convert {said} to qcow2"):
            extract(images.inside(package.path, member.offset, member.size), qcow2, "qcow2", progress)
        size = qcow2.stat().st_size
        progress.note(f"{said} as a qcow2 takes {size / 1e6:.0f} MB of {workspace} until it is sent")
        return Content(qcow2, 0, size)
