"""Where a disk's partitions lie: GPT (UEFI 2.10, chapter 5), and MBR with its logical partitions."""

from __future__ import annotations

import struct
import zlib

from ovfbuild.errors import FileError
from ovfbuild.vm.blocks import DiskReader
from ovfbuild.vm.disk import SECTOR

_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQ")
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_PROTECTIVE = 0xEE
_MBR_EXTENDED = (0x05, 0x0F, 0x85)
_MOST_ENTRIES = 1024


def partitions(reader: DiskReader) -> list[tuple[int, int]]:
    """(start, size) in bytes of a disk's partitions, by its GPT or its MBR; none without either.

    Raises:
        FileError: there is a GPT and it is damaged.
    """
    first = reader.read(0, SECTOR)
    if first[510:] != b"\x55\xaa":
        return []
    entries = _mbr_entries(first)
    if any(kind == _MBR_PROTECTIVE for kind, _, _ in entries):
        found = _gpt_partitions(reader)
    else:
        found = [(start, size) for kind, start, size in entries if kind not in _MBR_EXTENDED]
        for kind, start, _ in entries:
            if kind in _MBR_EXTENDED:
                found += _logical_partitions(reader, start)
    return [(start, size) for start, size in found if start > 0 < size and start + size <= reader.capacity]


def _mbr_entries(sector: bytes) -> list[tuple[int, int, int]]:
    """(type, start, size) of the four entries of a boot record that are in use."""
    entries = (_MBR_ENTRY.unpack_from(sector, 446 + 16 * n) for n in range(4))
    return [(kind, start * SECTOR, size * SECTOR) for _, _, kind, _, start, size in entries if kind]


def _logical_partitions(reader: DiskReader, extended: int) -> list[tuple[int, int]]:
    """The chain in an extended partition: each link has a partition from itself on, and the next link."""
    found: list[tuple[int, int]] = []
    link = extended
    while len(found) < _MOST_ENTRIES:
        sector = reader.read(link, SECTOR)
        entries = _mbr_entries(sector) if sector[510:] == b"\x55\xaa" else []
        found += [(link + start, size) for kind, start, size in entries if kind not in _MBR_EXTENDED]
        following = [extended + start for kind, start, _ in entries if kind in _MBR_EXTENDED]
        if not following or following[0] <= link:
            break
        link = following[0]
    return found


def _gpt_partitions(reader: DiskReader) -> list[tuple[int, int]]:
    damaged = FileError("the disk's partition table (GPT) is damaged", "make the disk again")
    header = reader.read(SECTOR, SECTOR)
    magic, _, length, crc, _, own, _, _, _, _, at, count, size, entries_crc = _GPT_HEADER.unpack_from(header)
    if magic != b"EFI PART" or own != 1 or not _GPT_HEADER.size <= length <= SECTOR:
        raise damaged
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != crc:
        raise damaged
    if count > _MOST_ENTRIES or size not in (128, 256, 512):
        raise damaged
    table = reader.read(at * SECTOR, count * size)
    if zlib.crc32(table) != entries_crc:
        raise damaged
    entries = (_GPT_ENTRY.unpack_from(table, n * size) for n in range(count))
    return [(first * SECTOR, (last - first + 1) * SECTOR) for kind, _, first, last in entries if any(kind)]
