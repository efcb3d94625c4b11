"""Each rule, with a descriptor that breaks it and one that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ovfbuild.formats.envelope import (
    Configuration,
    DeploymentOptionSection,
    Disk,
    DiskSection,
    Envelope,
    EulaSection,
    File,
    Item,
    Network,
    NetworkSection,
    OperatingSystemSection,
    ProductSection,
    Property,
    System,
    Unread,
    VirtualHardwareSection,
    VirtualSystem,
)
from ovfbuild.verify import rules

MEMBERS = {"a.ovf": 100, "a.mf": 50, "a-disk1.vmdk": 1000}
ITEMS = (
    Item(1, "2 CPUs", 3, virtual_quantity=2),
    Item(2, "memory", 4, allocation_units="byte * 2^20", virtual_quantity=1024),
    Item(3, "SATA", 20, "vmware.sata.ahci"),
    Item(4, "IDE", 5),
    Item(5, "disk", 17, host_resource="ovf:/disk/vmdisk1", parent=3, address_on_parent="0"),
    Item(6, "CD", 15, parent=4, required=False),
    Item(7, "NIC", 10, "E1000", connection="VM Network"),
)
GOOD = Envelope(
    files=(File("file1", "a-disk1.vmdk", 1000),),
    disk_section=DiskSection((Disk("vmdisk1", 100, file_ref="file1", populated_size=65536),)),
    network_section=NetworkSection((Network("VM Network"),)),
    virtual_system=VirtualSystem(
        id="a",
        name="a",
        operating_system=OperatingSystemSection(96, os_type="debian10_64Guest"),
        hardware=VirtualHardwareSection(System("a", "vmx-13"), ITEMS, transport=("iso",)),
        products=(ProductSection("p", properties=(Property("user-data"),)),),
    ),
)


def system(**changes: object) -> Envelope:
    return replace(GOOD, virtual_system=replace(GOOD.virtual_system, **changes))  # type: ignore[arg-type]


def hardware(**changes: object) -> Envelope:
    return system(hardware=replace(GOOD.virtual_system.hardware, **changes))  # type: ignore[arg-type]


def item(number: int, **changes: object) -> Envelope:
    """GOOD with one item changed."""
    items = (replace(one, **changes) if one.instance_id == number else one for one in ITEMS)  # type: ignore[arg-type]
    return hardware(items=tuple(items))


def more(*items: Item) -> Envelope:
    return hardware(items=(*ITEMS, *items))


def found(envelope: Envelope, members: dict[str, int] = MEMBERS) -> set[str]:
    return {finding.rule for finding in rules.judge(envelope, members)}


def test_nothing_is_found_in_a_good_one() -> None:
    assert found(GOOD) == set()


BROKEN: dict[str, Callable[[], Envelope]] = {
    "file-size": lambda: replace(GOOD, files=(File("file1", "a-disk1.vmdk", 999),)),
    "file-missing": lambda: replace(GOOD, files=(File("file1", "b.vmdk", 999),)),
    "two-names": lambda: system(name="other"),
    "system-identifier": lambda: hardware(system=System(None, "vmx-13")),
    "hardware-family": lambda: hardware(system=System("a", "virtualbox-2.2")),
    "os-missing": lambda: system(operating_system=None),
    "instance-id": lambda: item(7, instance_id=6),
    "parent-missing": lambda: item(6, parent=99),
    "item-required": lambda: more(Item(8, "video", 24)),
    "item-variants": lambda: item(1, bound="min"),
    "one-of-each": lambda: more(Item(8, "4 CPUs", 3, virtual_quantity=4)),
    "memory-units": lambda: item(2, allocation_units="byte"),
    "controllers": lambda: more(Item(8, "SATA 1", 20, "vmware.sata.ahci")),
    "sata-subtype": lambda: item(3, resource_sub_type=None),
    "ide-subtype": lambda: item(4, resource_sub_type="PIIX4"),
    "scsi-unit-7": lambda: more(Item(8, "SCSI", 6, "lsilogic"), Item(9, "tape", 16, parent=8, address_on_parent="7")),
    "file-ref": lambda: replace(GOOD, disk_section=DiskSection((Disk("vmdisk1", 100, file_ref="none"),))),
    "disk-id": lambda: replace(GOOD, disk_section=DiskSection((Disk("vm disk", 100, file_ref="file1"),))),
    "host-resource": lambda: item(5, host_resource="ovf:/disk/none"),
    "disk-unattached": lambda: item(5, host_resource="ovf:/disk/none"),
    "disk-parent": lambda: item(5, parent=None),
    "connection": lambda: item(7, connection="other"),
    "nic-model": lambda: item(7, resource_sub_type="VmxNet3"),
    "transport-cdrom": lambda: hardware(items=tuple(one for one in ITEMS if one.resource_type != 15)),
    "product-class": lambda: system(products=(ProductSection("p", properties=(Property("k"),), class_="c"),)),
    "eula": lambda: system(eulas=(EulaSection("text"),)),
    "deployment-options": lambda: replace(
        GOOD, deployment_options=DeploymentOptionSection((Configuration("small", "Small", "few"),))
    ),
    "unknown-element": lambda: replace(GOOD, unread=(Unread("{urn:x}Thing", 9, True),)),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_is_broken_by_its_descriptor(rule: str) -> None:
    assert rule in found(BROKEN[rule]())


def test_an_optional_device_is_taken() -> None:
    assert found(more(Item(8, "video", 24, required=False))) == set()


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ({"a.ovf": 100, "b.mf": 50, "a-disk1.vmdk": 1000}, "names-differ"),
        ({"a.ovf": 100, "a-disk1.vmdk": 1000, "a.mf": 50}, "manifest-order"),
    ],
)
def test_names_and_order_in_the_archive(members: dict[str, int], rule: str) -> None:
    assert found(GOOD, members) == {rule}


def test_files_out_of_order() -> None:
    envelope = replace(GOOD, files=(*GOOD.files, File("file2", "a-disk0.vmdk", 1)))
    members = {"a.ovf": 100, "a.mf": 50, "a-disk0.vmdk": 1, "a-disk1.vmdk": 1000}
    assert found(envelope, members) == {"archive-order"}


@pytest.mark.parametrize(
    ("disk", "rule"),
    [
        (Disk("d", 100, "byte * 2^20"), None),
        (Disk("d", 1, "byte * 2^30"), "capacity-differs"),
        (Disk("d", 99, "byte * 2^20"), "capacity-differs"),
        (Disk("d", 100 << 20, "byte"), "capacity-units"),
        (Disk("d", 100 << 20, None), "capacity-units"),
        (Disk("d", 100, populated_size=200 << 20), "populated-size"),
        (Disk("d", 100, populated_size=1), "populated-small"),
        (Disk("d", 100, populated_size=65536), None),
    ],
)
def test_what_is_said_of_a_disk(disk: Disk, rule: str | None) -> None:
    findings = list(rules.judge_disk(disk, "a.vmdk", capacity=100 << 20, populated=65536))
    assert [finding.rule for finding in findings] == ([rule] if rule else [])
