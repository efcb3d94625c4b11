"""What lies on disk in a streamOptimized VMDK: header, markers, tables and the disk descriptor.

    sector 0         header (SparseExtentHeader), its grain directory “at the end”
    sectors 1-20     disk descriptor: text, the rest zeros
    sectors 21-127   zeros, up to the header's overhead
    then, ascending  grain marker + zlib stream, padded to a sector        at most 512 times, then
                     marker + grain table (512 entries of 4 bytes)         for every table in use
    then             marker + grain directory, marker + footer (the header again, with the place of
                     the directory), and one sector of zeros, the end of the stream: the last of the file

Source: VMware, “Virtual Disk Format 5.0” (Technical Note, 2011), “Stream-Optimized Compressed Sparse
Extents”. Where the note and what everyone writes differ: a grain is a zlib stream (RFC 1950), not bare
deflate. All numbers are little-endian. Everything called `sector` here is a number of 512-byte sectors;
nothing outside the vmdk modules counts in them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ovfbuild.errors import FileError

SECTOR = 512
GRAIN = 65536
GRAIN_SECTORS = GRAIN // SECTOR
TABLE_ENTRIES = 512
TABLE = TABLE_ENTRIES * 4
TABLE_SPAN = TABLE_ENTRIES * GRAIN
"""Bytes of the disk that one grain table covers: 32 MiB."""
DESCRIPTOR_SECTORS = 20
OVERHEAD_SECTORS = 128
"""Where the first grain lies; VMware and VirtualBox align it to a grain, too."""
FOOTER_AT = 3 * SECTOR
"""Bytes from the footer's marker to the end of the file: marker, footer, end of stream."""
LARGEST = 64 << 40
"""Bytes: vSphere ends at 62 TB; above, a hostile header would ask for gigabytes of directory."""
DIRECTORY_AT_END = 0xFFFF_FFFF_FFFF_FFFF

MAGIC = b"KDMV"
VERSION = 3
FLAGS = 0x30001
"""Valid newline test, compressed grains, markers."""
FLAG_REDUNDANT_TABLE = 0x2
"""A second grain table is there; qemu-img sets it, and every importer takes it."""
NEWLINE_TEST = b"\n \r\n"
"""Torn by whoever copies the file as text."""
DEFLATE = 1

MARK_END, MARK_TABLE, MARK_DIRECTORY, MARK_FOOTER = range(4)

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_MARKER = struct.Struct("<QII")
_GRAIN_MARKER = struct.Struct("<QI")
MARKER = _MARKER.size
GRAIN_MARKER = _GRAIN_MARKER.size


@dataclass(frozen=True)
class Header:
    """SparseExtentHeader of version 3, in sectors; `directory` is DIRECTORY_AT_END in a stream's head."""

    capacity: int
    directory: int
    overhead: int = OVERHEAD_SECTORS
    version: int = VERSION
    flags: int = FLAGS
    grain: int = GRAIN_SECTORS
    descriptor: int = 1
    descriptor_sectors: int = DESCRIPTOR_SECTORS
    entries: int = TABLE_ENTRIES
    redundant_directory: int = 0
    unclean: int = 0
    newline_test: bytes = NEWLINE_TEST
    compression: int = DEFLATE


@dataclass(frozen=True)
class Marker:
    """What stands before every grain and table: `size` is 0 unless a grain of `size` bytes follows.

    `value` is the grain's first sector on the disk, or how many sectors of a table follow.
    """

    value: int
    size: int
    kind: int


@dataclass(frozen=True)
class DiskDescriptor:
    """The text block inside a VMDK; `cid` names the content, `sectors` and `name` its one extent."""

    cid: int
    parent_cid: int
    create_type: str
    sectors: int
    name: str
    ddb: tuple[tuple[str, str], ...]


def tables_of(capacity_sectors: int) -> int:
    """How many grain tables, that is entries of the grain directory, a disk has."""
    span = TABLE_ENTRIES * GRAIN_SECTORS
    return (capacity_sectors + span - 1) // span


def directory_sectors(tables: int) -> int:
    """How many sectors a grain directory of that many entries fills."""
    return (tables * 4 + SECTOR - 1) // SECTOR


def padded(octets: bytes) -> bytes:
    """The same, with zeros up to the end of its last sector."""
    return octets + bytes(-len(octets) % SECTOR)


def pack_header(header: Header) -> bytes:
    """512 bytes: the first sector, or the footer."""
    return _HEADER.pack(
        MAGIC,
        header.version,
        header.flags,
        header.capacity,
        header.grain,
        header.descriptor,
        header.descriptor_sectors,
        header.entries,
        header.redundant_directory,
        header.directory,
        header.overhead,
        header.unclean,
        header.newline_test,
        header.compression,
    )


def unpack_header(octets: bytes, where: str) -> Header:
    """The header in 512 bytes; FileError, saying `where`, when they are too few or hold none."""
    if len(octets) != SECTOR:
        raise FileError(f"{where}: truncated, {len(octets)} bytes where 512 should be", "build it again")
    fields = _HEADER.unpack(octets)
    if fields[0] != MAGIC:
        raise FileError(
            f"{where}: no VMDK, it begins with {fields[0]!r} instead of {MAGIC!r}",
            "a package's disks are streamOptimized VMDK files",
        )
    return Header(
        version=fields[1],
        flags=fields[2],
        capacity=fields[3],
        grain=fields[4],
        descriptor=fields[5],
        descriptor_sectors=fields[6],
        entries=fields[7],
        redundant_directory=fields[8],
        directory=fields[9],
        overhead=fields[10],
        unclean=fields[11],
        newline_test=fields[12],
        compression=fields[13],
    )


def pack_marker(value: int, kind: int) -> bytes:
    """A sector that says that `value` sectors of a table, a directory or a footer follow."""
    return padded(_MARKER.pack(value, 0, kind))


def unpack_marker(octets: bytes) -> Marker:
    """The marker at the begin of at least 16 bytes."""
    return Marker(*_MARKER.unpack_from(octets))


def pack_grain_marker(index: int, size: int) -> bytes:
    """What stands before grain number `index`, compressed to `size` bytes; both are padded to a sector together."""
    return _GRAIN_MARKER.pack(index * GRAIN_SECTORS, size)


def pack_entries(entries: list[int]) -> bytes:
    """A grain table or grain directory: a sector number of four bytes for each entry, padded."""
    return padded(struct.pack(f"<{len(entries)}I", *entries))


def unpack_entries(octets: bytes, count: int) -> list[int]:
    """The first `count` entries of a grain table or grain directory."""
    return list(struct.unpack_from(f"<{count}I", octets))


def dump_descriptor(capacity_sectors: int, name: str, cid: int) -> bytes:
    """The disk descriptor, as long as its area of 20 sectors.

    No line is indented (ESXi takes an indented key for another one), and all that readers of the first
    512 bytes look for comes first (govmomi). Geometry 255/63 and `lsilogic` are what VMware writes
    for a SCSI disk; `ide` there under a SCSI controller does not boot on ESX. virtualHWVersion 4 is below
    every target's; toolsVersion 2147483647 with install type 4 says “open-vm-tools, the guest's own”.
    Raises FileError for a name that the text cannot hold.
    """
    if not name or not name.isascii() or not name.isprintable() or '"' in name:
        raise FileError(f"a VMDK's disk descriptor cannot name {name!r}", "use letters, digits, . _ and -")
    cylinders = max(1, min(65535, capacity_sectors // (255 * 63)))
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        f"CID={cid:08x}",
        "parentCID=ffffffff",
        'createType="streamOptimized"',
        "",
        "# Extent description",
        f'RW {capacity_sectors} SPARSE "{name}"',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        'ddb.adapterType = "lsilogic"',
        f'ddb.geometry.cylinders = "{cylinders}"',
        'ddb.geometry.heads = "255"',
        'ddb.geometry.sectors = "63"',
        'ddb.toolsInstallType = "4"',
        'ddb.toolsVersion = "2147483647"',
        'ddb.virtualHWVersion = "4"',
        "",
    )
    return "\n".join(lines).encode("ascii").ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0")


_PAIR = re.compile(r"([A-Za-z][A-Za-z0-9_.]*)\s*=\s*(?:\"([^\"]*)\"|(\S*))\s*")
_EXTENT = re.compile(r"(?:RW|RDONLY)\s+([0-9]{1,19})\s+SPARSE\s+\"([^\"]*)\"\s*")
FIRST_LINE = re.compile(b"# Disk Descriptor ?File")
"""VirtualBox: “descriptor does not start as expected” (VERR_VD_VMDK_INVALID_HEADER, measured, 7.2)."""
_CID = re.compile(r"[0-9a-fA-F]{1,8}")


def parse_descriptor(octets: bytes, where: str) -> DiskDescriptor:
    """The disk descriptor in its area; FileError, saying `where`, when it is none or lacks a line."""
    text = octets.split(b"\0", 1)[0].decode("utf-8", "replace")
    pairs: dict[str, str] = {}
    extents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if pair := _PAIR.fullmatch(line):
            pairs[pair[1]] = pair[3] if pair[2] is None else pair[2]
        elif extent := _EXTENT.fullmatch(line):
            extents.append((int(extent[1]), extent[2]))
    hint = (
        "a stream-optimized VMDK has a CID, a parentCID, a createType and one RW (VirtualBox: RDONLY) … SPARSE extent"
    )
    for key in ("CID", "parentCID"):
        if _CID.fullmatch(pairs.get(key, "")) is None:
            raise FileError(f"{where}: the disk descriptor has no valid {key}", hint)
    if len(extents) != 1:
        raise FileError(f"{where}: the disk descriptor names {len(extents)} extents instead of one", hint)
    return DiskDescriptor(
        cid=int(pairs["CID"], 16),
        parent_cid=int(pairs["parentCID"], 16),
        create_type=pairs.get("createType", ""),
        sectors=extents[0][0],
        name=extents[0][1],
        ddb=tuple((key, value) for key, value in sorted(pairs.items()) if key.startswith("ddb.")),
    )
