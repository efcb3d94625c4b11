"""The OVF descriptor as frozen models: one class an element, under its name in DSP0243.

    Envelope ─ references: File…      what the package holds beside the descriptor
             ─ disk_section: Disk…    ─ file_ref ─▶ File.id
             ─ network_section: Network…
             ─ virtual_system ─ OperatingSystemSection
                              ─ VirtualHardwareSection ─ System, Item…, Config…
                              │                            ├ host_resource ─▶ ovf:/disk/<Disk.disk_id>
                              │                            ├ connection ─▶ Network.name
                              │                            └ parent ─▶ Item.instance_id
                              ─ AnnotationSection, ProductSection ─ Property…, EulaSection

Clauses are those of DSP0243 1.1.0. Here are models only; `ovf` writes, `ovf_reader` reads them. Optional attributes and
children are None where they are absent. `required` is False where an importer that does not know
the element may skip it; absent in XML means True. `line` is where an element was read, 0 where it was not;
it does not count when two are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
"""`Disk.format` of a streamOptimized VMDK, exactly as every importer expects it (clause 5.2)."""
MEBIBYTE = "byte * 2^20"
"""Of memory and disks, as every importer reads it: plain `byte` fails on Proxmox, `MegaBytes` on forklift."""


@dataclass(frozen=True)
class File:
    """A file of the package (clause 7.1). `size` is the file's own, in bytes."""

    id: str
    href: str
    size: int | None = None
    compression: str | None = None
    chunk_size: int | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Disk:
    """A virtual disk (clause 9.1): `capacity` in `capacity_allocation_units`, `populated_size` in bytes.

    `vbox_uuid` is read alone: a vbox:Machine refers to it.
    """

    disk_id: str
    capacity: int
    capacity_allocation_units: str | None = MEBIBYTE
    file_ref: str | None = None
    format: str | None = STREAM_OPTIMIZED
    populated_size: int | None = None
    vbox_uuid: str | None = None
    """VirtualBox's own `vbox:uuid`, by which a vbox:Machine refers to it."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class DiskSection:
    """The virtual disks (clause 9.1)."""

    disks: tuple[Disk, ...]
    info: str = "Virtual disk information"


@dataclass(frozen=True)
class Network:
    """A logical network (clause 9.2), to which an Item's `connection` refers by name."""

    name: str
    description: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class NetworkSection:
    """The logical networks (clause 9.2)."""

    networks: tuple[Network, ...]
    info: str = "The list of logical networks"


@dataclass(frozen=True)
class Configuration:
    """A size of the machine that can be chosen (clause 9.8), to which an Item's `configuration` refers by id."""

    id: str
    label: str
    description: str
    default: bool = False


@dataclass(frozen=True)
class DeploymentOptionSection:
    """The sizes that can be chosen (clause 9.8)."""

    configurations: tuple[Configuration, ...]
    info: str = "The sizes of the machine"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class OperatingSystemSection:
    """The guest's system (clause 9.9): `id` is CIM_OperatingSystem.OsType, `os_type` VMware's own name."""

    id: int
    version: str | None = None
    os_type: str | None = None
    description: str | None = None
    info: str = "The kind of installed guest operating system"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class System:
    """The virtual hardware family (clause 8.1; vssd:), such as `vmx-14`.

    xen-orchestra refuses a descriptor without `virtual_system_identifier`.
    """

    virtual_system_identifier: str | None
    virtual_system_type: str | None
    element_name: str = "Virtual Hardware Family"
    instance_id: int = 0
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Config:
    """A setting of VMware's (vmw:Config, vmw:ExtraConfig, extensions by clause 8.2): `firmware` and the like."""

    key: str
    value: str
    required: bool = False
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Item:
    """A piece of virtual hardware (clause 8.3; rasd:, CIM_ResourceAllocationSettingData).

    `virtual_quantity` counts `allocation_units`. `cores_per_socket` is VMware's own child. `bound` (clause
    8.4) and `configuration` (clause 9.8) are there to be judged when read: importers disagree on both.
    """

    instance_id: int
    element_name: str
    resource_type: int
    resource_sub_type: str | None = None
    address: str | None = None
    address_on_parent: str | None = None
    allocation_units: str | None = None
    automatic_allocation: bool | None = None
    connection: str | None = None
    description: str | None = None
    host_resource: str | None = None
    parent: int | None = None
    virtual_quantity: int | None = None
    cores_per_socket: int | None = None
    required: bool = True
    bound: str | None = None
    configuration: str | None = None
    line: int = field(default=0, compare=False)
    configs: tuple[Config, ...] = ()


@dataclass(frozen=True)
class VirtualHardwareSection:
    """The virtual hardware (clause 8.1); `transport` lists how the OVF environment is given (clause 11.2)."""

    system: System | None
    items: tuple[Item, ...]
    configs: tuple[Config, ...] = ()
    extra_configs: tuple[Config, ...] = ()
    transport: tuple[str, ...] = ()
    info: str = "Virtual hardware requirements"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class AnnotationSection:
    """A note for whoever imports the package (clause 9.4)."""

    annotation: str
    info: str = "A human-readable annotation"


@dataclass(frozen=True)
class Property:
    """A value that can be set when the package is deployed (clause 9.5.1); `value` is its default."""

    key: str
    type: str = "string"
    value: str | None = None
    user_configurable: bool = False
    password: bool = False
    qualifiers: str | None = None
    category: str | None = None
    """The Category element that it stands under."""
    label: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Icon:
    """An image of the product (clause 9.5), in pixels; `file_ref` is a File's id."""

    file_ref: str
    height: int
    width: int
    mime_type: str = "image/png"


@dataclass(frozen=True)
class ProductSection:
    """The software in the package (clause 9.5). `class_` and `instance` frame the keys of its properties."""

    product: str | None = None
    vendor: str | None = None
    version: str | None = None
    full_version: str | None = None
    product_url: str | None = None
    vendor_url: str | None = None
    icon: Icon | None = None
    properties: tuple[Property, ...] = ()
    class_: str | None = None
    instance: str | None = None
    required: bool = True
    info: str = "Information about the installed software"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class EulaSection:
    """A licence that must be accepted (clause 9.6)."""

    license: str
    info: str = "End-user license agreement"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Extension:
    """An element of somebody's own (clause 7.3) as it stands there: `{namespace}name`, attributes, children."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    children: tuple[Extension, ...] = ()
    text: str | None = None
    line: int = field(default=0, compare=False)

    def every(self, name: str) -> Iterator[Extension]:
        """The elements of that local name, at any depth, in their order."""
        for child in self.children:
            if child.name.rpartition("}")[2] == name:
                yield child
            yield from child.every(name)

    def first(self, *path: str) -> Extension | None:
        """The element at a path of local names below this one; None where there is none."""
        if not path:
            return self
        found = (child for child in self.children if child.name.rpartition("}")[2] == path[0])
        return next((inner for child in found if (inner := child.first(*path[1:]))), None)

    def get(self, name: str) -> str | None:
        """The attribute of that name."""
        return dict(self.attributes).get(name)


@dataclass(frozen=True)
class VirtualSystem:
    """One virtual machine (clause 7.2). VirtualBox calls it by `id`, the others by `name`."""

    id: str
    name: str | None
    operating_system: OperatingSystemSection | None
    hardware: VirtualHardwareSection
    annotation: AnnotationSection | None = None
    products: tuple[ProductSection, ...] = ()
    eulas: tuple[EulaSection, ...] = ()
    machine: Extension | None = None
    """VirtualBox's own vbox:Machine, from which it takes everything where it is there."""
    info: str = "A virtual machine"
    line: int = field(default=0, compare=False)

    @property
    def efi(self) -> bool:
        """Whether UEFI is asked for, in VMware's words or in VirtualBox's."""
        firmware = self.machine.first("Hardware", "Firmware") if self.machine else None
        configs = ((config.key, config.value) for config in self.hardware.configs)
        return ("firmware", "efi") in configs or (firmware is not None and firmware.get("type") == "EFI")


@dataclass(frozen=True)
class Unread:
    """An element that `ovf.parse` knows no model for (clause 7.3), with the line where it begins.

    `name` is the local name, with its namespace in braces before it unless it is OVF's own.
    """

    name: str
    line: int
    required: bool


@dataclass(frozen=True)
class Envelope:
    """The whole descriptor of a package with one virtual machine (clause 7).

    `unread` is never written; after reading it tells what else the descriptor says.
    """

    files: tuple[File, ...]
    disk_section: DiskSection | None
    network_section: NetworkSection | None
    virtual_system: VirtualSystem
    unread: tuple[Unread, ...] = ()
    deployment_options: DeploymentOptionSection | None = None
