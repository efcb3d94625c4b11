"""Whether the disk in a package is the one that was packed: by qemu-img, or above a size by our own reader.

qemu-img asks a VMDK for every 64 KiB of its capacity, some 20 s of CPU for each TiB (QEMU 7.2), be it all empty. So
a disk that is much larger than what is on it is compared grain by grain with what `vmdk_reader` reads: that takes the
time of its data. The tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ovfbuild.formats import ova, vmdk_reader
from ovfbuild.formats.vmdk_layout import GRAIN
from ovfbuild.verify.package import Package, StoredDisk
from ovfbuild.vm import disk
from ovfbuild.vm.blocks import DiskReader, open_reader
from ovfbuild.vm.sealed import SealedDisk

LARGEST_FOR_QEMU = 128 << 30
"""Bytes of capacity; a few seconds of qemu-img's."""
_PIECE = 1 << 20


def is_packed(sealed: SealedDisk, package: Path, member: ova.Member, work: Path) -> bool:
    """Whether the VMDK in that member has the content of the sealed disk. It was walked before and is sound.

    Raises:
        FileError, ProgramError: one of them can't be read.
    """
    if sealed.capacity <= LARGEST_FOR_QEMU:
        inside = disk.inside(package, member.offset, member.size)
        return disk.compare(disk.described(sealed.path, sealed.format), inside)
    with open_reader(sealed.path, sealed.format, work) as source, ova.window(package, member) as stream:
        return same(source, vmdk_reader.grains(stream, member.name))


def is_same(sealed: SealedDisk, package: Package, packed: StoredDisk, work: Path) -> bool:
    """The same of a disk in a package that was opened; one in pieces, or compressed once more, is read grain by grain.

    Raises:
        FileError, ProgramError: one of them can't be read.
    """
    if packed.plain:
        (member,) = packed.members
        return is_packed(sealed, package.file_of(member), member, work)
    with open_reader(sealed.path, sealed.format, work) as source, package.open_disk(packed) as stream:
        return same(source, vmdk_reader.grains(stream, packed.file.href))


def same(source: DiskReader, grains: Iterable[tuple[int, bytes]]) -> bool:
    """Whether a disk is those grains (offset, 64 KiB), ascending, with zeros between and after them."""
    runs = _Runs(source)
    end = 0
    for offset, octets in grains:
        length = min(GRAIN, source.capacity - offset)
        if not runs.empty(end, offset) or source.read(offset, length) != octets[:length]:
            return False
        end = offset + GRAIN
    return runs.empty(end, source.capacity)


class _Runs:
    """Where a disk may hold anything, asked from its begin to its end."""

    def __init__(self, source: DiskReader) -> None:
        self._source = source
        self._left: Iterator[tuple[int, int]] = iter(source.runs())
        self._run = (0, 0)

    def empty(self, begin: int, end: int) -> bool:
        """Whether all bytes from `begin` to `end` are zeros; reads those alone that are allocated."""
        while begin < end:
            start, length = self._run
            if start + length <= begin:
                self._run = next(self._left, (end, end))
                continue
            first, last = max(begin, start), min(end, start + length)
            for at in range(first, last, _PIECE):
                octets = self._source.read(at, min(_PIECE, last - at))
                if octets != bytes(len(octets)):
                    return False
            begin = max(begin, last)
        return True
