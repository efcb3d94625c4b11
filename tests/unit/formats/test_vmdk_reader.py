"""Every kind of damage that the reader says it finds, made and found."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.formats import vmdk_reader
from tests.unit.formats.conftest import Pieces, Program, noise, written

MIB = 1 << 20
GRAIN = 65536
FIRST = 128 * 512
"""Where the first grain's marker is."""
DISK = Pieces(70 * MIB, ((0, noise(30000)), (3 * GRAIN, noise(40000, 1)), (40 * MIB, noise(50000, 2))))


def refused(octets: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        vmdk_reader.walk(io.BytesIO(octets), "x.vmdk")
    assert caught.value.message.startswith("x.vmdk")
    assert caught.value.hint


@pytest.fixture(scope="module")
def whole() -> bytes:
    return written(DISK)[1]


def changed(octets: bytes, at: int, new: bytes) -> bytes:
    assert octets[at : at + len(new)] != new
    return octets[:at] + new + octets[at + len(new) :]


def grain(lba: int, stream: bytes) -> bytes:
    octets = struct.pack("<QI", lba, len(stream)) + stream
    return octets + bytes(-len(octets) % 512)


def with_first_grain(whole: bytes, octets: bytes) -> bytes:
    """The first grain replaced; so that the directory's place stays in the file, zeros before the footer."""
    size = struct.unpack_from("<QI", whole, FIRST)[1]
    behind = whole[FIRST + (size + 12 + 511) // 512 * 512 :]
    return whole[:FIRST] + octets + behind[:-1536] + bytes(GRAIN) + behind[-1536:]


def test_the_whole_file_is_fine(whole: bytes) -> None:
    walk = vmdk_reader.walk(io.BytesIO(whole))
    assert walk.grains == 3
    assert walk.capacity == DISK.capacity
    assert walk.descriptor.cid == 0x1234ABCD
    assert walk.descriptor.name == "x-disk1.vmdk"


HEADER: list[tuple[int, bytes, str]] = [
    (0, b"COWD", "no VMDK"),
    (4, struct.pack("<I", 1), "version"),
    (8, struct.pack("<I", 3), "flags"),
    (8, struct.pack("<I", 0x70001), "flags"),
    (12, struct.pack("<Q", 0), "capacity"),
    (12, struct.pack("<Q", 2**63), "capacity"),
    (12, struct.pack("<Q", 71 * MIB // 512), "disk descriptor says"),
    (20, struct.pack("<Q", 256), "sectors a grain"),
    (28, struct.pack("<Q", 2**62), "disk descriptor at sector"),
    (36, struct.pack("<Q", 2**62), "disk descriptor at sector"),
    (44, struct.pack("<I", 1024), "entries"),
    (64, struct.pack("<Q", 2**61), "before its grain directory"),
    (72, b"\x01", "never closed"),
    (73, b"\n\n\r\n", "newline"),
    (77, struct.pack("<H", 0), "compression"),
]


@pytest.mark.parametrize(("at", "new", "message"), HEADER, ids=[f"{at}: {text}" for at, _, text in HEADER])
def test_header(whole: bytes, at: int, new: bytes, message: str) -> None:
    refused(changed(whole, at, new), message)


DESCRIPTOR = [
    (b"streamOptimized", b"monolithicSpars", "createType"),
    (b"CID=1234abcd", b"CID=        ", "no valid CID"),
    (b"RW ", b"RO ", "0 extents"),
    (b"RW 143360", b"RW 143361", "disk descriptor says 143361"),
]


@pytest.mark.parametrize(("old", "new", "message"), DESCRIPTOR, ids=[text for _, _, text in DESCRIPTOR])
def test_disk_descriptor(whole: bytes, old: bytes, new: bytes, message: str) -> None:
    assert old in whole
    refused(whole.replace(old, new, 1), message)


def test_cut_anywhere(whole: bytes) -> None:
    for length in (0, 100, 512, 600, FIRST, FIRST + 5, FIRST + 600, len(whole) - 2000, len(whole) - 513):
        refused(whole[:length], "truncated|without its end-of-stream|no VMDK")


def test_no_end_of_stream(whole: bytes) -> None:
    refused(whole[:-512], "without its end-of-stream")


@pytest.mark.parametrize("more", [1, 512, 64512])
def test_anything_after_the_end_of_stream(whole: bytes, more: int) -> None:
    refused(whole + bytes(more), f"{more} bytes after the end-of-stream")


def test_end_of_stream_that_is_not_zero(whole: bytes) -> None:
    refused(changed(whole, len(whole) - 1, b"\1"), "not all zeros")


def test_grain_beyond_the_capacity(whole: bytes) -> None:
    refused(changed(whole, FIRST, struct.pack("<Q", 70 * MIB // 512)), "beyond the disk")
    refused(changed(whole, FIRST, struct.pack("<Q", 2**64 - 128)), "beyond the disk")


def test_grain_between_grains(whole: bytes) -> None:
    refused(changed(whole, FIRST, struct.pack("<Q", 64)), "begins no grain")


def test_grains_out_of_order(whole: bytes) -> None:
    refused(changed(whole, FIRST, struct.pack("<Q", 4 * 128)), "not ascending")
    refused(changed(whole, FIRST, struct.pack("<Q", 3 * 128)), "grain 3 after grain 3")


def test_grain_that_is_not_where_the_table_says(whole: bytes) -> None:
    refused(changed(whole, FIRST, struct.pack("<Q", 128)), "grain table says that grain 0 ")


def test_damaged_grain(whole: bytes) -> None:
    refused(changed(whole, FIRST + 2000, b"damage"), "damaged grain")
    refused(changed(whole, FIRST + 12, b"\0\0"), "damaged grain")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (zlib.compress(bytes(GRAIN - 512)), "grain of 65024 instead"),
        (zlib.compress(bytes(GRAIN + 1)), "unpacks to more"),
        (zlib.compress(bytes(50 * MIB)), "unpacks to more"),
        (zlib.compress(noise(GRAIN)) + b"trailer", "does not end"),
        (zlib.compress(noise(GRAIN))[:-4], "does not end"),
        (noise(131073), "compressed grain of 131073 bytes"),
    ],
    ids=["short", "long", "bomb", "trailer", "no checksum", "huge"],
)
def test_grain_of_another_size(whole: bytes, stream: bytes, message: str) -> None:
    refused(with_first_grain(whole, grain(0, stream)), message)


def test_size_beyond_the_file(whole: bytes) -> None:
    last = whole.rindex(struct.pack("<Q", 40 * MIB // 512))
    short = whole[: last + 4096]
    refused(short, "truncated")


def table_at(whole: bytes, sector: int) -> int:
    """Where the only table entry that names `sector` lies."""
    at = whole.index(struct.pack("<QII", 4, 0, 1)) + 512
    return whole.index(struct.pack("<I", sector), at, at + 2048)


def test_table_entries_that_are_wrong(whole: bytes) -> None:
    at = table_at(whole, 128)
    refused(changed(whole, at, struct.pack("<I", 129)), "grain 0 is at sector 129, it is at 128")
    refused(changed(whole, at, struct.pack("<I", 0)), "grain 0 is at sector 0, it is at 128")
    refused(changed(whole, at + 4, struct.pack("<I", 128)), "two grains in one place")


def test_directory_entries_that_are_wrong(whole: bytes) -> None:
    at = whole.index(struct.pack("<QII", 1, 0, 2)) + 512
    assert struct.unpack_from("<3I", whole, at)[2] == 0
    refused(changed(whole, at, struct.pack("<I", 0)), "grain table says")
    refused(changed(whole, at + 4, struct.pack("<I", 1)), "grain table says")
    refused(changed(whole, at + 8, struct.pack("<I", 128)), "grain table says")
    refused(changed(whole, at, struct.pack("<I", 0xFFFFFFFF)), "truncated, a grain table")


def test_footer_that_contradicts(whole: bytes) -> None:
    footer = len(whole) - 1024
    refused(changed(whole, footer + 12, struct.pack("<Q", 1)), "contradicts")
    refused(changed(whole, footer + 56, struct.pack("<Q", 3)), "grain table says|footer says")
    refused(changed(whole, footer + 56, struct.pack("<Q", 2**60)), "truncated, the grain directory")


def test_no_footer(whole: bytes) -> None:
    refused(whole[:-1536] + bytes(512), "no footer")


@pytest.mark.parametrize(("kind", "value", "message"), [(9, 1, "unknown type 9"), (1, 5, "for 5 sectors")])
def test_markers(whole: bytes, kind: int, value: int, message: str) -> None:
    marker = struct.pack("<QII", value, 0, kind).ljust(512, b"\0")
    refused(whole[:FIRST] + marker + whole[FIRST:], message)


def test_a_second_footer(whole: bytes) -> None:
    refused(whole[:-1536] + whole[-1536:-512] + whole[-1536:], "not right before")


def test_findings() -> None:
    odd = written(Pieces(MIB, ((0, b"x"),)))[1].replace(b'"lsilogic"', b'"ide"     ')
    assert any("adapterType is ide" in finding for finding in vmdk_reader.walk(io.BytesIO(odd)).findings)


@pytest.mark.parametrize(
    ("content", "message"),
    [(lambda: noise(GRAIN), "without its end-of-stream"), (lambda: b"a" * GRAIN, "bytes after the end")],
    ids=["incompressible end", "compressible end"],
)
def test_qemu_img_writes_what_importers_refuse(
    content: Callable[[], bytes], message: str, tmp_path: Path, judge: Program
) -> None:
    """QEMU GitLab #1357, and a reader for files whose directory is in front: the tables were right."""
    raw, target = tmp_path / "x.raw", tmp_path / "x.vmdk"
    raw.write_bytes(bytes(MIB - GRAIN) + content())
    options = ("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized")
    assert judge("qemu-img", "convert", *options, raw, target).returncode == 0
    octets = target.read_bytes()
    refused(octets, message)
    end = only_grain_end(octets)
    walk = vmdk_reader.walk(io.BytesIO(octets[:end] + bytes(512)))
    assert walk.grains == 1
    assert any("no footer" in finding for finding in walk.findings)
    assert list(vmdk_reader.grains(io.BytesIO(octets[:end] + bytes(512)))) == [(MIB - GRAIN, content())]


def only_grain_end(octets: bytes) -> int:
    """Where the only grain of qemu-img's file ends."""
    at = struct.unpack_from("<Q", octets, 64)[0] * 512
    return int(at + (12 + struct.unpack_from("<QI", octets, at)[1] + 511) // 512 * 512)
