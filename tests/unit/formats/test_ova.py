"""The archive as tar and Python read it, and every archive that importers refuse."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.formats import ova, ova_reader, vmdk, vmdk_reader
from tests.unit.formats.conftest import Pieces, Program, noise

GIB = 1 << 30


def package(path: Path) -> Path:
    """Descriptor and manifest reserved, a disk streamed, a note added."""
    with ova.create(path, mtime=1_600_000_000) as archive:
        descriptor = archive.reserve("x.ovf", 700)
        manifest = archive.reserve("x.mf", 100)
        with archive.member("x-disk1.vmdk") as out:
            disk = Pieces(1 << 20, ((0, noise(200_000)),))
            extent = vmdk.write(disk, out, name="x-disk1.vmdk", cid=1, packing=vmdk.Packing(threads=2))
        assert out.size == extent.file_size
        archive.add("note.txt", b"hello")
        descriptor.fill(b"<Envelope/>".ljust(700, b"\n"))
        manifest.fill(b"m" * 100)
    return path


def test_tar_lists_it(tmp_path: Path, judge: Program) -> None:
    result = judge("tar", "-tvf", package(tmp_path / "x.ova"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[-1] for row in rows] == ["x.ovf", "x.mf", "x-disk1.vmdk", "note.txt"]
    assert {tuple(row[:2]) for row in rows} == {("-rw-r--r--", "0/0")}
    assert {tuple(row[3:5]) for row in rows} == {("2020-09-13", "12:26")}


def test_tar_extracts_it(tmp_path: Path, judge: Program) -> None:
    assert judge("tar", "-C", tmp_path, "-xf", package(tmp_path / "x.ova")).returncode == 0
    assert (tmp_path / "x.ovf").read_bytes() == b"<Envelope/>".ljust(700, b"\n")
    assert (tmp_path / "note.txt").read_bytes() == b"hello"
    assert judge("qemu-img", "check", tmp_path / "x-disk1.vmdk").returncode == 0


def test_python_reads_it(tmp_path: Path) -> None:
    path = package(tmp_path / "x.ova")
    with tarfile.open(path, "r:") as archive:
        entries = archive.getmembers()
        assert [entry.name for entry in entries] == ["x.ovf", "x.mf", "x-disk1.vmdk", "note.txt"]
        assert all(entry.isreg() and not entry.pax_headers for entry in entries)
        assert {(e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, "", "", 0o644)}
    assert path.stat().st_size % 10240 == 0
    assert path.read_bytes()[257:265] == b"ustar  \0"


def test_members_and_windows(tmp_path: Path) -> None:
    path = package(tmp_path / "x.ova")
    found = ova_reader.members(path)
    assert [(m.name, m.size) for m in found[:2]] == [("x.ovf", 700), ("x.mf", 100)]
    with ova.window(path, found[1]) as stream:
        assert stream.read() == b"m" * 100
        assert stream.seek(-3, io.SEEK_END) == 97
        assert stream.read(100) == b"mmm"
        with pytest.raises(ValueError, match="no place"):
            stream.seek(-101, io.SEEK_END)
    with ova.window(path, found[2]) as stream:
        assert vmdk_reader.walk(stream).file_size == found[2].size


def test_same_bytes_again(tmp_path: Path) -> None:
    assert package(tmp_path / "a.ova").read_bytes() == package(tmp_path / "b.ova").read_bytes()


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 3 << 40])
def test_sizes_from_8_gib_on(size: int) -> None:
    block = ova.header("x.vmdk", size, 0)
    assert len(block) == 512
    assert tarfile.TarInfo.frombuf(block, "ascii", "strict").size == size
    assert (block[124] == 0x80) == (size >= 8 * GIB), "xen-orchestra reads base 256 with that first byte only"


def test_a_member_of_9_gib(tmp_path: Path, judge: Program) -> None:
    """The archive is sparse: what is read is the header that was written after the member."""
    path = tmp_path / "x.ova"
    with ova.create(path, mtime=0) as archive:
        archive.add("x.ovf", b"x")
        with archive.member("x.vmdk") as out:
            out._archive.seek(9 * GIB, io.SEEK_CUR)
            out.size = 9 * GIB
    assert [m.size for m in ova_reader.members(path)] == [1, 9 * GIB]
    listed = judge("tar", "--seek", "-tvf", path)
    assert str(9 * GIB) in listed.stdout, listed.stderr


def test_writer_refuses(tmp_path: Path) -> None:
    with ova.create(tmp_path / "x.ova", mtime=0) as archive:
        slot = archive.reserve("x.ovf", 10)
        with pytest.raises(ValueError, match="11 bytes for a slot of 10"):
            slot.fill(b"x" * 11)
        with pytest.raises(FileError, match="twice"):
            archive.add("x.ovf", b"")
        for name in ("a/b", "a b", "x" * 100, "é"):
            with pytest.raises(FileError, match="no portable file name"):
                archive.add(name, b"")
        with archive.member("y"), pytest.raises(ValueError, match="still open"):
            archive.add("z", b"")
        slot.fill(b"x" * 10)
    assert [m.name for m in ova_reader.members(tmp_path / "x.ova")] == ["x.ovf", "y"]


def test_a_slot_that_was_not_filled(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"never filled: x\.mf"),
        ova.create(tmp_path / "x.ova", 0) as archive,
    ):
        archive.reserve("x.mf", 10)


# Archives that are made by tarfile, as others make them


def tarred(*entries: tuple[str, bytes], form: int = tarfile.GNU_FORMAT, **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, octets in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(octets)
            for field, value in fields.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(octets))
    return out.getvalue()


OVF = ("x.ovf", b"<Envelope/>")
DISK = ("x.vmdk", b"disk" * 500)


def test_others_archives_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.ova"
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        path.write_bytes(tarred(OVF, DISK, form=form))
        assert [(m.name, m.offset, m.size) for m in ova_reader.members(path)] == [
            ("x.ovf", 512, 11),
            ("x.vmdk", 1536, 2000),
        ]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip": (lambda: gzip.compress(tarred(OVF, DISK)), "compressed with gzip"),
    "PAX, as Python's default makes it": (
        lambda: tarred(OVF, DISK, form=tarfile.PAX_FORMAT, mtime=1.5),
        "byte 0: a PAX header",
    ),
    "PAX later": (
        lambda: tarred(OVF, form=tarfile.PAX_FORMAT)[:1024] + tarred(DISK, form=tarfile.PAX_FORMAT, mtime=1.5),
        "byte 1024: a PAX header",
    ),
    "global PAX": (
        lambda: tarfile.TarInfo.create_pax_global_header({"comment": "x"}) + tarred(OVF, DISK),
        "global PAX header",
    ),
    "long name": (lambda: tarred(OVF, ("x" * 120, b"")), "GNU long name"),
    "folder": (lambda: tarred(OVF, ("folder", b""), type=tarfile.DIRTYPE), "a folder"),
    "symbolic link": (lambda: tarred(("x.ovf", b""), type=tarfile.SYMTYPE, linkname="y"), "symbolic link"),
    "device": (lambda: tarred(("x.ovf", b""), type=tarfile.CHRTYPE), "a device of type b'3'"),
    "path": (lambda: tarred(OVF, ("disks/x.vmdk", b"")), "folder in its name"),
    "dot path": (lambda: tarred(("./x.ovf", b"")), "folder in its name"),
    "ustar prefix": (lambda: tarred(("p" * 90 + "/" + OVF[0] * 3, b""), form=tarfile.USTAR_FORMAT), "folder"),
    "backslash": (lambda: tarred(OVF, ("disks\\x.vmdk", b"")), "folder in its name"),
    "space": (lambda: tarred(OVF, ("my disk.vmdk", b"")), "not every importer reads"),
    "twice": (lambda: tarred(OVF, DISK, DISK), "x.vmdk is in it twice"),
    "descriptor not first": (lambda: tarred(DISK, OVF), "first member is x.vmdk"),
    "nothing": (lambda: b"", "0 bytes are no package"),
    "no member": (tarred, "empty archive"),
    "no tar": (lambda: noise(20480), "no tar header"),
    "damaged header": (lambda: tarred(OVF, DISK).replace(b"x.vmdk", b"y.vmdk"), "byte 1024: no tar header"),
    "cut within a member": (
        lambda: tarred(OVF, DISK)[:2000],
        "truncated, x.vmdk should reach to byte 3536 of 2000",
    ),
    "cut after a member": (lambda: tarred(OVF)[:1024], "without its two zero blocks"),
    "one zero block": (lambda: tarred(OVF)[:1536], "one zero block"),
    "two archives": (lambda: tarred(OVF) + tarred(DISK), "bytes after the archive's end"),
    "too long a tail": (lambda: tarred(OVF) + bytes(65536), "bytes after the last member"),
    "negative size": (lambda: negative(tarred(OVF)), "unreadable size"),
}


def negative(octets: bytes) -> bytes:
    """The first member's size as -1 in base 256, with the right checksum."""
    block = bytearray(octets[:512])
    block[124:136] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + octets[512:]


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ova"
    path.write_bytes(make())
    with pytest.raises(FileError, match=message) as caught:
        ova_reader.members(path)
    assert caught.value.message.startswith("x.ova")
    assert caught.value.hint
