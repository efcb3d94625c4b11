"""examples/hello goes to each cloud, twice: one image, whose disk is the packed one. On libvirt it is seen to boot."""

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
from tests.importers.conftest import vcsim
from tests.importers.test_publish_vsphere import Lab, certificate, lab
from tests.importers.test_publish_vsphere import digest as sha256
from tests.importers.test_publish_vsphere import disk_of as digest_of_the_disk_in
from tests.integration import guests
from tests.integration.test_openstack import User, cloud, servers, user
from tests.integration.test_openstack import disk_of as disk_in
from tests.integration.test_publish_libvirt import Daemon, daemon
from tests.integration.test_publish_s3 import Shop, shop, store
from tests.openstack import Cloud

pytestmark = pytest.mark.acceptance
libvirt: Any = pytest.importorskip("libvirt")
__all__ = ["certificate", "cloud", "daemon", "lab", "servers", "shop", "store", "user", "vcsim"]

HELLO = Path(__file__).parents[2] / "examples/hello"
TARGET = '[[publish]]\nname = "host"\nkind = "libvirt"\nnetwork = "user"\nuri = "{uri}"\n'
BOOTED = b"hello login:"


def ovfbuild(folder: Path, *words: str) -> list[str]:
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
    argv = [sys.executable, "-m", "ovfbuild", *words]
    return subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OVA of examples/hello, as `make test` has booted it."""
    done = guests.command("make", HELLO, "-o", tmp_path_factory.mktemp("hello"), "--no-boot")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_openstack(hello: Path, user: User, cloud: Cloud, tmp_path: Path) -> None:
    first, again = user.publish(hello), user.publish(hello)
    assert (first["outcome"], again["outcome"], again["ids"]) == ("published", "present", first["ids"])
    (image,) = cloud.images()
    back = tmp_path / "back.qcow2"
    back.write_bytes(cloud.content(image["id"]))
    assert disk.compare(disk.described(back, "qcow2"), disk_in(hello))


def test_s3(hello: Path, shop: Shop) -> None:
    first, again = shop.publish(hello, prefix="hello"), shop.publish(hello, prefix="hello")
    assert (first.receipt.outcome, again.receipt.outcome) == ("published", "present")
    (key,) = (key for key in shop.store.keys("hello") if key.endswith(".ova"))
    assert shop.store.body(key) == hello.read_bytes()


def test_vsphere(hello: Path, lab: Lab) -> None:
    first, again = lab.publish(hello), lab.publish(hello)
    assert (first.receipt.outcome, again.receipt.outcome) == ("published", "present")
    assert [sha256(sent) for sent in lab.sent] == [digest_of_the_disk_in(hello)]
    assert list(lab.machines()) == ["hello-1.0.0"]


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
        else:  # -2: nothing is there so far; it is a call that reads what the daemon has sent meanwhile
            assert machine.isActive()
            time.sleep(0.2)
    stream.abort()
