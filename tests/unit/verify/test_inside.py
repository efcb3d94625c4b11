"""What `inspect` reads, of packages that others made too."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovfbuild import packages
from ovfbuild.cli import render
from tests.unit.verify import broken, kit


@pytest.fixture
def exported(tmp_path: Path) -> dict[str, Any]:
    """VirtualBox 7.2's export as OVF 1.0; its disks are not there."""
    for end in ("ovf", "mf"):
        shutil.copy(kit.DESCRIPTORS / f"virtualbox-ovf10.{end}", tmp_path / f"desktop.{end}")
    return packages.inspect(tmp_path / "desktop.ovf")


def test_what_virtualbox_exported(exported: dict[str, Any]) -> None:
    system = exported["system"]
    assert (system["cpus"], system["memory"], system["firmware"]) == (2, 2 << 30, "efi")
    assert (system["os"], system["os_id"], system["vbox_os_type"]) == ("Ubuntu_64", 94, "Ubuntu_64")
    assert [disk["capacity"] for disk in exported["disks"]] == [64 << 20, 128 << 20]
    assert [(disk["controller"], disk["address"]) for disk in exported["disks"]] == [
        ("sataController0", "0"),
        ("sataController0", "1"),
    ]
    assert exported["networks"] == ["Internal", "NAT"]
    assert [one["model"] for one in system["items"] if one["kind"] == "NIC"] == ["E1000", None]
    assert exported["product"]["name"] == "Desktop"
    assert exported["annotation"] == "Made by hand"
    assert exported["eulas"] == ["Do as you like.\n"]
    assert exported["manifest"] == {"file": "desktop.mf", "algorithms": ["SHA1"], "files": 3}
    assert exported["signature"] is None
    json.dumps(exported)


def test_the_same_machine_as_ovf_2(exported: dict[str, Any], tmp_path: Path) -> None:
    """What is called otherwise in OVF 2.0 is the same."""
    shutil.copy(kit.DESCRIPTORS / "virtualbox-ovf20.ovf", tmp_path / "two.ovf")
    two = packages.inspect(tmp_path / "two.ovf")
    for key in ("cpus", "memory", "firmware"):
        assert two["system"][key] == exported["system"][key], key
    assert [disk["capacity"] for disk in two["disks"]] == [disk["capacity"] for disk in exported["disks"]]
    kinds = [[one["kind"] for one in said["system"]["items"]] for said in (exported, two)]
    assert sorted(map(str, kinds[0])) == sorted(map(str, kinds[1]))


def test_it_is_shown(exported: dict[str, Any]) -> None:
    shown = render.package(exported)
    for line in (
        "  product    Desktop 1.0",
        "  hardware   2 CPUs, 2 GiB, efi",
        "  device     NIC: Ethernet adapter on 'NAT', E1000, on NAT",
        "  annotation Made by hand",
        "  licence    Do as you like.",
        "  manifest   desktop.mf: SHA1 of 3 files",
    ):
        assert line in shown.splitlines()


def test_choices_signature_and_what_is_not_read(tmp_path: Path) -> None:
    made = broken.DESCRIPTOR["deployment-options"]()
    made = broken.text("</VirtualSystem>", '<x:Thing xmlns:x="urn:x"/></VirtualSystem>', made)
    made = replace(made, change=broken.more(kit.Entry("a.cert", b"no certificate\n")))
    said = packages.inspect(made.pack(tmp_path / "a.ova"))
    assert said["configurations"] == [{"id": "s", "label": "l", "description": "d", "default": False}]
    assert "error" in said["signature"]
    assert [one["element"] for one in said["not_read"]] == ["{urn:x}Thing"]


def test_properties_are_told_by_the_keys_that_the_guest_finds(tmp_path: Path) -> None:
    made = broken.text("<ProductSection>", '<ProductSection ovf:class="com.example" ovf:instance="1">')
    secret = '<Property ovf:key="pin" ovf:type="string" ovf:password="true" ovf:value="1234"/></ProductSection>'
    said = packages.inspect(broken.text("</ProductSection>", secret, made).pack(tmp_path / "a.ova"))
    assert [one["key"] for one in said["properties"]] == ["com.example.user-data.1", "com.example.pin.1"]
    assert "1234" not in render.package(said)


def test_several_machines(tmp_path: Path) -> None:
    begin, end = kit.small().text.index(b"  <VirtualSystem "), kit.small().text.index(b"</Envelope>")
    machine = kit.small().text[begin:end]
    other = machine.replace(b"<Name>a<", b"<Name>b<").replace(b"Quantity>2<", b"Quantity>8<")
    both = b'<VirtualSystemCollection ovf:id="c"><Info/>' + machine + other + b"</VirtualSystemCollection>"
    made = replace(kit.small(), text=kit.small().text.replace(machine, both))
    said = packages.inspect(made.pack(tmp_path / "a.ova"))
    assert [said["system"]["cpus"], *(one["cpus"] for one in said["further_systems"])] == [2, 8]
    assert "  name       b" in render.package(said).splitlines()


def test_nothing_of_it_steers_the_terminal(tmp_path: Path) -> None:
    made = broken.text("<Name>a<", "<Name>a\u202e\u009b31m<")
    shown = render.package(packages.inspect(made.pack(tmp_path / "a.ova")))
    assert all(one.isprintable() or one == "\n" for one in shown)
