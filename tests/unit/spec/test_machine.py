"""What an appliance asks for beside what a profile takes: refused from text, with what would work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec.appliance import Appliance, from_table
from ovfbuild.spec.machine import machine, refusals
from ovfbuild.spec.plan import resolve
from ovfbuild.spec.profile import load_profile, profile_names


def appliance(tmp_path: Path, **table: Any) -> Appliance:
    base = {"name": "hello", "version": "1.0.0", "base": {"distribution": "debian:12"}}
    return from_table({**base, **table}, tmp_path)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_takes_what_asks_for_nothing(tmp_path: Path, name: str) -> None:
    profile = load_profile(name)
    made = machine(appliance(tmp_path), profile)
    assert list(refusals(appliance(tmp_path), profile)) == []
    assert made.disk_controller == profile.disk.controller
    assert [one.name for one in made.adapters] == [profile.nic.model]
    assert (made.drive is not None, made.transport) == (profile.cdrom.present, profile.transport)


def test_what_is_asked_for_goes_before_the_profile(tmp_path: Path) -> None:
    asked = appliance(
        tmp_path,
        hardware={"controller": "nvme", "cdrom": False},
        networks=[{"name": "a", "model": "e1000e"}, {"name": "b"}],
    )
    made = machine(asked, load_profile("vsphere"))
    assert made.disk_controller == "nvme"
    assert [one.name for one in made.adapters] == ["e1000e", "vmxnet3"]
    assert made.transport == ("com.vmware.guestInfo",), "no ISO without a drive for it"


@pytest.mark.parametrize(
    ("profile", "table", "said"),
    [
        (
            "virtualbox",
            {"hardware": {"controller": "pvscsi"}},
            (
                'hardware.controller: profile virtualbox has no \'pvscsi\'; write "ahci" or "lsilogic" or '
                '"lsilogicsas" or "nvme" or "ide", or package for openstack or proxmox or '
                "vsphere or workstation"
            ),
        ),
        (
            "portable",
            {"networks": [{"name": "a"}, {"name": "b", "model": "virtio"}]},
            (
                "networks[1].model: profile portable has no 'virtio'; write \"e1000\", or package for openstack or "
                "virtualbox"
            ),
        ),
        (
            "vcloud",
            {"hardware": {"firmware": "efi"}},
            (
                "hardware.firmware: profile vcloud can't take it; leave it out, or package for libvirt or openstack or "
                "portable or proxmox or virtualbox or vsphere or workstation"
            ),
        ),
        (
            "virtualbox",
            {"hardware": {"cpus": 4, "cores_per_socket": 2}},
            (
                "hardware.cores_per_socket: profile virtualbox can't take it; leave it out, or package for libvirt or "
                "openstack or portable or vsphere or workstation"
            ),
        ),
    ],
)
def test_what_it_can_t_take_is_refused_with_what_would_work(
    tmp_path: Path, profile: str, table: dict[str, Any], said: str
) -> None:
    asked = appliance(tmp_path, **table)
    assert list(refusals(asked, load_profile(profile))) == [said]
    with pytest.raises(UsageError) as caught:
        resolve(asked, {}, profiles=[profile])
    assert caught.value.message == f"appliance.toml: {said}"


def test_two_packages_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "vsphere"\n')
    asked = appliance(tmp_path, profiles=["vsphere", "./mine.toml"])
    assert asked.profiles == ("vsphere", str(tmp_path / "mine.toml"))
    with pytest.raises(UsageError, match="give packages of one name; change a suffix"):
        resolve(asked, {})
    both = resolve(asked, {}, profiles=["vsphere", "vsphere:7.0"])
    assert [one.suffix for one in both.profiles] == ["-vsphere", "-vsphere-7.0"]


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        ({"secure_boot": True}, 'hardware.secure_boot: is a matter of EFI; write firmware = "efi" too'),
        ({"secure_boot": True, "firmware": "efi"}, "hardware: has secure_boot, but a base made here has no signed"),
        ({"cpus": 4, "cores_per_socket": 3}, "hardware.cores_per_socket: 3 does not divide cpus, which is 4"),
        ({"video_memory": "1 GiB"}, "hardware.video_memory: 1 GiB is too much"),
        ({"controller": "sata"}, "hardware.controller: 'sata' is not a choice here"),
    ],
)
def test_hardware_that_can_t_be(tmp_path: Path, hardware: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        appliance(tmp_path, hardware=hardware)
    assert any(line.startswith(f"appliance.toml: {said}") for line in caught.value.message.split("\n"))
