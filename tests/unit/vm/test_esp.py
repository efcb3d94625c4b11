"""An EFI system partition is found in what sfdisk writes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.vm.blocks import open_reader
from ovfbuild.vm.esp import has_esp

MIB = 1 << 20


def partitioned(path: Path, table: str) -> Path:
    with path.open("wb") as stream:
        stream.truncate(16 * MIB)
    if table:
        subprocess.run(["/sbin/sfdisk", "-q", path], input=table, text=True, check=True, capture_output=True)
    return path


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("label: gpt\nsize=2M, type=L\nsize=2M, type=U\n", True),
        ("label: gpt\nsize=2M, type=L\n", False),
        ("label: dos\nsize=2M, type=83\nsize=2M, type=ef\n", True),
        ("label: dos\nsize=2M, type=83, bootable\n", False),
        ("", False),
    ],
)
def test_by_gpt_and_mbr(table: str, found: bool, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("sfdisk")
    with open_reader(partitioned(tmp_path / "disk.raw", table), "raw", tmp_path) as reader:
        assert has_esp(reader) is found


@pytest.mark.parametrize(
    ("place", "octets"), [(72, b"\xff" * 8), (84, b"\0" * 4), (84, b"\xff" * 4), (80, b"\xff" * 4)]
)
def test_a_header_that_lies_harms_nobody(place: int, octets: bytes, tmp_path: Path, needs: Callable[..., None]) -> None:
    """The place of the table, how long an entry is, and how many there are."""
    needs("sfdisk")
    path = partitioned(tmp_path / "disk.raw", "label: gpt\nsize=2M, type=U\n")
    with path.open("r+b") as stream:
        stream.seek(512 + place)
        stream.write(octets)
    with open_reader(path, "raw", tmp_path) as reader:
        assert has_esp(reader) is (place == 80)
