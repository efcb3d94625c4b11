"""The importers, installed where they are not, and the table that ends a run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import pytest

from ovfbuild.cache import Cache
from ovfbuild.errors import ProgramError
from ovfbuild.progress import LogProgress
from tests.importers import install, vsphere
from tests.importers.imported import Imported
from tests.importers.lab import PROPERTIES, packed
from tests.importers.virtualbox import VirtualBox

MIB = 1 << 20
Row = tuple[str, str, str, Imported, str]
"""Importer, profile, what was packed, what became of it, and how its disks compare."""

_rows: list[Row] = []


@pytest.fixture(scope="session")
def table() -> list[Row]:
    """Where a test says what it saw."""
    return _rows


def _cache() -> Cache:
    """Asked for by `scripts/importers --cache`, else where everything is; a missing program skips, in CI it fails."""
    named = os.environ.get("OVFBUILD_IMPORTERS", "")
    return Cache(Path(named) if named else None)


@pytest.fixture(scope="session")
def virtualbox(tmp_path_factory: pytest.TempPathFactory) -> VirtualBox:
    try:
        root = install.virtualbox(_cache(), LogProgress(sys.stderr))
    except ProgramError as error:
        _missing(error)
    return VirtualBox(root, tmp_path_factory.mktemp("virtualbox"))


@pytest.fixture(scope="session")
def vcsim() -> Path:
    """The simulator's program."""
    try:
        return install.vcsim(_cache(), LogProgress(sys.stderr))
    except ProgramError as error:
        _missing(error)


@pytest.fixture(scope="session")
def incus_root() -> Path:
    """A tree with incusd in it."""
    try:
        return install.incus(_cache(), LogProgress(sys.stderr))
    except ProgramError as error:
        _missing(error)


def _missing(error: ProgramError) -> NoReturn:
    reason = f"{error.message}; {error.hint}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def simulator(vcsim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vsphere.Simulator]:
    with vsphere.simulator(vcsim, tmp_path_factory.mktemp("vsphere")) as server:
        yield server


def synthetic(path: Path, size: int) -> Path:
    """A raw disk of that size, nearly all holes: noise and words at its beginning, middle and very end."""
    noise = random.Random(size)
    with path.open("wb") as stream:
        stream.truncate(size)
        for place in (0, size // 2 - 5 * 512, size - 300 * 512):
            stream.seek(place)
            stream.write(noise.randbytes(200 * 512) + b"ovfbuild" * 64 * 100)
    assert path.stat().st_size == size
    return path


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No multiple of a VMDK's grain table, so that the last one is not full."""
    return synthetic(tmp_path_factory.mktemp("disk") / "disk.raw", 130 * MIB)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself; and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    crt, key = folder / "server.pem", folder / "server.key"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *words.split(), "-out", crt, "-keyout", key], check=True, capture_output=True)
    return crt, key


@pytest.fixture
def ova(disk: Path, tmp_path: Path, own_cache: Path) -> Path:
    """`hello` 1.0.0 with a property, for vSphere."""
    return packed(disk, tmp_path, properties=PROPERTIES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    heads = ("importer", "profile", "what", *(one.name for one in fields(Imported)), "content")
    rows = [heads, *(_cells(row) for row in _rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    terminalreporter.section("what the importers made of it")
    for row in rows:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _cells(row: Row) -> tuple[str, ...]:
    importer, profile, what, machine, content = row
    values = (getattr(machine, one.name) for one in fields(Imported))
    shown = (", ".join(one) if isinstance(one, tuple) else str(one) for one in values)
    return (importer, profile, what, *(one or "-" for one in shown), content)
