"""Reads a streamOptimized VMDK marker by marker and refuses what an importer would stumble over.

`walk` takes only a file that is whole; `survey` tells what is wrong with any. The order is an importer's own:
VMware and VirtualBox read a package's disk as a stream, once, from the first grain to the end-of-stream sector. On
the way every grain's place is compared with what the grain tables say, which random-access readers (qemu-img, a
mounted disk) go by. It decodes with zlib, not
with the library that the writer uses. What it holds is one grain, one table and the grain directory
(4 bytes for each 32 MiB of capacity), whatever the file says. Layout and source: `vmdk_layout`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.formats.fault import Fault, Hostile
from ovfbuild.formats.vmdk_layout import GRAIN, GRAIN_SECTORS, SECTOR, TABLE_ENTRIES

_LARGEST_STREAM = 2 * GRAIN
"""A compressed grain is never larger than this, whichever library made it."""
_LARGEST_DESCRIPTOR = 2048
"""Sectors: a descriptor of more than 1 MiB is an attack, not a text."""
_REBUILD = "the file is damaged or was written by a faulty tool; build or download it again"
_QEMU = "qemu-img writes such files (QEMU GitLab #1357); VMware refuses them"
_ZEROS = bytes(GRAIN)
_MOST_FAULTS = 20


class _Damage(FileError):
    """Something wrong with the file, with the rule that it breaks."""

    def __init__(self, rule: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.rule = rule


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


@dataclass(frozen=True)
class Survey:
    """A disk as far as it could be read. Sizes are bytes; `capacity` is None where there is no header to say it.

    `end` is where the end-of-stream sector is or belongs; None where the walk did not come so far.
    """

    capacity: int | None
    populated_size: int
    end: int | None
    faults: tuple[Fault, ...]


def survey(stream: BinaryIO, name: str = "disk") -> Survey:
    """Reads the VMDK in `stream` as far as that makes sense, and says what is wrong and what is odd.

    Raises Hostile for what no tool writes and what is made to harm a reader: a grain that unpacks to more than one, two
    tables or grains in one place.
    """
    walker = _Walker(stream, name, faults=[])
    found = walker.look()
    if found.end is not None and any(fault.rule == "disk-tail" for fault in found.faults):
        # The footer stands before the end of the stream, not of the file: look again, up to there.
        again = _Walker(stream, name, faults=[], size=found.end + SECTOR).look()
        tail = tuple(fault for fault in found.faults if fault.rule == "disk-tail")
        return replace(again, faults=(*again.faults, *tail))
    return found


def grains(stream: BinaryIO, name: str = "disk") -> Iterator[tuple[int, bytes]]:
    """(offset on the disk in bytes, 64 KiB) of every grain stored, ascending; judged as by `walk`.

    The last one of a disk whose capacity is no multiple of 64 KiB reaches past its end, with zeros.
    """
    return _Walker(stream, name).steps()


class _Walker:
    """One walk through one file."""

    def __init__(self, stream: BinaryIO, name: str, faults: list[Fault] | None = None, size: int | None = None) -> None:
        self._stream = stream
        self._name = name
        self._faults = faults
        self._size = stream.seek(0, 2) if size is None else size
        self._finish: int | None = None
        self._orderly = True
        self._footed = False
        self._header = layout.Header(0, 0)
        self._descriptor: layout.DiskDescriptor | None = None
        self._directory: list[int] | None = None
        self._directory_at = 0
        self._table = 0
        self._entries = [0] * TABLE_ENTRIES
        self._last_grain = -1
        self._stored = 0
        self._zeros = 0

    def _error(self, rule: str, what: str, at: int, hint: str = _REBUILD) -> _Damage:
        return _Damage(rule, f"{self._name}, byte {at}: {what}", hint)

    def _hostile(self, what: str, at: int) -> Hostile:
        return Hostile(f"{self._name}, byte {at}: {what}", "no tool writes such a disk: it is an attack")

    def _judge_overlap(self, entries: Iterable[int], what: str, at: int) -> None:
        """Hostile where two entries lead to one place: a few bytes would be a disk of any size."""
        within = range(self._header.overhead, self._size // SECTOR)
        used = [sector for sector in entries if sector in within]
        if len(set(used)) != len(used):
            raise self._hostile(f"two {what} in one place", at)

    def _mind(self, rule: str, what: str, at: int, hint: str = _REBUILD) -> None:
        """Raises what is wrong, or notes it where the walk goes on past it."""
        self._note_or_raise(self._error(rule, what, at, hint))

    def _note_or_raise(self, damage: _Damage) -> None:
        if self._faults is None:
            raise damage
        if len(self._faults) < _MOST_FAULTS:
            text = damage.message.removeprefix(self._name).removeprefix(", ").removeprefix(": ")
            self._faults.append(Fault(damage.rule, text, hint=damage.hint))
        else:
            self._orderly = False

    def look(self) -> Survey:
        """Walks as far as it goes."""
        assert self._faults is not None
        try:
            for _ in self.steps():
                pass
        except _Damage as damage:
            self._note_or_raise(damage)
        known = 0 < self._header.capacity <= layout.LARGEST // SECTOR
        capacity = self._header.capacity * SECTOR if known else None
        populated = min(self._stored * GRAIN, capacity or 0)
        return Survey(capacity, populated, self._finish, (*self._faults, *self._oddities()))

    def _read(self, at: int, length: int, what: str) -> bytes:
        """Exactly those bytes; their length was compared with the file's before any are asked for."""
        if at + length > self._size:
            raise self._error(
                "disk-truncated", f"truncated, {what} should reach to byte {at + length} of {self._size}", at
            )
        self._stream.seek(at)
        octets = self._stream.read(length)
        if len(octets) != length:
            raise self._error("disk-truncated", f"truncated, only {len(octets)} of the {length} bytes of {what}", at)
        return octets

    def steps(self) -> Iterator[tuple[int, bytes]]:
        """Yields every grain; ends only if the file does, too, as it should."""
        self._open()
        at = self._header.overhead * SECTOR
        while True:
            if at >= self._size:
                self._finish = at
                raise self._no_end(at)
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

    def _no_end(self, at: int) -> _Damage:
        """Of a file that ends after a grain or a table: cut, where what the header promises had to follow."""
        if self._header.directory == layout.DIRECTORY_AT_END and not self._footed:
            return self._error("disk-truncated", "truncated, the file ends before its grain directory and footer", at)
        return self._error("disk-no-end", "the file ends without its end-of-stream sector", at, _QEMU)

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
            findings=tuple(fault.text for fault in self._oddities()),
        )

    def _oddities(self) -> Iterator[Fault]:
        if self._zeros:
            yield Fault("disk-odd", f"{self._zeros} grains hold nothing but zeros and need not be stored")
        if self._header.capacity and self._header.directory != layout.DIRECTORY_AT_END:
            yield Fault("disk-odd", "the grain directory is named by the header, there is no footer")
        if self._header.flags & layout.FLAG_REDUNDANT_TABLE:
            yield Fault("disk-odd", "there is a redundant grain directory, which was not read")
        adapter = dict(self._descriptor.ddb).get("ddb.adapterType", "none") if self._descriptor else "lsilogic"
        if adapter != "lsilogic":
            text = f"ddb.adapterType is {adapter[:40]}; with a SCSI controller ESX boots only from lsilogic"
            yield Fault("disk-adapter", text)

    # The begin: header, descriptor, and where the tables are

    def _open(self) -> None:
        if self._size < SECTOR:
            raise self._error("disk-truncated", f"truncated, the file has {self._size} bytes", 0)
        octets = self._read(0, SECTOR, "the header")
        try:
            self._header = layout.unpack_header(octets, self._name)
        except FileError as error:
            raise _Damage("disk-format", error.message, error.hint) from error
        self._judge_header(self._header)
        self._read_descriptor(self._header)
        self._find_directory(self._header)

    def _judge_header(self, header: layout.Header) -> None:
        """Notes what is not as it should be; raises what leaves no stream of grains to walk along."""
        flags = header.flags & ~layout.FLAG_REDUNDANT_TABLE
        stream_optimized = "importers take streamOptimized VMDK files of version 3 only"
        expected = (
            ("version", header.version, layout.VERSION, "disk-subformat", False),
            ("flags", flags, layout.FLAGS, "disk-subformat", True),
            ("compression", header.compression, layout.DEFLATE, "disk-subformat", True),
            ("newline test", header.newline_test, layout.NEWLINE_TEST, "disk-header", False),
            ("sectors a grain", header.grain, GRAIN_SECTORS, "disk-header", True),
            ("entries a grain table", header.entries, TABLE_ENTRIES, "disk-header", True),
        )
        for what, is_, should, rule, fatal in expected:
            if is_ != should:
                text = f"{what} in the header is {is_!r} instead of {should!r}"
                damage = self._error(rule, text, 0, stream_optimized)
                if fatal:
                    raise damage
                self._note_or_raise(damage)
        if not 0 < header.capacity <= layout.LARGEST // SECTOR:
            raise self._error("disk-header", f"a capacity of {header.capacity} sectors", 0)
        if header.unclean:
            self._mind("disk-header", "the header says that the file was never closed", 0)

    def _read_descriptor(self, header: layout.Header) -> None:
        begin, length = header.descriptor, header.descriptor_sectors
        if not 0 < length <= _LARGEST_DESCRIPTOR or begin < 1 or begin + length > header.overhead:
            self._mind("disk-descriptor", f"{length} sectors of disk descriptor at sector {begin} cannot be", 0)
            return
        octets = self._read(begin * SECTOR, length * SECTOR, "the disk descriptor")
        if layout.FIRST_LINE.match(octets) is None:
            text = f"the disk descriptor begins with {octets[:20]!r}"
            self._mind("disk-descriptor-begin", text, begin * SECTOR)
        try:
            descriptor = layout.parse_descriptor(octets, self._name)
        except FileError as error:
            self._note_or_raise(_Damage("disk-descriptor", error.message, error.hint))
            return
        self._descriptor = descriptor
        at = begin * SECTOR
        if descriptor.create_type != "streamOptimized":
            text = f"the disk descriptor says createType “{descriptor.create_type[:40]}”"
            self._mind("disk-subformat", text, at, "packages hold streamOptimized VMDK files only")
        if descriptor.sectors != header.capacity:
            text = f"the disk descriptor says {descriptor.sectors} sectors, the header {header.capacity}"
            self._mind("disk-descriptor", text, at)

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
                self._mind("disk-footer", "the footer contradicts the header", at)
            directory = footer.directory
        self._directory_at = directory * SECTOR
        count = layout.tables_of(header.capacity)
        length = layout.directory_sectors(count) * SECTOR
        try:
            octets = self._read(self._directory_at, length, "the grain directory")
        except _Damage as damage:
            self._note_or_raise(damage)
            self._orderly = False
        else:
            self._directory = layout.unpack_entries(octets, count)
            self._judge_overlap(self._directory, "grain tables", self._directory_at)

    # Grains

    def _grain(self, at: int, marker: layout.Marker) -> tuple[tuple[int, bytes], int]:
        """((offset on the disk, 64 KiB), bytes of the file) of the grain whose marker is at `at`."""
        if marker.value >= self._header.capacity:
            raise self._error("disk-damaged", f"a grain for sector {marker.value}, beyond the disk's capacity", at)
        if marker.value % GRAIN_SECTORS:
            raise self._error("disk-damaged", f"a grain for sector {marker.value}, which begins no grain", at)
        number = marker.value // GRAIN_SECTORS
        if number <= self._last_grain:
            if self._orderly:
                text = f"grain {number} after grain {self._last_grain}: not ascending"
                hint = "“qemu-img convert -W” writes such files; importers read them as a stream and fail"
                self._mind("disk-order", text, at, hint)
            self._orderly = False
        if marker.size > _LARGEST_STREAM:
            raise self._error("disk-damaged", f"a compressed grain of {marker.size} bytes", at)
        stream = self._read(at + layout.GRAIN_MARKER, marker.size, "a grain")
        try:
            octets = self._inflated(stream, at)
        except _Damage as damage:
            self._note_or_raise(damage)
            octets = b""
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
            raise self._error("disk-damaged", f"a damaged grain: {error}", at) from error
        if len(octets) > GRAIN:
            raise self._hostile("a grain that unpacks to more than 65536 bytes", at)
        if len(octets) != GRAIN:
            raise self._error("disk-damaged", f"a grain of {len(octets)} instead of 65536 bytes", at)
        if not decoder.eof or decoder.unused_data:
            raise self._error("disk-damaged", "a damaged grain: its stream does not end where its size says", at)
        return octets

    def _note(self, number: int, at: int) -> None:
        """Remembers where a grain is; a table that it ends is compared."""
        table = number // TABLE_ENTRIES
        if table != self._table and self._orderly:
            self._compare_tables(table)
        self._entries[number % TABLE_ENTRIES] = at // SECTOR
        self._last_grain = number
        self._stored += 1

    def _compare_tables(self, until: int) -> None:
        """Compares the table at work with what was seen, and that those up to `until` are empty."""
        for table in range(self._table, until):
            if self._directory is not None and self._orderly:
                self._compare(table, self._directory[table])
            self._entries = [0] * TABLE_ENTRIES
        self._table = until

    def _compare(self, table: int, sector: int) -> None:
        """FileError unless grain table number `table`, at `sector`, says where this walk saw the grains."""
        says = [0] * TABLE_ENTRIES
        if sector:
            try:
                octets = self._read(sector * SECTOR, layout.TABLE, "a grain table")
            except _Damage as damage:
                self._note_or_raise(damage)
                self._orderly = False
                return
            says = layout.unpack_entries(octets, TABLE_ENTRIES)
        if says == self._entries:
            return
        self._judge_overlap(says, "grains", sector * SECTOR)
        entry = next(i for i, (a, b) in enumerate(zip(says, self._entries, strict=True)) if a != b)
        self._mind(
            "disk-tables",
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
            raise self._error("disk-damaged", f"a marker of unknown type {marker.kind}", at)
        if marker.value != sizes[marker.kind]:
            raise self._error("disk-damaged", f"a marker of type {marker.kind} for {marker.value} sectors", at)
        self._footed = self._footed or marker.kind == layout.MARK_FOOTER
        if self._directory is not None:
            self._judge_place(at, marker.kind)
        return at + (1 + marker.value) * SECTOR

    def _judge_place(self, at: int, kind: int) -> None:
        """FileError for a directory or a footer that is not where random-access readers look for it."""
        at_end = self._header.directory == layout.DIRECTORY_AT_END
        if kind == layout.MARK_DIRECTORY and at_end and self._directory_at != at + SECTOR:
            self._mind("disk-footer", f"the footer says that the grain directory is at {self._directory_at}", at)
        if kind == layout.MARK_FOOTER and at != self._size - layout.FOOTER_AT:
            self._mind("disk-footer", "a footer that is not right before the end of stream", at)

    def _end(self, at: int, octets: bytes) -> None:
        """The end-of-stream sector is at `at`: nothing may follow, and the tables must be complete."""
        self._finish = at
        if any(octets):
            self._mind("disk-damaged", "the end-of-stream sector is not all zeros", at)
        if at + SECTOR != self._size:
            text = f"{self._size - at - SECTOR} bytes after the end-of-stream sector"
            raise self._error("disk-tail", text, at, _QEMU)
        if self._directory is None and self._orderly:
            text = "no footer before the end of stream, though the header promises one"
            self._mind("disk-footer", text, at)
        if self._orderly:
            self._compare_tables(layout.tables_of(self._header.capacity))
