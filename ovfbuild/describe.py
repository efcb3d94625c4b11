"""(Appliance, Profile, disk) → Envelope: what the package says of itself.

Which values, and why these, is in docs/formats.md; each comes from the appliance or from the
profile's data, and the order of the items is that of the descriptors that eight importers took.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from ovfbuild import virtualbox
from ovfbuild.formats.envelope import (
    MEBIBYTE,
    AnnotationSection,
    Config,
    Configuration,
    DeploymentOptionSection,
    Disk,
    DiskSection,
    Envelope,
    EulaSection,
    File,
    Icon,
    Item,
    Network,
    NetworkSection,
    OperatingSystemSection,
    System,
    VirtualHardwareSection,
    VirtualSystem,
)
from ovfbuild.formats.pieces import Form
from ovfbuild.product_section import product_sections
from ovfbuild.spec import deployment
from ovfbuild.spec.guest_os import GuestOs
from ovfbuild.spec.machine import Adapter, Machine, Place, machine
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.profile import Profile

_MIB = 2**20
_CPU, _MEMORY, _NIC, _CDROM, _DISK, _SERIAL, _USB, _VIDEO = 3, 4, 10, 15, 17, 21, 23, 24
"""CIM_ResourceAllocationSettingData.ResourceType."""


@dataclass(frozen=True)
class PackedDisk:
    """The disk's file in the package, and its three sizes in bytes."""

    href: str
    file_size: int
    capacity: int
    populated_size: int
    form: Form = field(default_factory=Form)

    @property
    def file(self) -> tuple[str, int, str | None, int | None]:
        """What its File says of it: href, size, compression, bytes a chunk."""
        return self.href, self.file_size, "gzip" if self.form.gzip else None, self.form.chunk


@dataclass(frozen=True)
class PackedIcon:
    """The icon's file in the package, its size in bytes, and the image's in pixels."""

    href: str
    file_size: int
    width: int
    height: int


def describe(
    appliance: Appliance,
    profile: Profile,
    guest_os: GuestOs,
    disks: Sequence[PackedDisk],
    properties: Sequence[deployment.Property] = (),
    icon: PackedIcon | None = None,
) -> Envelope:
    """The descriptor of a package with these disks; `properties` beside cloud-init's own."""
    networks = tuple(Network(n.name, f"The {n.name} network") for n in appliance.networks)
    files = [File(f"file{number}", *disk.file) for number, disk in enumerate(disks, 1)]
    icons = [File("icon", icon.href, icon.file_size)] if icon else []
    shown = Icon("icon", icon.height, icon.width) if icon else None
    return Envelope(
        files=(*files, *icons),
        disk_section=DiskSection(
            tuple(_disk(appliance, profile, number, disk) for number, disk in enumerate(disks, 1))
        ),
        network_section=NetworkSection(networks),
        virtual_system=VirtualSystem(
            id=appliance.name,
            name=appliance.name,
            operating_system=_operating_system(guest_os, profile),
            hardware=_hardware(appliance, profile),
            machine=virtualbox.machine_element(appliance, profile, guest_os),
            annotation=AnnotationSection(appliance.annotation) if appliance.annotation else None,
            products=tuple(product_sections(appliance, properties, shown)),
            eulas=(EulaSection(appliance.eula.read_text(encoding="utf-8")),) if appliance.eula else (),
        ),
        deployment_options=_deployment_options(appliance) if "deployment_options" in profile.takes else None,
    )


def _disk(appliance: Appliance, profile: Profile, number: int, disk: PackedDisk) -> Disk:
    return Disk(
        disk_id=f"vmdisk{number}",
        file_ref=f"file{number}",
        # Rounded up: VirtualBox shows it, and a disk never is smaller than it says.
        capacity=-(-disk.capacity // _MIB),
        populated_size=disk.populated_size,
        vbox_uuid=virtualbox.uuid_of(appliance, f"disk{number}") if profile.virtualbox else None,
    )


def _deployment_options(appliance: Appliance) -> DeploymentOptionSection | None:
    options = appliance.deployment_options
    found = tuple(Configuration(one.id, one.label, one.description, one.default) for one in options)
    return DeploymentOptionSection(found) if found else None


def _operating_system(guest_os: GuestOs, profile: Profile) -> OperatingSystemSection:
    os_type = guest_os.vmware(profile.hardware_version) if profile.vmware else None
    return OperatingSystemSection(guest_os.cim, None, os_type, guest_os.description)


def _hardware(appliance: Appliance, profile: Profile) -> VirtualHardwareSection:
    made = machine(appliance, profile)
    return VirtualHardwareSection(
        system=System(appliance.name, profile.virtual_system_type),
        items=tuple(_items(appliance, profile, made)),
        configs=tuple(_configs(appliance, profile)) if profile.vmware else (),
        extra_configs=tuple(Config(key, value) for key, value in appliance.vmware.extra_config.items())
        if "vmware" in profile.takes
        else (),
        transport=made.transport,
    )


def _configs(appliance: Appliance, profile: Profile) -> Iterator[Config]:
    """Not required: who doesn't know EFI starts the same disk with its BIOS."""
    if appliance.hardware.firmware == "efi":
        yield Config("firmware", "efi")
    if appliance.hardware.secure_boot:
        yield Config("bootOptions.efiSecureBootEnabled", "true")
    if "vmware" in profile.takes:
        yield from (Config(key, value) for key, value in appliance.vmware.config.items())


def _items(appliance: Appliance, profile: Profile, made: Machine) -> Iterator[Item]:
    """CPU, memory, controllers, what hangs on them, NICs, the rest; InstanceIDs from 1 (0 is the System's)."""
    numbers = count(1)
    yield from _processor_and_memory(appliance, profile, numbers)
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


def _processor_and_memory(appliance: Appliance, profile: Profile, numbers: Iterator[int]) -> Iterator[Item]:
    """Those of [hardware], and under the same InstanceID what an option has instead (DSP0243 9.8)."""
    asked = appliance.hardware
    options = appliance.deployment_options if "deployment_options" in profile.takes else ()
    number = next(numbers)
    yield _processor(number, asked.cpus, asked.cores_per_socket)
    for option in options:
        if option.cpus and option.cpus != asked.cpus:
            yield replace(_processor(number, option.cpus, asked.cores_per_socket), configuration=option.id)
    number = next(numbers)
    yield _memory(number, asked.memory)
    for option in options:
        if option.memory and option.memory != asked.memory:
            yield replace(_memory(number, option.memory), configuration=option.id)


def _processor(number: int, cpus: int, cores_per_socket: int | None) -> Item:
    return Item(
        number,
        f"{cpus} virtual CPU(s)",
        _CPU,
        allocation_units="hertz * 10^6",
        description="Number of Virtual CPUs",
        virtual_quantity=cpus,
        cores_per_socket=cores_per_socket,
    )


def _memory(number: int, size: int) -> Item:
    return Item(
        number,
        f"{size // _MIB}MB of memory",
        _MEMORY,
        allocation_units=MEBIBYTE,
        description="Memory Size",
        virtual_quantity=size // _MIB,
    )


def _drives(profile: Profile, made: Machine, numbers: Iterator[int]) -> Iterator[Item]:
    """Each controller that has anything on it, then the disks and the CD-ROM drive."""
    drives = [made.drive] if made.drive else []
    controllers: dict[tuple[str, int], Item] = {}
    for place in (*made.disks, *drives):
        if (place.name, place.bus) not in controllers:
            controllers[place.name, place.bus] = _controller(next(numbers), place)
    yield from controllers.values()
    for number, place in enumerate(made.disks, 1):
        yield Item(
            next(numbers),
            f"Hard Disk {number}",
            _DISK,
            address_on_parent=str(place.unit),
            host_resource=f"ovf:/disk/vmdisk{number}",
            parent=controllers[place.name, place.bus].instance_id,
        )
    for place in drives:
        yield Item(
            next(numbers),
            "CD/DVD Drive 1",
            _CDROM,
            profile.cdrom.resource_subtype or None,
            address_on_parent=str(place.unit),
            automatic_allocation=False,
            parent=controllers[place.name, place.bus].instance_id,
            required=profile.cdrom.required,
        )


def _controller(number: int, place: Place) -> Item:
    controller = place.controller
    return Item(
        number,
        f"{controller.label} {place.bus}",
        controller.resource_type,
        controller.resource_subtype or None,
        address=str(place.bus),
        description=controller.label,
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
