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
from ovfbuild.spec.catalogue import IDE, Controller, ControllerName, controller
from ovfbuild.spec.guest_os import GuestOs
from ovfbuild.spec.machine import Adapter, Machine, Place, machine
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
            _element("StorageControllers", *_storage(appliance, made)),
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


def _storage(appliance: Appliance, made: Machine) -> Iterator[Extension]:
    """The controllers with what hangs on them; VirtualBox has one of IDE, with two ports of two devices each."""
    hanging: dict[ControllerName, list[Extension]] = {}
    for number, place in enumerate(made.disks, 1):
        image = _element("Image", uuid=f"{{{uuid_of(appliance, f'disk{number}')}}}")
        hanging.setdefault(place.name, []).append(_attached(place, "HardDisk", image))
    if made.drive:
        hanging.setdefault(made.drive.name, []).append(_attached(made.drive, "DVD"))
    for name, devices in hanging.items():
        yield _controller(controller(name), *devices)


def _attached(place: Place, kind: str, *image: Extension) -> Extension:
    ide = place.controller.resource_type == IDE
    port, device = (place.bus, place.unit) if ide else (place.unit, 0)
    passthrough = {} if image else {"passthrough": "false"}
    return _element("AttachedDevice", *image, **passthrough, type=kind, hotpluggable="false", port=port, device=device)


def _controller(controller: Controller, *devices: Extension) -> Extension:
    """Called SATA, SCSI, NVMe or IDE."""
    used = max(int(device.get("port") or 0) for device in devices) + 1
    return _element(
        "StorageController",
        *devices,
        name=controller.label.removesuffix(" Controller"),
        type=str(controller.virtualbox),
        PortCount=controller.virtualbox_ports or used,
        useHostIOCache="true" if controller.resource_type == IDE else "false",
        Bootable="true",
    )
