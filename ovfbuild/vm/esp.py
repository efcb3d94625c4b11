"""Whether firmware of the kind UEFI finds anything to start on a disk."""

from __future__ import annotations

import struct
import uuid

from ovfbuild.vm.blocks import DiskReader
from ovfbuild.vm.partitions import ESP, SECTOR

_MBR_ESP = 0xEF
_MOST = 1024
"""Entries of a table that are looked at; a usual one has 128."""


def has_esp(reader: DiskReader) -> bool:
    """Whether the disk has an EFI system partition, by a GPT or an MBR (UEFI 2.10, §5.2.2, §5.3.2 and §13.3.1)."""
    mbr = reader.read(0, SECTOR)
    if mbr[510:] == b"\x55\xaa" and _MBR_ESP in mbr[450:510:16]:
        return True
    header = reader.read(SECTOR, SECTOR)
    if header[:8] != b"EFI PART":
        return False
    at, count, size = struct.unpack_from("<QII", header, 72)
    if not 128 <= size <= SECTOR or at * SECTOR >= reader.capacity:
        return False
    entries = reader.read(at * SECTOR, min(min(count, _MOST) * size, reader.capacity - at * SECTOR))
    return uuid.UUID(ESP).bytes_le in (entries[place : place + 16] for place in range(0, len(entries), size))
