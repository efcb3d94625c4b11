"""The descriptor of an appliance: judged by ovfbuild's rules, and by DMTF's schema where it is at hand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.describe import PackedDisk, PackedIcon, describe
from ovfbuild.formats import ovf, ovf_reader
from ovfbuild.formats.envelope import Property
from ovfbuild.spec.appliance import from_table
from ovfbuild.spec.guest_os import guest_os
from ovfbuild.spec.machine import refusals
from ovfbuild.spec.profile import load_profile, profile_names
from ovfbuild.verify import rules

DISK = PackedDisk("hello-1.0.0-disk1.vmdk", file_size=264704, capacity=100 << 20, populated_size=262144)
MEMBERS = {"hello-1.0.0.ovf": 1, "hello-1.0.0.mf": 1, "hello-1.0.0-disk1.vmdk": 264704}
WITH_ICON = {**MEMBERS, "hello-1.0.0-icon.png": 68}


def descriptor(tmp_path: Path, profile: str = "portable", /, **table: Any) -> bytes:
    base: Mapping[str, Any] = {"name": "hello", "version": "1.0.0", "base": {"distribution": "debian:12"}}
    appliance = from_table({**base, **table}, tmp_path)
    system = guest_os(appliance.base.guest_os)
    assert list(refusals(appliance, load_profile(profile))) == []
    icon = PackedIcon("hello-1.0.0-icon.png", 68, 1, 1) if "icon" in load_profile(profile).takes else None
    disks = [DISK, *(replace(DISK, href=f"hello-1.0.0-disk{n}.vmdk") for n in range(2, 2 + len(appliance.disks)))]
    return ovf.dump(describe(appliance, load_profile(profile), system, disks, appliance.told, icon))


def properties_of(tmp_path: Path, table: Mapping[str, Any]) -> Sequence[Property]:
    """Those beside cloud-init's."""
    return ovf_reader.parse(descriptor(tmp_path, **table)).virtual_system.products[0].properties[6:]


PROPERTIES: list[dict[str, Any]] = [
    {"key": "dm.host", "label": "Deployment Manager", "description": "Where it is", "required": True, "max": 200},
    {"key": "dm.port", "type": "int", "default": 5672, "min": 1, "max": 65535},
    {"key": "count", "type": "int"},
    {"key": "dm.password", "type": "password", "default": "s3cret <&>", "min": 4, "required": True},
    {"key": "tls", "type": "bool", "default": True},
    {"key": "plain", "type": "bool"},
    {"key": "address", "type": "ip"},
    {"key": "name", "type": "hostname", "default": "a.example.org"},
    {"key": "level", "choices": ["info", "de bug"], "default": "info"},
    {"key": "maybe", "choices": ["x"]},
]
PRODUCTS: list[dict[str, Any]] = [
    {
        "class": "com.example.db",
        "instance": instance,
        "name": "Database",
        "vendor": "Example",
        "vendor_url": "https://example.org/",
        "version": "1.2",
        "full_version": "1.2.3-4",
        "url": "https://example.org/db",
        "properties": [
            {"key": "password", "type": "password", "category": "Access", "min": 8, "required": True},
            {"key": "port", "type": "int", "default": 5432},
            {"key": "user", "category": "Access", "default": "db"},
            {"key": "mode", "choices": ["a", "b"], "category": "Tuning"},
        ],
    }
    for instance in ("1", "2")
]
VIRTUALBOX_SCHEMA = """\
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  targetNamespace="http://www.virtualbox.org/ovf/machine">
  <xs:import namespace="http://schemas.dmtf.org/ovf/envelope/1"/>
  <xs:element name="Machine" substitutionGroup="ovf:Section">
    <xs:complexType><xs:complexContent><xs:extension base="ovf:Section_Type">
      <xs:sequence><xs:any namespace="##targetNamespace" processContents="skip" maxOccurs="unbounded"/></xs:sequence>
    </xs:extension></xs:complexContent></xs:complexType>
  </xs:element>
</xs:schema>
"""
"""vbox:Machine as what it is to DSP8023, a section of somebody else's ("extensions at Content level should be done by
defining new members of the ovf:Section substitution group")."""
BOTH_SCHEMAS = """\
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:import namespace="http://schemas.dmtf.org/ovf/envelope/1" schemaLocation="{schema}"/>
  <xs:import namespace="http://www.virtualbox.org/ovf/machine" schemaLocation="vbox.xsd"/>
</xs:schema>
"""
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "efi": {"hardware": {"firmware": "efi"}},
    "serial": {"hardware": {"serial": True}},
    "properties": {"properties": PROPERTIES},
    "products": {"products": PRODUCTS},
    "everything": {
        "summary": "says hello",
        "vendor": "Example",
        "url": "https://example.org/",
        "annotation": "A <note> & more",
        "networks": [{"name": "one"}, {"name": "two"}],
        "hardware": {"cpus": 4, "memory": "2 GiB"},
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_no_importer_has_anything_against_it(tmp_path: Path, name: str) -> None:
    text = descriptor(tmp_path, **VARIANTS[name])
    assert ovf.validate(text) == []
    assert [one for one in rules.judge(ovf_reader.parse(text), MEMBERS) if one.level != "note"] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_dmtf_s_schema_validates_it(tmp_path: Path, name: str, needs: Callable[..., None]) -> None:
    needs("xmllint")
    beside = Path(__file__).parents[3] / "shared/schemas/dsp8023-1.1.1/dsp8023_1.1.1.xsd"
    schema = Path(os.environ.get("OVFBUILD_DSP8023") or beside)
    if not schema.exists():
        pytest.skip("DMTF's DSP8023 is not at hand (OVFBUILD_DSP8023 names it)")
    (tmp_path / "vbox.xsd").write_text(VIRTUALBOX_SCHEMA)
    (tmp_path / "all.xsd").write_text(BOTH_SCHEMAS.format(schema=schema))
    texts = [descriptor(tmp_path, **VARIANTS[name])]
    if name == "plain":
        texts += [descriptor(tmp_path, profile, **table) for profile, table in combinations()]
    for number, text in enumerate(texts):
        (tmp_path / f"{number:03}.ovf").write_bytes(text)
    judged = subprocess.run(
        ["xmllint", "--nonet", "--noout", "--schema", tmp_path / "all.xsd", *sorted(tmp_path.glob("*.ovf"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr


BESIDE: dict[str, Any] = {
    "properties": PROPERTIES,
    "products": PRODUCTS,
    "deployment_options": [
        {"id": "small", "label": "Small", "description": "for a few", "default": True},
        {"id": "large", "label": "Large", "description": "for many", "cpus": 8, "memory": "8 GiB"},
    ],
    "vmware": {"config": {"cpuHotAddEnabled": True}, "extra_config": {"disk.EnableUUID": "TRUE"}},
}
"""What a descriptor says beside the hardware."""


def combinations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every profile and version with every controller, model and feature that it takes, with and without the rest."""
    for name in every_profile():
        profile = load_profile(name)
        asked: dict[str, Any] = {feature: True for feature in ("serial", "usb") if feature in profile.takes}
        asked |= {"video_memory": "8 MiB"} if "video_memory" in profile.takes else {}
        asked |= {"cpus": 4, "cores_per_socket": 2} if "cores_per_socket" in profile.takes else {}
        networks = [{"name": model, "model": model} for model in profile.nic.models]
        secure = [("efi", True)] if "secure_boot" in profile.takes else []
        firmwares = [("bios", False), *([("efi", False)] if "efi" in profile.takes else []), *secure]
        for controller, (firmware, signed), cdrom, bare in product(
            profile.disk.controllers, firmwares, (True, False), (True, False)
        ):
            hardware = {"controller": controller, "firmware": firmware, "cdrom": cdrom, "secure_boot": signed}
            more = {} if bare else {**BESIDE, "networks": networks}
            table = {"base": {"image": __file__}, "hardware": {**({} if bare else asked), **hardware}, **more}
            yield name, table
            if not bare:
                yield name, {**table, "disks": [{"size": "1 GiB"}] * 2}


def every_profile() -> list[str]:
    """Those that ship, and each version of each."""
    names = profile_names()
    return [*names, *(f"{name}:{version}" for name in names for version in load_profile(name).versions)]


def test_every_combination_that_a_profile_takes_is_a_good_descriptor(tmp_path: Path) -> None:
    """All of them where DMTF's schema is at hand, else each seventh: no key has seven choices."""
    found = list(combinations())
    assert len(found) > 1000
    for name, table in found if os.environ.get("OVFBUILD_DSP8023") else found[::7]:
        text = descriptor(tmp_path, name, **table)
        assert ovf.validate(text) == [], (name, table)
        members = {
            **MEMBERS,
            **{f"hello-1.0.0-disk{n}.vmdk": 264704 for n in range(2, 2 + len(table.get("disks", ())))},
        }
        members |= {"hello-1.0.0-icon.png": 68} if "icon" in load_profile(name).takes else {}
        judged = {one.rule for one in rules.judge(ovf_reader.parse(text), members) if one.level != "note"}
        meant = {"deployment-options"} if "deployment_options" in load_profile(name).takes else set()
        meant |= {"extra-config"} if "vmware" in load_profile(name).takes else set()
        assert judged - meant <= set(load_profile(name).waives), (name, table)


def test_the_virtualbox_machine_says_what_the_items_say(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "hardware": {"firmware": "efi", "serial": True, "usb": True, "video_memory": "32 MiB", "controller": "nvme"},
        "networks": [{"name": "front"}, {"name": "back", "model": "virtio"}],
    }
    text = descriptor(tmp_path, "virtualbox", **table)
    assert text == descriptor(tmp_path, "virtualbox", **table), "no random number in it"
    envelope = ovf_reader.parse(text)
    machine = envelope.virtual_system.machine
    assert machine is not None
    assert machine.get("OSType") == "Debian12_64"
    assert envelope.virtual_system.efi
    assert ovf.dump(envelope) == text
    image = machine.first("StorageControllers", "StorageController", "AttachedDevice", "Image")
    assert envelope.disk_section is not None
    assert image is not None
    assert image.get("uuid") == f"{{{envelope.disk_section.disks[0].vbox_uuid}}}"
    network = machine.first("Hardware", "Network")
    assert network is not None
    assert [(card.get("type"), card.children[0].name.rpartition("}")[2]) for card in network.children] == [
        ("82545EM", "NAT"),
        ("virtio", "InternalNetwork"),
    ]
    assert b"vmw:osType" not in text


def test_what_is_vmware_s_own_is_written_where_it_is_read(tmp_path: Path) -> None:
    asked = {"cpus": 4, "cores_per_socket": 2, "video_memory": "8 MiB", "firmware": "efi"}
    hardware = ovf_reader.parse(descriptor(tmp_path, "vsphere:8.0", hardware=asked)).virtual_system.hardware
    assert hardware.items[0].cores_per_socket == 2
    (video,) = [item for item in hardware.items if item.resource_type == 24]
    assert [(one.key, one.value) for one in video.configs] == [("useAutoDetect", "false"), ("videoRamSizeInKB", "8192")]
    assert not video.required
    assert b"<vmw:" not in descriptor(tmp_path, "vcloud")
    assert b" vmw:" not in descriptor(tmp_path, "vcloud")


def test_it_says_what_the_portable_descriptor_says(tmp_path: Path) -> None:
    """Section by section what eight importers took: AHCI, E1000, an optional CD-ROM on IDE, vmx-14."""
    envelope = ovf_reader.parse(descriptor(tmp_path))
    hardware = envelope.virtual_system.hardware
    kinds = [(item.resource_type, item.resource_sub_type, item.required) for item in hardware.items]
    assert kinds == [
        (3, None, True),
        (4, None, True),
        (20, "vmware.sata.ahci", True),
        (5, None, True),
        (17, None, True),
        (15, "vmware.cdrom.remotepassthrough", False),
        (10, "E1000", True),
    ]
    assert hardware.transport == ("iso", "com.vmware.guestInfo")
    assert hardware.system is not None
    assert hardware.system.virtual_system_type == "vmx-14"
    assert [p.key for p in envelope.virtual_system.products[0].properties] == [
        "instance-id",
        "hostname",
        "public-keys",
        "user-data",
        "seedfrom",
        "password",
    ]


def test_efi_is_said_so_that_importers_may_skip_it(tmp_path: Path) -> None:
    (config,) = ovf_reader.parse(descriptor(tmp_path, **VARIANTS["efi"])).virtual_system.hardware.configs
    assert (config.key, config.value, config.required) == ("firmware", "efi", False)


def test_a_licence_is_packed_and_warned_of(tmp_path: Path) -> None:
    (tmp_path / "eula.txt").write_text("You may.\n")
    envelope = ovf_reader.parse(descriptor(tmp_path, eula="eula.txt"))
    assert envelope.virtual_system.eulas[0].license.strip() == "You may."
    assert [one.rule for one in rules.judge(envelope, MEMBERS) if one.level != "note"] == ["eula"]


def test_properties_stand_behind_cloud_init_s_with_types_that_everybody_reads(tmp_path: Path) -> None:
    found = properties_of(tmp_path, VARIANTS["properties"])
    assert [(one.key, one.type, one.value, one.qualifiers) for one in found] == [
        ("dm.host", "string", "", "MaxLen(200)"),
        ("dm.port", "sint32", "5672", None),
        ("count", "sint32", None, None),
        ("dm.password", "string", "", "MinLen(4)"),
        ("tls", "boolean", "true", None),
        ("plain", "boolean", "false", None),
        ("address", "string", "", "MaxLen(45)"),
        ("name", "string", "a.example.org", "MaxLen(253)"),
        ("level", "string", "info", 'ValueMap{"info","de bug"}'),
        ("maybe", "string", "", 'ValueMap{"","x"}'),
    ]
    assert all(one.user_configurable for one in found)
    assert [one.key for one in found if one.password] == ["dm.password"]
    assert (found[0].label, found[0].description) == ("Deployment Manager", "Where it is")
    assert (found[1].label, found[1].description) == ("dm.port", "(1 to 65535)")
    assert b"s3cret" not in descriptor(tmp_path, **VARIANTS["properties"])


def test_each_product_has_its_class_and_its_keys_frame_the_property_s(tmp_path: Path) -> None:
    own, one, two = ovf_reader.parse(
        descriptor(tmp_path, properties=PROPERTIES, products=PRODUCTS)
    ).virtual_system.products
    assert (own.class_, own.instance) == (None, None)
    assert [p.key for p in own.properties[6:]] == [p["key"] for p in PROPERTIES], "not the products'"
    assert (one.class_, one.instance, two.instance) == ("com.example.db", "1", "2")
    assert (one.product, one.vendor, one.vendor_url) == ("Database", "Example", "https://example.org/")
    assert (one.version, one.full_version, one.product_url) == ("1.2", "1.2.3-4", "https://example.org/db")
    found = [(p.key, p.category, p.type, p.password, p.qualifiers) for p in one.properties]
    assert found == [
        ("port", None, "sint32", False, None),
        ("password", "Access", "string", True, "MinLen(8)"),
        ("user", "Access", "string", False, None),
        ("mode", "Tuning", "string", False, 'ValueMap{"","a","b"}'),
    ], "what has no category comes first, since the next would take it"


def test_deployment_options_are_written_on_request_and_warned_of(tmp_path: Path) -> None:
    envelope = ovf_reader.parse(descriptor(tmp_path, "vsphere", **BESIDE))
    assert envelope.deployment_options is not None
    assert [(one.id, one.default) for one in envelope.deployment_options.configurations] == [
        ("small", True),
        ("large", False),
    ]
    amounts = [item for item in envelope.virtual_system.hardware.items if item.resource_type in (3, 4)]
    assert [(item.instance_id, item.configuration, item.virtual_quantity) for item in amounts] == [
        (1, None, 2),
        (1, "large", 8),
        (2, None, 1024),
        (2, "large", 8192),
    ], "small is what [hardware] says"
    (warned,) = [one for one in rules.judge(envelope, WITH_ICON) if one.rule == "deployment-options"]
    for importer in ("VirtualBox", "Proxmox VE", "virt-v2v", "Xen Orchestra", "Incus"):
        assert importer in str(warned)
    assert b"DeploymentOption" not in descriptor(tmp_path, "portable", **BESIDE)


def test_vmware_s_settings_are_optional_elements(tmp_path: Path) -> None:
    table = {"vmware": {"config": {"cpuHotAddEnabled": True}, "extra_config": {"svga.autodetect": "TRUE", "n": 1}}}
    hardware = ovf_reader.parse(descriptor(tmp_path, "vsphere", **table)).virtual_system.hardware
    assert [(one.key, one.value, one.required) for one in hardware.configs] == [("cpuHotAddEnabled", "true", False)]
    assert [(one.key, one.value, one.required) for one in hardware.extra_configs] == [
        ("svga.autodetect", "TRUE", False),
        ("n", "1", False),
    ]
    assert b"cpuHotAdd" not in descriptor(tmp_path, "virtualbox", **table)


def test_an_icon_is_a_file_of_the_package(tmp_path: Path) -> None:
    envelope = ovf_reader.parse(descriptor(tmp_path, "workstation"))
    icon = envelope.virtual_system.products[0].icon
    assert icon is not None
    (file,) = [one for one in envelope.files if one.id == icon.file_ref]
    assert (file.href, file.size, icon.mime_type) == ("hello-1.0.0-icon.png", 68, "image/png")
    assert {one.rule for one in rules.judge(envelope, WITH_ICON) if one.level != "note"} == {"nic-model"}


def test_each_disk_hangs_on_a_unit_and_virtualbox_knows_it_by_its_uuid(tmp_path: Path) -> None:
    table = {"disks": [{"size": "1 GiB"}] * 2, "hardware": {"controller": "ide"}}
    envelope = ovf_reader.parse(descriptor(tmp_path, "virtualbox", **table))
    items = {item.element_name: item for item in envelope.virtual_system.hardware.items}
    places = [
        (name, next(n for n, c in items.items() if c.instance_id == items[name].parent), items[name].address_on_parent)
        for name in ("Hard Disk 1", "CD/DVD Drive 1", "Hard Disk 2", "Hard Disk 3")
    ]
    assert places == [
        ("Hard Disk 1", "IDE Controller 0", "0"),
        ("CD/DVD Drive 1", "IDE Controller 0", "1"),
        ("Hard Disk 2", "IDE Controller 1", "0"),
        ("Hard Disk 3", "IDE Controller 1", "1"),
    ]
    machine = envelope.virtual_system.machine
    assert machine is not None
    (controller,) = machine.every("StorageController")
    assert controller.get("PortCount") == "2"
    found = [
        (one.get("type"), one.get("port"), one.get("device"), [image.get("uuid") for image in one.every("Image")])
        for one in controller.every("AttachedDevice")
    ]
    assert envelope.disk_section is not None
    uuids = [f"{{{disk.vbox_uuid}}}" for disk in envelope.disk_section.disks]
    assert len(set(uuids)) == 3
    assert found == [
        ("HardDisk", "0", "0", [uuids[0]]),
        ("HardDisk", "1", "0", [uuids[1]]),
        ("HardDisk", "1", "1", [uuids[2]]),
        ("DVD", "0", "1", []),
    ]
