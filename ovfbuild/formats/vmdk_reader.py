"""Reads a streamOptimized VMDK marker by marker and refuses what an importer would stumble over.

The order is an importer's own: VMware and VirtualBox read a package's disk as a stream, once, from
the first grain to the end-of-stream sector. On the way every grain's place is compared with what the grain
tables say, which random-access readers (qemu-img, a mounted disk) go by. It decodes with zlib, not
with the library that the writer uses. What it holds is one grain, one table and the grain directory
(4 bytes for each 32 MiB of capacity), whatever the file says. Layout and source: `vmdk_layout`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.formats.vmdk_layout import GRAIN, GRAIN_SECTORS, SECTOR, TABLE_ENTRIES

_LARGEST_STREAM = 2 * GRAIN
"""A compressed grain is never larger than this, whichever library made it."""
_LARGEST_DESCRIPTOR = 2048
"""Sectors: a descriptor of more than 1 MiB is an attack, not a text."""
_REBUILD = "the file is damaged or was written by a faulty tool; build or download it again"
_QEMU = "qemu-img writes such files (QEMU GitLab #1357); VMware refuses them"
_ZEROS = bytes(GRAIN)


@dataclass(frozen=True)
class Walk:
    """A streamOptimized VMDK that was read to its end and found whole. Sizes are bytes.

    `grains` counts the grains stored, `populated_size` is what they hold of the disk, `findings` says
    what is odd though no importer refuses it.
    """

    capacity: int
    populated_size: int
    file_size: int
    grains: int
    descriptor: layout.DiskDescriptor
    findings: tuple[str, ...]


def walk(stream: BinaryIO, name: str = "disk") -> Walk:
    """Reads the whole VMDK in `stream` (seekable, beginning at 0) and says what it is.

    Raises FileError, naming `name` and the byte, for: another magic, version, flag or geometry of tables;
    a truncated file; a grain out of order, beyond the capacity, damaged or not of 64 KiB; a grain table or
    directory that does not say where the grains are; no end-of-stream sector, or anything after it.
    """
    walker = _Walker(stream, name)
    for _ in walker.steps():
        pass
    return walker.verdict()


def grains(stream: BinaryIO, name: str = "disk") -> Iterator[tuple[int, bytes]]:
    """(offset on the disk in bytes, 64 KiB) of every grain stored, ascending; judged as by `walk`.

    The last one of a disk whose capacity is no multiple of 64 KiB reaches past its end, with zeros.
    """
    return _Walker(stream, name).steps()


class _Walker:
    """One walk through one file."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._size = 0
        self._header = layout.Header(0, 0)
        self._descriptor: layout.DiskDescriptor | None = None
        self._directory: list[int] | None = None
        self._directory_at = 0
        self._table = 0
        self._entries = [0] * TABLE_ENTRIES
        self._last_grain = -1
        self._stored = 0
        self._zeros = 0

    def _error(self, what: str, at: int, hint: str = _REBUILD) -> FileError:
        return FileError(f"{self._name}, byte {at}: {what}", hint)

    def _read(self, at: int, length: int, what: str) -> bytes:
        """Exactly those bytes; their length was compared with the file's before any are asked for."""
        if at + length > self._size:
            raise self._error(f"truncated, {what} should reach to byte {at + length} of {self._size}", at)
        self._stream.seek(at)
        octets = self._stream.read(length)
        if len(octets) != length:
            raise self._error(f"truncated, only {len(octets)} of the {length} bytes of {what}", at)
        return octets

    def steps(self) -> Iterator[tuple[int, bytes]]:
        """Yields every grain; ends only if the file does, too, as it should."""
        self._open()
        at = self._header.overhead * SECTOR
        while True:
            if at >= self._size:
                raise self._error("the file ends without its end-of-stream sector", at, _QEMU)
            octets = self._read(at, SECTOR, "a marker")
            marker = layout.unpack_marker(octets)
            if marker.size:
                grain, length = self._grain(at, marker)
                yield grain
                at += length
            elif marker.kind == layout.MARK_END:
                self._end(at, octets)
                return
            else:
                at = self._section(at, marker)

    def verdict(self) -> Walk:
        """What was found, after the last step."""
        assert self._descriptor is not None
        capacity = self._header.capacity * SECTOR
        return Walk(
            capacity=capacity,
            populated_size=min(self._stored * GRAIN, capacity),
            file_size=self._size,
            grains=self._stored,
            descriptor=self._descriptor,
            findings=tuple(self._findings(self._descriptor)),
        )

    def _findings(self, descriptor: layout.DiskDescriptor) -> Iterator[str]:
        if self._zeros:
            yield f"{self._zeros} grains hold nothing but zeros and need not be stored"
        if self._header.directory != layout.DIRECTORY_AT_END:
            yield "the grain directory is named by the header, there is no footer"
        if self._header.flags & layout.FLAG_REDUNDANT_TABLE:
            yield "there is a redundant grain directory, which was not read"
        adapter = dict(descriptor.ddb).get("ddb.adapterType", "none")
        if adapter != "lsilogic":
            yield f"ddb.adapterType is {adapter}; with a SCSI controller ESX boots only from lsilogic"

    # The begin: header, descriptor, and where the tables are

    def _open(self) -> None:
        self._size = self._stream.seek(0, 2)
        if self._size < SECTOR:
            raise self._error(f"truncated, the file has {self._size} bytes", 0)
        self._header = layout.unpack_header(self._read(0, SECTOR, "the header"), self._name)
        self._judge_header(self._header)
        self._read_descriptor(self._header)
        self._find_directory(self._header)

    def _judge_header(self, header: layout.Header) -> None:
        flags = header.flags & ~layout.FLAG_REDUNDANT_TABLE
        stream_optimized = "importers take streamOptimized VMDK files of version 3 only"
        expected = (
            ("version", header.version, layout.VERSION),
            ("flags", flags, layout.FLAGS),
            ("compression", header.compression, layout.DEFLATE),
            ("newline test", header.newline_test, layout.NEWLINE_TEST),
            ("sectors a grain", header.grain, GRAIN_SECTORS),
            ("entries a grain table", header.entries, TABLE_ENTRIES),
        )
        for what, is_, should in expected:
            if is_ != should:
                raise self._error(f"{what} in the header is {is_!r} instead of {should!r}", 0, stream_optimized)
        if not 0 < header.capacity <= layout.LARGEST // SECTOR:
            raise self._error(f"a capacity of {header.capacity} sectors", 0)
        if header.unclean:
            raise self._error("the header says that the file was never closed", 0)

    def _read_descriptor(self, header: layout.Header) -> None:
        begin, length = header.descriptor, header.descriptor_sectors
        if not 0 < length <= _LARGEST_DESCRIPTOR or begin < 1 or begin + length > header.overhead:
            raise self._error(f"{length} sectors of disk descriptor at sector {begin} cannot be", 0)
        octets = self._read(begin * SECTOR, length * SECTOR, "the disk descriptor")
        descriptor = layout.parse_descriptor(octets, self._name)
        if descriptor.create_type != "streamOptimized":
            raise FileError(
                f"{self._name}: the disk descriptor says createType “{descriptor.create_type}”",
                "packages hold streamOptimized VMDK files only",
            )
        if descriptor.sectors != header.capacity:
            raise FileError(
                f"{self._name}: the disk descriptor says {descriptor.sectors} sectors, the header {header.capacity}",
                _REBUILD,
            )
        self._descriptor = descriptor

    def _find_directory(self, header: layout.Header) -> None:
        """Reads the grain directory, by the footer if the header says so.

        Where no footer stands at its place the walk goes on without a directory: it finds the reason.
        """
        directory = header.directory
        if directory == layout.DIRECTORY_AT_END:
            at = self._size - layout.FOOTER_AT
            if at < header.overhead * SECTOR:
                return
            octets = self._read(at, 2 * SECTOR, "the footer")
            marker = layout.unpack_marker(octets)
            if marker != layout.Marker(1, 0, layout.MARK_FOOTER) or octets[SECTOR:][:4] != layout.MAGIC:
                return
            footer = layout.unpack_header(octets[SECTOR:], f"{self._name}, footer")
            if replace(footer, directory=layout.DIRECTORY_AT_END) != header:
                raise self._error("the footer contradicts the header", at)
            directory = footer.directory
        self._directory_at = directory * SECTOR
        count = layout.tables_of(header.capacity)
        length = layout.directory_sectors(count) * SECTOR
        octets = self._read(self._directory_at, length, "the grain directory")
        self._directory = layout.unpack_entries(octets, count)

    # Grains

    def _grain(self, at: int, marker: layout.Marker) -> tuple[tuple[int, bytes], int]:
        """((offset on the disk, 64 KiB), bytes of the file) of the grain whose marker is at `at`."""
        if marker.value >= self._header.capacity:
            raise self._error(f"a grain for sector {marker.value}, beyond the disk's capacity", at)
        if marker.value % GRAIN_SECTORS:
            raise self._error(f"a grain for sector {marker.value}, which begins no grain", at)
        number = marker.value // GRAIN_SECTORS
        if number <= self._last_grain:
            raise self._error(
                f"grain {number} after grain {self._last_grain}: not ascending",
                at,
                "“qemu-img convert -W” writes such files; importers read them as a stream and fail",
            )
        if marker.size > _LARGEST_STREAM:
            raise self._error(f"a compressed grain of {marker.size} bytes", at)
        octets = self._inflated(self._read(at + layout.GRAIN_MARKER, marker.size, "a grain"), at)
        self._note(number, at)
        self._zeros += octets == _ZEROS
        length = layout.GRAIN_MARKER + marker.size
        return (number * GRAIN, octets), length + -length % SECTOR

    def _inflated(self, compressed: bytes, at: int) -> bytes:
        """The grain; never more than one byte too many of it is made, whatever the stream would give."""
        decoder = zlib.decompressobj()
        try:
            octets = decoder.decompress(compressed, GRAIN + 1)
        except zlib.error as error:
            raise self._error(f"a damaged grain: {error}", at) from error
        if len(octets) != GRAIN:
            size = "more" if len(octets) > GRAIN else str(len(octets))
            raise self._error(f"a grain of {size} instead of 65536 bytes", at)
        if not decoder.eof or decoder.unused_data:
            raise self._error("a damaged grain: its stream does not end where its size says", at)
        return octets

    def _note(self, number: int, at: int) -> None:
        """Remembers where a grain is; a table that it ends is compared."""
        table = number // TABLE_ENTRIES
        if table != self._table:
            self._compare_tables(table)
        self._entries[number % TABLE_ENTRIES] = at // SECTOR
        self._last_grain = number
        self._stored += 1

    def _compare_tables(self, until: int) -> None:
        """Compares the table at work with what was seen, and that those up to `until` are empty."""
        for table in range(self._table, until):
            if self._directory is not None:
                self._compare(table, self._directory[table])
            self._entries = [0] * TABLE_ENTRIES
        self._table = until

    def _compare(self, table: int, sector: int) -> None:
        """FileError unless grain table number `table`, at `sector`, says where this walk saw the grains."""
        says = [0] * TABLE_ENTRIES
        if sector:
            says = layout.unpack_entries(self._read(sector * SECTOR, layout.TABLE, "a grain table"), TABLE_ENTRIES)
        if says == self._entries:
            return
        entry = next(i for i, (a, b) in enumerate(zip(says, self._entries, strict=True)) if a != b)
        raise self._error(
            f"the grain table says that grain {table * TABLE_ENTRIES + entry} is at sector {says[entry]}, "
            f"it is at {self._entries[entry]} (0: not stored)",
            sector * SECTOR,
        )

    # What lies between and after the grains

    def _section(self, at: int, marker: layout.Marker) -> int:
        """Where to go on after a table, a directory or a footer."""
        tables = layout.tables_of(self._header.capacity)
        sizes = {
            layout.MARK_TABLE: layout.TABLE // SECTOR,
            layout.MARK_DIRECTORY: layout.directory_sectors(tables),
            layout.MARK_FOOTER: 1,
        }
        if marker.kind not in sizes:
            raise self._error(f"a marker of unknown type {marker.kind}", at)
        if marker.value != sizes[marker.kind]:
            raise self._error(f"a marker of type {marker.kind} for {marker.value} sectors", at)
        if self._directory is not None:
            self._judge_place(at, marker.kind)
        return at + (1 + marker.value) * SECTOR

    def _judge_place(self, at: int, kind: int) -> None:
        """FileError for a directory or a footer that is not where random-access readers look for it."""
        at_end = self._header.directory == layout.DIRECTORY_AT_END
        if kind == layout.MARK_DIRECTORY and at_end and self._directory_at != at + SECTOR:
            raise self._error(f"the footer says that the grain directory is at {self._directory_at}", at)
        if kind == layout.MARK_FOOTER and at != self._size - layout.FOOTER_AT:
            raise self._error("a footer that is not right before the end of stream", at)

    def _end(self, at: int, octets: bytes) -> None:
        """The end-of-stream sector is at `at`: nothing may follow, and the tables must be complete."""
        if any(octets):
            raise self._error("the end-of-stream sector is not all zeros", at)
        if at + SECTOR != self._size:
            raise self._error(f"{self._size - at - SECTOR} bytes after the end-of-stream sector", at, _QEMU)
        if self._directory is None:
            raise self._error("no footer before the end of stream, though the header promises one", at)
        self._compare_tables(layout.tables_of(self._header.capacity))
