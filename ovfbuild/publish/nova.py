"""Envelope → image properties: what Nova is told of the machine that a disk in Glance needs.

A disk in Glance has no descriptor beside it, so what the descriptor declares stands in image properties: Glance's
"Useful image properties", with the values that Nova's `nova/objects/fields.py` takes. Those of its driver for vSphere
(`vmware_*`) are on VMDKs alone, which go to such clouds: on an image for KVM they would be wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ovfbuild.formats.envelope import Envelope, Item
from ovfbuild.spec import guest_os
from ovfbuild.spec.catalogue import ControllerName, NicName, controller, nic
from ovfbuild.verify.hardware import HOST_RESOURCE

DiskFormat = Literal["qcow2", "vmdk"]
_MEMORY, _NIC, _DISK = 4, 10, 17
"""CIM_ResourceAllocationSettingData.ResourceType."""
_UNITS = {"mb": 20, "megabytes": 20, "gb": 30, "gigabytes": 30, "kb": 10, "kilobytes": 10}
"""Powers of two in the words of OVF 0.9."""

_VMWARE_ADAPTERS = {
    "ahci": "ide",
    "ide": "ide",
    "lsilogic": "lsiLogic",
    "lsilogicsas": "lsiLogicsas",
    "pvscsi": "paraVirtual",
}
"""vmware_adaptertype (Nova, virt/vmwareapi/constants.py). It has no AHCI: what knows that knows IDE."""
_VMWARE_NICS = {
    "e1000": "VirtualE1000",
    "e1000e": "VirtualE1000e",
    "vmxnet3": "VirtualVmxnet3",
    "pcnet": "VirtualPCNet32",
}


@dataclass(frozen=True)
class Machine:
    """What an image says of the machine that it needs."""

    min_ram: int
    """MiB."""
    properties: Mapping[str, str]
    """Sorted by key."""
    notes: tuple[str, ...]
    """What Nova can't be told."""


@dataclass(frozen=True)
class Volume:
    """A disk that a machine gets beside the one that it boots from: made of an image, or empty."""

    image: str | None
    """The image's id."""
    gibibytes: int


def block_devices(volumes: Sequence[Volume]) -> Mapping[str, str]:
    """Properties of the image to boot from by which Nova makes the other disks with the machine, as Cinder's volumes.

    Nova writes the same on its own snapshots: `_get_image_defined_bdms` in nova/compute/api.py reads them, a JSON text
    in the words of nova/block_device.py. A volume outlives its machine, so that nobody's data go by surprise.
    """
    devices = [
        {
            "source_type": "image" if one.image else "blank",
            "destination_type": "volume",
            **({"image_id": one.image} if one.image else {}),
            "volume_size": one.gibibytes,
            "boot_index": -1,
            "delete_on_termination": False,
        }
        for one in volumes
    ]
    return {"bdm_v2": "True", "block_device_mapping": json.dumps(devices)} if devices else {}


def data_disk(envelope: Envelope, disk_format: DiskFormat, disk_id: str) -> Mapping[str, str]:
    """The properties of an image that no machine boots from: a driver for VMware has to know how to read it."""
    if disk_format == "qcow2":
        return {}
    return {"hypervisor_type": "vmware", **_vmware_disk(_controller(envelope, disk_id))}


def _vmware_disk(bus: ControllerName | None) -> dict[str, str]:
    adapter = _VMWARE_ADAPTERS.get(bus or "", "lsiLogic")
    return {"vmware_disktype": "streamOptimized", "vmware_adaptertype": adapter}


def machine(envelope: Envelope, disk_format: DiskFormat, disk_id: str) -> Machine:
    """The machine of a descriptor that boots from a disk, for a cloud on KVM (qcow2) or on VMware (VMDK)."""
    bus, card = _controller(envelope, disk_id), _nic(envelope)
    told = {"architecture": "x86_64"} | dict(_firmware(envelope)) | dict(_system(envelope))
    notes: list[str] = []
    if disk_format == "qcow2":
        told |= {"hw_machine_type": "pc" if bus == "ide" else "q35"}
        disk_words = {"hw_disk_bus": "ide"} if bus == "ide" else controller(bus).glance if bus else {}
        nic_words = nic(card).glance if card else {}
        told |= {**disk_words, **nic_words}
        notes += _untold("disk controller", bus and controller(bus).title, disk_words, "hw_disk_bus")
    else:
        told |= {"hypervisor_type": "vmware", **_vmware_disk(bus)}
        nic_words = {"hw_vif_model": _VMWARE_NICS[card]} if card in _VMWARE_NICS else {}
        told |= nic_words
        if (guest := envelope.virtual_system.operating_system) and guest.os_type:
            told["vmware_ostype"] = guest.os_type
    if _first(envelope, _NIC):
        notes += _untold("network card", card and nic(card).title, nic_words, "hw_vif_model")
    return Machine(_memory(envelope), dict(sorted(told.items())), tuple(notes))


def _untold(what: str, title: str | None, words: Mapping[str, str], key: str) -> Iterator[str]:
    if not words:
        yield (
            f"Nova has no word for the {what} of the descriptor ({title or 'an unknown model'}): the cloud's default "
            f"takes its place, unless the target's image_properties have {key}"
        )


def _controller(envelope: Envelope, disk_id: str) -> ControllerName | None:
    """What a disk hangs on, in the catalogue's words."""
    disk = _item_of(envelope, disk_id)
    items = {item.instance_id: item for item in envelope.virtual_system.hardware.items}
    parent = items.get(disk.parent) if disk and disk.parent is not None else None
    if parent is None:
        return None
    words = (parent.resource_sub_type or "").lower().split()
    for name in get_args(ControllerName):
        entry = controller(name)
        same = entry.resource_subtype.lower() in words if entry.resource_subtype else parent.resource_type == 5
        if entry.resource_type == parent.resource_type and same:
            found: ControllerName = name
            return found
    return None


def _nic(envelope: Envelope) -> NicName | None:
    """The first network card's model: Nova gives all of them the same one."""
    card = _first(envelope, _NIC)
    words = (card.resource_sub_type or "").lower().split() if card else []
    found: NicName | None = next((n for n in get_args(NicName) if nic(n).resource_subtype.lower() in words), None)
    return found


def _first(envelope: Envelope, kind: int) -> Item | None:
    """The first item of a type."""
    return next((item for item in envelope.virtual_system.hardware.items if item.resource_type == kind), None)


def _item_of(envelope: Envelope, disk_id: str) -> Item | None:
    """The item of a disk of the package."""
    for item in envelope.virtual_system.hardware.items:
        named = HOST_RESOURCE.fullmatch(item.host_resource or "")
        if item.resource_type == _DISK and named and named[1] == disk_id:
            return item
    return None


def _memory(envelope: Envelope) -> int:
    """MiB; 0, which is no demand, where it is not told (DSP0243, 8.3: units as in DSP0004, Annex C)."""
    item = _first(envelope, _MEMORY)
    if item is None or not item.virtual_quantity:
        return 0
    units = (item.allocation_units or "byte * 2^20").lower()
    power = re.search(r"2\s*\^\s*(\d{1,2})", units)
    shift = int(power[1]) if power else _UNITS.get(units.strip(), 0)
    return (item.virtual_quantity << shift) >> 20


def _firmware(envelope: Envelope) -> Iterator[tuple[str, str]]:
    hardware = envelope.virtual_system.hardware
    yield "hw_firmware_type", "uefi" if envelope.virtual_system.efi else "bios"
    if any(one.key == "bootOptions.efiSecureBootEnabled" and one.value == "true" for one in hardware.configs):
        yield "os_secure_boot", "required"


def _system(envelope: Envelope) -> Iterator[tuple[str, str]]:
    """The guest's system in libosinfo's words, as far as the descriptor's agree on one."""
    said = envelope.virtual_system.operating_system
    if said is None:
        return
    yield "os_type", "windows" if (said.os_type or "").lower().startswith("win") else "linux"
    entries = {name: entry for name in guest_os.names() if (entry := guest_os.find(name))}
    exact = [name for name, entry in entries.items() if entry.description == said.description]
    likely = exact or [name for name, entry in entries.items() if said.os_type and said.os_type in entry.vmw.values()]
    distros = {entries[name].distro for name in likely}
    if len(distros) == 1 and (distro := distros.pop()):
        yield "os_distro", distro
        if exact and (version := exact[0].partition(":")[2]):
            yield "os_version", version
        users = {entries[name].user for name in likely}
        if len(users) == 1 and (user := users.pop()):
            yield "os_admin_user", user
