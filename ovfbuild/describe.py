"""(Appliance, Profile, disk) → Envelope: what the package says of itself.

Which values, and why these, is in docs/formats.md; each comes from the appliance or from the
profile's data, and the order of the items is that of the descriptors that eight importers took.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from ovfbuild import virtualbox
from ovfbuild.formats.envelope import (
    MEBIBYTE,
    AnnotationSection,
    Config,
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
    VirtualHardwareSection,
    VirtualSystem,
)
from ovfbuild.spec import deployment
from ovfbuild.spec.catalogue import Controller
from ovfbuild.spec.guest_os import GuestOs
from ovfbuild.spec.machine import Adapter, Machine, machine
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.profile import Profile

_MIB = 2**20
_CPU, _MEMORY, _NIC, _CDROM, _DISK, _SERIAL, _USB, _VIDEO = 3, 4, 10, 15, 17, 21, 23, 24
"""CIM_ResourceAllocationSettingData.ResourceType."""

_CLOUD_INIT = (
    ("instance-id", "Instance ID", "a new one makes cloud-init set the machine up again", "id-ovf"),
    ("hostname", "Host name", "the machine's name; empty leaves the appliance's own", ""),
    ("public-keys", "SSH public key", "may log in as the default user", ""),
    ("user-data", "User data", "cloud-init user-data, base64 or plain", ""),
    ("seedfrom", "Seed URL", "where cloud-init fetches user-data and meta-data from", ""),
    ("password", "Password", "of the default user; must be changed at the first login", ""),
)
"""What cloud-init's DataSourceOVF reads, by its own keys (no class: a class would change the keys)."""


@dataclass(frozen=True)
class PackedDisk:
    """The disk's file in the package, and its three sizes in bytes."""

    href: str
    file_size: int
    capacity: int
    populated_size: int


def describe(
    appliance: Appliance,
    profile: Profile,
    guest_os: GuestOs,
    disk: PackedDisk,
    properties: Sequence[deployment.Property] = (),
) -> Envelope:
    """The descriptor of a package with one disk; `properties` beside cloud-init's own."""
    networks = tuple(Network(n.name, f"The {n.name} network") for n in appliance.networks)
    return Envelope(
        files=(File("file1", disk.href, disk.file_size),),
        disk_section=DiskSection(
            (
                Disk(
                    disk_id="vmdisk1",
                    file_ref="file1",
                    # Rounded up: VirtualBox shows it, and a disk never is smaller than it says.
                    capacity=-(-disk.capacity // _MIB),
                    populated_size=disk.populated_size,
                    vbox_uuid=virtualbox.uuid_of(appliance, "disk1") if profile.virtualbox else None,
                ),
            )
        ),
        network_section=NetworkSection(networks),
        virtual_system=VirtualSystem(
            id=appliance.name,
            name=appliance.name,
            operating_system=_operating_system(guest_os, profile),
            hardware=_hardware(appliance, profile),
            machine=virtualbox.machine_element(appliance, profile, guest_os),
            annotation=AnnotationSection(appliance.annotation) if appliance.annotation else None,
            products=(_product(appliance, properties),),
            eulas=(EulaSection(appliance.eula.read_text(encoding="utf-8")),) if appliance.eula else (),
        ),
    )


def _operating_system(guest_os: GuestOs, profile: Profile) -> OperatingSystemSection:
    os_type = guest_os.vmware(profile.hardware_version) if profile.vmware else None
    return OperatingSystemSection(guest_os.cim, None, os_type, guest_os.description)


def _hardware(appliance: Appliance, profile: Profile) -> VirtualHardwareSection:
    made = machine(appliance, profile)
    return VirtualHardwareSection(
        system=System(appliance.name, profile.virtual_system_type),
        items=tuple(_items(appliance, profile, made)),
        configs=tuple(_configs(appliance)) if profile.vmware else (),
        transport=made.transport,
    )


def _configs(appliance: Appliance) -> Iterator[Config]:
    """Not required: who doesn't know EFI starts the same disk with its BIOS."""
    if appliance.hardware.firmware == "efi":
        yield Config("firmware", "efi")
    if appliance.hardware.secure_boot:
        yield Config("bootOptions.efiSecureBootEnabled", "true")


def _items(appliance: Appliance, profile: Profile, made: Machine) -> Iterator[Item]:
    """CPU, memory, controllers, what hangs on them, NICs, the rest; InstanceIDs from 1 (0 is the System's)."""
    numbers = count(1)
    yield from _processor_and_memory(appliance, numbers)
    yield from _drives(profile, made, numbers)
    for number, adapter in enumerate(made.adapters):
        yield _nic(next(numbers), number, adapter)
    hardware = appliance.hardware
    if hardware.serial:
        yield Item(
            next(numbers),
            "Serial Port 1",
            _SERIAL,
            automatic_allocation=False,
            description="Serial Port",
            required=profile.serial.required,
        )
    if hardware.usb:
        yield Item(
            next(numbers), "USB Controller 0", _USB, "vmware.usb.xhci", description="USB Controller", required=False
        )
    if hardware.video_memory:
        kibibytes = Config("videoRamSizeInKB", str(hardware.video_memory // 1024))
        configs = (Config("useAutoDetect", "false"), kibibytes) if profile.vmware else ()
        yield Item(next(numbers), "Video Card", _VIDEO, description="Video Card", required=False, configs=configs)


def _processor_and_memory(appliance: Appliance, numbers: Iterator[int]) -> Iterator[Item]:
    cpus, mebibytes = appliance.hardware.cpus, appliance.hardware.memory // _MIB
    yield Item(
        next(numbers),
        f"{cpus} virtual CPU(s)",
        _CPU,
        allocation_units="hertz * 10^6",
        description="Number of Virtual CPUs",
        virtual_quantity=cpus,
        cores_per_socket=appliance.hardware.cores_per_socket,
    )
    yield Item(
        next(numbers),
        f"{mebibytes}MB of memory",
        _MEMORY,
        allocation_units=MEBIBYTE,
        description="Memory Size",
        virtual_quantity=mebibytes,
    )


def _drives(profile: Profile, made: Machine, numbers: Iterator[int]) -> Iterator[Item]:
    """The disk and the CD-ROM, each behind its controller; behind one where both hang on the same."""
    disks = drives = _controller(next(numbers), made.controller)
    yield disks
    if made.cdrom and profile.cdrom.bus != made.controller:
        drives = _controller(next(numbers), profile.cdrom.bus)
        yield drives
    yield Item(
        next(numbers),
        "Hard Disk 1",
        _DISK,
        address_on_parent="0",
        host_resource="ovf:/disk/vmdisk1",
        parent=disks.instance_id,
    )
    if made.cdrom:
        yield _cdrom(next(numbers), drives, profile, taken=drives is disks)


def _controller(number: int, controller: Controller) -> Item:
    return Item(
        number,
        f"{controller.label} 0",
        controller.resource_type,
        controller.resource_subtype or None,
        address="0",
        description=controller.label,
    )


def _cdrom(number: int, controller: Item, profile: Profile, taken: bool) -> Item:
    return Item(
        number,
        "CD/DVD Drive 1",
        _CDROM,
        profile.cdrom.resource_subtype or None,
        address_on_parent="1" if taken else "0",
        automatic_allocation=False,
        parent=controller.instance_id,
        required=profile.cdrom.required,
    )


def _nic(number: int, index: int, adapter: Adapter) -> Item:
    model = adapter.nic.resource_subtype
    return Item(
        number,
        f"Ethernet {index + 1}",
        _NIC,
        model,
        # 7 is the first slot that VMware gives to NICs.
        address_on_parent=str(7 + index),
        automatic_allocation=True,
        connection=adapter.network,
        description=f'{model} ethernet adapter on "{adapter.network}"',
    )


def _product(appliance: Appliance, properties: Sequence[deployment.Property]) -> ProductSection:
    """The product, and the properties by which vSphere tells cloud-init who the machine is."""
    return ProductSection(
        product=appliance.summary or appliance.name,
        vendor=appliance.vendor or None,
        version=appliance.version,
        product_url=appliance.url,
        properties=(
            *(
                Property(
                    key,
                    value=default,
                    user_configurable=True,
                    password=key == "password",
                    label=label,
                    description=description,
                )
                for key, label, description, default in _CLOUD_INIT
            ),
            *map(_property, properties),
        ),
    )


def _property(one: deployment.Property) -> Property:
    """A property of the appliance's own. Its key has no class before it, so the environment has it as it is here.

    The types are those of DSP0243's table (clause 9.5.1) that every importer reads. An address and a host name are
    strings: `ip` is VMware's own, and wants an address pool for it; the first boot checks them. An int without a
    default has no value at all, since "" is none of sint32. A password's default stays in the image: the
    descriptor is text that everybody reads, and an empty field leaves the default as it is.
    """
    value = "" if one.secret or one.baked is None else str(one.baked)
    number = one.type == "int"
    return Property(
        one.key,
        type={"int": "sint32", "bool": "boolean"}.get(one.type, "string"),
        value=None if number and not value else value.lower() if one.type == "bool" else value,
        user_configurable=True,
        password=one.secret,
        qualifiers=_qualifiers(one),
        label=one.label or one.key,
        description=" ".join(filter(None, (one.description, _range(one)))) or None,
    )


def _qualifiers(one: deployment.Property) -> str | None:
    """What a form can hold a string to, between commas: MinLen(1),MaxLen(8) or ValueMap{"a","b"}."""
    if one.choices:
        # An empty choice where nothing is chosen yet: a form without it would choose the first one by itself.
        choices = one.choices if one.default is not None or one.required else ("", *one.choices)
        return "ValueMap{" + ",".join(f'"{choice}"' for choice in choices) + "}"
    least, most = (None, None) if one.type == "int" else (one.min, one.max)
    if one.type in ("ip", "hostname"):
        most = 45 if one.type == "ip" else 253
    if not one.required and one.baked is None:
        least = None  # empty is an answer, too
    found = [f"MinLen({least})"] if least is not None else []
    found += [f"MaxLen({most})"] if most is not None else []
    return ",".join(found) or None


def _range(one: deployment.Property) -> str:
    """For people: of numbers, DSP0243 has no qualifier."""
    if one.type != "int" or (one.min is None and one.max is None):
        return ""
    if one.min is None or one.max is None:
        return f"(at most {one.max})" if one.min is None else f"(at least {one.min})"
    return f"({one.min} to {one.max})"
