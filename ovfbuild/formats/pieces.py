"""A file of a package as it is written: whole or in pieces (`ovf:chunkSize`), plain or compressed (`ovf:compression`).

    two-disk1.vmdk    two-disk1.vmdk.gz    two-disk1.vmdk.000000000, two-disk1.vmdk.000000001 …

Source: DSP0243 1.1.0 clause 7.1. What is cut is the compressed file; each piece is a file of the manifest.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ovfbuild.errors import FileError
from ovfbuild.formats.ova import Content

MOST_PIECES = 10**9
_GZIP = 31
"""zlib's number for a gzip stream; its header bears no time and no name."""


class Container(Protocol):
    """An archive or a folder."""

    def member(self, name: str) -> AbstractContextManager[Content]:
        """A member that the block writes."""


@dataclass(frozen=True)
class Form:
    """How a file lies in a package: bytes a piece (None: whole), and whether gzip compresses it."""

    chunk: int | None = None
    gzip: bool = False

    @property
    def plain(self) -> bool:
        return not self.chunk and not self.gzip

    def href(self, name: str) -> str:
        """What References calls a file of that name."""
        return f"{name}.gz" if self.gzip else name


@dataclass(frozen=True)
class Piece:
    """A member that is a file, or part of one: where its bytes lie, and their digest."""

    name: str
    offset: int
    size: int
    digest: str


class FileWriter:
    """Takes the bytes of a file one after the other; `finish` says what members they came to."""

    def __init__(self, container: Container, name: str, form: Form, algorithm: str) -> None:
        self._container = container
        self._href = form.href(name)
        self._form = form
        self._algorithm = algorithm
        self._gzip = zlib.compressobj(1, wbits=_GZIP) if form.gzip else None
        self._pieces: list[Piece] = []
        self._stack = ExitStack()
        self._content: Content | None = None
        self._digest = hashlib.new(algorithm, usedforsecurity=False)

    def write(self, octets: bytes) -> None:
        self._put(self._gzip.compress(octets) if self._gzip else octets)

    def finish(self, digest: str = "") -> tuple[Piece, ...]:
        """The members, in their order. `digest`: that of a plain file, which who wrote it knows."""
        if self._gzip:
            self._put(self._gzip.flush())
        if self._content is not None:  # a file that fills its last piece has ended already
            self._end(digest)
        return self.copied

    @property
    def copied(self) -> tuple[Piece, ...]:
        """The members so far."""
        return tuple(self._pieces)

    def copy(self, file: Path, piece: Piece) -> None:
        """A whole member from another package, which the kernel copies."""
        content = self._begin()
        content.copy(file, piece.offset, piece.size)
        self._end(piece.digest)

    def _put(self, octets: bytes) -> None:
        if self._form.plain:  # hashed by who writes it, on a thread of its own
            (self._content or self._begin()).write(octets)
            return
        left = memoryview(octets)
        while left:
            content = self._content or self._begin()
            taken = left[: self._form.chunk - content.size] if self._form.chunk else left
            content.write(taken)
            self._digest.update(taken)
            left = left[len(taken) :]
            if content.size == self._form.chunk:
                self._end()

    def _begin(self) -> Content:
        number = len(self._pieces)
        if number >= MOST_PIECES:
            raise FileError(f"{self._href} would have more than {MOST_PIECES} pieces", "make package.chunk larger")
        name = f"{self._href}.{number:09}" if self._form.chunk else self._href
        self._content = self._stack.enter_context(self._container.member(name))
        self._pieces.append(Piece(name, self._content.offset, 0, ""))
        return self._content

    def _end(self, digest: str = "") -> None:
        assert self._content is not None
        began = self._pieces.pop()
        known = digest or self._digest.hexdigest()
        self._pieces.append(Piece(began.name, began.offset, self._content.size, known))
        self._digest = hashlib.new(self._algorithm, usedforsecurity=False)
        self._stack.close()
        self._content = None


def size_of(pieces: Iterable[Piece]) -> int:
    """Bytes of the file that they are."""
    return sum(piece.size for piece in pieces)
