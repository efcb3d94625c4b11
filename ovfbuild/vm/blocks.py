"""A disk's content, read where its blocks lie in the image's files: with holes known, and by any number of threads."""

from __future__ import annotations

import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import FileError
from ovfbuild.vm import disk
from ovfbuild.vm.process import run


@dataclass(frozen=True)
class _Extent:
    """Bytes of the disk from `start` to `end` that lie at `place` of an open file of `size` bytes."""

    start: int
    end: int
    file: int
    place: int
    size: int


class DiskReader:
    """A disk's content, read where its blocks lie. Places and sizes are bytes; any thread may read."""

    def __init__(self, capacity: int, extents: Sequence[_Extent]) -> None:
        self._capacity = capacity
        self._extents = extents
        self._starts = [extent.start for extent in extents]

    @property
    def capacity(self) -> int:
        """The size of the disk, a multiple of 512."""
        return self._capacity

    def runs(self) -> Iterable[tuple[int, int]]:
        """(offset, length) of what may hold anything but zeros: ascending, disjoint, as long as can be."""
        start = end = 0
        for extent in self._extents:
            if extent.start != end:
                if end > start:
                    yield start, end - start
                start = extent.start
            end = extent.end
        if end > start:
            yield start, end - start

    def read(self, offset: int, length: int) -> bytes:
        """Those bytes of the disk; zeros where nothing is allocated."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """The same into a buffer that is there already; says how many bytes, which is all of it."""
        at, end = offset, offset + len(buffer)
        for index in range(max(bisect_right(self._starts, offset) - 1, 0), len(self._extents)):
            extent = self._extents[index]
            if extent.start >= end:
                break
            first, last = max(at, extent.start), min(end, extent.end)
            if first >= last:
                continue
            buffer[at - offset : first - offset] = bytes(first - at)
            _fill(extent, first, buffer[first - offset : last - offset])
            at = last
        buffer[at - offset :] = bytes(end - at)
        return len(buffer)


@contextmanager
def open_reader(path: Path, image_format: str, workspace: Path) -> Iterator[DiskReader]:
    """Opens a disk for reading its blocks, nobody writing to it meanwhile.

    raw and qcow2 are read in place, with all that a qcow2 lies over. What qemu-img can't give the
    place of (compressed clusters, other formats) becomes a sparse raw in `workspace` for as long.

    Raises:
        FileError: it can't be opened.
    """
    with ExitStack() as stack:
        if image_format == "raw":
            yield _read_raw(path, stack)
            return
        reader = _read_mapped(path, stack) if image_format == "qcow2" else None
        if reader is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="raw-", dir=workspace))
            raw = Path(scratch) / "disk.raw"
            disk.convert(path, image_format, raw, "raw")
            reader = _read_raw(raw, stack)
        yield reader


def _open(path: Path, stack: ExitStack) -> tuple[int, int]:
    """A file to read from, until the stack ends, and its size."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror}", "name a disk image") from error
    stack.callback(os.close, file)
    return file, os.fstat(file).st_size


def _read_raw(path: Path, stack: ExitStack) -> DiskReader:
    file, size = _open(path, stack)
    extents = []
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole to the end
            break
        end = os.lseek(file, start, os.SEEK_HOLE)
        extents.append(_Extent(start, end, file, start, size))
    return DiskReader(-(-size // disk.SECTOR) * disk.SECTOR, extents)


def _read_mapped(path: Path, stack: ExitStack) -> DiskReader | None:
    """A qcow2 and what it lies over, read in place; None where a block has no place of its own."""
    chain = disk.info(path, "qcow2", "--backing-chain")
    for image in chain:
        inner = image.get("format-specific", {}).get("data", {})
        if image["format"] not in ("raw", "qcow2") or inner.get("data-file"):
            return None
        if not image["filename"].startswith("/"):
            return None
    blocks = json.loads(run(["qemu-img", "map", "--output=json", "-f", "qcow2", path.absolute()]))
    data = [block for block in blocks if block["data"] and not block["zero"]]
    if any("offset" not in block for block in data):
        return None
    opened = [_open(Path(image["filename"]), stack) for image in chain]
    extents = []
    for block in data:
        file, size = opened[block["depth"]]
        extents.append(_Extent(block["start"], block["start"] + block["length"], file, block["offset"], size))
    return DiskReader(int(chain[0]["virtual-size"]), _merged(extents))


def _merged(extents: Iterable[_Extent]) -> list[_Extent]:
    """Neighbours on the disk that are neighbours in the same file, as one: fewer reads."""
    merged: list[_Extent] = []
    for extent in extents:
        last = merged[-1] if merged else None
        if (
            last
            and (last.file, last.end) == (extent.file, extent.start)
            and last.place + (last.end - last.start) == extent.place
        ):
            merged[-1] = _Extent(last.start, extent.end, last.file, last.place, last.size)
        else:
            merged.append(extent)
    return merged


def _fill(extent: _Extent, first: int, buffer: memoryview) -> None:
    """Bytes of an extent; zeros beyond the file's end, as QEMU reads them.

    Raises:
        FileError: the file is shorter than when it was opened.
    """
    place, done = extent.place + first - extent.start, 0
    while done < len(buffer):
        got = os.preadv(extent.file, [buffer[done:]], place + done)
        if not got:
            if place + done < extent.size:
                raise FileError("a disk image was cut short while it was read", "let nothing write to it")
            buffer[done:] = bytes(len(buffer) - done)
            return
        done += got
