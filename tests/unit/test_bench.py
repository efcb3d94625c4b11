"""scripts/bench-package runs, and measures what it says."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.formats.conftest import noise, program

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def test_a_table_of_a_small_disk(tmp_path: Path) -> None:
    program("qemu-img")
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as stream:
        stream.truncate(64 * MIB)
        stream.seek(5 * MIB)
        stream.write(noise(MIB) + b"word " * MIB)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, str(ROOT / "scripts/bench-package"), str(disk), "--ways", "qemu-img,turbo,balanced"]
    done = subprocess.run([*command, "--scratch", str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    head, titles, peer, turbo, balanced = done.stdout.splitlines()
    assert head.startswith("67 MB of capacity, 6 MB not empty")
    assert titles.split()[-1] == "CPU/limit"
    assert peer.startswith("qemu-img")
    for row, name in ((turbo, "ovfbuild turbo"), (balanced, "ovfbuild balanced")):
        wall, cpu, peak, size = map(float, row.removeprefix(name).split()[:4])
        assert wall > 0
        assert cpu > 0
        assert 10 < peak < 200
        assert 1 < size < 2, "of noise nothing is saved, of words nearly all"
    assert sorted(tmp_path.iterdir()) == before, "nothing is left"


def test_the_plot_has_time_over_data_and_over_capacity(tmp_path: Path) -> None:
    program("qemu-img")
    if importlib.util.find_spec("matplotlib") is None:
        pytest.fail("install the extra dev") if "CI" in os.environ else pytest.skip("matplotlib is not installed")
    disk = tmp_path / "disk.raw"
    disk.write_bytes(noise(MIB) * 2)
    shapes = ["--sizes", "1M,2M", "--data", "1M", "--capacities", "16M,1G"]
    command = [sys.executable, str(ROOT / "scripts/bench-package"), str(disk), "--ways", "turbo", *shapes]
    drawn = ["--scratch", str(tmp_path), "--plot", str(tmp_path / "time.png")]
    done = subprocess.run([*command, *drawn], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split("ovfbuild")[0].split() for line in done.stdout.splitlines()[-4:]]
    assert [(row[0], row[3]) for row in rows] == [("1", "1.0"), ("2", "1.0"), ("1", "0.0"), ("1", "1.0")]
    octets = (tmp_path / "time.png").read_bytes()
    assert octets.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", octets[16:24])
    assert width > 2 * height, "two pictures side by side"
