"""A sealed disk's root file system, looked at from outside: not mounted, not booted, without root.

The partitions are read here (UEFI 2.10, chapter 5), the ext2/3/4 file system by e2fsprogs from a
sparse copy of its partition (e2fsck 1.47 takes no offset). The copy is never written to.
"""

from __future__ import annotations

import re
import struct
import tempfile
from calendar import timegm
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ovfbuild.errors import FileError, ProgramError
from ovfbuild.vm.blocks import DiskReader, open_reader
from ovfbuild.vm.partition_table import partitions
from ovfbuild.vm.process import find_program, run

_PIECE = 1 << 20

_EXT_MAGIC = 0xEF53
_EXT_CLEAN = 1
"""s_state: unmounted, no errors (Linux, Documentation/filesystems/ext4/super.rst)."""
_EXT_JOURNAL = 8
"""Its inode."""
_EXT_RECOVER = 0x4
"""Among s_feature_incompat: the journal holds what the file system doesn't."""

_KINDS = {4: "folder", 8: "file", 10: "link", 1: "fifo", 2: "device", 6: "device", 12: "socket"}
"""By the high four bits of the mode."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LINE = re.compile(
    r" *(?P<inode>\d+) +(?P<mode>[0-7]+) +\(\d+\) +(?P<uid>\d+) +(?P<gid>\d+) +(?P<size>\d+)"
    r" +(?P<day>\d+)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d{4}) (?P<hour>\d\d):(?P<minute>\d\d) (?P<name>.+)"
)
"""A line of debugfs's `ls -l`. It writes what is not printable in a name as \\xHH or ^X."""


@dataclass(frozen=True)
class DirEntry:
    """One name in a folder."""

    name: str
    type: str
    """file, folder, link, device, fifo or socket."""
    size: int
    """Bytes."""
    mode: int
    """The permission bits, set-user-id and the like included."""
    uid: int
    gid: int
    mtime: int
    """Seconds since the epoch, to the minute."""
    inode: int


class FileSystem:
    """An ext2/3/4 file system in a raw file of its own. Paths are absolute, links at their end not followed."""

    def __init__(self, raw: Path, start: int = 0) -> None:
        """`start`: where on its disk it begins, in bytes."""
        self.raw = raw.absolute()
        self.start = start
        self._known: dict[str, list[DirEntry] | None] = {}
        if not self.listing("/"):
            raise FileError("the root file system has no root folder", "make the disk again")

    def listing(self, path: str) -> list[DirEntry]:
        """What is in a folder, in the order of the names.

        Raises:
            FileError: there is no such folder, or the file system is damaged.
        """
        self.look_up([path])
        entries = self._known[_plain(path)]
        if entries is None:
            raise FileError(f"the disk has no folder {path}", "")
        return entries

    def look_up(self, folders: Iterable[str]) -> None:
        """Reads folders that are asked for later, there or not, all at once: a debugfs for each is slow."""
        missing = dict.fromkeys(_plain(f) for f in folders if _plain(f) not in self._known)
        if missing:
            self._known.update(zip(missing, self._list([_quoted(path) for path in missing]), strict=True))

    def entry(self, path: str) -> DirEntry | None:
        """What a name stands for, or None."""
        place = PurePosixPath(_plain(path))
        self.look_up([str(place.parent)])
        return next((e for e in self._known[str(place.parent)] or () if e.name == place.name), None)

    def exists(self, path: str) -> bool:
        return _plain(path) == "/" or self.entry(path) is not None

    def read(self, path: str, limit: int) -> bytes:
        """The first `limit` bytes of a file. Raises FileError when it is none."""
        found = self.entry(path)
        if found is None or found.type != "file":
            raise FileError(f"the disk has no file {path}", "")
        out = self.raw.parent / "dumped"
        try:
            self._debugfs([f"dump <{found.inode}> {out.name}"])
            with out.open("rb") as stream:
                return stream.read(limit)
        finally:
            out.unlink(missing_ok=True)

    def read_all(self, files: Mapping[str, DirEntry]) -> dict[str, bytes]:
        """The whole content of files that `walk` or `listing` told of, by their paths, all at once."""
        with tempfile.TemporaryDirectory(prefix="dumped-", dir=self.raw.parent) as name:
            folder = Path(name)
            numbers = {path: f"{folder.name}/{number}" for number, path in enumerate(files)}
            self._debugfs([f"dump <{files[path].inode}> {target}" for path, target in numbers.items()])
            return {path: (self.raw.parent / target).read_bytes() for path, target in numbers.items()}

    def walk(self, path: str) -> Iterator[tuple[str, DirEntry]]:
        """Everything under a folder, with its whole path; nothing when there is no such folder."""
        self.look_up([path])
        level = [(_plain(path), entry) for entry in self._known[_plain(path)] or ()]
        while level:
            below: list[tuple[str, int]] = []
            for parent, entry in level:
                whole = f"{parent.rstrip('/')}/{entry.name}"
                yield whole, entry
                if entry.type == "folder":
                    below.append((whole, entry.inode))
            # By number: a name that debugfs writes with escapes can't be given back to it.
            lists = self._list([f"<{inode}>" for _, inode in below]) if below else []
            level = [
                (whole, entry) for (whole, _), entries in zip(below, lists, strict=True) for entry in entries or ()
            ]

    def check_clean(self) -> None:
        """Raises FileError unless it was unmounted whole and e2fsck has nothing to say."""
        with self.raw.open("rb") as stream:
            stream.seek(1024)
            superblock = stream.read(1024)
        (state,) = struct.unpack_from("<H", superblock, 58)
        (features,) = struct.unpack_from("<I", superblock, 96)
        hint = "the guest was stopped before its file system was read-only"
        if state != _EXT_CLEAN or features & _EXT_RECOVER:
            raise FileError("the root file system was not unmounted", hint)
        # run() keeps the last lines of stderr for its error, and e2fsck speaks on stdout.
        to_stderr = ["sh", "-c", 'exec "$0" -f -n "$1" 1>&2', find_program("e2fsck"), self.raw.name]
        try:
            run(to_stderr, cwd=self.raw.parent)
        except ProgramError as error:
            said = "\n".join(line for line in error.message.splitlines()[1:] if line)
            raise FileError(f"the root file system is damaged, e2fsck says:\n{said}", hint) from error

    def owner_of(self, offset: int) -> str:
        """The path of the file that has a byte of the file system, or where else it lies."""
        with self.raw.open("rb") as stream:
            stream.seek(1024 + 24)
            block = offset >> (10 + int.from_bytes(stream.read(4), "little"))
        inode = self._second_column(f"icheck {block}")
        if not inode.isdecimal():
            return "space that no file has"
        if int(inode) == _EXT_JOURNAL:
            return "the file system's journal"
        return self._second_column(f"ncheck {inode}").replace("//", "/") or f"the deleted inode {inode}"

    def _second_column(self, request: str) -> str:
        lines = self._debugfs([request]).splitlines()
        return lines[-1].partition("\t")[2] if len(lines) > 1 else ""

    def _list(self, folders: Sequence[str]) -> list[list[DirEntry] | None]:
        """The listings of folders, each a quoted path or a number in angle brackets; None is no folder."""
        requests = [f"ls -l {folder}" for folder in folders]
        found: list[list[DirEntry] | None] = []
        for line in self._debugfs(requests).splitlines():
            if len(found) < len(requests) and line == f"debugfs: {requests[len(found)]}":
                found.append(None)
            elif found and (match := _LINE.fullmatch(line)):
                # A folder that is one has at least "." in it.
                entries = found[-1] = [] if found[-1] is None else found[-1]
                if match["name"] not in (".", ".."):
                    entries.append(_entry(match))
            elif line and not line.lstrip().startswith("0 "):  # inode 0: free space in a folder
                raise FileError(f"debugfs says what is not understood: {line}", "make the disk again")
        if len(found) != len(requests):
            raise FileError("debugfs did not answer every request", "is e2fsprogs 1.44 or later installed?")
        return [None if entries is None else sorted(entries, key=lambda e: e.name) for entries in found]

    def _debugfs(self, requests: Sequence[str]) -> str:
        """What debugfs says to requests, each after its own echo. Raises FileError.

        It runs beside the file system, for it takes a question mark in a path for its options.
        """
        said: list[str] = []
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.raw.parent) as commands:
            commands.write("\n".join(requests) + "\n")
            commands.flush()
            argv = ["debugfs", "-f", Path(commands.name).name, self.raw.name]
            out = run(argv, on_line=said.append, cwd=self.raw.parent, env={"TZ": "GMT"})
        expected = ("not found by ext2_lookup", "is not a directory")
        for line in said:
            if line and not line.startswith("debugfs 1.") and not any(word in line for word in expected):
                raise FileError(f"the root file system can't be read: {line}", "make the disk again")
        return out


@contextmanager
def open_root(path: Path, image_format: str, workspace: Path, holding: str = "/etc") -> Iterator[FileSystem | None]:
    """The largest ext2/3/4 file system of a disk that has /etc, or what else it is to hold; None when there is none.

    Args:
        workspace: where a sparse copy of its partition lies for as long.

    Raises:
        FileError: the disk's partition table, or the file system, is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="outside-", dir=workspace) as folder:
        yield _find_root(path, image_format, Path(folder), holding)


def _find_root(path: Path, image_format: str, folder: Path, holding: str) -> FileSystem | None:
    with open_reader(path, image_format, folder) as reader:
        places = [place for place in [(0, reader.capacity), *partitions(reader)] if _is_ext(reader, place[0])]
        for start, size in sorted(places, key=lambda place: -place[1]):
            raw = folder / "root.ext"
            _copy(reader, start, size, raw)
            found = FileSystem(raw, start)
            if found.exists(holding):
                return found
            raw.unlink()
    return None


def _is_ext(reader: DiskReader, start: int) -> bool:
    superblock = reader.read(start + 1024, 1024)
    magic, block_size = struct.unpack_from("<H", superblock, 56)[0], struct.unpack_from("<I", superblock, 24)[0]
    return bool(magic == _EXT_MAGIC and block_size <= 6)


def _copy(reader: DiskReader, start: int, size: int, target: Path) -> None:
    """Copies a part of a disk, holes left holes."""
    with target.open("wb") as stream:
        stream.truncate(size)
        for offset, length in reader.runs():
            first, last = max(offset, start), min(offset + length, start + size)
            for place in range(first, last, _PIECE):
                stream.seek(place - start)
                stream.write(reader.read(place, min(_PIECE, last - place)))


def _entry(match: re.Match[str]) -> DirEntry:
    mode = int(match["mode"], 8)
    month = _MONTHS.index(match["month"]) + 1
    when = (int(match["year"]), month, int(match["day"]), int(match["hour"]), int(match["minute"]), 0)
    numbers = {name: int(match[name]) for name in ("size", "uid", "gid", "inode")}
    kind = _KINDS.get(mode >> 12, "file")
    return DirEntry(name=match["name"], type=kind, mode=mode & 0o7777, mtime=timegm(when), **numbers)


def _plain(path: str) -> str:
    """A path in its one form. Line ends would be more requests."""
    if not path.startswith("/") or "\n" in path or "\0" in path:
        raise FileError(f"{path!r} is no path on a disk", "")
    return str(PurePosixPath("/" + path.lstrip("/")))


def _quoted(path: str) -> str:
    return '"' + path.replace('"', '""') + '"'
