"""What a deleted file leaves in a sealed disk: free blocks with its content, which no discard could give back.

A guest discards what it has freed, but QEMU frees whole clusters (64 KiB) only; a block that shares its cluster with
a file's keeps what was in it: the build's host keys, scripts, passwords (seen: test_debian.py, by grep).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ovfbuild.vm.outside import FileSystem
from ovfbuild.vm.process import run


def erase(root: FileSystem, image: Path, image_format: str) -> int:
    """Writes zeros over free blocks that hold anything, in the image and in `root`'s copy; returns their bytes."""
    dirty = list(_dirty(root))
    orders = "".join(f"write -q -z {root.start + offset} {length}\n" for offset, length in dirty)
    if dirty:
        run(["qemu-io", "-f", image_format, image.absolute()], stdin=orders.encode())
    with root.raw.open("r+b", buffering=0) as stream:
        for offset, length in dirty:
            stream.seek(offset)
            stream.write(bytes(length))
    return sum(length for _, length in dirty)


def _dirty(root: FileSystem) -> Iterator[tuple[int, int]]:
    """(offset in the file system, length) of free blocks that are not zeros."""
    block, free = _free(root)
    with root.raw.open("rb", buffering=0) as stream:
        for first, last in free:
            for begin, end in _written(stream.fileno(), first * block, (last + 1) * block):
                octets = os.pread(stream.fileno(), end - begin, begin)
                if octets.strip(b"\0"):
                    yield begin, len(octets)


def _free(root: FileSystem) -> tuple[int, list[tuple[int, int]]]:
    """The size of a block, and (first, last) of each run of free ones (dumpe2fs(8))."""
    said = run(["dumpe2fs", root.raw])
    size = re.search(r"(?m)^Block size: +(\d+)$", said)
    assert size, "dumpe2fs states it"
    runs = [
        word for line in re.findall(r"(?m)^ +Free blocks: (.*)$", said) for word in re.findall(r"\d+(?:-\d+)?", line)
    ]
    return int(size[1]), [(int(word.partition("-")[0]), int(word.rpartition("-")[2])) for word in runs]


def _written(file: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The pieces of a sparse file, of at most 1 MiB, that are no holes."""
    while begin < end:
        try:
            begin = max(begin, os.lseek(file, begin, os.SEEK_DATA))
        except OSError:  # ENXIO: a hole to its end
            return
        hole = min(os.lseek(file, begin, os.SEEK_HOLE), end)
        while begin < hole:
            piece = min(begin + (1 << 20), hole)
            yield begin, piece
            begin = piece
