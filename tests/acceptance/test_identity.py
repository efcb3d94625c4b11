"""A real Debian is told who it is, in both ways that ovfbuild delivers, and believes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import guests

pytestmark = pytest.mark.acceptance

TEMPLATE = '{"target": "/etc/told", "format": "properties", "text": "host={{dm.host}}\\nword={{dm.password}}\\n"}'
PROPERTIES = f"""
[[properties]]
key = "dm.host"
required = true
[[properties]]
key = "dm.port"
type = "int"
default = 5672
[[properties]]
key = "dm.password"
type = "password"
[[files]]
target = "/usr/lib/ovfbuild/templates.d/10-told.json"
content = '''{TEMPLATE}'''
"""
HOSTILE = """it's "here" $(touch /PWNED) `id` \\"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, needs: Callable[..., None]) -> Path:
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs")
    folder = tmp_path_factory.mktemp("told")
    text = f'name = "told"\nversion = "1.0.0"\n[base]\ndistribution = "debian:12"\n{PROPERTIES}'
    (folder / "appliance.toml").write_text(text)
    done = guests.command("make", folder, "-o", folder / "dist", "--no-boot")
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "dist/told-1.0.0.ova"


@pytest.mark.parametrize("deliver", ["nocloud", "ovf-env"])
def test_it_takes_what_it_is_told(told: Path, deliver: str) -> None:
    settings = ["--set", f"dm.host={HOSTILE}", "--set", "dm.port=1", "--set", "dm.password=s3cret-word"]
    done = guests.command("verify", told, "--boot", "--deliver", deliver, *settings)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "it took what it was told: dm.host, dm.port, dm.password" in done.stderr
    assert "s3cret-word" not in done.stderr
