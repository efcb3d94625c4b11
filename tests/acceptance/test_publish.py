"""examples/hello goes to each cloud, twice: one image, whose disk is the packed one. On libvirt it is seen to boot."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from tests.importers import incus
from tests.importers.conftest import certificate, incus_root, vcsim
from tests.importers.lab import Lab
from tests.importers.lab import digest as sha256
from tests.importers.lab import disk_of as digest_of_the_disk_in
from tests.importers.test_publish_incus import User as IncusUser
from tests.importers.test_publish_vsphere import lab
from tests.integration import guests
from tests.integration.test_openstack import User, cloud, servers, user
from tests.integration.test_openstack import disk_of as disk_in
from tests.integration.test_publish_libvirt import daemon
from tests.integration.test_publish_s3 import Shop, shop, store
from tests.libvirtd import Daemon
from tests.openstack import Cloud

pytestmark = pytest.mark.acceptance
libvirt_qemu: Any = pytest.importorskip("libvirt_qemu")
__all__ = ["certificate", "cloud", "daemon", "incus_root", "lab", "servers", "shop", "store", "user", "vcsim"]

HELLO = Path(__file__).parents[2] / "examples/hello"
TARGET = '[[publish]]\nname = "host"\nkind = "libvirt"\nnetwork = "user"\nuri = "{uri}"\n'
_HMP = 1
"""VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP"""


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


NEXT = """
name = "next"
version = "2.0"
[base]
image = "{image}"
checksums = "{checksums}"
os = "debian:12"
[[networks]]
name = "VM Network"
[[system.users]]
name = "admin"
ssh_keys = ["{key}"]
sudo = true
[[files]]
source = "index.html"
target = "/var/www/html/index.html"
"""


def test_the_next_appliance_is_built_from_the_store(hello: Path, shop: Shop, tmp_path: Path) -> None:
    """Its disk begins as that of the OVA in the catalogue, nginx and all, and it boots with a page of its own."""
    image, checksums, _ = shop.publish(hello, prefix="bases").lines
    key, public = guests.key_pair(tmp_path)
    (tmp_path / "appliance.toml").write_text(NEXT.format(image=image, checksums=checksums, key=public))
    (tmp_path / "index.html").write_text("Hello from the next appliance\n")
    (made,) = ovfbuild(tmp_path, "make", str(tmp_path), "-o", str(tmp_path / "out"), "--no-boot")
    with guests.visiting(Path(made), tmp_path / "visit", key) as visit:
        assert visit.page() == "Hello from the next appliance\n"


def test_incus(hello: Path, incus_root: Path, tmp_path: Path) -> None:
    with incus.server(incus_root, tmp_path / "incus") as server:
        user = IncusUser(server, server.folder / "user")
        server.trust("user", user.login[0])
        first, again = user.publish(hello), user.publish(hello)
        assert (first["outcome"], again["outcome"], again["ids"]) == ("published", "present", first["ids"])
        assert "EFI" not in first["said"], "it boots by both kinds of firmware"
        server.client("image", "export", "hello/1.0.0", "/w/back")
        assert disk.compare(disk.described(server.folder / "back.root", "qcow2"), disk_in(hello))


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
        port = guests.free_port()
        libvirt_qemu.qemuMonitorCommand(machine, f"hostfwd_add hostnet0 tcp:127.0.0.1:{port}-:80", _HMP)
        assert "Hello from an appliance" in _page(f"http://127.0.0.1:{port}/", machine)
    finally:
        machine.destroy()


def _page(url: str, machine: Any) -> str:
    """The appliance's page, once it is there."""
    until = time.monotonic() + guests.BOOT_SECONDS
    while True:
        assert machine.isActive()
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < until, "no page"
            time.sleep(2)
