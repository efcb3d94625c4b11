"""The importers' rules: what a descriptor must say so that everybody takes it.

Each rule is a function that yields findings, and has an id under which docs/formats.md tells its source
(reports of VirtualBox, VMware, Proxmox VE, virt-v2v, Xen Orchestra, CloudStack and Incus).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from ovfbuild.formats.envelope import Disk, Envelope, Item
from ovfbuild.verify.verdict import Finding

_CPU, _MEMORY, _IDE, _SCSI, _NIC, _CDROM, _DISK, _SATA = 3, 4, 5, 6, 10, 15, 17, 20
_VIRTUALBOX_KNOWS = {3, 4, 5, 6, 10, 14, 15, 17, 20, 23, 35}
"""ResourceTypes that VirtualBox's ovfreader.cpp reads; any other must be optional."""
_UNITS = re.compile(r"byte\s*\*\s*2\^(\d+)")
_PORTABLE_NICS = {"E1000"}
_HOST_RESOURCE = re.compile(r"ovf:/disk/(.+)")

Rule = Callable[[Envelope], Iterator[Finding]]


def judge(envelope: Envelope, members: Mapping[str, int]) -> Iterator[Finding]:
    """Every rule over the descriptor; `members` are the archive's names and sizes in bytes, in its order."""
    yield from _references(envelope, members)
    for rule in _RULES:
        yield from rule(envelope)


def judge_disk(declared: Disk, name: str, capacity: int, populated: int) -> Iterator[Finding]:
    """What the DiskSection says of a disk, beside what its VMDK is (bytes)."""
    said = size_of(declared)
    if said is None:
        text = f"ovf:capacityAllocationUnits is {declared.capacity_allocation_units!r}, not “byte * 2^N”"
        yield Finding("error", "capacity-units", name, text, ("CloudStack", "Proxmox VE"))
    elif not capacity <= said < capacity + 2**20:
        text = f"the descriptor says a capacity of {said} bytes, the VMDK has {capacity}"
        yield Finding("error", "capacity-differs", name, text, ("Proxmox VE", "CloudStack", "vSphere"))
    if declared.populated_size is not None and declared.populated_size > capacity + 2**16:
        text = f"ovf:populatedSize is {declared.populated_size} bytes, more than the disk holds"
        yield Finding("error", "populated-size", name, text, ("vSphere",))
    elif declared.populated_size is not None and declared.populated_size < populated:
        text = f"ovf:populatedSize is {declared.populated_size} bytes, the VMDK holds {populated}"
        yield Finding("warning", "populated-size", name, text, ("vSphere",))


def size_of(disk: Disk) -> int | None:
    """A declared capacity in bytes; None where its unit is one that importers misread."""
    match = _UNITS.fullmatch(disk.capacity_allocation_units or "")
    return disk.capacity << int(match[1]) if match else None


def _references(envelope: Envelope, members: Mapping[str, int]) -> Iterator[Finding]:
    names = list(members)
    for file in envelope.files:
        if file.href not in members:
            yield Finding("error", "file-missing", file.href, "References names it, the archive has none", ("all",))
        elif file.size != members[file.href]:
            text = f"ovf:size is {file.size}, the file has {members[file.href]} bytes: uploads abort at their end"
            yield Finding("error", "file-size", file.href, text, ("vSphere",))
    order = [names.index(file.href) for file in envelope.files if file.href in members]
    if order != sorted(order):
        text = "the files do not stand in the order of References"
        yield Finding("error", "archive-order", names[0], text, ("vCenter",))
    stem = names[0].removesuffix(".ovf")
    wrong = [name for name in names if name.endswith((".mf", ".cert")) and name.rpartition(".")[0] != stem]
    for name in wrong:
        text = f"it must be called as the descriptor is, {stem}"
        yield Finding("error", "names-differ", name, text, ("VirtualBox", "govc"))
    if len(names) > 1 and any(name.endswith(".mf") for name in names) and not names[1].endswith(".mf"):
        text = "the manifest must be the second member"
        yield Finding("warning", "archive-order", names[1], text, ("vCenter",))


def _identity(envelope: Envelope) -> Iterator[Finding]:
    system = envelope.virtual_system
    if system.id != system.name:
        text = f"ovf:id is {system.id!r} and Name {system.name!r}: VirtualBox shows the one, VMware the other"
        yield Finding("warning", "two-names", "VirtualSystem", text, ("VirtualBox",))
    hardware = system.hardware.system
    if hardware is None or not hardware.virtual_system_identifier:
        text = "System has no vssd:VirtualSystemIdentifier"
        yield Finding("error", "system-identifier", "VirtualHardwareSection", text, ("Xen Orchestra",))
    if hardware is None or not re.fullmatch(r"vmx-\d+", hardware.virtual_system_type or ""):
        text = f"vssd:VirtualSystemType is {hardware and hardware.virtual_system_type!r}, not vmx-N"
        yield Finding("error", "hardware-family", "VirtualHardwareSection", text, ("VMware",))
    if system.operating_system is None:
        text = "there is no OperatingSystemSection"
        yield Finding("error", "os-missing", "VirtualSystem", text, ("Google Cloud", "VMware"))


def _items(envelope: Envelope) -> Iterator[Finding]:
    items = envelope.virtual_system.hardware.items
    counted = Counter(item.instance_id for item in items)
    for number, times in counted.items():
        if times > 1 or number == 0:
            text = f"InstanceID {number} is {'that of System' if number == 0 else 'used twice'}"
            yield Finding("error", "instance-id", "VirtualHardwareSection", text, ("VMware", "Proxmox VE"))
    for item in items:
        if item.parent is not None and item.parent not in counted:
            yield _about(
                item,
                "error",
                "parent-missing",
                f"Parent {item.parent} is no item",
                "VirtualBox",
                "Proxmox VE",
            )
        if item.resource_type not in _VIRTUALBOX_KNOWS and item.required:
            text = f'ResourceType {item.resource_type} needs ovf:required="false"'
            yield _about(item, "error", "item-required", text, "VirtualBox")
        if item.bound or item.configuration:
            text = "ovf:bound and ovf:configuration are read as further hardware"
            yield _about(item, "warning", "item-variants", text, "Proxmox VE", "Xen Orchestra", "VirtualBox")


def _processor_and_memory(envelope: Envelope) -> Iterator[Finding]:
    items = envelope.virtual_system.hardware.items
    for kind, what in ((_CPU, "CPU"), (_MEMORY, "memory")):
        of_kind = [item for item in items if item.resource_type == kind]
        if len(of_kind) != 1 or not of_kind[0].virtual_quantity:
            text = f"there must be one {what} item with a quantity, not {len(of_kind)}"
            yield Finding("error", "one-of-each", "VirtualHardwareSection", text, ("all",))
    for item in items:
        if item.resource_type == _MEMORY and item.allocation_units != "byte * 2^20":
            text = f"AllocationUnits is {item.allocation_units!r}, not “byte * 2^20”"
            yield _about(item, "error", "memory-units", text, "VirtualBox", "Proxmox VE", "Incus", "Forklift")


def _controllers(envelope: Envelope) -> Iterator[Finding]:
    items = envelope.virtual_system.hardware.items
    for kind, most in ((_IDE, 2), (_SCSI, 1), (_SATA, 1)):
        if sum(item.resource_type == kind for item in items) > most:
            text = f"more than {most} controllers of ResourceType {kind}"
            yield Finding("error", "controllers", "VirtualHardwareSection", text, ("VirtualBox",))
    for item in items:
        if item.resource_type == _SATA and not item.resource_sub_type:
            yield _about(item, "error", "sata-subtype", "a controller of type 20 needs a subtype", "VirtualBox")
        if item.resource_type == _IDE and item.resource_sub_type == "PIIX4":
            yield _about(item, "error", "ide-subtype", "the subtype PIIX4 is VirtualBox's own", "VMware")
        scsi = any(p.instance_id == item.parent and p.resource_type == _SCSI for p in items)
        if scsi and item.address_on_parent == "7":
            yield _about(item, "error", "scsi-unit-7", "unit 7 is the SCSI controller itself", "VMware")


def _disks(envelope: Envelope) -> Iterator[Finding]:
    section = envelope.disk_section
    disks = {disk.disk_id: disk for disk in (section.disks if section else ())}
    files = {file.id for file in envelope.files}
    for disk in disks.values():
        if disk.file_ref is not None and disk.file_ref not in files:
            text = f"fileRef {disk.file_ref!r} is no File of References"
            yield Finding("error", "file-ref", disk.disk_id, text, ("all",))
        if not re.fullmatch(r"[A-Za-z0-9._~-]+", disk.disk_id):
            yield Finding("error", "disk-id", disk.disk_id, "a diskId of other characters", ("Proxmox VE",))
    attached = set()
    for item in envelope.virtual_system.hardware.items:
        if item.resource_type == _DISK:
            match = _HOST_RESOURCE.fullmatch(item.host_resource or "")
            if not match or match[1] not in disks:
                text = f"HostResource {item.host_resource!r} is no disk of the DiskSection (ovf:/disk/ID)"
                yield _about(item, "error", "host-resource", text, "all")
            else:
                attached.add(match[1])
            if item.parent is None:
                yield _about(item, "error", "disk-parent", "it hangs on no controller", "VirtualBox", "Google Cloud")
    for name in disks.keys() - attached:
        yield Finding("error", "disk-unattached", name, "no item of the hardware uses it", ("Google Cloud",))


def _networks(envelope: Envelope) -> Iterator[Finding]:
    section = envelope.network_section
    names = {network.name for network in (section.networks if section else ())}
    for item in envelope.virtual_system.hardware.items:
        if item.resource_type != _NIC:
            continue
        if item.connection not in names:
            yield _about(item, "error", "connection", f"{item.connection!r} is no network", "VMware")
        if item.resource_sub_type not in _PORTABLE_NICS:
            text = f"{item.resource_sub_type} is not known everywhere, where it isn't another model takes its place"
            yield _about(item, "warning", "nic-model", text, "VirtualBox")


def _environment(envelope: Envelope) -> Iterator[Finding]:
    system = envelope.virtual_system
    drives = any(item.resource_type == _CDROM for item in system.hardware.items)
    if "iso" in system.hardware.transport and not drives:
        text = "the transport “iso” needs a CD-ROM drive"
        yield Finding("error", "transport-cdrom", "VirtualHardwareSection", text, ("vSphere",))
    for product in system.products[:1]:
        if product.properties and (product.class_ or product.instance):
            text = "ovf:class or ovf:instance changes the keys, and cloud-init does not know them"
            yield Finding("warning", "product-class", "ProductSection", text, ("cloud-init",))
    if system.eulas:
        text = "the licence must be accepted: VBoxManage import --vsys 0 --eula accept, ovftool --acceptAllEulas"
        yield Finding("warning", "eula", "EulaSection", text, ("unattended imports",))


def _unread(envelope: Envelope) -> Iterator[Finding]:
    for element in envelope.unread:
        if element.name == "DeploymentOptionSection":
            text = "importers disagree on the configuration that it makes (Proxmox VE joins the numbers of all)"
            yield Finding("error", "deployment-options", f"line {element.line}", text, ("Proxmox VE", "VirtualBox"))
        elif element.required:
            text = f"{element.name} is not known to every importer and is not marked as optional"
            yield Finding("warning", "unknown-element", f"line {element.line}", text)


def _about(item: Item, level: str, rule: str, text: str, *importers: str) -> Finding:
    return Finding(level, rule, f"item {item.instance_id} ({item.element_name})", text, importers)


_RULES: tuple[Rule, ...] = (
    _identity,
    _items,
    _processor_and_memory,
    _controllers,
    _disks,
    _networks,
    _environment,
    _unread,
)
