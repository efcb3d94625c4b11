"""The content that travels into the guest beside the steps: `Blob`s, gathered from [[files]] and [[scripts]].

A step refers to a blob by name, and the seed holds it under that name; nothing is inlined. Equal
content is one blob. What can be seen to be wrong with a file is collected in `Payload.mistakes`, so
that all of it is reported at once.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ovfbuild.files import sha256_of
from ovfbuild.spec.mistakes import quoted
from ovfbuild.spec.models import File, Script
from ovfbuild.spec.steps import FileEntry

_SHELL_HEAD = "#!/bin/sh\nset -eu\n"
"""Stands before a `run` that names no interpreter: a command that fails ends the script."""


@dataclass(frozen=True)
class Blob:
    """Content that the seed carries."""

    name: str
    """Its path in the seed: `files/000001`."""
    source: Path | bytes
    """Where it is read from when the seed is written, or the content itself."""
    size: int
    """Bytes."""
    sha256: str

    def open(self) -> BinaryIO:
        """Its content as a stream."""
        return BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")


@dataclass
class Payload:
    """Gathers blobs in the order in which they are first asked for."""

    mistakes: list[str] = field(default_factory=list)
    """`key.path: what is wrong; what would be right`."""
    _by_digest: dict[str, Blob] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return tuple(self._by_digest.values())

    def add(self, source: Path | bytes) -> str:
        """The name of the blob with that content. OSError if it can't be read."""
        if isinstance(source, bytes):
            digest, size = hashlib.sha256(source).hexdigest(), len(source)
        else:
            digest, size = sha256_of(source), source.stat().st_size
        name = f"files/{len(self._by_digest) + 1:06d}"
        return self._by_digest.setdefault(digest, Blob(name, source, size, digest)).name

    def script(self, key: str, script: Script) -> str:
        """The blob of a script's program, or "" and a mistake under `key`."""
        if script.run is not None:
            body = script.run.lstrip()
            text = body if body.startswith("#!") else _SHELL_HEAD + script.run
            return self.add((text.rstrip("\n") + "\n").encode())
        assert script.source is not None
        try:
            with script.source.open("rb") as stream:
                first = stream.readline(256)
            wrong = _not_runnable(first)
            if not wrong:
                return self.add(script.source)
        except OSError as error:
            wrong = f"can't be read: {error.strerror}"
        self.mistakes.append(f"{key}.source: '{script.source}' {wrong}")
        return ""

    def entries(self, key: str, file: File) -> tuple[FileEntry, ...]:
        """What one [[files]] puts into the guest; a directory comes before what is in it."""
        target = file.target.rstrip("/")
        if file.source is not None and file.source.is_dir():
            return tuple(self._folder(key, file, file.source, target))
        if file.target.endswith("/"):
            name = file.source.name if file.source else "name"
            self.mistakes.append(
                f"{key}.target: '{file.target}' is a folder; write the file's own path, '{target}/{name}'"
            )
            return ()
        if file.content is not None:
            return (self._entry(file, target, self.add(file.content.encode()), executable=False),)
        assert file.source is not None
        return tuple(self._regular(key, file, file.source, target))

    def _folder(self, key: str, file: File, folder: Path, target: str) -> Iterator[FileEntry]:
        owner, group = file.owner_and_group
        yield FileEntry("directory", target or "/", _folder_mode(file.mode), owner, group)
        try:
            with os.scandir(folder) as found:
                children = sorted(found, key=lambda child: os.fsencode(child.name))
        except OSError as error:
            self.mistakes.append(f"{key}.source: '{folder}' can't be read: {error.strerror}")
            return
        for child in children:
            yield from self._child(key, file, Path(child.path), f"{target}/{child.name}")

    def _child(self, key: str, file: File, path: Path, target: str) -> Iterator[FileEntry]:
        kind = path.lstat().st_mode
        if not target.isprintable():  # nor are the surrogates of a name that is not UTF-8
            self.mistakes.append(
                f"{key}.source: '{path.parent}' has {quoted(path.name)} in it; give it a printable name"
            )
        elif stat.S_ISLNK(kind):
            owner, group = file.owner_and_group
            yield FileEntry("link", target, "0777", owner, group, link=str(path.readlink()))
        elif stat.S_ISDIR(kind):
            yield from self._folder(key, file, path, target)
        else:
            yield from self._regular(key, file, path, target)

    def _regular(self, key: str, file: File, path: Path, target: str) -> Iterator[FileEntry]:
        try:
            kind = path.stat().st_mode
            if not stat.S_ISREG(kind):
                self.mistakes.append(f"{key}.source: '{path}' is {_special(kind)}; take it out of the folder")
                return
            yield self._entry(file, target, self.add(path), executable=bool(kind & stat.S_IXUSR))
        except OSError as error:
            self.mistakes.append(f"{key}.source: '{path}' can't be read: {error.strerror}")

    @staticmethod
    def _entry(file: File, target: str, blob: str, *, executable: bool) -> FileEntry:
        owner, group = file.owner_and_group
        mode = file.mode or ("0755" if executable else "0644")
        return FileEntry("file", target, mode, owner, group, blob=blob)


def _folder_mode(mode: str | None) -> str:
    """The files' mode for their folders: who may read one may enter the other (0640 → 0750)."""
    if mode is None:
        return "0755"
    bits = int(mode, 8) & 0o777
    return f"{bits | (bits & 0o444) >> 2:04o}"


def _not_runnable(first: bytes) -> str:
    """Why a kernel would not run a program with that first line, or ""."""
    if first.startswith(b"\x7fELF"):
        return ""
    if not first.startswith(b"#!"):
        return "has no #! line; begin it with one, such as #!/bin/sh"
    if first.endswith(b"\r\n"):
        return "has the line ends of Windows; save it with those of Unix"
    return ""


def _special(kind: int) -> str:
    if stat.S_ISSOCK(kind):
        return "a socket"
    return "a named pipe" if stat.S_ISFIFO(kind) else "a device"
