"""What is behind `ovf:compression="gzip"` (DSP0243 1.1.0 clause 7.1, RFC 1952), to be read in any order.

A VMDK has its footer at the end and its tables behind the grains, so a stream of it is of no use: it is unpacked into a
file without a name, in TMPDIR.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_CUR
from typing import BinaryIO

from ovfbuild.errors import FileError
from ovfbuild.formats.fault import Hostile

MOST_TIMES = 100
"""A disk that unpacks to more than that many times its packed size, and to more than LEAST, is a bomb."""
LEAST = 1 << 30
_PIECE = 1 << 20


@contextmanager
def unpacked(packed: BinaryIO, size: int, name: str) -> Iterator[BinaryIO]:
    """What `packed`, a stream of `size` bytes, holds: a seekable file, as long as the block lasts.

    Raises:
        FileError: it is no gzip stream, damaged, or cut.
        Hostile: it unpacks to more than a disk can.
    """
    with tempfile.TemporaryFile(prefix="ovfbuild-") as out:
        left = max(LEAST, MOST_TIMES * size)
        for octets in _pieces(packed, name):
            left -= len(octets)
            if left < 0:
                raise Hostile(f"{name} unpacks to more than {MOST_TIMES} times its size", "it is no disk, but a bomb")
            if octets.count(0) == len(octets):  # a hole, so that a bomb of zeros takes no room
                out.truncate(out.seek(len(octets), SEEK_CUR))
            else:
                out.write(octets)
        out.seek(0)
        yield out


def _pieces(packed: BinaryIO, name: str) -> Iterator[bytes]:
    """The content in pieces of at most 1 MiB; of several streams one behind the other, too (RFC 1952 2.2)."""
    with gzip.GzipFile(fileobj=packed) as content:
        try:
            while octets := content.read(_PIECE):
                yield octets
        except (OSError, EOFError, zlib.error) as error:
            raise FileError(f"{name}: a damaged gzip stream: {error}", "build or download it again") from error
