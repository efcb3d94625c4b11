"""Image properties by the words that Nova and Glance take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from ovfbuild import glance
from ovfbuild.errors import UsageError
from ovfbuild.spec import catalogue
from ovfbuild.spec.appliance import load
from ovfbuild.spec.guest_os import guest_os
from ovfbuild.spec.profile import parse_profile

GIB = 1 << 30
PROFILE = """extends = "portable"
[disk]
controller = "virtio-scsi"
controllers = ["virtio-scsi", "ahci", "ide", "nvme"]
[nic]
model = "virtio"
models = ["virtio", "e1000"]
[glance]
machine_type = "q35"
"""
NOVA = {
    # nova/objects/fields.py: DiskBus, SCSIModel, VIFModel.
    "hw_disk_bus": {"fdc", "ide", "sata", "scsi", "usb", "virtio", "xen", "lxc", "uml"},
    "hw_scsi_model": {"buslogic", "ibmvscsi", "lsilogic", "lsisas1068", "lsisas1078", "virtio-scsi", "vmpvscsi"},
    "hw_vif_model": {"e1000", "e1000e", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3"},
}
Image = Callable[..., glance.GlanceImage]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    def make(tables: str = "", *, base: str = 'distribution = "debian:12"', **more: object) -> glance.GlanceImage:
        text = f'name = "hello"\nversion = "1.0"\n[base]\n{base}\n{tables}\n'
        (tmp_path / "appliance.toml").write_text(text)
        appliance = load(tmp_path / "appliance.toml")
        profile = parse_profile("mine", PROFILE)
        how: dict[str, object] = {"capacity": 4 * GIB, **more}
        return glance.image(appliance, profile, guest_os(appliance.base.guest_os), **how)  # type: ignore[arg-type]

    return make


def test_what_an_appliance_is_told_as(image: Image) -> None:
    assert image().to_json() == {
        "name": "hello-1.0",
        "disk_format": "qcow2",
        "container_format": "bare",
        "min_disk": 4,
        "min_ram": 1024,
        "architecture": "x86_64",
        "hw_disk_bus": "scsi",
        "hw_firmware_type": "bios",
        "hw_machine_type": "q35",
        "hw_scsi_model": "virtio-scsi",
        "hw_vif_model": "virtio",
        "os_admin_user": "debian",
        "os_distro": "debian",
        "os_type": "linux",
        "os_version": "12",
    }


def test_the_agent_is_said_where_it_is(image: Image) -> None:
    assert "hw_qemu_guest_agent" not in image().properties
    assert image('[system]\npackages = ["qemu-guest-agent=1:7.2"]').properties["hw_qemu_guest_agent"] == "yes"
    assert image(installed={"qemu-guest-agent"}).properties["hw_qemu_guest_agent"] == "yes"


def test_firmware_and_processor(image: Image) -> None:
    made = image('[hardware]\nfirmware = "efi"\ncpus = 4\ncores_per_socket = 2').properties
    assert (made["hw_firmware_type"], made["hw_cpu_cores"]) == ("uefi", "2")
    assert "os_secure_boot" not in made


def test_a_disk_is_never_larger_than_the_flavor_s(image: Image) -> None:
    assert image(capacity=4 * GIB + 512).min_disk == 5
    assert image('[hardware]\nmemory = "1536 MiB"').min_ram == 1536


def test_a_system_that_is_not_known_is_not_named(image: Image, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    made = image(base='image = "disk.raw"').properties
    assert made["os_type"] == "linux"
    assert not {"os_distro", "os_version", "os_admin_user"} & made.keys()
    ubuntu = image(base='image = "disk.raw"\nos = "ubuntu:24.04"').properties
    assert (ubuntu["os_distro"], ubuntu["os_version"], ubuntu["os_admin_user"]) == ("ubuntu", "24.04", "ubuntu")


def test_what_openstack_has_no_word_for(image: Image) -> None:
    with pytest.raises(UsageError, match=r"hardware\.controller: OpenStack has no NVMe"):
        image('[hardware]\ncontroller = "nvme"')


def test_every_word_is_one_of_nova_s() -> None:
    controllers = [catalogue.controller(name).glance for name in get_args(catalogue.ControllerName)]
    nics = [catalogue.nic(name).glance for name in get_args(catalogue.NicName)]
    for words in (*controllers, *nics):
        for key, word in words.items():
            assert word in NOVA[key]
    assert all(nics)


def test_nothing_binds_it_to_one_driver(image: Image) -> None:
    made = image()
    assert not [key for key in made.properties if key.startswith("vmware_")]
    assert all(isinstance(value, str) for value in made.properties.values())
    assert json.loads(made.dump()) == made.to_json()
