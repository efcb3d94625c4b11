"""A package as one file: a tar of the descriptor, the manifest and the disks, in that order.

The descriptor comes first though it tells the disks' sizes, and the manifest second though it tells their
digests. So both are reserved, filled with zeros, and written when the disks are there: a package is
written in one pass, and no disk ever lies on the host's disk twice.

Source: DSP0243 1.1.0 clause 5.3, and what importers read. GNU format with names below 100 bytes:
PAX headers are refused by VirtualBox (VERR_TAR_UNSUPPORTED_PAX_TYPE) and hide the descriptor from vSphere
(xen-orchestra #7047 #7183, oVirt #374), ustar ends at 8 GiB; a GNU header's base-256 size does not.

The reader is `ova_reader`.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats import names

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE


@dataclass(frozen=True)
class Member:
    """A file in a package: its name, where its content begins, and how many bytes it has."""

    name: str
    offset: int
    size: int


class Slot:
    """Room in a package for a member whose content is not yet known."""

    def __init__(self, archive: BinaryIO, name: str, offset: int, size: int) -> None:
        self._archive = archive
        self._offset = offset
        self.name = name
        self.size = size
        self.filled = False

    def fill(self, octets: bytes) -> None:
        """Writes the content, which must have exactly `size` bytes (ValueError)."""
        if len(octets) != self.size:
            raise ValueError(f"{self.name}: {len(octets)} bytes for a slot of {self.size}")
        end = self._archive.tell()
        self._archive.seek(self._offset)
        self._archive.write(octets)
        self._archive.seek(end)
        self.filled = True


class Content:
    """A member that is being written, from the byte `offset` of the archive on; see `Archive.member`."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self.offset = archive.tell()
        self.size = 0

    def write(self, octets: bytes | memoryview) -> int:
        """Appends `octets` to the member and says how many they were."""
        self._archive.write(octets)
        self.size += len(octets)
        return len(octets)

    def copy(self, source: Path, offset: int, size: int) -> None:
        """Appends `size` bytes of another file, which the kernel copies, or shares where the file system can.

        Raises:
            FileError: the file ends before.
        """
        self._archive.flush()
        place = self._archive.tell()
        with source.open("rb", buffering=0) as stream:
            done = 0
            while done < size:
                got = _copy_range(stream.fileno(), self._archive.fileno(), size - done, offset + done, place + done)
                if not got:
                    raise FileError(f"{source} was cut short while it was read", "let nothing write to it")
                done += got
        self._archive.seek(place + size)
        self.size += size


def _copy_range(source: int, target: int, count: int, offset: int, place: int) -> int:
    """copy_file_range(2), or sendfile(2) where the file system, or two of them, have no such thing."""
    try:
        return os.copy_file_range(source, target, count, offset, place)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    os.lseek(target, place, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)


class Archive:
    """A package that is being written; see `create`. One member at a time, in the order of the calls."""

    def __init__(self, stream: BinaryIO, mtime: int) -> None:
        self._stream = stream
        self._mtime = mtime
        self._names: set[str] = set()
        self._slots: list[Slot] = []
        self._open = False

    def reserve(self, name: str, size: int) -> Slot:
        """A member of `size` bytes that is to be filled before the archive ends."""
        self._begin(name, size)
        slot = Slot(self._stream, name, self._stream.tell(), size)
        self._stream.write(bytes(size))
        self._pad(size)
        self._slots.append(slot)
        return slot

    def add(self, name: str, octets: bytes) -> None:
        """A member whose content is known."""
        self._begin(name, len(octets))
        self._stream.write(octets)
        self._pad(len(octets))

    @contextmanager
    def member(self, name: str) -> Iterator[Content]:
        """A member that the block writes; its size is put into its header when the block ends."""
        self._begin(name, 0)
        begin = self._stream.tell()
        content = Content(self._stream)
        self._open = True
        yield content
        self._open = False
        self._pad(content.size)
        end = self._stream.tell()
        self._stream.seek(begin - BLOCK)
        self._stream.write(header(name, content.size, self._mtime))
        self._stream.seek(end)

    def _begin(self, name: str, size: int) -> None:
        if self._open:
            raise ValueError(f"{name}: the member before it is still open")
        if name in self._names:
            raise FileError(f"{name} would be twice in the package", "give each file a name of its own")
        self._stream.write(header(name, size, self._mtime))
        self._names.add(name)

    def _pad(self, size: int) -> None:
        self._stream.write(bytes(-size % BLOCK))

    def finish(self) -> None:
        """Writes the two zero blocks and fills the last record, as tar does."""
        empty = [slot.name for slot in self._slots if not slot.filled]
        if empty:
            raise ValueError(f"reserved and never filled: {', '.join(empty)}")
        self._stream.write(bytes(2 * BLOCK))
        self._stream.write(bytes(-self._stream.tell() % RECORD))


@contextmanager
def create(path: Path, mtime: int) -> Iterator[Archive]:
    """Writes a package to `path`: the block adds its members, the archive is complete when it ends well.

    Every member has the mode 0644, no owner, and the time `mtime` (seconds since 1970): nothing of
    the host. Raises FileError for a name that is not portable or comes twice.
    """
    with path.open("wb") as stream:
        archive = Archive(stream, mtime)
        yield archive
        archive.finish()


def header(name: str, size: int, mtime: int) -> bytes:
    """The tar block before a member of `size` bytes; from 8 GiB on the size is in base 256.

    Raises FileError for a name that is not portable.
    """
    entry = tarfile.TarInfo(names.portable(name))
    entry.size = size
    entry.mtime = mtime
    entry.mode = 0o644
    return entry.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def window(path: Path, member: Member) -> BinaryIO:
    """A member's content as a read-only, seekable stream; close it."""
    return joined(member.name, [(path, member)])


def joined(name: str, parts: Sequence[tuple[Path, Member]]) -> BinaryIO:
    """Several members, one after the other, as one such stream; each with the file that it lies in."""
    return io.BufferedReader(_Window(name, parts), 1 << 17)


class _Window(io.RawIOBase):
    """Parts of files as if they were the whole of one."""

    def __init__(self, name: str, parts: Sequence[tuple[Path, Member]]) -> None:
        self.name = name
        self._at = 0
        self._open = ExitStack()
        self._members = [member for _, member in parts]
        self._ends = list(accumulate(member.size for member in self._members))
        with ExitStack() as stack:
            self._files = [stack.enter_context(path.open("rb", buffering=0)) for path, _ in parts]
            self._open = stack.pop_all()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = bisect_right(self._ends, self._at)
        if part == len(self._ends):
            return 0
        left, member = self._ends[part] - self._at, self._members[part]
        octets = os.pread(self._files[part].fileno(), min(len(buffer), left), member.offset + member.size - left)
        buffer[: len(octets)] = octets
        self._at += len(octets)
        return len(octets)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"{self.name}: no place {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._open.close()
        super().close()
