"""Disks in memory, and programs that we did not write as judges."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovfbuild.formats import vmdk

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Pieces:
    """A disk of zeros but for some pieces: (offset, bytes), ascending."""

    capacity: int
    pieces: tuple[tuple[int, bytes], ...] = ()

    def runs(self) -> list[tuple[int, int]]:
        return [(offset, len(octets)) for offset, octets in self.pieces]

    def read(self, offset: int, length: int) -> bytes:
        out = bytearray(length)
        for begin, octets in self.pieces:
            first, last = max(begin, offset), min(begin + len(octets), offset + length)
            if first < last:
                out[first - offset : last - offset] = octets[first - begin : last - begin]
        return bytes(out)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        octets = self.read(offset, len(buffer))
        buffer[: len(octets)] = octets
        return len(octets)


def noise(length: int, seed: int = 0) -> bytes:
    """Bytes that no compressor makes smaller, the same every time."""
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(length)


def written(disk: Pieces, threads: int | None = 2) -> tuple[vmdk.Extent, bytes]:
    out = io.BytesIO()
    extent = vmdk.write(disk, out, name="x-disk1.vmdk", cid=0x1234ABCD, packing=vmdk.Packing(threads=threads))
    return extent, out.getvalue()


def program(name: str) -> str:
    """The path of a program that judges; without it the test is skipped, but on CI it fails."""
    path = shutil.which(name)
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a judge to its end; its verdict is in `returncode`, what it said in `stdout` and `stderr`."""
    command = [program(name), *map(str, arguments)]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
