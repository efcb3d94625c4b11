"""Several disks in a real Debian: what the build puts on them, how they are packed, and that the appliance has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ovfbuild.vm.outside import open_root
from tests.integration import guests

pytestmark = pytest.mark.acceptance

TOML = """
name = "disks"
version = "1.0"
[base]
distribution = "debian:12"
[[disks]]
size = "8 GiB"
label = "data"
mount = "/srv/data"
[[disks]]
image = "archive.qcow2"
mount = "/srv/data/archive"
[[disks]]
size = "2 GiB"
filesystem = "ext4"
label = "spare"
[[disks]]
size = "1 GiB"
[[system.users]]
name = "admin"
sudo = true
ssh_keys = ["{key}"]
[[files]]
content = "from a file"
target = "/srv/data/file"
[[scripts]]
name = "fill"
run = '''
cp /srv/data/archive/before /srv/data/archive/after
install -d -o www-data /srv/data/owned
dd if=/dev/urandom of=/srv/data/gone bs=1M count=64
rm /srv/data/gone
'''
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disks")
    _, public = guests.key_pair(folder)
    (folder / "tree").mkdir()
    (folder / "tree/before").write_text("from the image")
    raw = folder / "archive.raw"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder / "tree", raw, "64M"], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, folder / "archive.qcow2"], check=True)
    (folder / "appliance.toml").write_text(TOML.format(key=public))
    done = guests.command("make", folder / "appliance.toml", "-o", folder / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    subprocess.run(["tar", "-xf", folder / "dist/disks-1.0.ova", "-C", folder], check=True)
    return folder


def raw_of(built: Path, number: int, work: Path) -> Path:
    raw = work / f"{number}.raw"
    vmdk = built / f"disks-1.0-disk{number}.vmdk"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, raw], check=True)
    return raw


def test_what_the_build_wrote_is_on_the_disk_that_it_wrote_it_to(built: Path, tmp_path: Path) -> None:
    with open_root(raw_of(built, 1, tmp_path), "raw", tmp_path) as root:
        assert root is not None
        fstab = root.read("/etc/fstab", 10_000).decode()
        assert fstab.count("nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target") == 2
        assert root.listing("/srv/data") == [], "the folder under the mount is empty"
    data = raw_of(built, 2, tmp_path)
    subprocess.run(["e2fsck", "-f", "-n", data], check=True)
    with open_root(data, "raw", tmp_path, holding="/file") as found:
        assert found is not None
        assert found.read("/file", 100) == b"from a file"
        assert {one.name for one in found.listing("/")} == {"archive", "file", "lost+found", "owned"}
    assert (built / "disks-1.0-disk2.vmdk").stat().st_size < 16 << 20, "what was deleted is not packed"
    with open_root(raw_of(built, 3, tmp_path), "raw", tmp_path, holding="/after") as found:
        assert found is not None
        assert found.read("/after", 100) == b"from the image"


def test_what_is_not_mounted_is_packed_as_it_is(built: Path, tmp_path: Path) -> None:
    said = subprocess.check_output(["dumpe2fs", "-h", raw_of(built, 4, tmp_path)], text=True)
    assert "Filesystem volume name:   spare" in said
    empty = raw_of(built, 5, tmp_path)
    subprocess.run(["cmp", f"--bytes={empty.stat().st_size}", empty, "/dev/zero"], check=True)
    unchanged = subprocess.check_output(["debugfs", "-R", "ls -p /", built / "archive.raw"], text=True)
    assert "after" not in unchanged


def test_the_appliance_has_them_and_the_next_boot_too(built: Path, tmp_path: Path) -> None:
    with guests.visiting(built / "dist/disks-1.0.ova", tmp_path / "visit", built / "key") as visit:
        mounts = visit.run("findmnt --noheadings --list --output TARGET,LABEL,FSTYPE --types ext4 | sort").splitlines()
        assert ["/srv/data", "data", "ext4"] in [line.split() for line in mounts]
        assert "/srv/data/archive" in [line.split()[0] for line in mounts]
        assert visit.run("cat /srv/data/file /srv/data/archive/after") == "from a filefrom the image"
        assert visit.run("lsblk --noheadings --nodeps --list --output NAME | grep -c '^sd'") == "5"
        order = visit.run("systemctl show --property After --value local-fs.target")
        assert "srv-data.mount" in order.split()
        assert visit.run("systemctl list-units --plain --no-legend --state=failed") == ""
