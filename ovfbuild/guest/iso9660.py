"""Reads a file from a CD-ROM or an ISO image without mounting it: no mount point, no module, nobody's mount in the way.

ECMA-119 (ISO 9660): volume descriptors from sector 16, directory records of variable length; file names from
Rock Ridge's NM entries (SUSP 1.12, RRIP 4.1.4) where they are there, from Joliet in the volumes that have it.
"""

from __future__ import annotations

from typing import BinaryIO, Iterator

SECTOR = 2048
_LARGEST_FOLDER = 1 << 20
_MOST_DESCRIPTORS = 32
_PRIMARY, _SUPPLEMENTARY, _LAST = 1, 2, 255


class NoVolume(Exception):
    """There is no ISO 9660 file system here, or a damaged one."""


class TooLarge(NoVolume):
    """The file is there, and larger than anybody's of its kind."""


class Volume:
    """The file system on an open device or image."""

    def __init__(self, stream: BinaryIO) -> None:
        """Reads the volume descriptors; NoVolume where there are none."""
        self._stream = stream
        self.label = ""
        self._roots: list[tuple[int, int, bool]] = []  # (first sector, bytes, whether its names are UCS-2)
        for number in range(_MOST_DESCRIPTORS):
            descriptor = self._read((16 + number) * SECTOR, SECTOR)
            if descriptor[1:6] != b"CD001" or descriptor[0] == _LAST:
                break
            if descriptor[0] in (_PRIMARY, _SUPPLEMENTARY):
                joliet = descriptor[0] == _SUPPLEMENTARY and descriptor[88:91] in (b"%/@", b"%/C", b"%/E")
                self._roots.append((*_extent(descriptor[156:190]), joliet))
            if descriptor[0] == _PRIMARY:
                self.label = descriptor[40:72].decode("ascii", "replace").strip()
        if not self._roots:
            raise NoVolume("no ISO 9660 file system")

    def find(self, path: str, largest: int) -> bytes | None:
        """The content of a file by its path, small and capital letters the same; None if it is not there.

        TooLarge if it has more than `largest` bytes.
        """
        for sector, size, joliet in self._roots:
            content = self._below(path.lower().split("/"), sector, size, joliet, largest)
            if content is not None:
                return content
        return None

    def _below(self, names: list[str], sector: int, size: int, joliet: bool, largest: int) -> bytes | None:
        for called, is_folder, at, length in self._folder(sector, size, joliet):
            if names[0] not in called or is_folder != (len(names) > 1):
                continue
            if is_folder:
                return self._below(names[1:], at, length, joliet, largest)
            if length > largest:
                raise TooLarge("%s has %d bytes; %d are read at most" % (names[0], length, largest))
            return self._read(at * SECTOR, length)
        return None

    def _folder(self, sector: int, size: int, joliet: bool) -> Iterator[tuple[list[str], bool, int, int]]:
        """(its names, whether it is a folder, first sector, bytes) of each entry."""
        table = self._read(sector * SECTOR, min(size, _LARGEST_FOLDER))
        at = 0
        while at < len(table):
            length = table[at]
            if length < 34:  # what is left of a sector is zero
                at = (at // SECTOR + 1) * SECTOR
                continue
            record = table[at : at + length]
            at += length
            raw = record[33 : 33 + record[32]]
            if raw not in (b"\0", b"\1"):
                first, octets = _extent(record)
                yield _names(record, raw, joliet), bool(record[25] & 2), first, octets

    def _read(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        octets = self._stream.read(length)
        if len(octets) < length:
            raise NoVolume("it ends before sector %d" % ((offset + length) // SECTOR))
        return octets


def _extent(record: bytes) -> tuple[int, int]:
    """First sector and bytes, from the little-endian half of each."""
    return int.from_bytes(record[2:6], "little"), int.from_bytes(record[10:14], "little")


def _names(record: bytes, raw: bytes, joliet: bool) -> list[str]:
    """An entry's name as it is recorded, without its version, and as Rock Ridge calls it; in small letters."""
    plain = raw.decode("utf-16-be" if joliet else "latin-1", "replace").partition(";")[0].rstrip(".")
    names = [plain.lower()]
    at, rock = 33 + len(raw) + (1 - len(raw) % 2), b""
    while at + 4 < len(record) and record[at + 2] >= 4:
        if record[at : at + 2] == b"NM":
            rock += record[at + 5 : at + record[at + 2]]
        at += record[at + 2]
    if rock:
        names.append(rock.decode("utf-8", "replace").lower())
    return names
