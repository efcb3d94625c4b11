"""A disk to pack, and the programs that judge what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.formats.conftest import Program, noise, run

MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture
def judge() -> Program:
    return run


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """64 MiB with something in three places, and holes."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
        for place in (0, 7 * MIB, 50 * MIB):
            stream.seek(place)
            stream.write(noise(500_000, place) + b"words " * 100_000)
    return path
