"""What the writer writes, judged by qemu-img, by the layout's own words, and by a second run."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.formats import vmdk, vmdk_layout, vmdk_reader
from tests.unit.formats.conftest import Pieces, Program, noise, written

KIB, MIB = 1 << 10, 1 << 20
GRAIN = 65536

DISKS = {
    "empty": Pieces(8 * MIB),
    "one byte": Pieces(8 * MIB, ((5 * MIB + 77, b"x"),)),
    "sparse, three tables": Pieces(
        100 * MIB,
        ((0, noise(100)), (31 * MIB + 99, b"a" * (2 * MIB)), (99 * MIB, noise(300 * KIB, 1))),
    ),
    "a table without a grain": Pieces(97 * MIB, ((0, b"first"), (96 * MIB, b"last"))),
    "full": Pieces(3 * MIB, ((0, noise(3 * MIB)),)),
    "runs within one grain": Pieces(MIB, ((1, b"a"), (70000, b"b"), (70002, b"c"), (140000, b"d"))),
    "short last grain": Pieces(MIB + 3 * 512, ((MIB, noise(3 * 512)),)),
    "short last grain, compressible": Pieces(MIB + 512, ((MIB - 5, b"z" * 517),)),
    "incompressible last grain": Pieces(2 * MIB, ((2 * MIB - GRAIN, noise(GRAIN)),)),
    "zeros that are allocated": Pieces(4 * MIB, ((0, bytes(3 * MIB)), (3 * MIB, b"end"))),
    "one sector": Pieces(512, ((0, b"boot" * 128),)),
}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest) -> Pieces:
    return DISKS[request.param]


def test_qemu_reads_the_same_disk(disk: Pieces, tmp_path: Path, judge: Program) -> None:
    target, raw = tmp_path / "x.vmdk", tmp_path / "x.raw"
    target.write_bytes(written(disk)[1])
    raw.write_bytes(disk.read(0, disk.capacity))
    check = judge("qemu-img", "check", "-f", "vmdk", target)
    assert check.returncode == 0, check.stdout + check.stderr
    compare = judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", target, raw)
    assert compare.returncode == 0, compare.stdout + compare.stderr


def test_qemu_sees_another_disk_as_another(tmp_path: Path, judge: Program) -> None:
    target, raw = tmp_path / "x.vmdk", tmp_path / "x.raw"
    target.write_bytes(written(Pieces(MIB, ((9, b"x"),)))[1])
    raw.write_bytes(Pieces(MIB, ((9, b"y"),)).read(0, MIB))
    assert judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", target, raw).returncode == 1


def test_qemu_info(tmp_path: Path, judge: Program) -> None:
    target = tmp_path / "x.vmdk"
    target.write_bytes(written(Pieces(5 * MIB))[1])
    info = json.loads(judge("qemu-img", "info", "--output=json", target).stdout)
    specific = info["format-specific"]["data"]
    assert info["virtual-size"] == 5 * MIB
    assert specific["create-type"] == "streamOptimized"
    assert (specific["cid"], specific["parent-cid"]) == (0x1234ABCD, 0xFFFFFFFF)


def test_own_reader_reads_the_same_disk(disk: Pieces, tmp_path: Path) -> None:
    extent, octets = written(disk)
    target = tmp_path / "x.vmdk"
    target.write_bytes(octets)
    with target.open("rb") as stream:
        walk = vmdk_reader.walk(stream)
        grains = dict(vmdk_reader.grains(stream))
    assert (walk.capacity, walk.populated_size, walk.file_size) == (
        extent.capacity,
        extent.populated_size,
        extent.file_size,
    )
    assert walk.grains == len(grains)
    assert not walk.findings
    content = disk.read(0, disk.capacity)
    for offset in range(0, disk.capacity, GRAIN):
        expected = content[offset : offset + GRAIN].ljust(GRAIN, b"\0")
        assert grains.get(offset, bytes(GRAIN)) == expected
        assert (offset in grains) == (expected != bytes(GRAIN)), "a grain is stored if and only if it is not all zeros"


def test_extent_says_what_was_written(disk: Pieces) -> None:
    extent, octets = written(disk)
    assert extent.capacity == disk.capacity
    assert extent.file_size == len(octets)
    assert extent.digest == hashlib.sha256(octets).hexdigest()
    assert extent.populated_size <= extent.capacity


def test_the_stream_ends_with_footer_and_one_sector_of_zeros(disk: Pieces) -> None:
    octets = written(disk)[1]
    assert len(octets) % 512 == 0
    assert octets[-512:] == bytes(512)
    assert struct.unpack("<QII", octets[-1536:-1520]) == (1, 0, 3)
    assert octets[-1024:-1020] == b"KDMV"


def test_header_is_what_importers_ask_for() -> None:
    octets = written(Pieces(9 * MIB))[1]
    fields = struct.unpack_from("<4sIIQQQQIQQQB4sH", octets)
    assert fields[:8] == (b"KDMV", 3, 0x30001, 9 * MIB // 512, 128, 1, 20, 512)
    assert fields[8:] == (0, 2**64 - 1, 128, 0, b"\n \r\n", 1)


def test_disk_descriptor() -> None:
    octets = written(Pieces(16065 * 512 * 3))[1]
    text = octets[512:].split(b"\0", 1)[0].decode("ascii")
    lines = text.splitlines()
    assert 'RW 48195 SPARSE "x-disk1.vmdk"' in lines
    assert 'createType="streamOptimized"' in lines
    assert "CID=1234abcd" in lines
    assert 'ddb.geometry.cylinders = "3"' in lines
    assert 'ddb.toolsVersion = "2147483647"' in lines
    assert [line for line in lines if line != line.strip()] == []
    assert len(text) < 512, "govmomi reads no further"
    assert not any(octets[512 + len(text) : 21 * 512]), "VirtualBox appends to the rest of the area"


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_same_bytes_with_any_number_of_threads(threads: int | None) -> None:
    pieces = tuple((i * 9 * GRAIN + 11, noise(40000, i) + b"a" * 150000) for i in range(80))
    disk = Pieces(70 * MIB, pieces)
    assert written(disk, threads)[1] == written(disk, 3)[1]


def test_an_empty_tebibyte_is_small() -> None:
    extent, octets = written(Pieces(1 << 40))
    assert extent.capacity == 1 << 40
    assert extent.populated_size == 0
    assert len(octets) == extent.file_size < 256 * KIB


def test_batches_in_flight_are_few() -> None:
    """A writer that stops taking stops the reading, too: memory does not grow with the disk."""
    reads: list[int] = []
    content = noise(MIB)

    class Counted(Pieces):
        def read_into(self, offset: int, buffer: memoryview) -> int:
            assert offset % len(buffer) == 0
            reads.append(len(buffer))
            buffer[:] = content
            return len(buffer)

    class Slow:
        seen = 0

        def write(self, octets: bytes) -> None:
            self.seen += len(octets)
            assert sum(reads) < self.seen + 8 * MIB

    disk = Counted(48 * MIB, ((0, bytes(48 * MIB)),))
    vmdk.write(disk, Slow(), name="x.vmdk", cid=1, packing=vmdk.Packing(threads=2))
    assert sum(reads) == 48 * MIB


def test_progress_ends_at_the_capacity() -> None:
    done: list[int] = []
    disk = Pieces(5 * MIB + 512, ((0, noise(2 * MIB)), (5 * MIB, b"x")))

    class Nowhere:
        def write(self, octets: bytes) -> None: ...

    vmdk.write(disk, Nowhere(), name="x.vmdk", cid=1, on_bytes=done.append)
    assert done == sorted(done)
    assert done[0] == MIB
    assert done[-1] == disk.capacity


@pytest.mark.parametrize("capacity", [0, -512, 1000, 513, (64 << 40) + 512])
def test_impossible_capacities_are_refused(capacity: int) -> None:
    with pytest.raises(FileError, match="disk of"):
        written(Pieces(capacity))


@pytest.mark.parametrize("name", ["", 'a".vmdk', "a\nb", "é.vmdk"])
def test_names_that_the_disk_descriptor_cannot_hold(name: str) -> None:
    with pytest.raises(FileError, match="disk descriptor"):
        vmdk_layout.dump_descriptor(1, name, 1)


@pytest.mark.parametrize("runs", [[(0, 0)], [(512, 512), (0, 512)], [(0, 512), (256, 512)], [(0, 2 * MIB)]])
def test_runs_that_break_the_contract(runs: list[tuple[int, int]]) -> None:
    class Broken(Pieces):
        def runs(self) -> list[tuple[int, int]]:
            return runs

    with pytest.raises(ValueError, match="not ascending"):
        written(Broken(MIB))


def test_a_disk_that_shrinks_meanwhile() -> None:
    class Cut(Pieces):
        def read(self, offset: int, length: int) -> bytes:
            return super().read(offset, length)[:-1]

    with pytest.raises(FileError, match="ended early"):
        written(Cut(MIB, ((0, b"x" * MIB),)))


def test_an_error_while_reading_leaves_no_thread_behind() -> None:
    class Failing(Pieces):
        def read(self, offset: int, length: int) -> bytes:
            raise OSError(f"no medium at {offset}, {length}")

    before = threading.active_count()
    with pytest.raises(OSError, match="no medium"):
        written(Failing(8 * MIB, ((0, b"x" * 8 * MIB),)))
    assert threading.active_count() == before
