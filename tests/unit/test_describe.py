"""The descriptor of an appliance: judged by ovfbuild's rules, and by DMTF's schema where it is at hand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.describe import PackedDisk, describe
from ovfbuild.formats import ovf, ovf_reader
from ovfbuild.formats.envelope import Property
from ovfbuild.spec.appliance import from_table
from ovfbuild.spec.guest_os import guest_os
from ovfbuild.spec.machine import refusals
from ovfbuild.spec.profile import load_profile, profile_names
from ovfbuild.verify import rules

DISK = PackedDisk("hello-1.0.0-disk1.vmdk", file_size=264704, capacity=100 << 20, populated_size=262144)
MEMBERS = {"hello-1.0.0.ovf": 1, "hello-1.0.0.mf": 1, "hello-1.0.0-disk1.vmdk": 264704}


def descriptor(tmp_path: Path, profile: str = "portable", /, **table: Any) -> bytes:
    base: Mapping[str, Any] = {"name": "hello", "version": "1.0.0", "base": {"distribution": "debian:12"}}
    appliance = from_table({**base, **table}, tmp_path)
    system = guest_os(appliance.base.guest_os)
    assert list(refusals(appliance, load_profile(profile))) == []
    return ovf.dump(describe(appliance, load_profile(profile), system, DISK, appliance.properties))


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


def combinations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every profile with every controller, model and feature that it takes."""
    for name in [*profile_names(), "vsphere:8.0"]:
        profile = load_profile(name)
        asked: dict[str, Any] = {feature: True for feature in ("serial", "usb") if feature in profile.takes}
        asked |= {"video_memory": "8 MiB"} if "video_memory" in profile.takes else {}
        asked |= {"cpus": 4, "cores_per_socket": 2} if "cores_per_socket" in profile.takes else {}
        networks = [{"name": model, "model": model} for model in profile.nic.models]
        for controller in profile.disk.controllers:
            for firmware in ("bios", "efi") if "efi" in profile.takes else ("bios",):
                for cdrom in (True, False):
                    hardware = {**asked, "controller": controller, "firmware": firmware, "cdrom": cdrom}
                    yield name, {"hardware": hardware, "networks": networks}
        if "secure_boot" in profile.takes:
            yield name, {"base": {"image": __file__}, "hardware": {"firmware": "efi", "secure_boot": True}}


def test_every_combination_that_a_profile_takes_is_a_good_descriptor(tmp_path: Path) -> None:
    found = list(combinations())
    assert len(found) > 80
    for name, table in found:
        text = descriptor(tmp_path, name, **table)
        assert ovf.validate(text) == [], (name, table)
        judged = {finding.rule for finding in rules.judge(ovf_reader.parse(text), MEMBERS)}
        assert judged <= set(load_profile(name).waives), (name, table)


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
