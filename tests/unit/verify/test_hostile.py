"""What was made to harm whoever opens it: one clear line, exit code 5, little time and memory."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild import packages
from ovfbuild.errors import FileError
from ovfbuild.formats import gunzip
from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.progress import Silent
from tests.unit.verify import broken, kit
from tests.unit.verify.kit import Entry, Kit

GOOD = kit.small()
ONE = b"\1" * 65536


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[], bytes]:
    """A package with one more member, of that name and type."""

    def packed() -> bytes:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        whole = replace(GOOD, after=lambda octets: octets.rstrip(b"\0")).packed()
        whole += bytes(-len(whole) % 512 + 512)
        return whole + entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + bytes(1024)

    return packed


def pax(**records: str) -> Callable[[], bytes]:
    """A package with one more member, of which a PAX header says that."""

    def packed() -> bytes:
        entry = tarfile.TarInfo("x")
        entry.pax_headers = records
        whole = GOOD.packed().rstrip(b"\0")
        whole += bytes(-len(whole) % 512 + 512)
        return whole + entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + bytes(1024)

    return packed


def long_name() -> bytes:
    entry = tarfile.TarInfo("../" * 40 + "etc/passwd")
    whole = GOOD.packed().rstrip(b"\0")
    whole += bytes(-len(whole) % 512 + 512)
    return whole + entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + bytes(1024)


def header_with(offset: int, octets: bytes) -> Callable[[], bytes]:
    """A package whose first tar header was changed, with the checksum that it should have."""

    def packed() -> bytes:
        whole = bytearray(GOOD.packed())
        whole[offset : offset + len(octets)] = octets
        whole[148:156] = b" " * 8
        whole[148:156] = b"%06o\0 " % sum(whole[:512])
        return bytes(whole)

    return packed


def of(make: Callable[[], Kit]) -> Callable[[], bytes]:
    return lambda: make().packed()


def doctype(entity: str) -> Callable[[], bytes]:
    return of(
        lambda: broken.text("<Envelope ", f"<!DOCTYPE x [<!ENTITY e {entity}>]><Envelope ").text_with(
            b"<Name>a", b"<Name>&e;"
        )
    )


def grain_bomb() -> bytes:
    """A grain of a few hundred KiB that would be a hundred MiB."""
    bomb = zlib.compress(bytes(100 << 20))
    good = kit.stream((0, ONE))
    return good[:1024] + layout.padded(layout.pack_grain_marker(0, len(bomb)) + bomb) + good[1536:]


def two_grains_in_one_place() -> bytes:
    octets = bytearray(kit.stream((0, ONE), (3, ONE)))
    at = octets.index(layout.pack_marker(4, layout.MARK_TABLE)) + 512
    octets[at + 12 : at + 16] = octets[at : at + 4]
    return bytes(octets)


def two_tables_in_one_place() -> bytes:
    octets = bytearray(kit.stream((0, ONE), capacity=64 << 20))
    at = octets.index(layout.pack_marker(1, layout.MARK_DIRECTORY)) + 512
    octets[at + 4 : at + 8] = octets[at : at + 4]
    return bytes(octets)


def masses(count: int, element: str, before: str) -> Callable[[], bytes]:
    return of(lambda: broken.text(before, element * count + before))


HARM: dict[str, tuple[Callable[[], bytes], str]] = {
    "a name above": (named("../../etc/cron.d/x"), "leads out of the package"),
    "an absolute name": (named("/etc/passwd"), "leads out of the package"),
    "a name of Windows'": (named("C:\\x"), "leads out of the package"),
    "a name above, with backslashes": (named("a\\..\\..\\x"), "leads out of the package"),
    "a name with control characters": (named("a\x1b[2J"), "is no name of a file"),
    "a name above, by PAX": (pax(path="../../etc/passwd"), "leads out of the package"),
    "a name above, by a long name": (long_name, "leads out of the package"),
    "a symbolic link": (named("x", tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
    "a hard link": (named("x", tarfile.LNKTYPE, "/etc/passwd"), "a hard link"),
    "a device": (named("x", tarfile.BLKTYPE), "a device"),
    "a character device": (named("x", tarfile.CHRTYPE), "a device"),
    "a pipe": (named("x", tarfile.FIFOTYPE), "a pipe"),
    "a type that nobody knows": (named("x", b"~"), "an entry of type"),
    "a folder with content": (header_with(156, b"5"), "a folder"),
    "a size beyond the end": (header_with(124, b"77777777777\0"), "truncated"),
    "a size below zero": (header_with(124, b"\xff" * 12), "an unreadable size"),
    "a size beyond any file": (header_with(124, b"\x80" + b"\xff" * 11), "truncated|unreadable"),
    "a size beyond the end, by PAX": (pax(size="9" * 18), "truncated"),
    "a size that is none, by PAX": (pax(size="-1"), "unreadable size"),
    "File above": (of(lambda: broken.text('href="a-disk1.vmdk"', 'href="../../etc/passwd"')), "outside of the package"),
    "File absolute": (of(lambda: broken.text('href="a-disk1.vmdk"', 'href="/etc/passwd"')), "outside of the package"),
    "an external entity": (doctype('SYSTEM "file:///etc/passwd"'), "a DOCTYPE"),
    "an entity": (doctype('"a"'), "a DOCTYPE"),
    "a grain that is a bomb": (
        of(lambda: broken.disk(grain_bomb())),
        "a grain that unpacks to more|compressed grain of",
    ),
    "grains in one place": (of(lambda: broken.disk(two_grains_in_one_place())), "two grains in one place"),
    "tables in one place": (of(lambda: broken.disk(two_tables_in_one_place())), "two grain tables in one place"),
    "thousands of files": (masses(1000, '<File ovf:href="a" ovf:id="a"/>', "</References>"), "names 1001 files"),
    "thousands of disks": (
        masses(1000, '<Disk ovf:diskId="a" ovf:capacity="1"/>', "</DiskSection>"),
        "names 1001 disks",
    ),
    "thousands of items": (masses(20_000, "<Item/>", "</VirtualHardwareSection>"), "names 20007 items"),
    "thousands of members": (
        of(lambda: replace(GOOD, change=broken.more(*(Entry(f"{n}", b"") for n in range(1100))))),
        "more than 1000",
    ),
    "a package compressed": (lambda: gzip.compress(GOOD.packed()), "compressed with gzip"),
    "nothing": (lambda: b"", "0 bytes are no package"),
    "zeros": (lambda: bytes(10240), "an empty archive"),
}


@pytest.mark.parametrize("what", HARM)
def test_it_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    make, message = HARM[what]
    path = tmp_path / "a.ova"
    path.write_bytes(make())
    for command in (packages.check, lambda path, progress: packages.fix(path, tmp_path / "b.ova", progress)):
        with pytest.raises(FileError, match=message) as caught:
            command(path, Silent())
        assert caught.value.exit_code == 5
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 300
        assert caught.value.hint
    assert [one.name for one in tmp_path.iterdir()] == ["a.ova"]


def test_a_disk_behind_a_link_that_leads_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.write_bytes(GOOD.files["a-disk1.vmdk"])
    (folder / "a.ovf").write_bytes(GOOD.text)
    (folder / "a-disk1.vmdk").symlink_to(outside)
    with pytest.raises(FileError, match="a link that leads out"):
        packages.check(folder, Silent())


def test_a_gzip_stream_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunzip, "LEAST", 1 << 20)
    path = kit.gzipped(gzip.compress(bytes(8 << 20), mtime=0)).pack(tmp_path / "a.ova")
    with pytest.raises(FileError, match="unpacks to more than"):
        packages.check(path, Silent())


def test_cut_anywhere(tmp_path: Path) -> None:
    """At every 97th byte: it is refused, or something is found, and never is all well."""
    whole, path = GOOD.packed(), tmp_path / "a.ova"
    end = len(whole.rstrip(b"\0")) + 1024
    for length in range(0, end, 97):
        path.write_bytes(whole[:length])
        try:
            assert packages.check(path, Silent()).findings, length
        except FileError as error:
            assert "\n" not in error.message


def test_a_disk_cut_anywhere(tmp_path: Path) -> None:
    octets = GOOD.files["a-disk1.vmdk"]
    for length in range(0, len(octets), 61):
        path = broken.disk(octets[:length]).pack(tmp_path / "a.ova")
        rules = {one.rule for one in packages.check(path, Silent()).errors}
        assert rules & {"disk-truncated", "disk-no-end", "disk-damaged", "disk-format"}, length


LIMITED = """
import resource, sys, time
from pathlib import Path
from ovfbuild import packages
from ovfbuild.errors import FileError
from ovfbuild.progress import Silent
resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    print("found", len(packages.check(Path(sys.argv[1]), Silent()).findings))
except FileError as error:
    print("refused", error.message)
"""


def limited(path: Path) -> str:
    """What check says of it with 500 MiB of address space and 60 s of CPU."""
    run = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def large_descriptor() -> bytes:
    """Full of tags, and nothing but mistakes."""
    item = b"<Item><rasd:Parent>x</rasd:Parent><y/></Item>"
    return GOOD.text.replace(
        b"</VirtualHardwareSection>", item * 4_000 + b"<x/>" * 30_000 + b"</VirtualHardwareSection>"
    )


def largest_directory() -> bytes:
    """A disk of 8 TiB, each of whose 262144 tables is said to be somewhere."""
    capacity = 8 << 40
    header = layout.Header(capacity // 512, 3, overhead=2, descriptor=1, descriptor_sectors=1)
    count = layout.tables_of(header.capacity)
    text = f'# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\nRW {header.capacity} SPARSE "x"\n'.encode()
    directory = layout.pack_entries(list(range(9, 9 + count)))
    marker = layout.pack_marker(layout.directory_sectors(count), layout.MARK_DIRECTORY)
    return layout.pack_header(header) + layout.padded(text) + marker + directory + bytes(512)


@pytest.mark.parametrize(
    "make",
    [lambda: replace(GOOD, text=large_descriptor()), lambda: broken.disk(largest_directory())],
    ids=["descriptor", "directory"],
)
def test_the_large_that_is_read(make: Callable[[], Kit], tmp_path: Path) -> None:
    assert limited(make().pack(tmp_path / "a.ova")).startswith("found ")


def test_a_bomb_under_the_limits(tmp_path: Path) -> None:
    assert limited(broken.disk(grain_bomb()).pack(tmp_path / "a.ova")).startswith("refused ")
