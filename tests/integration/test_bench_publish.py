"""scripts/bench-publish runs, and measures what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.publish.kit import ova

SCRIPT = Path(__file__).parents[2] / "scripts/bench-publish"


@pytest.mark.cloud
def test_it_compares_with_the_others(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("nginx", "openssl", "curl", "sha256sum")
    package = ova(tmp_path / "a-1.0.ova", more=1)
    done = subprocess.run([sys.executable, SCRIPT, package, "--to", "http"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, others, ours = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
    assert (others[:2], ours[:2]) == (["http", "others"], ["http", "ovfbuild"])
    assert all(float(cell) > 0 for cell in (*others[2:5], *ours[2:6]))
