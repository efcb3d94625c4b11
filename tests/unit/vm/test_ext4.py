"""File systems in plain files, judged by e2fsck, dumpe2fs and cmp."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.vm import ext4, outside

UUID = "6f9d0d6e-2b0f-5a80-9f3c-0f2a2a1f0c11"
EPOCH = 1_700_000_000


def made(path: Path, size: int) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    ext4.make_file_system(path, UUID, "data", EPOCH)
    return path


@pytest.mark.parametrize("size", [16 << 20, 1 << 30, 1 << 40])
def test_it_is_whole_and_has_its_names(size: int, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("mke2fs", "e2fsck", "dumpe2fs")
    raw = made(tmp_path / "raw", size)
    assert raw.stat().st_size == size
    checked = subprocess.run(["e2fsck", "-f", "-n", raw], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    said = subprocess.run(["dumpe2fs", "-h", raw], capture_output=True, text=True, check=True).stdout
    assert f"Filesystem UUID:          {UUID}" in said
    assert "Filesystem volume name:   data" in said
    assert "Reserved block count:     0" in said


def test_the_same_bytes_at_another_time(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("mke2fs", "cmp")
    one = made(tmp_path / "one", 64 << 20)
    time.sleep(1.1)
    other = made(tmp_path / "other", 64 << 20)
    assert subprocess.run(["cmp", one, other]).returncode == 0


def test_it_is_found_from_outside_and_clean(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("mke2fs", "debugfs", "e2fsck")
    raw = made(tmp_path / "raw", 64 << 20)
    with outside.open_root(raw, "raw", tmp_path) as root:
        assert root is None, "it has no /etc"
    with outside.open_root(raw, "raw", tmp_path, holding="/") as found:
        assert found is not None
        assert [one.name for one in found.listing("/")] == ["lost+found"]
        found.check_clean()
