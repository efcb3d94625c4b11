"""A package as a folder: the descriptor, the manifest and the disks, each a file (DSP0243 1.1.0 clause 5.4).

It is written by the same calls as an archive (`ova.Archive`). A file that is reserved needs no room kept for it, since
nothing follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats import names
from ovfbuild.formats.ova import Content, Slot


class _File(Slot):
    """A file whose content is not yet known; it may have any size."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        super().__init__(stream, name, 0, 0)
        self._stream = stream

    def fill(self, octets: bytes) -> None:
        self._stream.write(octets)
        self.filled = True


class Folder:
    """A package that is being written; see `create`."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._slots: list[_File] = []

    def reserve(self, name: str, _size: int) -> Slot:
        """A file that is to be filled before the block ends."""
        slot = _File(self._stack.enter_context(self._open(name)), name)
        self._slots.append(slot)
        return slot

    def add(self, name: str, octets: bytes) -> None:
        """A file whose content is known."""
        with self._open(name) as stream:
            stream.write(octets)

    @contextmanager
    def member(self, name: str) -> Iterator[Content]:
        """A file that the block writes."""
        with self._open(name) as stream:
            yield Content(stream)

    def _open(self, name: str) -> BinaryIO:
        path = self._path / names.portable(name)
        if path.exists():
            raise FileError(f"{name} would be twice in the package", "give each file a name of its own")
        return path.open("wb")

    def finish(self) -> None:
        empty = [slot.name for slot in self._slots if not slot.filled]
        if empty:
            raise ValueError(f"reserved and never filled: {', '.join(empty)}")


def refuse_other(path: Path, descriptor: str) -> None:
    """FileError where at `path` is anything but a package with that descriptor: a new one must not take its place."""
    if not path.exists():
        return
    if not (path / descriptor).is_file() or any(not one.is_file() for one in path.iterdir()):
        raise FileError(f"{path} is there already, and is no folder of {descriptor} alone", "move it, or use -o DIR")


@contextmanager
def create(path: Path) -> Iterator[Folder]:
    """Writes a package into `path`, a folder that is made; it is complete when the block ends well.

    Raises FileError for a name that is not portable or comes twice.
    """
    path.mkdir(parents=True)
    with ExitStack() as stack:
        folder = Folder(path, stack)
        yield folder
        folder.finish()
