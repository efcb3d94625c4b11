"""The main job on a real Debian: built, packed, proven by `make`; then deployed twice with no seed at all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovfbuild.vm.leftovers import find_leftovers
from tests.integration import guests

pytestmark = pytest.mark.guest


@dataclass(frozen=True)
class Hello:
    """examples/hello as it was built for this run."""

    toml: Path
    ova: Path
    key: Path
    said: str


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory, needs: Callable[..., None]) -> Hello:
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "ssh", "ssh-keygen")
    folder = tmp_path_factory.mktemp("hello")
    key, public = guests.key_pair(folder)
    toml = guests.copy_of_hello(folder / "hello", public)
    done = guests.command("make", toml, "-o", folder / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout == f"{folder}/dist/hello-1.0.0.ova\n"
    return Hello(toml, folder / "dist/hello-1.0.0.ova", key, done.stderr)


def test_make_built_judged_and_booted_it(hello: Hello) -> None:
    steps = ("packages", "files /var/www/html", "script configure", "seal", "pack hello-1.0.0.ova", "verify")
    assert [name for name in steps if f"{name}: done" not in hello.said] == []
    assert "the package booted: multi-user and cloud-init done" in hello.said
    assert "without" not in hello.said, "the sealed disk was looked at from outside"
    assert hello.ova.stat().st_size < 400e6


def test_the_second_make_boots_no_build_vm(hello: Hello) -> None:
    done = guests.command("make", hello.toml, "-o", hello.ova.parent / "again", "--no-boot", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "the sealed disk is from the cache, made" in done.stderr
    assert (hello.ova.parent / "again/hello-1.0.0.ova").read_bytes() == hello.ova.read_bytes()
    other = hello.toml.read_text().replace('summary = "', 'summary = "Newly: ').replace("cpus = 2", "cpus = 4")
    hello.toml.write_text(other)
    done = guests.command("make", hello.toml, "-o", hello.ova.parent / "changed", "--no-boot", "--offline", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "the sealed disk is from the cache" in done.stderr


FACTS = """
test -d /sys/firmware/efi && echo firmware=efi || echo firmware=bios
echo hostname=$(hostname)
echo failed=$(systemctl --failed --no-legend --plain)
echo console=$(grep -o ttyS0 /proc/cmdline)
echo disk=$(df --output=size -B1 / | tail -1)
echo sudo=$(sudo id -un)
echo machine=$(cat /etc/machine-id)
echo key=$(cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub)
"""


def test_two_deployments_are_two_machines(hello: Hello, tmp_path: Path) -> None:
    """SeaBIOS and OVMF, on the declared hardware, with no datasource: network, keys and users of its own."""
    seen = []
    for name, efi in (("bios", False), ("efi", True)):
        with guests.visiting(hello.ova, tmp_path / name, hello.key, efi=efi) as visit:
            assert "hello" in visit.page().lower()
            # In one go: under emulation each login takes seconds.
            facts = dict(line.split("=", 1) for line in visit.run(FACTS).splitlines())
        assert facts["firmware"] == name
        assert (facts["hostname"], facts["failed"], facts["sudo"]) == ("hello", "", "root")
        assert facts["console"] == "", "what ships does not talk to a serial port that is not there"
        assert int(facts["disk"]) > 3.5e9, "the root file system fills the disk"
        assert len(facts["machine"]) == 32
        seen.append(facts)
    first, second = seen
    assert first["machine"] != second["machine"]
    assert first["key"] != second["key"]


def test_nothing_of_the_build_is_on_the_disk(hello: Hello, tmp_path: Path) -> None:
    """Out of the OVA, from outside: no identity, no leftover, and in no block, used or not, what the build knew."""
    with guests.disk_of(hello.ova, tmp_path / "disk") as (root, raw):
        assert find_leftovers(root) == []
        assert root.read("/etc/hostname", 99) == b"hello\n"
        secrets = [guests.MARK, str(hello.toml.parent), hello.key.read_text().splitlines()[1]]
        assert [secret for secret in secrets if guests.holds(raw, secret)] == []
        assert guests.holds(raw, hello.key.with_suffix(".pub").read_text().strip()), "that it would be found"


def test_the_finished_package_knows_nothing_of_the_build(hello: Hello, tmp_path: Path) -> None:
    """`verify` again, from the file alone; and the descriptor for a validator that we did not write."""
    done = guests.command("verify", hello.ova)
    assert done.returncode == 0, done.stderr
    subprocess.run(["tar", "-xf", hello.ova, "-C", tmp_path, "hello-1.0.0.ovf"], check=True)
    text = (tmp_path / "hello-1.0.0.ovf").read_text()
    assert str(hello.toml.parent) not in text
