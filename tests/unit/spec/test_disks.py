"""[[disks]]: what is taken, what the guest is told of it, and where each hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec.appliance import Appliance, from_table
from ovfbuild.spec.machine import machine, refusals
from ovfbuild.spec.plan import disk_inputs, resolve
from ovfbuild.spec.profile import load_profile


def appliance(tmp_path: Path, *disks: dict[str, Any], **table: Any) -> Appliance:
    (tmp_path / "data.raw").write_bytes(bytes(512))
    base = {"name": "hello", "version": "1.0.0", "base": {"distribution": "debian:12"}}
    return from_table({**base, **table, "disks": list(disks)}, tmp_path)


def test_what_is_mounted_is_ext4_and_the_guest_is_told_of_it(tmp_path: Path) -> None:
    made = appliance(
        tmp_path,
        {"size": "1 GiB", "mount": "/srv/data/inner/"},
        {"image": "data.raw", "mount": "/srv/data"},
        {"size": "2 GiB"},
        {"size": "2 GiB", "filesystem": "ext4", "label": "spare"},
    )
    assert [one.made_as for one in made.disks] == ["ext4", None, None, "ext4"]
    (step,) = [one.to_json() for one in resolve(made, {}).steps if one.kind == "disks"]
    assert list(step["mounts"]) == [
        {"number": 3, "path": "/srv/data", "grow": False},
        {"number": 2, "path": "/srv/data/inner", "grow": True},
    ]


def test_without_disks_nothing_of_the_plan_changes(tmp_path: Path) -> None:
    """A cached disk of an appliance without them stays one."""
    plain, beside = resolve(appliance(tmp_path), {}), resolve(appliance(tmp_path, {"size": "1 GiB"}), {})
    assert disk_inputs(plain) == disk_inputs(beside)
    assert [one.kind for one in plain.steps] == ["system"]


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        ({}, 'disks[0]: says neither image nor size; for example size = "20 GiB"'),
        ({"size": "1 GiB", "image": "data.raw"}, "disks[0].size: stands beside an image; keep one of the two"),
        ({"image": "data.raw", "label": "x"}, "disks[0].label: is for an empty disk; leave it out"),
        ({"size": "1 GiB", "label": "x"}, 'disks[0].label: is for a file system; add filesystem = "ext4" or a mount'),
        ({"size": "1 MiB"}, "disks[0].size: 1 MiB is too small; at least 16 MiB"),
        ({"size": "1 GiB", "mount": "srv"}, "disks[0].mount: 'srv' is not a place for a disk"),
        ({"size": "1 GiB", "mount": "/a b"}, "disks[0].mount: '/a b' is not a place for a disk"),
        ({"size": "1 GiB", "mount": "/srv/../etc"}, "disks[0].mount: '/srv/../etc' is not a place for a disk"),
        ({"size": "1 GiB", "mount": "/"}, "disks[0].mount: '/' is part of the system itself; choose a folder"),
        ({"size": "1 GiB", "mount": "/usr/local"}, "disks[0].mount: '/usr/local' is part of the system itself"),
        ({"size": "1 GiB", "mount": "/srv", "filesystem": "xfs"}, "disks[0].filesystem: 'xfs' is not a choice here"),
        ({"size": "1 GiB", "mount": "/srv", "label": "a b"}, "disks[0].label: 'a b' is not a label"),
        ({"image": "none.raw"}, "disks[0].image: 'none.raw' does not exist"),
    ],
)
def test_what_a_disk_can_t_be(tmp_path: Path, disk: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        appliance(tmp_path, disk)
    assert any(line.startswith(f"appliance.toml: {said}") for line in caught.value.message.split("\n"))


def test_two_disks_need_two_places(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="disks: has the mount '/srv' twice; each disk needs its own"):
        appliance(tmp_path, {"size": "1 GiB", "mount": "/srv"}, {"size": "1 GiB", "mount": "/srv/"})


def test_each_has_a_unit_and_the_cd_rom_drive_is_second_on_ide(tmp_path: Path) -> None:
    made = appliance(tmp_path, *({"size": "1 GiB"},) * 2, hardware={"controller": "ide"})
    found = machine(made, load_profile("portable"))
    assert [(one.bus, one.unit) for one in found.disks] == [(0, 0), (1, 0), (1, 1)]
    assert found.drive is not None
    assert (found.drive.bus, found.drive.unit) == (0, 1)


def test_unit_7_of_scsi_is_the_controller(tmp_path: Path) -> None:
    made = appliance(tmp_path, *({"size": "1 GiB"},) * 9)
    assert [one.unit for one in machine(made, load_profile("vsphere")).disks] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]


def test_more_than_have_room_are_refused(tmp_path: Path) -> None:
    made = appliance(tmp_path, *({"size": "1 GiB"},) * 3, hardware={"controller": "ide"})
    assert list(refusals(made, load_profile("portable"))) == [
        (
            "disks: IDE of profile portable has room for 3 disks, the first of which it boots from; leave some out, "
            "or choose another hardware.controller"
        )
    ]
    without = appliance(tmp_path, *({"size": "1 GiB"},) * 3, hardware={"controller": "ide", "cdrom": False})
    assert list(refusals(without, load_profile("portable"))) == []


def test_a_profile_may_take_fewer_than_there_is_room_for(tmp_path: Path) -> None:
    seven = appliance(tmp_path, *({"size": "1 GiB"},) * 6)
    (said,) = refusals(seven, load_profile("proxmox"))
    assert said.startswith("disks: SATA (AHCI) of profile proxmox has room for 6 disks")
    assert list(refusals(seven, load_profile("workstation"))) == []
