"""The rules about the virtual system: its name, its family, its guest, how it is told who it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ovfbuild.formats.envelope import Envelope
from ovfbuild.formats.ovf import VBOX
from ovfbuild.verify.verdict import Finding

_CDROM, _SATA = 15, 20
_NEWEST_FAMILY = {"vsphere-6.5": 13, "vsphere-6.7": 15, "vsphere-7.0": 19, "vsphere-8.0": 21}
"""vmx-N (Broadcom, vSphere Automation API, Hardware.Version)."""
_OLDEST_FAMILY = 11
_FEATURE_FAMILY = 13
_FIRST_WITH = {"debian11": "vsphere-7.0", "debian12": "vsphere-8.0"}
"""Guests of vmw:osType and the first version that has the word (vSphere API, GuestOsIdentifier)."""
_STANDARD = {
    *("StartupSection", "InstallSection", "ResourceAllocationSection", "Strings", "SharedDiskSection"),
    *("EnvironmentFilesSection", "Category", "Icon", "AppUrl", "Value", "Msg", "License"),
}
"""Elements of DSP0243 that have no model here, and that importers skip."""


def judge(envelope: Envelope) -> Iterator[Finding]:
    """Every rule about the virtual system."""
    for rule in (_names, _family, _guest, _firmware, _environment, _vbox, _unread):
        yield from rule(envelope)


def _names(envelope: Envelope) -> Iterator[Finding]:
    system = envelope.virtual_system
    if system.id != system.name:
        text = f"ovf:id is {system.id!r} and Name {system.name!r}: VirtualBox shows the one, VMware the other"
        yield Finding("two-names", "VirtualSystem", text, line=system.line)
    if system.hardware.system is None or not system.hardware.system.virtual_system_identifier:
        text = "System has no vssd:VirtualSystemIdentifier"
        yield Finding("system-identifier", "VirtualHardwareSection", text, line=system.hardware.line)


def _family(envelope: Envelope) -> Iterator[Finding]:
    hardware = envelope.virtual_system.hardware
    said = (hardware.system.virtual_system_type if hardware.system else None) or ""
    line = hardware.system.line if hardware.system else hardware.line
    families = [int(number) for number in re.findall(r"(?<!\S)vmx-(\d{1,3})(?!\S)", said)]
    if not families:
        text = f"vssd:VirtualSystemType is {said!r}, not vmx-N"
        yield Finding("hardware-family", "VirtualHardwareSection", text, line=line)
        return
    lost = tuple(version for version, newest in _NEWEST_FAMILY.items() if min(families) > newest)
    if lost:
        yield Finding("hardware-new", "VirtualHardwareSection", f"the family is {said}", line=line, only=lost)
    if max(families) < _OLDEST_FAMILY:
        yield Finding("hardware-old", "VirtualHardwareSection", f"the family is {said}", line=line)
    if max(families) < _FEATURE_FAMILY:
        for what in _features(envelope):
            yield Finding("hardware-feature", "VirtualHardwareSection", f"{what} in the family {said}", line=line)


def _features(envelope: Envelope) -> Iterator[str]:
    """What the machine has that old families do not know."""
    hardware = envelope.virtual_system.hardware
    if any(item.resource_type == _SATA and "nvme" in (item.resource_sub_type or "").lower() for item in hardware.items):
        yield "an NVMe controller"
    if any(one.key == "bootOptions.efiSecureBootEnabled" and one.value == "true" for one in hardware.configs):
        yield "Secure Boot"


def _guest(envelope: Envelope) -> Iterator[Finding]:
    system = envelope.virtual_system
    guest = system.operating_system
    if guest is None:
        yield Finding("os-missing", "VirtualSystem", "there is no OperatingSystemSection", line=system.line)
    elif not guest.os_type:
        yield Finding("os-type", "OperatingSystemSection", "it has no vmw:osType", line=guest.line)
    else:
        first = next((at for word, at in _FIRST_WITH.items() if guest.os_type.startswith(word)), None)
        versions = list(_NEWEST_FAMILY)
        if lost := tuple(versions[: versions.index(first)] if first else ()):
            yield Finding("os-type-new", "OperatingSystemSection", guest.os_type, line=guest.line, only=lost)


def _firmware(envelope: Envelope) -> Iterator[Finding]:
    for config in envelope.virtual_system.hardware.configs:
        if config.key == "firmware" and config.value == "efi":
            yield Finding("firmware", "vmw:Config", "the machine is to start with EFI", line=config.line)
        if config.required:
            yield Finding("config-required", f"vmw:Config {config.key}", "it is not optional", line=config.line)


def _environment(envelope: Envelope) -> Iterator[Finding]:
    system = envelope.virtual_system
    drives = any(item.resource_type == _CDROM for item in system.hardware.items)
    if "iso" in system.hardware.transport and not drives:
        text = "the transport “iso” needs a CD-ROM drive"
        yield Finding("transport-cdrom", "VirtualHardwareSection", text, line=system.hardware.line)
    for product in system.products[:1]:
        if product.properties and (product.class_ or product.instance):
            text = "ovf:class or ovf:instance changes the keys, and cloud-init does not know them"
            yield Finding("product-class", "ProductSection", text, line=product.line)
    for eula in system.eulas[:1]:
        yield Finding("eula", "EulaSection", "a licence has to be accepted", line=eula.line)


def _vbox(envelope: Envelope) -> Iterator[Finding]:
    described = envelope.virtual_system.machine
    if described is None:
        return
    yield Finding("vbox-machine", "vbox:Machine", "VirtualBox reads nothing else", line=described.line)
    if not described.get("uuid") or not described.get("name"):
        yield Finding("vbox-attributes", "vbox:Machine", "it lacks its uuid or name", line=described.line)
    section = envelope.disk_section
    known = {(disk.vbox_uuid or "").strip("{}").lower() for disk in (section.disks if section else ())}
    attached = (
        image.get("uuid") or "" for device in described.every("AttachedDevice") for image in device.every("Image")
    )
    for uuid in attached:
        if uuid.strip("{}").lower() not in known:
            text = f"the Image {uuid[:40]} is no Disk's vbox:uuid"
            yield Finding("vbox-images", "vbox:Machine", text, line=described.line)


def _unread(envelope: Envelope) -> Iterator[Finding]:
    if envelope.deployment_options:
        line = envelope.deployment_options.line
        yield Finding(
            "deployment-options", "DeploymentOptionSection", "importers disagree on the configuration", line=line
        )
    for config in envelope.virtual_system.hardware.extra_configs:
        yield Finding("extra-config", "vmw:ExtraConfig", "it is taken from trusted packages only", line=config.line)
        if config.required:
            yield Finding("config-required", "vmw:ExtraConfig", "it is not optional", line=config.line)
    for element in envelope.unread:
        name, shown, line = element.name, element.name[:120], element.line
        if name.rpartition("}")[2] == "BootOrderSection":
            yield Finding("boot-order", shown, "it confuses vCenter", line=line)
        elif element.required and name not in _STANDARD and not name.startswith(f"{{{VBOX}}}"):
            text = f"{shown} is not known to every importer and is not marked as optional"
            yield Finding("unknown-element", shown, text, line=line)
