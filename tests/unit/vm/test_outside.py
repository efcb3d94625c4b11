"""outside, on file systems of a few megabytes made by mke2fs."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.vm import blocks, disk, leftovers, outside, partition_table

PROGRAMS = ("qemu-img", "mke2fs", "debugfs", "e2fsck", "sfdisk")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
if not os.environ.get("CI"):
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not installed", allow_module_level=True)

MIB = 1 << 20


def call(*argv: object, stdin: str = "") -> None:
    command = [shutil.which(str(argv[0]), path=PATH) or str(argv[0]), *map(str, argv[1:])]
    subprocess.run(command, check=True, input=stdin.encode(), capture_output=True)


def put(root: Path, path: str, text: str = "") -> None:
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def clean(root: Path) -> Path:
    """What a sealed Debian has in the places that are looked at."""
    for folder in (
        *("tmp", "var/tmp", "root", "home/joe", "run", "var/log/journal", "var/log/apt", "var/log/private"),
        *("var/lib/apt/lists/partial", "var/lib/apt/lists/auxfiles", "var/cache/apt/archives/partial"),
        *("var/lib/cloud/instances", "var/lib/cloud/scripts/per-boot", "var/lib/dhcp", "etc/netplan"),
        *("etc/ssh/sshd_config.d", "etc/sudoers.d", "etc/network/interfaces.d", "var/lib/cloud/data"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    put(root, "/etc/machine-id")
    put(root, "/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    put(root, "/etc/ssh/sshd_config", "x")
    put(root, "/etc/ssh/moduli", "x")
    put(root, "/etc/apt/sources.list", "deb x\n")
    put(root, "/etc/apt/apt.conf.d/70debconf", "x")
    put(root, "/etc/systemd/network/99-ovfbuild-dhcp.network", "x")
    put(root, "/etc/sudoers.d/README", "x")
    put(root, "/var/lib/cloud/seed/nocloud/meta-data", "instance-id: ovfbuild-fallback\n")
    put(root, "/var/lib/cloud/seed/nocloud/user-data", "#cloud-config\n{}\n")
    put(root, "/var/lib/cloud/scripts/per-boot/mine", "#!/bin/sh\n")
    put(root, "/var/lib/apt/lists/lock")
    put(root, "/var/cache/apt/archives/lock")
    for log in ("wtmp", "btmp", "lastlog", "dpkg.log", "apt/history.log"):
        put(root, f"/var/log/{log}")
    put(root, "/root/.bashrc", "x")
    put(root, "/home/joe/.profile", "x")
    put(root, "/home/joe/.bash_history")
    put(root, "/run/leftover", "x")
    (root / "var/lib/dbus").mkdir()
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    (root / "var/log/README").symlink_to("../../usr/share/doc/systemd/README.logs")
    return root


def make_ext4(tree: Path, raw: Path, size: int = 8 * MIB) -> Path:
    call("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, raw, f"{size >> 10}k")
    return raw


def make_disk(parts: list[tuple[int, Path]], raw: Path, label: str) -> Path:
    """A disk with file systems at those MiB, partition numbers in their order."""
    lines = [f"start={mib * 2048}, size={part.stat().st_size // 512}\n" for mib, part in parts]
    end = max(mib * MIB + part.stat().st_size for mib, part in parts)
    with raw.open("wb") as stream:
        stream.truncate(end + 2 * MIB)
    call("sfdisk", "-q", raw, stdin=f"label: {label}\n" + "".join(lines))
    with raw.open("r+b") as stream:
        for mib, part in parts:
            stream.seek(mib * MIB)
            stream.write(part.read_bytes())
    return raw


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return clean(tmp_path / "tree")


def look(tree: Path, tmp_path: Path, *canaries: bytes) -> list[str]:
    return leftovers.find_leftovers(outside.FileSystem(make_ext4(tree, tmp_path / "fs")), canaries)


@pytest.mark.parametrize(("label", "image_format"), [("gpt", "qcow2"), ("dos", "raw"), ("gpt", "vmdk")])
def test_a_sealed_disk_has_no_leftovers(tmp_path: Path, tree: Path, label: str, image_format: str) -> None:
    (tmp_path / "boot").mkdir()
    put(tmp_path / "boot", "/vmlinuz", "x")
    boot = make_ext4(tmp_path / "boot", tmp_path / "boot.ext", 12 * MIB)
    root = make_ext4(tree, tmp_path / "root.ext")
    raw = make_disk([(1, boot), (14, root)], tmp_path / "disk.raw", label)
    image = tmp_path / "image"
    disk.convert(raw, "raw", image, image_format)
    work = tmp_path / "work ?x"
    work.mkdir()
    with outside.open_root(image, image_format, work) as fs:
        assert fs is not None
        assert fs.exists("/var/lib/cloud/seed/nocloud/user-data")
        fs.check_clean()
        assert leftovers.find_leftovers(fs, [b"not on this disk"]) == []
    assert list(work.iterdir()) == []


def test_root_on_a_logical_partition(tmp_path: Path, tree: Path) -> None:
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(32 * MIB)
    layout = (
        "label: dos\nstart=2048, size=4096\nstart=8192, size=57344, type=5\n"
        "start=10240, size=2048\nstart=16384, size=16384\n"
    )
    call("sfdisk", "-q", raw, stdin=layout)
    with raw.open("r+b") as stream:
        stream.seek(8 * MIB)
        stream.write(make_ext4(tree, tmp_path / "fs").read_bytes())
    with blocks.open_reader(raw, "raw", tmp_path) as reader:
        assert partition_table.partitions(reader) == [(MIB, 2 * MIB), (5 * MIB, MIB), (8 * MIB, 8 * MIB)]
    with outside.open_root(raw, "raw", tmp_path) as fs:
        assert fs is not None


def test_a_disk_without_partitions(tmp_path: Path, tree: Path) -> None:
    with outside.open_root(make_ext4(tree, tmp_path / "fs"), "raw", tmp_path) as fs:
        assert fs is not None
        assert fs.exists("/etc")


def test_a_disk_that_cannot_be_looked_into(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(3).randbytes(MIB))
    raw = make_disk([(1, noise)], tmp_path / "disk.raw", "gpt")
    with outside.open_root(raw, "raw", tmp_path) as fs:
        assert fs is None
    with outside.open_root(noise, "raw", tmp_path) as fs:
        assert fs is None


@pytest.mark.parametrize("offset", [512, 512 + 60, 1024 + 33])
def test_a_damaged_gpt(tmp_path: Path, tree: Path, offset: int) -> None:
    raw = make_disk([(1, make_ext4(tree, tmp_path / "fs"))], tmp_path / "disk.raw", "gpt")
    with raw.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xaa")
    with pytest.raises(FileError, match="GPT"), outside.open_root(raw, "raw", tmp_path):
        pass


def test_what_a_file_system_tells(tmp_path: Path, tree: Path) -> None:
    octets = random.Random(5).randbytes(70_000)
    odd = 'a "b" é\n'
    (tree / "srv" / odd / "deep").mkdir(parents=True)
    (tree / "srv" / odd / "deep" / "x").write_bytes(octets)
    (tree / "srv" / 'quote "s"' / "in").mkdir(parents=True)
    os.mkfifo(tree / "srv" / "pipe")
    (tree / "srv" / "tool").write_bytes(b"12345")
    (tree / "srv" / "tool").chmod(0o4755)
    os.utime(tree / "srv" / "tool", (0, 1_600_000_045))
    fs = outside.FileSystem(make_ext4(tree, tmp_path / "fs"))
    entries = {entry.name: entry for entry in fs.listing("/srv")}
    tool = entries["tool"]
    assert (tool.type, tool.size, tool.mode) == ("file", 5, 0o4755)
    assert tool.mtime == 1_600_000_045 // 60 * 60
    assert (tool.uid, tool.gid) == (os.getuid(), os.getgid())
    assert entries["pipe"].type == "fifo"
    assert fs.entry("/var/log/README").type == "link"  # type: ignore[union-attr]
    walked = dict(fs.walk("/srv"))
    assert [e.size for e in walked.values() if e.name == "x"] == [len(octets)]
    assert [e.name for e in fs.listing('/srv/quote "s"')] == ["in"]
    assert fs.read("/srv/tool", 3) == b"123"
    put(tree, "/srv/binary")
    (tree / "srv/binary").write_bytes(octets)
    fs = outside.FileSystem(make_ext4(tree, tmp_path / "fs"))
    assert fs.read("/srv/binary", 1 << 20) == octets
    assert fs.exists("/") and fs.exists("/etc/") and not fs.exists("/nope") and not fs.exists("/nope/x")
    assert list(fs.walk("/nope")) == []
    for broken in (lambda: fs.listing("/nope"), lambda: fs.listing("/etc/passwd"), lambda: fs.read("/etc", 1)):
        with pytest.raises(FileError):
            broken()
    with pytest.raises(FileError, match="no path"):
        fs.listing("/x\nrm /etc")


LEFTOVERS = [
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "/etc/ssh/sshd_config.d/50-cloud-init.conf",
    "/etc/sudoers.d/90-cloud-init-users",
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/systemd/network/10-cloud-init-eth0.network",
    "/etc/network/interfaces.d/50-cloud-init",
    "/etc/NetworkManager/system-connections/cloud-init-ens3.nmconnection",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/apt/sources.list.d/ovfbuild.list",
    "/etc/apt/apt.conf.d/00-ovfbuild-build",
    "/var/lib/cloud/instances/i-1/sem/config_ssh",
    "/var/lib/cloud/data/instance-id",
    "/var/lib/cloud/sem/config_scripts_per_once.once",
    "/var/lib/cloud/seed/nocloud-net/user-data",
    "/var/log/cloud-init.log",
    "/var/log/cloud-init-output.log",
    "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal",
    "/var/log/wtmp",
    "/var/log/apt/history.log",
    "/var/log/dpkg.log",
    "/var/lib/apt/lists/deb.example.org_debian_dists_bookworm_InRelease",
    "/var/lib/apt/lists/partial/x",
    "/var/cache/apt/archives/nginx-light_1_amd64.deb",
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
    "/var/lib/dhcp/dhclient.ens3.leases",
    "/var/lib/NetworkManager/internal-1-ens3.lease",
    "/root/.bash_history",
    "/home/joe/.bash_history",
    "/home/joe/.python_history",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/tmp/x",
    "/tmp/.hidden",
    "/var/tmp/systemd-private-1",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is found on a disk with all of them."""
    folder = tmp_path_factory.mktemp("leftovers")
    tree = clean(folder / "tree")
    for path in LEFTOVERS:
        put(tree, path, "x")
    return look(tree, folder)


@pytest.mark.parametrize("path", LEFTOVERS)
def test_each_leftover_is_named(found: list[str], path: str) -> None:
    by_folder = ("/var/lib/cloud/instances/", "/var/log/journal/")
    named = path if not path.startswith(by_folder) else "/".join(path.split("/")[: 6 if "cloud" in path else 5])
    assert [sentence for sentence in found if sentence.startswith(f"{named} is left: ")]


def test_nothing_else_is_named(found: list[str]) -> None:
    assert len(found) == len(set(found)) == len(LEFTOVERS)


def test_a_machine_id(tmp_path: Path, tree: Path) -> None:
    put(tree, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    assert look(tree, tmp_path) == ["/etc/machine-id is not empty: every copy would be the same machine"]
    put(tree, "/etc/machine-id", "uninitialized\n")
    assert look(tree, tmp_path) == []
    (tree / "var/lib/dbus/machine-id").unlink()
    put(tree, "/var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n")
    assert look(tree, tmp_path)[0].startswith("/var/lib/dbus/machine-id is left")


def test_a_link_to_the_instance(tmp_path: Path, tree: Path) -> None:
    (tree / "var/lib/cloud/instance").symlink_to("/var/lib/cloud/instances/i-1")
    assert look(tree, tmp_path)[0].startswith("/var/lib/cloud/instance is left")


def test_canaries(tmp_path: Path, tree: Path) -> None:
    secret = b"c4n4ry-of-the-build"
    big = bytearray(random.Random(9).randbytes(3 * MIB))
    at = MIB - 7
    big[at : at + len(secret)] = secret
    put(tree, "/opt/app/big.bin")
    (tree / "opt/app/big.bin").write_bytes(big)
    raw = make_ext4(tree, tmp_path / "fs", 16 * MIB)
    with raw.open("r+b") as stream:
        stream.seek(-4096, os.SEEK_END)
        stream.write(b"ghost")
    found = leftovers.find_leftovers(outside.FileSystem(raw), [b"", secret, b"absent", b"ghost"])
    assert found == [
        "/opt/app/big.bin holds what no copy may: canary 2 of the build",
        "space that no file has holds what no copy may: canary 4 of the build",
    ]


def test_a_file_system_that_was_in_use(tmp_path: Path, tree: Path) -> None:
    raw = make_ext4(tree, tmp_path / "fs")
    outside.FileSystem(raw).check_clean()
    call("debugfs", "-w", "-R", "feature needs_recovery", raw)
    with pytest.raises(FileError, match="not unmounted"):
        outside.FileSystem(raw).check_clean()


def test_a_damaged_file_system(tmp_path: Path, tree: Path) -> None:
    raw = make_ext4(tree, tmp_path / "fs")
    call("debugfs", "-w", "-R", "clri /etc/ssh", raw)
    with pytest.raises(FileError, match=r"(?s)is damaged, e2fsck says:\nPass.*Inode bitmap") as caught:
        outside.FileSystem(raw).check_clean()
    assert caught.value.hint


def test_a_file_system_that_is_none(tmp_path: Path) -> None:
    """The magic alone, which noise has as well, once in 65536."""
    raw = tmp_path / "fs"
    octets = bytearray(MIB)
    struct.pack_into("<H", octets, 1024 + 56, 0xEF53)
    raw.write_bytes(octets)
    with pytest.raises(FileError, match="can't be read"), outside.open_root(raw, "raw", tmp_path):
        pass
