"""Files that appear under their name whole, or not at all; and digests of what is in them."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_ABANDONED = 86400.0
"""Seconds after which nobody writes a partial file any more."""
_RENAME_EXCHANGE = 2
"""Of renameat2(2), linux/fs.h."""


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` to write to; renamed over `target` when the block ends well.

    Nothing is left when it does not, and what was under `target` before stays as it was. What a killed
    process left of the same target goes a day later.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


@contextmanager
def published_folder(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` at which the block makes a folder of files; it takes the place of `target` then.

    One that is there already is exchanged with the new one in one step (renameat2(2), where the file system has it),
    and goes. Nothing is left when the block does not end well, and what was there stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as written:
                os.fsync(written.fileno())
        if target.exists():
            _exchange(partial, target)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Each of two folders gets the other one's name; in two steps where the kernel can't do it in one."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, names = -100, [os.fsencode(path.absolute()) for path in (one, other)]  # AT_FDCWD
    if hasattr(libc, "renameat2") and libc.renameat2(here, names[0], here, names[1], _RENAME_EXCHANGE) == 0:
        return
    aside = other.with_name(f".{other.name}.{secrets.token_hex(4)}.partial")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _remove_abandoned(target: Path) -> None:
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def send(path: Path, descriptor: int) -> None:
    """Writes a file's content to an open file, a pipe or a terminal."""
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            left = memoryview(piece)
            while left:
                left = left[os.write(descriptor, left) :]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    return digests_of(path, ("sha256",))["sha256"]


def digests_of(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """By algorithm, the digest of a file's content, in hex; it is read once."""
    sums = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}
    with path.open("rb") as stream:
        absorb(stream, *sums.values())
    return {algorithm: one.hexdigest() for algorithm, one in sums.items()}


def absorb(stream: BinaryIO, *sums: Any) -> None:
    """Feeds hashes with all that is left of a stream."""
    while piece := stream.read(1 << 20):
        for one in sums:
            one.update(piece)


def digest_of(value: object) -> str:
    """The SHA-256 of a value that JSON can hold, the same for the same value whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
