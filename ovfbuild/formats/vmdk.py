"""Writes a streamOptimized VMDK in one pass: what every hypervisor imports from a package.

    source.runs() ─▶ spans of grains ─▶ batches of 16 ─▶ a thread a CPU: read, drop zeros, compress ─┐
                                                                                                     │ in order
            Extent ◀─ table, directory, footer, end of stream ◀─ write ─▶ a thread: hash ◀───────────┘

Nothing waits for anything but its own input: a batch is read into a buffer that its thread keeps, compressed from
there, joined once, and the same bytes go to the file and to the hash. What Python does for a grain is a comparison with
zeros, a call of the compressor and three list entries; what is empty costs nothing at all.

It is not left to qemu-img, whose output lacks the end-of-stream sector or has bytes after it (QEMU
GitLab #1357, siderolabs/talos #8148, home-assistant/operating-system #2121); VMware stops hashing there
and refuses the package. The layout and its source are in `vmdk_layout`, the reader in `vmdk_reader`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ovfbuild.errors import FileError
from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.formats.compression import COMPRESSORS, Compress
from ovfbuild.formats.vmdk_layout import GRAIN, GRAIN_MARKER, SECTOR, TABLE_ENTRIES

BATCH = 16
"""Grains a task. With one, handing over costs more than compressing on a second core wins."""
_AHEAD = 4
"""Batches that may wait to be written beyond one for each thread: enough that a slow batch stops nobody."""
_ZEROS = bytes(GRAIN)
_SECTOR_OF_ZEROS = bytes(SECTOR)


class BlockSource(Protocol):
    """A disk's content, by what is allocated. Sizes and places are bytes."""

    @property
    def capacity(self) -> int:
        """The size of the disk."""

    def runs(self) -> Iterable[tuple[int, int]]:
        """(offset, length) of what may hold anything but zeros: ascending, disjoint, of any alignment."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills `buffer` with the bytes of the disk from `offset` on, zeros outside the runs; says how many they are.

        Called from several threads at once.
        """


class Sink(Protocol):
    """Where a VMDK is written to: all that is asked of it is to take bytes one after the other."""

    def write(self, octets: bytes, /) -> object:
        """Takes all of `octets`."""


@dataclass(frozen=True)
class Packing:
    """How a VMDK is made: what compresses a grain, the digest's name in hashlib, and the threads (None: one a CPU)."""

    compress: Compress = COMPRESSORS["balanced"].compress
    algorithm: str = "sha256"
    threads: int | None = None


@dataclass(frozen=True)
class Extent:
    """A VMDK that was written, in bytes: the disk's size, what of it is stored, and the file's size.

    `populated_size` counts grains of 64 KiB; `digest` is that of the VMDK file, in hex.
    """

    capacity: int
    populated_size: int
    file_size: int
    digest: str


@dataclass(frozen=True)
class _Batch:
    """Grains of one table, packed: `places` are (entry in the table, sector within `octets`)."""

    table: int
    octets: bytes
    places: tuple[tuple[int, int], ...]
    end: int


_Span = tuple[int, int]
"""Grains that follow one another: the number of the first, and of the one after the last."""


def write(
    source: BlockSource,
    out: Sink,
    *,
    name: str,
    cid: int,
    packing: Packing = Packing(),
    on_bytes: Callable[[int], None] | None = None,
) -> Extent:
    """Writes `source` to `out` as a streamOptimized VMDK called `name`, in one pass.

    The same source, `name` and `cid` give the same bytes with any number of threads, if the compressor gives the
    same bytes for the same grain. Memory stays at 2 MiB a thread plus 4 bytes for each 32 MiB of capacity.
    `on_bytes` is told, from the calling thread, how many bytes of the capacity are done.
    Raises FileError for a capacity that is no multiple of 512 bytes, none, or above 64 TiB, and for a
    `name` that the disk descriptor cannot hold. Source: see `vmdk_layout`.
    """
    capacity = source.capacity
    _check_capacity(capacity)
    if not 0 <= cid < 0xFFFF_FFFF:
        raise ValueError(f"a CID has 32 bits and is not ffffffff, which means no parent: {cid:#x}")
    header = layout.Header(capacity=capacity // SECTOR, directory=layout.DIRECTORY_AT_END)
    workers = packing.threads or len(os.sched_getaffinity(0))
    packer = _Packer(source, packing.compress)
    with _hashed(out, packing.algorithm) as sink:
        stream = _Stream(sink, header, name, cid)
        with ThreadPoolExecutor(workers, thread_name_prefix="vmdk") as pool:
            for batch in _in_order(pool, packer, depth=workers + _AHEAD):
                stream.put(batch)
                if on_bytes:
                    on_bytes(min(batch.end, capacity))
        if on_bytes:
            on_bytes(capacity)
        stream.finish()
    return stream.extent(sink.hexdigest())


def _check_capacity(capacity: int) -> None:
    if capacity <= 0 or capacity % SECTOR:
        raise FileError(
            f"a disk of {capacity} bytes cannot be packed: no whole number of 512-byte sectors",
            "give it a size in whole MiB",
        )
    if capacity > layout.LARGEST:
        raise FileError(f"a disk of {capacity} bytes is larger than a VMDK can be", "stay below 64 TiB")


def _spans(source: BlockSource) -> Iterator[_Span]:
    """All grains that a run touches, ascending, each once."""
    done = position = 0
    for offset, length in source.runs():
        if length <= 0 or offset < position or offset + length > source.capacity:
            raise ValueError(f"run of {length} bytes at {offset}: not ascending, or not on the disk")
        position = offset + length
        begin, end = max(done, offset // GRAIN), (position - 1) // GRAIN + 1
        if begin < end:
            yield begin, end
            done = end


def _batches(source: BlockSource) -> Iterator[list[_Span]]:
    """At most 16 grains at a time, never of two grain tables."""
    batch: list[_Span] = []
    room, table_end = 0, 0
    for begin, end in _spans(source):
        at = begin
        while at < end:
            if not room or at >= table_end:
                if batch:
                    yield batch
                batch, room, table_end = [], BATCH, (at // TABLE_ENTRIES + 1) * TABLE_ENTRIES
            last = min(end, at + room, table_end)
            batch.append((at, last))
            room -= last - at
            at = last
    if batch:
        yield batch


def _in_order(pool: ThreadPoolExecutor, packer: _Packer, depth: int) -> Iterator[_Batch]:
    """Every batch, packed by the pool, in the order of the disk; never more than `depth` are waiting."""
    waiting: deque[Future[_Batch]] = deque()
    try:
        for spans in _batches(packer.source):
            waiting.append(pool.submit(packer.pack, spans))
            if len(waiting) == depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class _Packer:
    """Reads and compresses batches, each thread in a buffer of its own."""

    def __init__(self, source: BlockSource, compress: Compress) -> None:
        self.source = source
        self._compress = compress
        self._own = threading.local()

    def pack(self, spans: list[_Span]) -> _Batch:
        """The grains of the spans, compressed, with markers and padding; grains of zeros are left out."""
        if not hasattr(self._own, "buffer"):
            # On the border of a page: the kernel copies there twice as fast as into a bytearray.
            self._own.buffer = mmap.mmap(-1, BATCH * GRAIN)
        buffer: mmap.mmap = self._own.buffer
        compress = self._compress
        pieces: list[bytes | bytearray] = []
        places: list[tuple[int, int]] = []
        sector = 0
        with memoryview(buffer) as view:
            for begin, end in spans:
                self._read(begin * GRAIN, view[: (end - begin) * GRAIN])
                for grain in range(begin, end):
                    at = (grain - begin) * GRAIN
                    # Two slices: only a grain that begins with zeros is copied to be compared.
                    if buffer[at : at + SECTOR] == _SECTOR_OF_ZEROS and buffer[at : at + GRAIN] == _ZEROS:
                        continue
                    stream = compress(view[at : at + GRAIN])
                    size = GRAIN_MARKER + len(stream)
                    padding = -size % SECTOR
                    pieces += (layout.pack_grain_marker(grain, len(stream)), stream, _ZEROS[:padding])
                    places.append((grain % TABLE_ENTRIES, sector))
                    sector += (size + padding) // SECTOR
        return _Batch(spans[0][0] // TABLE_ENTRIES, b"".join(pieces), tuple(places), spans[-1][1] * GRAIN)

    def _read(self, offset: int, buffer: memoryview) -> None:
        """Whole grains; the disk's last one is filled up with zeros: readers refuse one that is short."""
        length = min(len(buffer), self.source.capacity - offset)
        got = self.source.read_into(offset, buffer[:length])
        if got != length:
            raise FileError(
                f"the disk ended early: {got} of {length} bytes at byte {offset}",
                "was its file changed while it was packed?",
            )
        buffer[length:] = bytes(len(buffer) - length)


class _HashedSink:
    """A sink that hashes on a thread of its own what it is given; see `_hashed`."""

    def __init__(self, out: Sink, algorithm: str, pool: ThreadPoolExecutor) -> None:
        self._out = out
        self._pool = pool
        self._digest = hashlib.new(algorithm, usedforsecurity=False)
        self._waiting: deque[Future[None]] = deque()

    def write(self, octets: bytes) -> None:
        """Writes `octets` while they are hashed; waits where the hash is some batches behind."""
        self._waiting.append(self._pool.submit(self._digest.update, octets))
        self._out.write(octets)
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def hexdigest(self) -> str:
        """Of all that was written."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._digest.hexdigest()


@contextmanager
def _hashed(out: Sink, algorithm: str) -> Iterator[_HashedSink]:
    with ThreadPoolExecutor(1, thread_name_prefix="vmdk-hash") as pool:
        yield _HashedSink(out, algorithm, pool)


class _Stream:
    """The file as it grows: position, the grain table at work and the grain directory."""

    def __init__(self, out: Sink, header: layout.Header, name: str, cid: int) -> None:
        self._out = out
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

    def finish(self) -> None:
        """Writes what follows the last grain. The sector of zeros at the end is the last of the file."""
        self._end_table()
        sectors = layout.directory_sectors(len(self._directory))
        self._append(layout.pack_marker(sectors, layout.MARK_DIRECTORY))
        footer = replace(self._header, directory=self._sector)
        self._append(layout.pack_entries(self._directory))
        self._append(layout.pack_marker(1, layout.MARK_FOOTER) + layout.pack_header(footer))
        self._append(bytes(SECTOR))

    def extent(self, digest: str) -> Extent:
        """What was written."""
        capacity = self._header.capacity * SECTOR
        return Extent(
            capacity=capacity,
            populated_size=min(self._stored * GRAIN, capacity),
            file_size=self._sector * SECTOR,
            digest=digest,
        )
