"""examples/libraries: Java, Python and Node.js at their pinned versions, in the appliance and in its SBOM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import guests

pytestmark = pytest.mark.acceptance


def test_what_was_pinned_is_there_and_in_the_sbom(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "npm")
    shutil.copytree(guests.EXAMPLES / "libraries", tmp_path / "libraries")
    done = guests.command("make", tmp_path / "libraries", "-o", tmp_path / "dist", "-v")
    assert done.returncode == 0, done.stderr[-5000:]
    assert "2.32.3 6.0.2" in done.stderr
    assert "< it works >" in done.stderr
    assert "openjdk version" in done.stderr
    sbom = json.loads((tmp_path / "dist/libraries-1.0.0.cdx.json").read_text())
    found = {component.get("purl", "").partition("?")[0] for component in sbom["components"]}
    assert {"pkg:pypi/requests@2.32.3", "pkg:pypi/pyyaml@6.0.2", "pkg:npm/cowsay@1.6.0"} <= found
    names = {component["name"] for component in sbom["components"]}
    assert {"openjdk-17-jre-headless", "nodejs", "linux-image-amd64"} <= names
    told = guests.command("inspect", tmp_path / "dist/libraries-1.0.0.ova")
    assert "library    pypi/requests@2.32.3" in told.stdout
