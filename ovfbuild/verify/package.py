"""Opens a package that was written, by whoever: an OVA, or a descriptor with its files beside it.

Reading is lenient: what some importer does not take is a finding, and the rest is read all the same. Only what would do
harm, or leaves nothing to read, is an error. `judging` has the judge.
"""

from __future__ import annotations

import glob
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats import gunzip, ova, ova_reader, ovf, ovf_reader
from ovfbuild.formats.envelope import Disk, Envelope, File
from ovfbuild.formats.fault import Fault, Hostile
from ovfbuild.verify.rules import pieces_of
from ovfbuild.verify.verdict import Finding

_TEXTS = (".mf", ".cert")
_MOST_ITEMS = 20_000
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://")


UNCOMPRESSED = (None, "", "identity")
"""What `ovf:compression` says of a file that lies in the package as it is."""


@dataclass(frozen=True)
class StoredDisk:
    """A disk, the File that it is in, and the members that are that file: more than one where it is in pieces."""

    disk: Disk
    file: File
    members: tuple[ova.Member, ...]

    @property
    def plain(self) -> bool:
        """Whether its only member is the disk image itself."""
        return self.file.compression in UNCOMPRESSED and len(self.members) == 1


@dataclass(frozen=True)
class Package:
    """A package as it lies there: its members by name, its descriptor as bytes and as a model a machine.

    `envelopes` is empty where the descriptor can't be read; `findings` has why, and what opening found besides.
    `in_folder` is true where `path` is a descriptor, with its files beside it.
    """

    path: Path
    members: tuple[ova.Member, ...]
    descriptor: bytes
    envelopes: tuple[Envelope, ...]
    findings: tuple[Finding, ...] = ()
    in_folder: bool = False

    @property
    def envelope(self) -> Envelope:
        """The first machine's. Raises FileError where the descriptor can't be read."""
        if not self.envelopes:
            why = next((one.text for one in self.findings if one.rule in ("descriptor-xml", "descriptor-root")), "")
            raise FileError(f"{self.path.name}: its descriptor can't be read: {why}", "ovfbuild check says more")
        return self.envelopes[0]

    @property
    def name(self) -> str:
        """The descriptor's name."""
        return next(member.name for member in self.members if member.name.endswith(".ovf"))

    def member(self, name: str) -> ova.Member | None:
        return next((member for member in self.members if member.name == name), None)

    def window(self, member: ova.Member) -> BinaryIO:
        """A member's content as a read-only, seekable stream; close it."""
        return ova.window(self.file_of(member), member)

    def file_of(self, member: ova.Member) -> Path:
        """The file that a member's content lies in."""
        return self.path.parent / member.name if self.in_folder else self.path

    @property
    def disks(self) -> tuple[tuple[Disk, ova.Member], ...]:
        """The DiskSection's disks that lie in a member, with it, in their order; an empty disk has none."""
        envelope = self.envelope
        hrefs = {file.id: file.href for file in envelope.files}
        members = {member.name: member for member in self.members}
        return tuple(
            (disk, member)
            for disk in (envelope.disk_section.disks if envelope.disk_section else ())
            if (member := members.get(hrefs.get(disk.file_ref or "", "")))
        )

    @property
    def stored_disks(self) -> tuple[StoredDisk, ...]:
        """The DiskSection's disks whose files are in the package, whole or in pieces, in their order."""
        files = {file.id: file for file in self.envelope.files}
        members = {member.name: member for member in self.members}
        sizes = {name: member.size for name, member in members.items()}
        section = self.envelope.disk_section
        found = ((disk, files.get(disk.file_ref or "")) for disk in (section.disks if section else ()))
        return tuple(
            StoredDisk(disk, file, tuple(members[name] for name in pieces))
            for disk, file in found
            if file and (pieces := pieces_of(file, sizes))
        )

    @contextmanager
    def open_disk(self, packed: StoredDisk) -> Iterator[BinaryIO]:
        """The disk's content, its pieces joined and what is compressed unpacked: a seekable stream.

        Raises:
            FileError: it is compressed in another way than gzip, damaged or cut.
        """
        name, how = packed.file.href, packed.file.compression
        parts = [(self.file_of(member), member) for member in packed.members]
        with ova.joined(name, parts) as stream:
            if how in UNCOMPRESSED:
                yield stream
            elif how == "gzip":
                with gunzip.unpacked(stream, sum(member.size for member in packed.members), name) as content:
                    yield content
            else:
                raise FileError(f"{name} is compressed with {how}", "unpack it, and leave out the attribute")


def open_package(path: Path) -> Package:
    """Reads an archive's table, or a folder's, and the descriptor, no disk.

    Raises:
        FileError: there is no such file, it is no package, it holds no descriptor, or it was made to do harm.
    """
    path = _descriptor_in(path) if path.is_dir() else path
    if not path.is_file():
        raise FileError(f"{path}: there is no such file", "name an .ova file, or an .ovf with its disks beside it")
    with path.open("rb") as stream:
        head = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _open_folder(path) if head.startswith((b"<", b"\xff\xfe", b"\xfe\xff")) else _open_archive(path)


def _descriptor_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.ovf"))
    if len(found) != 1:
        raise FileError(f"{folder}: {len(found)} descriptors (.ovf) are in this folder", "name the one that you mean")
    return found[0]


def _open_archive(path: Path) -> Package:
    table = ova_reader.survey(path)
    found = [member for member in table.members if member.name.endswith(".ovf")]
    if not found:
        raise FileError(f"{path.name}: there is no descriptor (.ovf) in it", "is it a package at all?")
    findings = [_found(fault, "", fault.place or path.name) for fault in table.faults]
    with ova.window(path, found[0]) as stream:
        text = _read_text(stream, found[0])
    envelopes, faults = _read(text)
    for href in _hrefs(envelopes):
        _refuse_escape(href, path)
    findings += [_found(fault, found[0].name, found[0].name) for fault in faults]
    return Package(path, table.members, text, envelopes, tuple(findings))


def _open_folder(path: Path) -> Package:
    descriptor = ova.Member(path.name, 0, path.stat().st_size)
    if not path.name.endswith(".ovf"):
        raise FileError(f"{path}: a descriptor's name ends with .ovf", "rename it")
    with path.open("rb") as stream:
        text = _read_text(stream, descriptor)
    envelopes, faults = _read(text)
    stem = path.name.removesuffix(".ovf")
    beside = [f"{stem}{end}" for end in _TEXTS]
    chunked = {file.href for file in envelopes[0].files if file.chunk_size} if envelopes else set()
    for href in dict.fromkeys(_hrefs(envelopes)):
        _refuse_escape(href, path)
        beside.append(href)
        if href in chunked:
            beside += sorted(one.name for one in path.parent.glob(f"{glob.escape(href)}.[0-9]*"))
    members = [descriptor, *_beside(path.parent, beside)]
    return Package(path, tuple(members), text, envelopes, tuple(_found(f, path.name, path.name) for f in faults), True)


def _beside(folder: Path, names: Iterable[str]) -> Iterator[ova.Member]:
    """Those of the files that are there, and are plain files of this folder: no link leads out of it."""
    for name in dict.fromkeys(names):
        file = folder / name
        if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
            raise Hostile(f"{file}: a link that leads out of the package's folder", "put the file itself there")
        if file.exists() and stat.S_ISREG(file.stat().st_mode):
            yield ova.Member(name, 0, file.stat().st_size)


def _hrefs(envelopes: tuple[Envelope, ...]) -> list[str]:
    """What References names in the package itself, not at a URL."""
    return [file.href for file in envelopes[0].files if file.href and not _REMOTE.match(file.href)] if envelopes else []


def _refuse_escape(href: str, path: Path) -> None:
    if href.startswith("/") or "\0" in href or ".." in re.split(r"[/\\]", href):
        raise Hostile(f"{path.name}: References names {href[:120]!r}, outside of the package", "it is an attack")


def _read_text(stream: BinaryIO, member: ova.Member) -> bytes:
    if member.size > ovf.LARGEST:
        raise Hostile(f"{member.name} has {member.size} bytes", "no descriptor or manifest is so large")
    return stream.read()


def _read(text: bytes) -> tuple[tuple[Envelope, ...], tuple[Fault, ...]]:
    """The descriptor's machines, as far as there are any, and what is wrong with it."""
    try:
        reading = ovf_reader.read(text)
    except Hostile:
        raise
    except FileError as error:
        where = re.match(r"descriptor, line (\d+): ", error.message)
        rule = "descriptor-root" if "the root is" in error.message else "descriptor-xml"
        line = int(where[1]) if where else 0
        return (), (Fault(rule, error.message[where.end() if where else 0 :], line, error.hint),)
    _refuse_masses(reading.envelopes)
    return reading.envelopes, reading.faults


def _refuse_masses(envelopes: tuple[Envelope, ...]) -> None:
    """Hostile for a descriptor whose only use is to keep its reader busy."""
    section = envelopes[0].disk_section
    items = sum(len(one.virtual_system.hardware.items) for one in envelopes)
    counted = (
        (len(envelopes[0].files), "files", ova_reader.MOST_ENTRIES),
        (len(section.disks) if section else 0, "disks", ova_reader.MOST_ENTRIES),
        (len(envelopes), "machines", ova_reader.MOST_ENTRIES),
        (items, "items", _MOST_ITEMS),
    )
    for count, what, most in counted:
        if count > most:
            raise Hostile(f"the descriptor names {count} {what}", "that is no appliance")


def _found(fault: Fault, member: str, place: str) -> Finding:
    return Finding(fault.rule, place, fault.text, member, fault.line)
