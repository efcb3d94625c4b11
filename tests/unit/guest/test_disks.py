"""How the guest finds what it mounts, and what it writes into fstab."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ovfbuild.guest import disks
from ovfbuild.guest.steps import StepFailed
from ovfbuild.vm import ext4
from ovfbuild.vm.hardware import disk_serial

UUID = "6f9d0d6e-2b0f-5a80-9f3c-0f2a2a1f0c11"


def test_host_and_guest_name_a_disk_alike() -> None:
    assert f"/dev/disk/by-id/virtio-{disk_serial(2)}" == disks.DEVICE % 2


def test_the_file_system_is_found_by_what_blkid_says(tmp_path: Path, needs: object) -> None:
    needs("mke2fs", "blkid")  # type: ignore[operator]
    raw = tmp_path / "raw"
    with raw.open("wb") as stream:
        stream.truncate(16 << 20)
    assert disks.probe(str(raw)) == {}
    ext4.make_file_system(raw, UUID, "data", 315532800)
    found = disks.file_system("x", [disks.probe(str(raw)), {"PTTYPE": "gpt"}])
    assert (found["TYPE"], found["UUID"], found["LABEL"]) == ("ext4", UUID, "data")


def test_it_mounts_at_every_boot_and_no_boot_waits_for_ever(tmp_path: Path, needs: object) -> None:
    needs("findmnt")  # type: ignore[operator]
    fstab = tmp_path / "fstab"
    fstab.write_text(disks.fstab_line({"UUID": UUID, "TYPE": "ext4"}, "/srv/data", True))
    said = subprocess.run(
        ["findmnt", "--tab-file", fstab, "--noheadings", "--output", "SOURCE,TARGET,FSTYPE,OPTIONS,FREQ,PASSNO"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said[:3] == [f"UUID={UUID}", "/srv/data", "ext4"]
    assert said[4:] == ["0", "2"]
    assert {"nofail", "x-systemd.growfs", "x-systemd.before=local-fs.target"} <= set(said[3].split(","))


@pytest.mark.parametrize("count", [0, 2])
def test_none_or_several_file_systems_fail_the_step(count: int) -> None:
    seen = [{"USAGE": "filesystem", "TYPE": "ext4", "UUID": UUID}] * count
    with pytest.raises(StepFailed, match=f"virtio-x: {count} file systems are on it"):
        disks.file_system("/dev/disk/by-id/virtio-x", seen)


def test_a_folder_with_files_is_not_hidden(tmp_path: Path) -> None:
    disks.make_place(str(tmp_path / "a/b"))
    (tmp_path / "a/b/c").touch()
    with pytest.raises(StepFailed, match="holds files already"):
        disks.make_place(str(tmp_path / "a/b"))


def test_a_disk_that_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/self").mkdir(parents=True)
    found = {"UUID": UUID, "TYPE": "ext4"}
    lines = "".join(disks.fstab_line(found, path, True) for path in ("/srv/a", "/srv/b"))
    (tmp_path / "etc/fstab").write_text(
        f"# /etc/fstab\nLABEL=root / ext4 defaults 0 1\nLABEL=x /x ext4 nofail 0 2\n{lines}"
    )
    (tmp_path / "proc/self/mounts").write_text("/dev/sda1 / ext4 rw 0 0\n/dev/sdb /srv/b ext4 rw 0 0\n")
    assert disks.unmounted(str(tmp_path)) == ["/srv/a"]
