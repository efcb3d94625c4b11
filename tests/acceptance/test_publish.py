"""examples/hello goes all the way to libvirt: its disk is the packed one, and it is seen to boot there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from tests.integration.test_publish_libvirt import Daemon, daemon

pytestmark = pytest.mark.acceptance
libvirt: Any = pytest.importorskip("libvirt")
__all__ = ["daemon"]

HELLO = Path(__file__).parents[2] / "examples/hello"
TARGET = '[[publish]]\nname = "host"\nkind = "libvirt"\nnetwork = "user"\nuri = "{uri}"\n'
BOOTED = b"hello login:"


def ovfbuild(folder: Path, *words: str) -> list[str]:
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
    argv = [sys.executable, "-m", "ovfbuild", *words]
    return subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def test_hello_reaches_libvirt_and_boots(daemon: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "ovfbuild/targets.toml"
    config.parent.mkdir()
    config.write_text(TARGET.format(uri=daemon.uri()))
    package, name, _, volume = ovfbuild(tmp_path, "make", str(HELLO), "-o", str(tmp_path), "--publish", "host")
    (_, member), *_ = open_package(Path(package)).disks
    packed = disk.inside(Path(package), member.offset, member.size)
    assert disk.compare(packed, disk.described(Path(volume), "qcow2"))
    again = ovfbuild(tmp_path, "publish", package, "--to", "host", "--replace", "--set", "start=true")
    assert again[0] == name
    machine = daemon.connection.lookupByName(name)
    try:
        _hear(daemon.connection, machine, BOOTED)
    finally:
        machine.destroy()


def _hear(connection: Any, machine: Any, wanted: bytes) -> None:
    """Reads a machine's serial console until it says so."""
    stream, seen, until = connection.newStream(libvirt.VIR_STREAM_NONBLOCK), b"", time.monotonic() + 1500
    machine.openConsole(None, stream, 0)
    while wanted not in seen:
        assert time.monotonic() < until, seen[-2000:]
        got = stream.recv(4096)
        if isinstance(got, bytes) and got:
            seen += got
        else:  # -2: nothing is there so far
            time.sleep(1)
    stream.abort()
