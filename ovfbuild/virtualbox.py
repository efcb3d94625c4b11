"""(Appliance, Profile) → vbox:Machine, the machine in VirtualBox's own words.

Where a descriptor has this element VirtualBox takes the whole machine from it, and nothing from the OVF items
(measured with 7.2); without it there is no way to ask a released VirtualBox for EFI. Others skip it:
ovf:required="false". Its uuids are made of the appliance's name and version (RFC 9562 5.5), so that the same
appliance gives the same bytes; an import gives the machine and its network cards new addresses.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from ovfbuild.formats.envelope import Extension
from ovfbuild.formats.ovf import OVF, VBOX
from ovfbuild.spec.catalogue import Controller
from ovfbuild.spec.guest_os import GuestOs
from ovfbuild.spec.machine import Adapter, Machine, machine
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.profile import Profile

_MIB = 2**20
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, VBOX)
_VIDEO_MEMORY = 16 * _MIB
"""Of VMSVGA, VirtualBox's own choice for Linux."""


def uuid_of(appliance: Appliance, part: str) -> str:
    """That of a part of the appliance (`machine`, `disk1`): the same for the same name and version."""
    return str(uuid.uuid5(_NAMESPACE, f"{appliance.name}/{appliance.version}/{part}"))


def machine_element(appliance: Appliance, profile: Profile, guest_os: GuestOs) -> Extension | None:
    """The element, or None where the profile has none."""
    if profile.virtualbox is None:
        return None
    made = machine(appliance, profile)
    return Extension(
        f"{{{VBOX}}}Machine",
        (
            (f"{{{OVF}}}required", "false"),
            ("version", profile.virtualbox.settings),
            ("uuid", f"{{{uuid_of(appliance, 'machine')}}}"),
            ("name", appliance.name),
            ("OSType", guest_os.virtualbox),
        ),
        (
            Extension(f"{{{OVF}}}Info", text="The machine as VirtualBox has it"),
            _element("Hardware", *_hardware(appliance, made)),
            _element("StorageControllers", *_storage(appliance, profile, made)),
        ),
    )


def _element(tag: str, /, *children: Extension, **attributes: str | int) -> Extension:
    return Extension(f"{{{VBOX}}}{tag}", tuple((key, str(value)) for key, value in attributes.items()), children)


def _hardware(appliance: Appliance, made: Machine) -> Iterator[Extension]:
    asked = appliance.hardware
    yield _element("CPU", _element("PAE", enabled="true"), _element("LongMode", enabled="true"), count=asked.cpus)
    yield _element("Memory", RAMSize=asked.memory // _MIB)
    yield _element("Firmware", type=asked.firmware.upper())
    yield _element(
        "Boot",
        _element("Order", position=1, device="HardDisk"),
        _element("Order", position=2, device="DVD"),
        _element("Order", position=3, device="None"),
        _element("Order", position=4, device="None"),
    )
    yield _element("Display", controller="VMSVGA", VRAMSize=(asked.video_memory or _VIDEO_MEMORY) // _MIB)
    yield _element("BIOS", _element("IOAPIC", enabled="true"))
    # Left out, they are not as in a new machine: no paravirtual clock, and a remote display that listens (measured).
    yield _element("Paravirt", provider="Default")
    yield _element("RemoteDisplay", enabled="false")
    if asked.usb:
        yield _element("USB", _element("Controllers", _element("Controller", name="xHCI", type="XHCI")))
    yield _element("Network", *(_adapter(slot, adapter) for slot, adapter in enumerate(made.adapters)))
    if asked.serial:
        port = _element("Port", slot=0, enabled="true", IOBase="0x3f8", IRQ=4, hostMode="Disconnected")
        yield _element("UART", port)
    yield _element("RTC", localOrUTC="UTC")


def _adapter(slot: int, adapter: Adapter) -> Extension:
    """The first network card reaches the network as imported (NAT), the others an internal network by its name."""
    way = _element("InternalNetwork", name=adapter.network) if slot else _element("NAT")
    return _element("Adapter", way, slot=slot, enabled="true", cable="true", type=str(adapter.nic.virtualbox))


def _storage(appliance: Appliance, profile: Profile, made: Machine) -> Iterator[Extension]:
    image = _element("Image", uuid=f"{{{uuid_of(appliance, 'disk1')}}}")
    disk = _element("AttachedDevice", image, type="HardDisk", hotpluggable="false", port=0, device=0)
    shared = made.cdrom and profile.cdrom.bus == made.controller
    port = 1 if shared else 0
    drive = _element("AttachedDevice", passthrough="false", type="DVD", hotpluggable="false", port=port, device=0)
    yield _controller(made.controller, disk, *([drive] if shared else []))
    if made.cdrom and not shared:
        yield _controller(profile.cdrom.bus, drive)


def _controller(controller: Controller, *devices: Extension) -> Extension:
    """Called SATA, SCSI, NVMe or IDE; with as many ports as are used, but where VirtualBox has a number of its own."""
    return _element(
        "StorageController",
        *devices,
        name=controller.label.removesuffix(" Controller"),
        type=str(controller.virtualbox),
        PortCount=controller.virtualbox_ports or len(devices),
        useHostIOCache="true" if controller.resource_type == 5 else "false",
        Bootable="true",
    )
