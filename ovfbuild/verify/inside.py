"""What is inside a package, as plain values for JSON and for people (`ovfbuild inspect`)."""

from __future__ import annotations

from typing import Any

from ovfbuild.errors import FileError
from ovfbuild.formats import certificate, manifest
from ovfbuild.formats.envelope import Item
from ovfbuild.spec.products import environment_key
from ovfbuild.verify.judging import named, text_of
from ovfbuild.verify.package import Package
from ovfbuild.verify.rules import octets_of, size_of

_CPU, _MEMORY = 3, 4
_KINDS = {
    5: "IDE controller",
    6: "SCSI controller",
    10: "NIC",
    15: "CD-ROM",
    17: "disk",
    20: "SATA controller",
    21: "serial port",
    23: "USB controller",
    24: "video card",
}


def facts(package: Package) -> dict[str, Any]:
    """Sizes in bytes. Nothing is judged, and no disk is read."""
    envelope = package.envelope
    section = envelope.disk_section
    files = {file.id: file for file in envelope.files}
    return {
        "path": str(package.path),
        "size": package.path.stat().st_size,
        "members": [{"name": member.name, "size": member.size} for member in package.members],
        "system": _system(package),
        "networks": [
            network.name for network in (envelope.network_section.networks if envelope.network_section else ())
        ],
        "disks": [
            {
                "id": disk.disk_id,
                "file": files[disk.file_ref].href if disk.file_ref in files else None,
                "capacity": size_of(disk) or disk.capacity,
                "populated": disk.populated_size,
                "size": files[disk.file_ref].size if disk.file_ref in files else None,
                "format": disk.format,
            }
            for disk in (section.disks if section else ())
        ],
        "product": _product(package),
        "properties": [
            {
                "key": environment_key(product.class_, prop.key, product.instance),
                "type": prop.type,
                "value": prop.value,
                "label": prop.label,
            }
            for product in envelope.virtual_system.products
            for prop in product.properties
        ],
        "annotation": envelope.virtual_system.annotation.annotation if envelope.virtual_system.annotation else None,
        "signature": _signature(package),
        "eulas": [eula.license for eula in envelope.virtual_system.eulas],
    }


def _signature(package: Package) -> dict[str, Any] | None:
    """Who signed the manifest, and whether the signature fits; None where there is none that can be read."""
    member, of = named(package, ".cert"), named(package, ".mf")
    if member is None:
        return None
    try:
        signature = certificate.read(text_of(package, member, certificate.LARGEST))
        fits = of is not None and signature.fits(text_of(package, of, manifest.LARGEST))
    except FileError as error:
        return {"error": error.message}
    return {**signature.facts(), "fits": fits}


def _system(package: Package) -> dict[str, Any]:
    system = package.envelope.virtual_system
    hardware, guest = system.hardware, system.operating_system
    # Without a configuration: what is there where none is chosen.
    quantities = {item.resource_type: item.virtual_quantity for item in hardware.items if not item.configuration}
    return {
        "name": system.name or system.id,
        "os": guest.description if guest else None,
        "os_id": guest.id if guest else None,
        "vmw_os_type": guest.os_type if guest else None,
        "family": hardware.system.virtual_system_type if hardware.system else None,
        "cpus": quantities.get(_CPU),
        "memory": next(
            (
                octets_of(item.virtual_quantity or 0, item.allocation_units) or 0
                for item in hardware.items
                if item.resource_type == _MEMORY
            ),
            0,
        ),
        "firmware": "efi" if system.efi else "bios",
        "transport": list(hardware.transport),
        "devices": [_device(item) for item in hardware.items if item.resource_type not in (_CPU, _MEMORY)],
    }


def _device(item: Item) -> str:
    kind = _KINDS.get(item.resource_type, f"resource type {item.resource_type}")
    model = f", {item.resource_sub_type}" if item.resource_sub_type else ""
    where = f", on {item.connection}" if item.connection else ""
    return f"{kind}: {item.element_name}{model}{where}{'' if item.required else ' (optional)'}"


def _product(package: Package) -> dict[str, Any]:
    products = package.envelope.virtual_system.products
    if not products:
        return {}
    first = products[0]
    return {"name": first.product, "vendor": first.vendor, "version": first.version, "url": first.product_url}
