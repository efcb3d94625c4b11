"""What is packed for an importer, and what it has to make of it.

The words that an importer uses are written down here again, as it was seen to say them: what is asked for is the
project's, and a mistake in descriptors/hardware.toml must not hide itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovfbuild.spec.appliance import Appliance, from_table
from ovfbuild.spec.guest_os import guest_os
from ovfbuild.spec.machine import Machine, machine
from ovfbuild.spec.profile import Profile, load_profile, profile_names
from tests.importers.imported import Imported

EXAMPLES = Path(__file__).parents[2] / "examples"
MIB = 1 << 20
FURTHER = (16, 33)
"""MiB of the empty disks of those that have several: each of another size, so that their order shows."""


@dataclass(frozen=True)
class Case:
    """An appliance.toml of `folder` with `changes`, packed with one profile."""

    title: str
    folder: Path
    profile: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, Any]:
        table = tomllib.loads((self.folder / "appliance.toml").read_text(encoding="utf-8"))
        return (
            table
            | {key: value for key, value in self.changes.items() if key != "hardware"}
            | {"hardware": table.get("hardware", {}) | self.changes.get("hardware", {})}
        )

    @property
    def appliance(self) -> Appliance:
        return from_table(self.table, self.folder)

    @property
    def machine(self) -> Machine:
        return machine(self.appliance, load_profile(self.profile))


def cases(importer: str) -> list[Case]:
    """Every example, and every profile with all that it takes, of the profiles that are meant for the importer."""
    found: list[Case] = []
    for folder in sorted(one.parent for one in EXAMPLES.glob("*/appliance.toml")):
        names = tomllib.loads((folder / "appliance.toml").read_text(encoding="utf-8")).get("profiles", ["portable"])
        found += [Case(folder.name, folder, name) for name in names if _is_for(load_profile(name), importer)]
    for name in profile_names():
        profile = load_profile(name)
        if _is_for(profile, importer):
            found += _variants(profile)
            found += [Case("hello", EXAMPLES / "hello", f"{name}:{version}") for version in profile.versions]
    return found


def _is_for(profile: Profile, importer: str) -> bool:
    return any(importer in one for one in profile.importers)


def _variants(profile: Profile) -> Iterator[Case]:
    """Each controller, once with as little as there can be and once with everything; firmware by turns."""
    hello = EXAMPLES / "hello"
    networks = [{"name": f"net {model}", "model": model} for model in profile.nic.models]
    extras: dict[str, Any] = {one: True for one in ("serial", "usb") if one in profile.takes}
    extras |= {"cores_per_socket": 2} if "cores_per_socket" in profile.takes else {}
    for controller in profile.disk.controllers:
        lean = {"controller": controller, "cdrom": False, "cpus": 1, "memory": "512 MiB"}
        rich = {"controller": controller, "cdrom": True, "cpus": 4, "memory": "3 GiB", **extras}
        rich |= {"firmware": "efi"} if "efi" in profile.takes else {}
        yield Case(f"{controller} alone", hello, profile.name, {"hardware": lean})
        more = {"networks": networks, "disks": [{"size": f"{size} MiB"} for size in FURTHER]}
        yield Case(f"{controller} and all else", hello, profile.name, {"hardware": rich, **more})


_IN_VIRTUALBOX = {
    # VirtualBox has no paravirtual SCSI controller, and takes another without a word.
    "ahci": "IntelAhci", "lsilogic": "LsiLogic", "lsilogicsas": "LsiLogicSas", "pvscsi": "LsiLogic",
    "nvme": "NVMe", "ide": "PIIX4",
    "e1000": "82545EM", "virtio": "virtio", "pcnet": "Am79C973",
}  # fmt: skip
_IN_VSPHERE = {
    "ahci": "VirtualAHCIController", "lsilogic": "VirtualLsiLogicController",
    "lsilogicsas": "VirtualLsiLogicSASController", "pvscsi": "ParaVirtualSCSIController",
    "nvme": "VirtualNVMEController", "ide": "VirtualIDEController",
    "e1000": "VirtualE1000", "e1000e": "VirtualE1000e", "vmxnet3": "VirtualVmxnet3", "pcnet": "VirtualPCNet32",
}  # fmt: skip


def in_virtualbox(case: Case) -> Imported:
    """Without a vbox:Machine it goes by the CIM number of the system, makes no EFI and, of an item, no drive."""
    profile, asked = load_profile(case.profile), case.appliance.hardware
    system = guest_os(case.appliance.base.guest_os)
    own = profile.virtualbox is not None
    by_number = {80: "RedHat_64", 94: "Ubuntu_64", 96: "Debian_64", 101: "Linux_64"}
    drive = _IN_VIRTUALBOX[profile.cdrom.controller]
    return Imported(
        cpus=asked.cpus,
        memory=asked.memory // MIB,
        os_type=system.virtualbox if own else by_number[system.cim],
        firmware=asked.firmware if own else "bios",
        disks=tuple(_IN_VIRTUALBOX[place.name] for place in case.machine.disks),
        drives=(drive,) if own and case.machine.drive else (),
        nics=tuple(
            f"{_IN_VIRTUALBOX[one.name]}/{(one.network if number else 'nat') if own else 'bridged'}"
            for number, one in enumerate(case.machine.adapters)
        ),
    )


def in_vsphere(case: Case) -> Imported:
    """The simulator connects to the only network that it has, and does not read vmw:Config."""
    profile, asked = load_profile(case.profile), case.appliance.hardware
    system = guest_os(case.appliance.base.guest_os)
    os_type = system.vmware(profile.hardware_version) if profile.vmware else None
    return Imported(
        cpus=asked.cpus,
        memory=asked.memory // MIB,
        os_type=os_type or "otherGuest",
        firmware="",
        disks=tuple(_IN_VSPHERE[place.name] for place in case.machine.disks),
        drives=("VirtualIDEController",) if case.machine.drive else (),
        nics=tuple(f"{_IN_VSPHERE[one.name]}/VM Network" for one in case.machine.adapters),
    )
