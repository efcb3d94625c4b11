"""How far an upload is: bytes, rate and what is left; and the streams that tell it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Protocol

from ovfbuild.progress import Progress
from ovfbuild.spec.units import format_duration

PIECE = 1 << 20
"""Bytes that are read and sent at a time: what an upload needs of memory is a few of these."""


class Meter:
    """Counts what was sent of `total` bytes, over all tries."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self.total = total
        self.at = 0
        self.furthest = 0
        """The most that a try has brought: whether the next one got further."""
        self._begun = time.monotonic()
        self._from = 0
        self._said = 0.0

    def begin(self, at: int = 0) -> None:
        """A try begins; `at` bytes are there already."""
        self.at = self._from = at
        self._begun = time.monotonic()

    def add(self, count: int) -> None:
        self.at += count
        self.furthest = max(self.furthest, self.at)
        self._progress.bytes(self.at, self.total)
        now = time.monotonic()
        if now - self._said >= 1 and now > self._begun:
            self._said = now
            rate = (self.at - self._from) / (now - self._begun)
            left = format_duration(round((self.total - self.at) / rate)) if rate else "?"
            self._progress.line(f"{rate / 1e6:.1f} MB/s, {left} left")


class Readable(Protocol):
    """What is read once, from its beginning to its end."""

    def read(self, size: int, /) -> bytes: ...


class Metered:
    """Reads a stream once, from where it is on, `size` bytes: counted and hashed as they go.

    Its length is `size`, which is how an HTTP client knows what to announce; it has no `tell`, whose failure
    requests would take for a length of 0, and send chunks, which not every server takes.
    """

    def __init__(self, stream: Readable, size: int, meter: Meter) -> None:
        self._stream = stream
        self._left = size
        self._size = size
        self._meter = meter
        self._hash = hashlib.sha256()

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        octets = self._stream.read(wanted) if wanted else b""
        self._left -= len(octets)
        self._hash.update(octets)
        self._meter.add(len(octets))
        return octets

    def __iter__(self) -> Iterator[bytes]:
        """All of it, a MiB at a time."""
        while piece := self.read(PIECE):
            yield piece

    @property
    def digest(self) -> str:
        """The SHA-256 of what was read so far, in hex."""
        return self._hash.hexdigest()
