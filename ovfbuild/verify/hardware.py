"""The rules about the virtual hardware's items, and the tree that they make."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ovfbuild.formats.envelope import Envelope, Item
from ovfbuild.verify.verdict import Finding

_CPU, _MEMORY, _IDE, _SCSI, _NIC, _CDROM, _DISK, _SATA = 3, 4, 5, 6, 10, 15, 17, 20
_VIRTUALBOX_KNOWS = {3, 4, 5, 6, 10, 14, 15, 17, 20, 23, 35}
"""ResourceTypes that VirtualBox's ovfreader.cpp reads; any other must be optional."""
_VIRTUALBOX_MEMORY = {"MegaBytes", "MB", "byte * 2^20", "GigaBytes", "GB", "byte * 2^30"}
_MOST_IDE = 2
_DEEPEST = 64
"""Items on items: no machine has more."""
HOST_RESOURCE = re.compile(r"(?:ovf:/|ovf:/?/|/)disk/(.+)")
"""As DSP0243 8.3 has it, and as OVF 0.9 and some tools had it."""
_PORTABLE_HOST_RESOURCE = re.compile(r"ovf:/disk/.+")
_NICS: dict[str, tuple[str, ...]] = {
    "e1000": (),
    "e1000e": ("virtualbox",),
    "vmxnet3": ("virtualbox",),
    "pcnet32": ("proxmox",),
    "virtio": ("proxmox",),
}
"""Models of NICs, and the importers that take another one for them."""


def judge(envelope: Envelope) -> Iterator[Finding]:
    """Every rule about the items."""
    items = envelope.virtual_system.hardware.items
    yield from _tree(envelope)
    yield from _amounts(envelope)
    yield from _controllers(envelope)
    networks = envelope.network_section.networks if envelope.network_section else ()
    disks = envelope.disk_section.disks if envelope.disk_section else ()
    names, disk_ids = {network.name for network in networks}, {disk.disk_id for disk in disks}
    for item in items:
        if item.resource_type not in _VIRTUALBOX_KNOWS and item.required:
            text = f'ResourceType {item.resource_type} needs ovf:required="false"'
            yield _about(item, "item-required", text)
        if item.bound:
            yield _about(item, "item-variants", "ovf:bound is read as further hardware")
        if item.resource_type == _DISK:
            yield from _disk(item, disk_ids)
        elif item.resource_type == _CDROM and "/file/" in (item.host_resource or ""):
            yield _about(item, "cd-file", f"{item.host_resource} is in the drive")
        elif item.resource_type == _NIC:
            yield from _nic(item, names)


def _tree(envelope: Envelope) -> Iterator[Finding]:
    hardware = envelope.virtual_system.hardware
    # The same item may be there once for each configuration.
    counted = Counter(item.instance_id for item in hardware.items if not (item.bound or item.configuration))
    for number, times in counted.items():
        if times > 1 or number == 0:
            text = f"InstanceID {number} is {'that of System' if number == 0 else 'used twice'}"
            yield Finding("instance-id", "VirtualHardwareSection", text, line=hardware.line)
    parents = {item.instance_id: item.parent for item in hardware.items}
    for item in hardware.items:
        if item.parent is not None and item.parent not in parents:
            yield _about(item, "parent-missing", f"Parent {item.parent} is no item")
        if _loops(item.instance_id, parents):
            yield _about(item, "parent-loop", "it hangs on itself")


def _loops(number: int, parents: dict[int, int | None]) -> bool:
    """Whether an item is its own ancestor."""
    at = parents.get(number)
    for _ in range(_DEEPEST):
        if at is None or at == number:
            return at is not None
        at = parents.get(at)
    return False


def _amounts(envelope: Envelope) -> Iterator[Finding]:
    hardware = envelope.virtual_system.hardware
    for kind, what in ((_CPU, "CPU"), (_MEMORY, "memory")):
        of_kind = [i for i in hardware.items if i.resource_type == kind and not (i.bound or i.configuration)]
        if len(of_kind) != 1 or not of_kind[0].virtual_quantity:
            text = f"there must be one {what} item with a quantity, not {len(of_kind)}"
            yield Finding("one-of-each", "VirtualHardwareSection", text, line=hardware.line)
    for item in hardware.items:
        unit = item.allocation_units
        if item.resource_type != _MEMORY or unit == "byte * 2^20":
            continue
        text = f"AllocationUnits is {unit!r}, not “byte * 2^20”"
        if unit in ("MegaBytes", "MB"):
            yield _about(item, "memory-units-old", text)
        else:
            only = ("proxmox", "incus") + (() if unit in _VIRTUALBOX_MEMORY else ("virtualbox",))
            yield _about(item, "memory-units", text, only)


def _controllers(envelope: Envelope) -> Iterator[Finding]:
    hardware = envelope.virtual_system.hardware
    ide = [item for item in hardware.items if item.resource_type == _IDE]
    for item in ide[_MOST_IDE:]:
        yield _about(item, "controllers", f"it is one IDE controller of {len(ide)}")
    scsi = {item.instance_id for item in hardware.items if item.resource_type == _SCSI}
    for item in hardware.items:
        model = (item.resource_sub_type or "").lower()
        if item.resource_type == _SATA and not model:
            yield _about(item, "sata-subtype", "a controller of type 20 needs a subtype")
        if _nvme(item):
            yield _about(item, "nvme", f"the controller is {item.resource_sub_type}")
        if item.resource_type == _SCSI and model == "virtualscsi":
            yield _about(item, "scsi-model", f"the controller is {item.resource_sub_type}")
        if item.resource_type == _IDE and model == "piix4":
            yield _about(item, "ide-subtype", "the subtype PIIX4 is VirtualBox's own")
        if item.parent in scsi and item.address_on_parent == "7":
            yield _about(item, "scsi-unit-7", "unit 7 is the SCSI controller itself")


def _nvme(item: Item) -> bool:
    return item.resource_type == _SATA and "nvme" in (item.resource_sub_type or "").lower()


def _disk(item: Item, disks: set[str]) -> Iterator[Finding]:
    match = HOST_RESOURCE.fullmatch(item.host_resource or "")
    if not match or match[1] not in disks:
        text = f"HostResource {item.host_resource!r} is no disk of the DiskSection (ovf:/disk/ID)"
        yield _about(item, "host-resource", text)
    elif not _PORTABLE_HOST_RESOURCE.fullmatch(item.host_resource or ""):
        yield _about(item, "host-resource-old", f"HostResource is {item.host_resource}")
    if item.parent is None:
        yield _about(item, "disk-parent", "it hangs on no controller")


def _nic(item: Item, networks: set[str]) -> Iterator[Finding]:
    if item.connection not in networks:
        yield _about(item, "connection", f"{item.connection!r} is no network")
    only = _NICS.get((item.resource_sub_type or "").lower(), ("virtualbox", "proxmox"))
    if only:
        model = item.resource_sub_type or "not said"
        text = f"the model is {model}: where it is not known another one takes its place"
        yield _about(item, "nic-model", text, only)


def _about(item: Item, rule: str, text: str, only: tuple[str, ...] | None = None) -> Finding:
    return Finding(rule, f"item {item.instance_id} ({item.element_name[:60]})", text, line=item.line, only=only)
