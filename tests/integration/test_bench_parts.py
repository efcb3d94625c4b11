"""scripts/bench-parts runs, and its line is as slow as it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/bench-parts"


@pytest.mark.cloud
@pytest.mark.timeout(300)
def test_it_measures_a_slow_line(needs: Callable[..., None]) -> None:
    weed = Path(sys.executable).with_name("weed")
    needs(str(weed) if weed.exists() else "weed")
    argv = [sys.executable, str(SCRIPT), "--size", "20", "--rate", "20", "--parallel", "2"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.splitlines()
    ways = ["ovfbuild, parallel = 2", "boto3 upload_file, 2 at once", "boto3 upload_file, 10 at once"]
    assert [row[:36].strip() for row in rows] == ways
    assert float(rows[0][36:].split()[1]) < 40, "two connections of 20 MB/s"
