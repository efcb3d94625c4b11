"""Writes a streamOptimized VMDK in one pass: what every hypervisor imports from a package.

    source.runs() ─▶ grain numbers ─▶ batches of 16 ─▶ threads: read, drop zeros, deflate ─┐
                                                                                           │ in order
            Extent ◀─ table, directory, footer, end of stream ◀─ write and hash ◀──────────┘

It is not left to qemu-img, whose output lacks the end-of-stream sector or has bytes after it (QEMU
GitLab #1357, siderolabs/talos #8148, home-assistant/operating-system #2121); VMware stops hashing there
and refuses the package. The layout and its source are in `vmdk_layout`, the reader in `vmdk_reader`.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import deflate

from ovfbuild.errors import FileError
from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.formats.vmdk_layout import GRAIN, SECTOR, TABLE_ENTRIES

LEVEL = 5
"""libdeflate's: smaller and 3.7 times faster than zlib's 6, and the same bytes on every machine."""
BATCH = 16
"""Grains a task. With one, handing over costs more than compressing on a second core wins."""
_ZEROS = bytes(GRAIN)


class BlockSource(Protocol):
    """A disk's content, by what is allocated. Sizes and places are bytes."""

    @property
    def capacity(self) -> int:
        """The size of the disk."""

    def runs(self) -> Iterable[tuple[int, int]]:
        """(offset, length) of what may hold anything but zeros: ascending, disjoint, of any alignment."""

    def read(self, offset: int, length: int) -> bytes:
        """Those bytes of the disk, zeros outside the runs. Called from several threads at once."""


class Sink(Protocol):
    """Where a VMDK is written to: all that is asked of it is to take bytes one after the other."""

    def write(self, octets: bytes, /) -> object:
        """Takes all of `octets`."""


@dataclass(frozen=True)
class Extent:
    """A VMDK that was written, in bytes: the disk's size, what of it is stored, and the file's size.

    `populated_size` counts grains of 64 KiB; `sha256` is that of the VMDK file, in hex.
    """

    capacity: int
    populated_size: int
    file_size: int
    sha256: str


@dataclass(frozen=True)
class _Batch:
    """Grains of one table, packed: `places` are (entry in the table, sector within `octets`)."""

    table: int
    octets: bytes
    places: tuple[tuple[int, int], ...]
    end: int


def write(
    source: BlockSource,
    out: Sink,
    *,
    name: str,
    cid: int,
    threads: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Extent:
    """Writes `source` to `out` as a streamOptimized VMDK called `name`, in one pass.

    The same source, `name` and `cid` give the same bytes with any number of `threads` (None: a thread
    a CPU). Memory stays at some 2 MiB a batch in flight plus 4 bytes for each 32 MiB of capacity.
    `on_bytes` is told, from the calling thread, how many bytes of the capacity are done.
    Raises FileError for a capacity that is no multiple of 512 bytes, none, or above 64 TiB, and for a
    `name` that the disk descriptor cannot hold. Source: see `vmdk_layout`.
    """
    capacity = source.capacity
    _check_capacity(capacity)
    if not 0 <= cid < 0xFFFF_FFFF:
        raise ValueError(f"a CID has 32 bits and is not ffffffff, which means no parent: {cid:#x}")
    header = layout.Header(capacity=capacity // SECTOR, directory=layout.DIRECTORY_AT_END)
    stream = _Stream(out, header, name, cid)
    workers = threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers, thread_name_prefix="vmdk") as pool:
        for batch in _in_order(pool, source, depth=2 * workers + 1):
            stream.put(batch)
            if on_bytes:
                on_bytes(min(batch.end, capacity))
    if on_bytes:
        on_bytes(capacity)
    return stream.finish()


def _check_capacity(capacity: int) -> None:
    if capacity <= 0 or capacity % SECTOR:
        raise FileError(
            f"a disk of {capacity} bytes cannot be packed: no whole number of 512-byte sectors",
            "give it a size in whole MiB",
        )
    if capacity > layout.LARGEST:
        raise FileError(f"a disk of {capacity} bytes is larger than a VMDK can be", "stay below 64 TiB")


def _grains(source: BlockSource) -> Iterator[int]:
    """The numbers of all grains that a run touches, ascending, each once."""
    done, position = -1, 0
    for offset, length in source.runs():
        if length <= 0 or offset < position or offset + length > source.capacity:
            raise ValueError(f"run of {length} bytes at {offset}: not ascending, or not on the disk")
        position = offset + length
        last = (position - 1) // GRAIN
        yield from range(max(done + 1, offset // GRAIN), last + 1)
        done = last


def _batches(source: BlockSource) -> Iterator[list[int]]:
    """At most 16 grain numbers at a time, never of two grain tables."""
    batch: list[int] = []
    for grain in _grains(source):
        if len(batch) == BATCH or (batch and batch[0] // TABLE_ENTRIES != grain // TABLE_ENTRIES):
            yield batch
            batch = []
        batch.append(grain)
    if batch:
        yield batch


def _in_order(pool: ThreadPoolExecutor, source: BlockSource, depth: int) -> Iterator[_Batch]:
    """Every batch, packed by the pool, in the order of the disk; never more than `depth` are waiting."""
    waiting: deque[Future[_Batch]] = deque()
    try:
        for grains in _batches(source):
            waiting.append(pool.submit(_pack, source, grains))
            if len(waiting) == depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _pack(source: BlockSource, grains: list[int]) -> _Batch:
    """Reads and compresses a batch; grains of zeros are left out."""
    pieces: list[bytes] = []
    places: list[tuple[int, int]] = []
    sector = 0
    for grain, octets in _read(source, grains):
        if octets == _ZEROS:
            continue
        piece = layout.pack_grain(grain, deflate.zlib_compress(octets, LEVEL))
        places.append((grain % TABLE_ENTRIES, sector))
        pieces.append(piece)
        sector += len(piece) // SECTOR
    return _Batch(grains[0] // TABLE_ENTRIES, b"".join(pieces), tuple(places), (grains[-1] + 1) * GRAIN)


def _read(source: BlockSource, grains: list[int]) -> Iterator[tuple[int, bytes]]:
    """(number, 64 KiB) of each grain; grains that follow one another are read at once.

    A disk's last grain is filled up with zeros: readers refuse one that is short.
    """
    breaks = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(grains)) if b != a + 1), len(grains)]
    for begin, end in pairwise(breaks):
        offset = grains[begin] * GRAIN
        length = min((end - begin) * GRAIN, source.capacity - offset)
        octets = source.read(offset, length)
        if len(octets) != length:
            raise FileError(
                f"the disk ended early: {len(octets)} of {length} bytes at byte {offset}",
                "was its file changed while it was packed?",
            )
        octets = octets.ljust((end - begin) * GRAIN, b"\0")
        for i in range(end - begin):
            yield grains[begin + i], octets[i * GRAIN : (i + 1) * GRAIN]


class _Stream:
    """The file as it grows: position, hash, the grain table at work and the grain directory."""

    def __init__(self, out: Sink, header: layout.Header, name: str, cid: int) -> None:
        self._out = out
        self._sha256 = hashlib.sha256()
        self._sector = 0
        self._stored = 0
        self._header = header
        self._directory = [0] * layout.tables_of(header.capacity)
        self._table = 0
        self._entries = [0] * TABLE_ENTRIES
        head = layout.pack_header(header) + layout.dump_descriptor(header.capacity, name, cid)
        self._append(head.ljust(header.overhead * SECTOR, b"\0"))

    def _append(self, octets: bytes) -> None:
        self._out.write(octets)
        self._sha256.update(octets)
        self._sector += len(octets) // SECTOR

    def put(self, batch: _Batch) -> None:
        """Appends a batch, after the grain table of the batches before it if that is complete."""
        if not batch.places:
            return
        if batch.table != self._table:
            self._end_table()
            self._table = batch.table
        for entry, sector in batch.places:
            self._entries[entry] = self._sector + sector
        self._stored += len(batch.places)
        self._append(batch.octets)
        if self._sector > 0xFFFF_FFFF:
            raise FileError("the disk's content fills more than 2 TiB of VMDK", "split it over two disks")

    def _end_table(self) -> None:
        """Writes the grain table at work, unless it is empty: a directory's 0 says the same."""
        if any(self._entries):
            self._append(layout.pack_marker(layout.TABLE // SECTOR, layout.MARK_TABLE))
            self._directory[self._table] = self._sector
            self._append(layout.pack_entries(self._entries))
            self._entries = [0] * TABLE_ENTRIES

    def finish(self) -> Extent:
        """Writes what follows the last grain. The sector of zeros at the end is the last of the file."""
        self._end_table()
        sectors = layout.directory_sectors(len(self._directory))
        self._append(layout.pack_marker(sectors, layout.MARK_DIRECTORY))
        footer = replace(self._header, directory=self._sector)
        self._append(layout.pack_entries(self._directory))
        self._append(layout.pack_marker(1, layout.MARK_FOOTER) + layout.pack_header(footer))
        self._append(bytes(SECTOR))
        capacity = self._header.capacity * SECTOR
        return Extent(
            capacity=capacity,
            populated_size=min(self._stored * GRAIN, capacity),
            file_size=self._sector * SECTOR,
            sha256=self._sha256.hexdigest(),
        )
