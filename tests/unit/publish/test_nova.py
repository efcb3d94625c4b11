"""What Nova is told of a descriptor's machine: of every profile's, and of what others write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild.formats import ovf_reader
from ovfbuild.formats.envelope import Envelope, Item, OperatingSystemSection
from ovfbuild.publish import nova
from tests.unit.test_describe import descriptor
from tests.unit.test_glance import NOVA
from tests.unit.verify.kit import ITEMS

DISK = Item(5, "disk", 17, host_resource="ovf:/disk/vmdisk1", parent=3, address_on_parent="0")


def envelope(tmp_path: Path, profile: str = "portable", /, **table: object) -> Envelope:
    (found,) = ovf_reader.read(descriptor(tmp_path, profile, **table)).envelopes
    return found


def with_items(one: Envelope, *items: Item) -> Envelope:
    system = one.virtual_system
    return replace(one, virtual_system=replace(system, hardware=replace(system.hardware, items=items)))


@pytest.mark.parametrize(
    "profile", ["portable", "vsphere", "virtualbox", "proxmox", "libvirt", "workstation", "vcloud"]
)
def test_every_profile_is_told_in_words_that_nova_has(tmp_path: Path, profile: str) -> None:
    told = nova.machine(envelope(tmp_path, profile), "qcow2", "vmdisk1")
    for key, values in NOVA.items():
        assert told.properties.get(key, next(iter(values))) in values
    assert {"architecture": "x86_64", "os_type": "linux"}.items() <= told.properties.items()
    assert not [key for key in told.properties if key.startswith("vmware_")]
    assert (told.min_ram, list(told.properties)) == (1024, sorted(told.properties))


def test_what_a_descriptor_says_of_the_system(tmp_path: Path) -> None:
    told = nova.machine(envelope(tmp_path), "qcow2", "vmdisk1").properties
    assert (told["os_distro"], told["os_version"], told["os_admin_user"]) == ("debian", "12", "debian")
    assert (told["hw_firmware_type"], told["hw_machine_type"]) == ("bios", "q35")
    base = {"image": "https://x.example/a.qcow2", "checksum": f"sha256:{'0' * 64}", "os": "debian:12"}
    hardware = {"firmware": "efi", "secure_boot": True}
    safe = nova.machine(envelope(tmp_path, "vsphere", base=base, hardware=hardware), "qcow2", "vmdisk1")
    assert (safe.properties["hw_firmware_type"], safe.properties["os_secure_boot"]) == ("uefi", "required")


def test_a_version_is_not_guessed(tmp_path: Path) -> None:
    """Several systems share VMware's word: the family is known, the version is not."""
    one = envelope(tmp_path)
    system = replace(one.virtual_system, operating_system=OperatingSystemSection(94, os_type="ubuntu64Guest"))
    told = nova.machine(replace(one, virtual_system=system), "qcow2", "vmdisk1").properties
    assert told["os_distro"] == "ubuntu"
    assert "os_version" not in told
    system = replace(one.virtual_system, operating_system=OperatingSystemSection(1, os_type="windows9Server64Guest"))
    told = nova.machine(replace(one, virtual_system=system), "qcow2", "vmdisk1").properties
    assert (told["os_type"], "os_distro" in told) == ("windows", False)


@pytest.mark.parametrize(
    ("controller", "words"),
    [
        (
            Item(3, "SCSI", 6, "VirtualSCSI"),
            {"hw_disk_bus": "scsi", "hw_scsi_model": "vmpvscsi", "hw_machine_type": "q35"},
        ),
        (Item(3, "SATA", 20, "AHCI vmware.sata.ahci"), {"hw_disk_bus": "sata"}),
        (Item(3, "IDE", 5, "PIIX4"), {"hw_disk_bus": "ide", "hw_machine_type": "pc"}),
    ],
)
def test_controllers_of_others(tmp_path: Path, controller: Item, words: dict[str, str]) -> None:
    found = nova.machine(with_items(envelope(tmp_path), controller, DISK), "qcow2", "vmdisk1")
    assert words.items() <= found.properties.items()
    assert found.notes == ()


def test_what_nova_has_no_word_for_is_said(tmp_path: Path) -> None:
    odd = with_items(envelope(tmp_path), Item(3, "SCSI", 6, "lsilogic"), DISK, Item(7, "NIC", 10, "RTL8139"))
    found = nova.machine(odd, "qcow2", "vmdisk1")
    assert {"hw_disk_bus", "hw_vif_model"}.isdisjoint(found.properties)
    assert [note.partition(" (")[2].partition(")")[0] for note in found.notes] == [
        "LSI Logic, parallel SCSI",
        "an unknown model",
    ]


def test_a_cloud_on_vmware_is_told_in_its_own_words(tmp_path: Path) -> None:
    told = nova.machine(with_items(envelope(tmp_path), *ITEMS), "vmdk", "vmdisk1").properties
    expected = {"hypervisor_type": "vmware", "vmware_adaptertype": "ide", "vmware_disktype": "streamOptimized"}
    assert expected.items() <= told.items()
    assert told["hw_vif_model"] == "VirtualE1000"
    assert {"hw_disk_bus", "hw_machine_type"}.isdisjoint(told)


@pytest.mark.parametrize(
    ("units", "quantity", "mib"),
    [
        ("byte * 2^20", 512, 512),
        ("MegaBytes", 512, 512),
        ("byte*2^30", 2, 2048),
        ("GB", 2, 2048),
        ("byte", 1 << 29, 512),
    ],
)
def test_memory_in_every_unit(tmp_path: Path, units: str, quantity: int, mib: int) -> None:
    memory = Item(2, "memory", 4, allocation_units=units, virtual_quantity=quantity)
    assert nova.machine(with_items(envelope(tmp_path), memory), "qcow2", "vmdisk1").min_ram == mib
    assert nova.machine(with_items(envelope(tmp_path)), "qcow2", "vmdisk1").min_ram == 0


def test_other_disks_are_volumes_that_stay(tmp_path: Path) -> None:
    told = nova.block_devices([nova.Volume("an-id", 2), nova.Volume(None, 3)])
    assert told["bdm_v2"] == "True"
    common = {"destination_type": "volume", "boot_index": -1, "delete_on_termination": False}
    assert json.loads(told["block_device_mapping"]) == [
        {"source_type": "image", "image_id": "an-id", "volume_size": 2, **common},
        {"source_type": "blank", "volume_size": 3, **common},
    ]
    assert nova.block_devices([]) == {}


def test_a_data_disk_is_told_of_its_own_controller(tmp_path: Path) -> None:
    scsi, ide = Item(3, "SCSI", 6, "VirtualSCSI"), Item(4, "IDE", 5, "PIIX4")
    other = Item(6, "disk 2", 17, host_resource="ovf:/disk/vmdisk2", parent=4, address_on_parent="0")
    one = with_items(envelope(tmp_path), scsi, ide, DISK, other)
    assert nova.data_disk(one, "qcow2", "vmdisk2") == {}
    told = nova.data_disk(one, "vmdk", "vmdisk2")
    assert (told["vmware_disktype"], told["vmware_adaptertype"]) == ("streamOptimized", "ide")
    assert nova.machine(one, "vmdk", "vmdisk1").properties["vmware_adaptertype"] == "paraVirtual"
    assert nova.machine(one, "qcow2", "vmdisk2").properties["hw_machine_type"] == "pc"
