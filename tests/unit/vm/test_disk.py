"""disk, with qemu-img as the oracle."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ovfbuild.errors import FileError, ProgramError
from ovfbuild.vm import blocks, disk

if shutil.which("qemu-img") is None and not os.environ.get("CI"):
    pytest.skip("qemu-img is not installed", allow_module_level=True)

MIB = 1 << 20
SIZE = 24 * MIB


def qemu_img(*argv: object) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def write(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
        for offset, octets in pieces.items():
            stream.seek(offset)
            stream.write(octets)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Data of no alignment, one piece of zeros that is written, data at both ends."""
    some = random.Random(7)
    pieces = {
        0: some.randbytes(70_000),
        3 * MIB + 777: some.randbytes(300_000),
        8 * MIB: bytes(MIB),
        10 * MIB: b"abc" * 400_000,
        SIZE - 5000: some.randbytes(5000),
    }
    return write(tmp_path / "disk.raw", SIZE, pieces)


def content(path: Path, image_format: str, work: Path) -> bytes:
    """The whole disk in ranges that begin and end anywhere."""
    with blocks.open_reader(path, image_format, work) as reader:
        octets = bytearray()
        step = 123_457
        while len(octets) < reader.capacity:
            octets += reader.read(len(octets), min(step, reader.capacity - len(octets)))
            step = step * 3 % 1_900_001
        check_runs(reader, bytes(octets))
    return bytes(octets)


def check_runs(reader: blocks.DiskReader, octets: bytes) -> None:
    end = 0
    for offset, length in reader.runs():
        assert offset >= end
        assert length > 0
        assert not octets[end:offset].strip(b"\0")
        end = offset + length
    assert end <= reader.capacity + 65536
    assert not octets[end:].strip(b"\0")


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("raw", []),
        ("qcow2", []),
        ("qcow2", ["-c"]),
        ("qcow2", ["-o", "extended_l2=on,cluster_size=128k"]),
        ("qcow2", ["-o", "compat=0.10,cluster_size=4k"]),
        ("vmdk", ["-o", "subformat=streamOptimized"]),
        ("vmdk", []),
        ("vdi", []),
    ],
)
def test_every_format_reads_the_same(tmp_path: Path, raw: Path, image_format: str, options: list[str]) -> None:
    image = tmp_path / "image"
    qemu_img("convert", "-f", "raw", "-O", image_format, *options, raw, image)
    assert disk.probe(image) == disk.Image(image_format, SIZE)
    work = tmp_path / "work"
    work.mkdir()
    assert content(image, image_format, work) == raw.read_bytes()
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_an_overlay_is_read_through_its_base(tmp_path: Path, raw: Path, base_format: str) -> None:
    base = tmp_path / "base, 1"
    qemu_img("convert", "-f", "raw", "-O", base_format, raw, base)
    over = tmp_path / "over.qcow2"
    disk.overlay(base, base_format, over, SIZE + 8 * MIB)
    commands = ["write -P 7 4M 100k", "write -z 10M 64k", f"write -P 9 {SIZE + 4 * MIB} 5k"]
    subprocess.run(
        ["qemu-io", "-f", "qcow2", *(w for c in commands for w in ("-c", c)), over],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    flat = tmp_path / "flat.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", over, flat)
    assert content(over, "qcow2", tmp_path / "no workspace is needed") == flat.read_bytes()
    with pytest.raises(FileError, match="refers to other files"):
        disk.probe(over)
    assert disk.probe(over, trusted=True).backing == str(base)
    disk.flatten(over, tmp_path / "flat.qcow2")
    assert disk.probe(tmp_path / "flat.qcow2") == disk.Image("qcow2", SIZE + 8 * MIB)
    assert disk.compare(disk.described(over, "qcow2"), disk.described(tmp_path / "flat.qcow2", "qcow2"))


def test_an_overlay_over_a_compressed_base(tmp_path: Path, raw: Path) -> None:
    base, over = tmp_path / "base.qcow2", tmp_path / "over.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, base)
    disk.overlay(base, "qcow2", over)
    assert content(over, "qcow2", tmp_path) == raw.read_bytes()


def test_many_threads_read(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "image"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    with blocks.open_reader(image, "qcow2", tmp_path) as reader, ThreadPoolExecutor(4) as threads:
        pieces = threads.map(lambda at: reader.read(at, MIB), range(0, SIZE, MIB))
        assert b"".join(pieces) == raw.read_bytes()


def test_a_raw_disk_ends_with_its_last_sector(tmp_path: Path) -> None:
    path = write(tmp_path / "odd", 1300, {1290: b"0123456789"})
    with blocks.open_reader(path, "raw", tmp_path) as reader:
        assert reader.capacity == 1536
        assert reader.read(1024, 512) == path.read_bytes()[1024:].ljust(512, b"\0")
    assert disk.probe(path, "raw").virtual_size == 1536


def test_an_empty_disk_has_no_runs(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "qcow2", "5M")
    write(tmp_path / "raw", 5 * MIB, {})
    for image_format in ("raw", "qcow2"):
        with blocks.open_reader(tmp_path / image_format, image_format, tmp_path) as reader:
            assert list(reader.runs()) == []
            assert reader.read(100, 5) == bytes(5)


def test_a_disk_cut_short_while_it_is_read(tmp_path: Path, raw: Path) -> None:
    with blocks.open_reader(raw, "raw", tmp_path) as reader:
        os.truncate(raw, MIB)
        with pytest.raises(FileError, match="cut short"):
            reader.read(10 * MIB, MIB)


def test_a_small_overlay_is_refused(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(FileError, match=r"too large for one of 1048576"):
        disk.overlay(raw, "raw", tmp_path / "over", MIB)


def test_what_refers_to_other_files(tmp_path: Path, raw: Path) -> None:
    qcow2, flat = tmp_path / "d.qcow2", tmp_path / "flat.vmdk"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", qcow2, "1M")
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, flat)
    over = tmp_path / "over.vmdk"
    base = tmp_path / "base.vmdk"
    qemu_img("create", "-f", "vmdk", base, "1M")
    qemu_img("create", "-f", "vmdk", "-b", base, "-F", "vmdk", over)
    fake = bytearray(base.read_bytes())
    fake[12:20] = bytes(8)
    hollow = write(tmp_path / "hollow.vmdk", len(fake), {0: bytes(fake)})
    for path in (qcow2, flat, over, hollow):
        with pytest.raises(FileError, match=f"{path.name} is only a part of a disk"):
            disk.probe(path)


def test_a_hostile_backing_file_is_never_opened(tmp_path: Path) -> None:
    """A FIFO would block whoever opens it."""
    os.mkfifo(tmp_path / "fifo")
    image = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", tmp_path / "fifo", "-F", "raw", image, "1M")
    with pytest.raises(FileError, match="refers to other files"):
        disk.probe(image)


def test_an_encrypted_one(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", image, "1M")
    with image.open("r+b") as stream:
        stream.seek(32)  # crypt_method
        stream.write(struct.pack(">I", 2))
    with pytest.raises(FileError, match="is encrypted"):
        disk.probe(image)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "no magic number"),
        (b"hello\n", "6 bytes are no whole number of sectors"),
        (gzip.compress(bytes(9999), mtime=0), "compressed by gzip"),
        (b"QFI\xfb\0\0\0\3", "no qcow2 image"),
        (b"QFI\xfb" + b"\xff" * 2000, "only a part"),
        (b"KDMV" + b"\xff" * 2000, "no vmdk image"),
    ],
)
def test_what_is_no_disk(tmp_path: Path, octets: bytes, why: str) -> None:
    path = write(tmp_path / "thing.img", len(octets), {0: octets})
    with pytest.raises(FileError, match=why) as caught:
        disk.probe(path)
    assert str(path) in caught.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="gone does not exist"):
        disk.probe(tmp_path / "gone")
    with pytest.raises(FileError, match="is no file"):
        disk.probe(tmp_path)
    with (
        pytest.raises(FileError, match="can't be read"),
        blocks.open_reader(tmp_path / "gone", "raw", tmp_path),
    ):
        pass


def test_names_that_qemu_would_misread(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nbd:a", "-x", "json:{}", "a,b=c"):
        image = Path(name)
        disk.convert(raw, "raw", image, "qcow2")
        assert disk.probe(image) == disk.Image("qcow2", SIZE)
        disk.check(image, "qcow2")
        assert disk.compare(disk.described(raw, "raw"), disk.described(image, "qcow2"))


def test_compare(tmp_path: Path, raw: Path) -> None:
    other = write(tmp_path / "other", SIZE, {5: b"x"})
    longer = tmp_path / "longer"
    shutil.copy(raw, longer)
    os.truncate(longer, SIZE + MIB)
    assert not disk.compare(disk.described(raw, "raw"), disk.described(other, "raw"))
    assert disk.compare(disk.described(raw, "raw"), disk.described(longer, "raw"))
    with pytest.raises(ProgramError):
        disk.compare(disk.described(raw, "raw"), disk.described(raw, "qcow2"))


def test_a_disk_inside_an_archive(tmp_path: Path, raw: Path) -> None:
    vmdk, ova = tmp_path / "disk.vmdk", tmp_path / "an, odd name.ova"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk)
    with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as tar:
        text = tarfile.TarInfo("x.ovf")
        text.size = 3
        tar.addfile(text, io.BytesIO(b"<x>"))
        tar.add(vmdk, "disk.vmdk")
    with tarfile.open(ova) as tar:
        member = tar.getmember("disk.vmdk")
    there = disk.inside(ova, member.offset_data, member.size)
    said = subprocess.run(
        ["qemu-img", "info", "--image-opts", there], check=True, capture_output=True, text=True
    ).stdout
    assert "streamOptimized" in said
    assert disk.compare(there, disk.described(raw, "raw"))


def test_a_damaged_qcow2(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "image"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    disk.check(image, "qcow2")
    with image.open("r+b") as stream:
        header = stream.read(48)
        (table,) = struct.unpack_from(">Q", header, 40)
        stream.seek(table)
        stream.write(struct.pack(">Q", 1 << 63 | 512 * MIB))
    with pytest.raises(FileError, match="is damaged"):
        disk.check(image, "qcow2")


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    junk = write(tmp_path / "junk", 5000, {0: b"junk"})
    with pytest.raises(ProgramError):
        disk.convert(junk, "qcow2", tmp_path / "out.raw", "raw")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["junk"]
