"""An OVF descriptor as libvirt's domain XML (libvirt.org, Domain XML format): the hardware that it declares.

What the descriptor's words are in QEMU, `verify.boot` knows, which boots packages on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from xml.etree import ElementTree as ET

from ovfbuild.errors import PublishError
from ovfbuild.formats.envelope import Envelope, Item
from ovfbuild.verify import boot

NAMESPACE = "https://ovfbuild.org/xmlns/libvirt/1"
"""Of the element in a domain's metadata that says which package it came from."""
_CPU, _MEMORY, _NIC, _CDROM, _DISK = 3, 4, 10, 15, 17
_BUSES: Mapping[str, tuple[str, str, str]] = {
    "ahci": ("sata", "", "sd"),
    "ide": ("ide", "", "hd"),
    "pvscsi": ("scsi", "vmpvscsi", "sd"),
    "lsilogicsas": ("scsi", "lsisas1068", "sd"),
    "virtio-scsi": ("scsi", "virtio-scsi", "sd"),
    "virtio": ("virtio", "", "vd"),
}
"""QEMU's controller → (bus, model of the controller, what targets are called) of libvirt, which has no NVMe so far."""
_MODELS = {"e1000-82545em": "e1000", "virtio-net-pci": "virtio"}
"""NICs whose names in libvirt are other ones than in QEMU."""


@dataclass(frozen=True)
class Origin:
    """What a domain's metadata says: the package it came from, and which volumes are its own."""

    name: str
    version: str
    digest: str
    token: str
    published: float

    def element(self) -> str:
        """As an element of its own namespace."""
        attributes = {key: str(value) for key, value in vars(self).items()}
        return ET.tostring(ET.Element("package", {"xmlns": NAMESPACE, **attributes}), encoding="unicode")

    @classmethod
    def of(cls, element: str) -> Origin | None:
        """What an element says; None for one that is not ours."""
        found = {key: unescape(value) for key, value in re.findall(r"(\w+)=[\"']([^\"']*)[\"']", element)}
        try:
            words = (found["name"], found["version"], found["digest"], found["token"])
            return cls(*words, float(found["published"]))
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Volume:
    """A volume that a disk of the descriptor became: its path on the host, and its format."""

    path: str
    format: str


@dataclass(frozen=True)
class Host:
    """What the host and the target say of a machine."""

    domain_type: str
    """`kvm` or `qemu`."""
    networks: Mapping[str, str]
    """By name in the descriptor: a network of libvirt's, `bridge:NAME`, or `user`."""
    network: str
    """For those that are not named."""
    disk_bus: str | None = None
    """QEMU's controller, instead of the descriptor's."""


def domain_xml(
    envelope: Envelope, name: str, uuid: str, origin: Origin, volumes: Mapping[str, Volume], host: Host
) -> str:
    """The domain of a descriptor's machine. `volumes` are by disk id.

    Raises:
        PublishError: it declares a controller that libvirt has no word for.
    """
    system = envelope.virtual_system
    items = [item for item in system.hardware.items if not (item.bound or item.configuration)]
    disks = [(item, _controller(items, item, host)) for item in items if item.resource_type == _DISK]
    machine = "pc" if any(controller == "ide" for _, controller in disks) else "q35"
    domain = ET.Element("domain", type=host.domain_type)
    _text(domain, "name", name)
    _text(domain, "uuid", uuid)
    _text(domain, "title", f"{origin.name} {origin.version}")
    ET.SubElement(domain, "metadata").append(ET.fromstring(origin.element()))  # noqa: S314 - written above
    _text(domain, "memory", str(_quantity(items, _MEMORY)), unit="MiB")
    cpus = _quantity(items, _CPU)
    _text(domain, "vcpu", str(cpus))
    domain.append(_os(system.efi, machine, secure=_secure(envelope)))
    features = ET.SubElement(domain, "features")
    for one in ("acpi", "apic", *(("smm",) if _secure(envelope) else ())):
        ET.SubElement(features, one)
    domain.append(_cpu(items, cpus, host))
    ET.SubElement(domain, "clock", offset="utc")
    domain.append(_devices(items, disks, volumes, host, machine))
    return ET.tostring(domain, encoding="unicode")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _quantity(items: Sequence[Item], kind: int) -> int:
    return next((item.virtual_quantity or 1 for item in items if item.resource_type == kind), 1)


def _secure(envelope: Envelope) -> bool:
    configs = envelope.virtual_system.hardware.configs
    return any(one.key == "bootOptions.efiSecureBootEnabled" and one.value == "true" for one in configs)


def _os(efi: bool, machine: str, *, secure: bool) -> ET.Element:
    """Firmware by libvirt's own choice; without Secure Boot unless it is asked for."""
    os = ET.Element("os", {"firmware": "efi"} if efi else {})
    _text(os, "type", "hvm", arch="x86_64", machine=machine)
    if efi:
        firmware = ET.SubElement(os, "firmware")
        wanted = "yes" if secure else "no"
        ET.SubElement(firmware, "feature", enabled=wanted, name="enrolled-keys")
        ET.SubElement(firmware, "feature", enabled=wanted, name="secure-boot")
    return os


def _cpu(items: Sequence[Item], cpus: int, host: Host) -> ET.Element:
    cpu = ET.Element("cpu", mode="host-model" if host.domain_type == "kvm" else "maximum")
    cores = next((item.cores_per_socket for item in items if item.resource_type == _CPU), None)
    if cores and cpus % cores == 0:
        ET.SubElement(cpu, "topology", sockets=str(cpus // cores), dies="1", cores=str(cores), threads="1")
    return cpu


def _controller(items: Sequence[Item], disk: Item, host: Host) -> str:
    """QEMU's controller of a disk."""
    parent = next((item for item in items if item.instance_id == disk.parent), None)
    kind = (parent.resource_type, (parent.resource_sub_type or "").lower()) if parent else (0, "")
    found = host.disk_bus or boot.CONTROLLERS.get(kind, "")
    if found not in _BUSES:
        what = (parent.resource_sub_type or parent.element_name) if parent else "none"
        raise PublishError(
            f"libvirt has no such disk controller as the descriptor declares: {what}",
            "if the guest has its driver, take another: --set disk_bus=virtio",
        )
    return found


def _devices(
    items: Sequence[Item],
    disks: Sequence[tuple[Item, str]],
    volumes: Mapping[str, Volume],
    host: Host,
    machine: str,
) -> ET.Element:
    devices = ET.Element("devices")
    letters = {prefix: iter("abcdefghijklmnopqrstuvwxyz") for prefix in ("sd", "hd", "vd")}
    for order, (item, controller) in enumerate(disks, 1):
        bus, _, prefix = _BUSES[controller]
        volume = volumes[(item.host_resource or "").rpartition("/disk/")[2]]
        disk = _disk(devices, "disk", prefix + next(letters[prefix]), bus)
        ET.SubElement(disk, "driver", name="qemu", type=volume.format, discard="unmap")
        ET.SubElement(disk, "source", file=volume.path)
        ET.SubElement(disk, "boot", order=str(order))
    for _ in (item for item in items if item.resource_type == _CDROM):
        bus, prefix = ("ide", "hd") if machine == "pc" else ("sata", "sd")
        drive = _disk(devices, "cdrom", prefix + next(letters[prefix]), bus)
        ET.SubElement(drive, "driver", name="qemu", type="raw")
        ET.SubElement(drive, "readonly")
    for model in dict.fromkeys(_BUSES[controller][1] for _, controller in disks):
        if model:
            ET.SubElement(devices, "controller", type="scsi", index="0", model=model)
    for item in (item for item in items if item.resource_type == _NIC):
        devices.append(_interface(item, host))
    for tag in ("serial", "console"):
        ET.SubElement(devices, tag, type="pty")
    ET.SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="vga")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    return devices


def _disk(devices: ET.Element, device: str, target: str, bus: str) -> ET.Element:
    disk = ET.SubElement(devices, "disk", type="file", device=device)
    ET.SubElement(disk, "target", dev=target, bus=bus)
    return disk


def _interface(item: Item, host: Host) -> ET.Element:
    where = host.networks.get(item.connection or "", host.network)
    kind, _, bridge = where.partition(":")
    if where == "user":
        interface = ET.Element("interface", type="user")
    elif kind == "bridge":
        interface = ET.Element("interface", type="bridge")
        ET.SubElement(interface, "source", bridge=bridge)
    else:
        interface = ET.Element("interface", type="network")
        ET.SubElement(interface, "source", network=where)
    model = boot.NICS.get((item.resource_sub_type or "").lower(), "e1000")
    ET.SubElement(interface, "model", type=_MODELS.get(model, model))
    return interface
