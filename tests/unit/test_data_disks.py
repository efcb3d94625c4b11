"""[[disks]] before and after a build VM, whose guest is played here by debugfs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovfbuild import data_disks, pipeline
from ovfbuild.errors import GuestError
from ovfbuild.progress import Silent
from ovfbuild.spec.appliance import load
from ovfbuild.spec.plan import Plan, resolve
from ovfbuild.vm import build, guest_apt
from ovfbuild.vm import disk as images
from ovfbuild.vm.build import BuildOrder
from ovfbuild.workshop import Workshop

TOML = """\
name = "two"
version = "1"
[base]
image = "boot.raw"
[hardware]
disk = "1 GiB"
[[disks]]
size = "64 MiB"
mount = "/srv/data"
[[disks]]
image = "given.qcow2"
mount = "/srv/given"
[[disks]]
image = "given.qcow2"
"""


@pytest.fixture
def plan(tmp_path: Path, needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Plan:
    needs("qemu-img", "mke2fs", "debugfs", "e2fsck", "dumpe2fs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "boot.raw").write_bytes(bytes(1 << 20))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/before").write_text("given")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", tmp_path / "given.raw", "32M"], check=True)
    given = tmp_path / "given.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "given.raw", given], check=True)
    (tmp_path / "appliance.toml").write_text(TOML)
    return resolve(load(tmp_path / "appliance.toml"), {})


class Guest:
    """In the place of `build.build`: writes a file onto each further disk that it is given."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.builds = 0

    def build(self, order: BuildOrder, accelerator: Any, work: Path, evidence: Path, progress: Any) -> Path:
        self.builds += 1
        images.overlay(order.base, order.base_format, work / "overlay.qcow2", order.capacity)
        (work / "text").write_text(self.text)
        for one in order.disks:
            images.overlay(one.base, one.base_format, work / one.overlay)
            raw = work / "guest.raw"
            subprocess.run(["qemu-img", "convert", "-O", "raw", work / one.overlay, raw], check=True)
            subprocess.run(["debugfs", "-w", "-R", f"write {work / 'text'} after", raw], check=True)
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, work / one.overlay], check=True)
            raw.unlink()
        return work / "overlay.qcow2"


def made(plan: Plan, guest: Guest, monkeypatch: pytest.MonkeyPatch, out: Path, **more: Any) -> Path:
    monkeypatch.setattr(build, "build", guest.build)
    monkeypatch.setattr(Workshop, "accelerator", None)
    (path,) = pipeline.make(plan, pipeline.Options(out, boot=False, **more), Silent())
    return path


def files_on(package: Path, number: int, work: Path) -> dict[str, str]:
    """What is on a disk of a package, by tar, qemu-img and debugfs."""
    subprocess.run(["tar", "-xf", package, "-C", work], check=True)
    raw = work / f"{number}.raw"
    vmdk = work / f"two-1-disk{number}.vmdk"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, raw], check=True)
    assert subprocess.run(["e2fsck", "-f", "-n", raw], capture_output=True).returncode == 0
    listed = subprocess.run(["debugfs", "-R", "ls -p /", raw], capture_output=True, text=True, check=True).stdout
    names = [line.split("/")[5] for line in listed.splitlines() if line.count("/") > 5]
    return {
        name: subprocess.run(["debugfs", "-R", f"cat {name}", raw], capture_output=True, text=True, check=True).stdout
        for name in names
        if name not in (".", "..", "lost+found")
    }


def test_what_the_build_writes_is_packed_and_nothing_given_changes(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest("written")
    package = made(plan, guest, monkeypatch, tmp_path / "dist")
    before = package.read_bytes()
    assert files_on(package, 2, tmp_path) == {"after": "written"}
    assert files_on(package, 3, tmp_path) == {"before": "given", "after": "written"}
    assert files_on(package, 4, tmp_path) == {"before": "given"}
    assert made(plan, guest, monkeypatch, tmp_path / "dist").read_bytes() == before
    assert guest.builds == 1, "the second time all disks are from the cache"


def test_another_image_is_another_build(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = data_disks.inputs(plan)
    assert set(key) == {"2", "3"}, "one that is not mounted is not built"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "boot.raw", tmp_path / "given.qcow2"], check=True)
    assert data_disks.inputs(plan)["2"] == key["2"]
    assert data_disks.inputs(plan)["3"] != key["3"]


def test_a_password_of_the_build_s_on_a_further_disk_is_found(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_apt, "passwords", lambda payload: [b"canary-0d9f"])
    with pytest.raises(GuestError, match=r"a disk is not sealed:\n  /after holds what no copy may: canary 1"):
        made(plan, Guest("x canary-0d9f x"), monkeypatch, tmp_path / "dist")
    assert not (tmp_path / "dist/two-1.ova").exists()
