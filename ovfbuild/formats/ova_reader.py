"""Reads the table of a package that anybody made: plain tar, PAX, in any order.

`survey` reads past what an importer would stumble over and tells it as faults; `members` takes none. Neither reads
past what would do harm, or what leaves nothing to read: links and devices, names that lead elsewhere, a header that
is damaged, a file that is cut. Nothing is ever unpacked. Source: see `ova`, and POSIX.1-2001 pax for its records.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats import names
from ovfbuild.formats.fault import Fault
from ovfbuild.formats.ova import BLOCK, Member

LARGEST_TAIL = 65536 + 2 * BLOCK
"""Bytes of zeros that may follow the last member: VirtualBox reads on that far and no further."""
MOST_ENTRIES = 1000
_LARGEST_RECORDS = 1 << 20
"""Bytes of one PAX header or long name: more is an attack."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"PK": "zip"}
_PAX = {
    tarfile.XHDTYPE: "a PAX header",
    tarfile.XGLTYPE: "a global PAX header",
    tarfile.SOLARIS_XHDTYPE: "a PAX header",
}
_PIECES = {
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    b"M": "a piece of a file",
    b"D": "a GNU dump folder",
    b"V": "a volume",
}
_HARMFUL = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.GNUTYPE_LONGLINK: "a link with a long name",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_FOLDER = b"5"
_GNU_TAR = "importers read plain files only: pack with “tar --format=gnu” or ovfbuild"
_AGAIN = "build or download it again"


@dataclass(frozen=True)
class Survey:
    """A package's members in their order, each name once, and what is wrong with the archive."""

    members: tuple[Member, ...]
    faults: tuple[Fault, ...]


def members(path: Path) -> list[Member]:
    """The members of a package, in their order.

    Raises FileError, naming the file and the place, for whatever `survey` finds or refuses.
    """
    found = survey(path)
    for fault in found.faults:
        where = f", {fault.place}" if fault.place else ""
        raise FileError(f"{path.name}{where}: {fault.text}", fault.hint)
    return list(found.members)


def survey(path: Path) -> Survey:
    """The members of a package, and all that some importer refuses in its archive.

    Raises FileError, naming the file and the place, for a compressed tar, links and devices, a name that leads
    out of the archive, a header that is none or damaged, more than 1000 entries, an archive that is cut or empty.
    """
    with path.open("rb") as stream:
        return _Reader(stream, path.name).survey()


@dataclass(frozen=True)
class _Entry:
    """One header, and what the headers before it said of it."""

    at: int
    kind: bytes
    name: str
    size: int
    block: bytes

    @property
    def begin(self) -> int:
        return self.at + BLOCK

    @property
    def end(self) -> int:
        """Where the next header is."""
        return self.begin + self.size + -self.size % BLOCK


class _Reader:
    """One walk over the headers of one archive."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._size = stream.seek(0, os.SEEK_END)
        self._faults: list[Fault] = []
        self._members: dict[str, Member] = {}
        self._said: dict[str, str] = {}

    def survey(self) -> Survey:
        at = 0
        for entry in self._entries():
            self._take(entry)
            at = max(at, entry.end)
        if not self._members:
            raise FileError(f"{self._name}: an empty archive", _AGAIN)
        self._judge_tail(at)
        return Survey(tuple(self._members.values()), tuple(self._faults))

    def _fault(self, rule: str, text: str, hint: str, at: int | None = None) -> None:
        self._faults.append(Fault(rule, text, hint=hint, place="" if at is None else f"byte {at}"))

    def _harm(self, text: str, hint: str, at: int | None = None) -> FileError:
        where = "" if at is None else f", byte {at}"
        return FileError(f"{self._name}{where}: {text}", hint)

    def _entries(self) -> Iterator[_Entry]:
        """Every header up to the archive's end; reads none twice, and at most 1000."""
        at = 0
        for _ in range(MOST_ENTRIES + 1):
            entry = self._entry_at(at)
            if entry is None:
                return
            yield entry
            at = entry.end + self._further_maps(entry)
        raise self._harm(f"more than {MOST_ENTRIES} members", "that is no appliance")

    def _entry_at(self, at: int) -> _Entry | None:
        """The header at `at`; None at the archive's end."""
        self._stream.seek(at)
        block = self._stream.read(BLOCK)
        if at == 0 and block[:2] in _COMPRESSED:
            how = _COMPRESSED[block[:2]]
            raise self._harm(f"compressed with {how}, a package is a plain tar", "decompress it")
        if at == 0 and len(block) < BLOCK:
            raise self._harm(f"{len(block)} bytes are no package", _AGAIN)
        if len(block) < BLOCK:
            self._fault("archive-end", "the archive ends without its two zero blocks", "was it cut?", at)
            return None
        if not any(block):
            return None
        try:
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise self._harm(f"no tar header ({error})", "an OVA package is a tar", at) from error
        if block[124] > 0x80 or entry.size < 0:
            raise self._harm(f"an unreadable size ({_shown(entry.name)})", _GNU_TAR, at)
        kind: bytes = _FOLDER if entry.isdir() else block[156:157]
        headed = kind in _PAX or kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        name, size = (entry.name, entry.size) if headed else self._named(entry.name, entry.size, at)
        if kind == _FOLDER and size:
            raise self._harm(f"a folder ({_shown(name)}) of {size} bytes", _GNU_TAR, at)
        found = _Entry(at, kind, name, size, block)
        if found.begin + found.size > self._size:
            raise self._harm(
                f"truncated, {_shown(name)} should reach to byte {found.begin + found.size} of {self._size}",
                "download or copy it again",
            )
        return found

    def _named(self, name: str, size: int, at: int) -> tuple[str, int]:
        """What the headers before this one say instead of it, used up."""
        said, self._said = self._said, {}
        if "size" in said:
            if re.fullmatch("[0-9]{1,19}", said["size"]) is None:
                raise self._harm(f"an unreadable size ({_shown(name)})", _GNU_TAR, at)
            size = int(said["size"])
        return said.get("path", name), size

    def _take(self, entry: _Entry) -> None:
        """Makes a member of an entry, or a fault, or refuses it."""
        kind = entry.kind
        if kind in _PAX:
            self._fault("archive-pax", f"{_PAX[kind]} ({_shown(entry.name)})", _GNU_TAR, entry.at)
            if kind != tarfile.XGLTYPE:
                self._said.update(self._records(entry))
        elif kind == tarfile.GNUTYPE_LONGNAME:
            self._fault("archive-long-name", f"a GNU long name ({_shown(entry.name)})", _GNU_TAR, entry.at)
            self._said["path"] = self._text(entry).rstrip("\0")
        elif kind == _FOLDER:
            _refuse_escape(entry.name, self._name)
            self._fault("archive-folder", f"a folder ({_shown(entry.name)})", _GNU_TAR, entry.at)
        elif kind in _PIECES:
            self._fault("archive-sparse", f"{_PIECES[kind]} ({_shown(entry.name)})", _GNU_TAR, entry.at)
        elif kind in (tarfile.REGTYPE, tarfile.AREGTYPE):
            self._add(entry)
        else:
            what = _HARMFUL.get(kind, "an entry") + f" of type {kind!r}"
            raise self._harm(f"{what} ({_shown(entry.name)})", _GNU_TAR, entry.at)

    def _text(self, entry: _Entry) -> str:
        if entry.size > _LARGEST_RECORDS:
            raise self._harm(f"{entry.size} bytes of header", "that is no appliance", entry.at)
        self._stream.seek(entry.begin)
        return self._stream.read(entry.size).decode("utf-8", "replace")

    def _records(self, entry: _Entry) -> dict[str, str]:
        """The `path` and `size` of a PAX header; a record is `length key=value` and a line end."""
        pairs = re.findall(r"(?:^|(?<=\n))[0-9]{1,7} (path|size)=([^\n]*)\n", self._text(entry))
        return dict(pairs)

    def _further_maps(self, entry: _Entry) -> int:
        """Bytes of the maps that follow the header of a GNU sparse file."""
        if entry.kind != tarfile.GNUTYPE_SPARSE or not entry.block[482]:
            return 0
        length = 0
        while True:
            self._stream.seek(entry.begin + length)
            block = self._stream.read(BLOCK)
            length += BLOCK
            if len(block) < BLOCK:
                raise self._harm("truncated within a sparse file", "download or copy it again", entry.at)
            if not block[504] or length > _LARGEST_RECORDS:
                return length

    def _add(self, entry: _Entry) -> None:
        """Adds a plain file, by its name without “./”, and says what is wrong with the name."""
        name = entry.name
        _refuse_escape(name, self._name)
        if "/" in name or "\\" in name:
            self._fault("archive-folder", f"{_shown(name)} has a folder in its name", "pack the bare files")
            name = "/".join(part for part in name.split("/") if part not in ("", "."))
        bare = name.rpartition("/")[2]
        if "\\" not in name and names.PORTABLE.fullmatch(bare) is None:
            hint = "use letters, digits and . _ = + - (Proxmox)"
            self._fault("archive-name", f"“{_shown(name)}” is a name that not every importer reads", hint)
        if not self._members and not name.endswith(".ovf"):
            self._fault("archive-first", f"its first member is {_shown(name)}, not a descriptor (.ovf)", _GNU_TAR)
        if name in self._members:
            self._fault("archive-twice", f"{_shown(name)} is in it twice", _AGAIN)
        else:
            self._members[name] = Member(name, entry.begin, entry.size)

    def _judge_tail(self, at: int) -> None:
        """What follows the last member has to be two zero blocks, or a few more."""
        if any(fault.rule == "archive-end" for fault in self._faults):
            return
        left = self._size - at
        if left < 2 * BLOCK:
            self._fault("archive-end", "the archive ends with one zero block, not two", "was it cut?", at)
        elif left > LARGEST_TAIL:
            self._fault("archive-tail", f"{left} bytes after the last member", "VirtualBox reads 65 KiB there")
        else:
            self._stream.seek(at)
            if any(self._stream.read(left)):
                self._fault("archive-tail", f"bytes after the archive's end at {at}", _AGAIN)


def _refuse_escape(name: str, archive: str) -> None:
    """FileError for a name that leads out of wherever the archive would be unpacked, or hides in a terminal."""
    parts = re.split(r"[/\\]", name)
    if ".." in parts or name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        raise FileError(
            f"{archive}: {_shown(name)} leads out of the package's folder", "do not unpack it: it is an attack"
        )
    if not name.isprintable() or not name:
        raise FileError(f"{archive}: {_shown(name)} is no name of a file", "do not unpack it: it is an attack")


def _shown(name: str) -> str:
    """A name as it may be shown: short, without control characters."""
    text = name if name.isprintable() else repr(name)[1:-1]
    return text if len(text) <= 120 else f"{text[:117]}…"
