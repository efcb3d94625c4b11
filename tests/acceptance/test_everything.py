"""One appliance with every key of appliance.toml, looked at from outside and from inside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ovfbuild.cache import Cache
from ovfbuild.vm.outside import open_root
from tests.integration import guests

pytestmark = pytest.mark.acceptance

TOML = """
name = "all"
version = "2.0"
[base]
distribution = "debian:12"
sources = ["deb http://deb.example.org/debian bookworm main"]
[hardware]
disk = "4 GiB"
serial = true
[[networks]]
name = "front"
[[networks]]
name = "back"
[system]
packages = ["sl"]
hostname = "named"
timezone = "Europe/Berlin"
locale = "de_DE.UTF-8"
keyboard = "de"
[[system.users]]
name = "admin"
groups = ["adm", "own-group"]
sudo = true
shell = "/bin/sh"
ssh_keys = ["{key}"]
password_hash = "{hash}"
[[files]]
source = "tree"
target = "/opt/tree"
owner = "admin"
[[files]]
source = "big"
target = "/opt/big"
mode = "0600"
[[scripts]]
name = "first"
run = "echo one >> /opt/order; id -un >> /opt/order"
[[scripts]]
name = "second"
run = '''#!/usr/bin/env python3
import os
open("/opt/order", "a").write("two " + os.environ["HOME"] + "\\n")
'''
[cloud_init]
user_data = "extra.yaml"
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all")
    _, public = guests.key_pair(folder)
    hashed = subprocess.check_output(["openssl", "passwd", "-6", "secret"], text=True).strip()
    (folder / "appliance.toml").write_text(TOML.format(key=public, hash=hashed))
    (folder / "tree/deep/er").mkdir(parents=True)
    for number in range(3000):
        (folder / f"tree/deep/file-{number:04d}-with-a-name-that-is-longer-than-joliet-could-hold-it.txt").write_text(
            "x"
        )
    (folder / "tree/run").write_text("#!/bin/sh\n")
    (folder / "tree/run").chmod(0o755)
    (folder / "tree/link").symlink_to("run")
    (folder / "big").write_bytes(os.urandom(200_000_000))
    (folder / "extra.yaml").write_text("#cloud-config\nwrite_files:\n  - {path: /etc/from-author, content: 'yes'}\n")
    done = guests.command("make", folder / "appliance.toml", "-o", folder / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def test_from_outside(built: Path, tmp_path: Path) -> None:
    newest = max((entry for entry in Cache().entries() if entry.about.startswith("all:")), key=lambda entry: entry.made)
    with open_root(newest.path / "disk.qcow2", "qcow2", tmp_path) as root:
        assert root is not None

        def text(path: str) -> str:
            return root.read(path, 100_000).decode()

        assert text("/opt/order") == "one\nroot\ntwo /root\n"
        assert text("/etc/hostname") == "named\n"
        assert text("/etc/timezone") == "Europe/Berlin\n"
        assert "LANG=de_DE.UTF-8" in text("/etc/default/locale")
        assert 'XKBLAYOUT="de"' in text("/etc/default/keyboard")
        assert text("/etc/from-author") == "yes"
        assert text("/etc/apt/sources.list") == "deb http://deb.example.org/debian bookworm main\n"
        assert "console=ttyS0,115200n8" in text("/boot/grub/grub.cfg"), "it declares a serial port"
        entries = {entry.name: entry for entry in root.listing("/opt/tree")}
        assert entries["run"].mode & 0o777 == 0o755
        assert entries["link"].type == "link"
        assert entries["run"].uid == 1000
        assert len(root.listing("/opt/tree/deep")) == 3001
        (big,) = [entry for entry in root.listing("/opt") if entry.name == "big"]
        assert (big.size, big.mode & 0o777) == (200_000_000, 0o600)
        assert text("/etc/shadow").count("$6$") == 1


def test_from_inside(built: Path, tmp_path: Path) -> None:
    with guests.visiting(built / "dist/all-2.0.ova", tmp_path / "visit", built / "key") as visit:
        said = visit.run("hostname; id -nG; date +%Z; locale -a | grep -ci de_de; ls -d /sys/class/net/e* | wc -l")
    host, groups, zone, locales, nics = said.splitlines()
    assert (host, groups, locales, nics) == ("named", "admin adm own-group", "1", "2")
    assert zone in ("CET", "CEST")
