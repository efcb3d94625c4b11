"""What is inside a package, as plain values for JSON and for people (`ovfbuild inspect`)."""

from __future__ import annotations

from typing import Any

from ovfbuild.errors import FileError
from ovfbuild.formats import certificate, manifest
from ovfbuild.formats.envelope import Disk, Envelope, Item, ProductSection
from ovfbuild.spec.products import environment_key
from ovfbuild.verify.hardware import HOST_RESOURCE
from ovfbuild.verify.judging import named, text_of
from ovfbuild.verify.package import Package
from ovfbuild.verify.rules import octets_of, size_of

_CPU, _MEMORY = 3, 4
_KINDS = {
    3: "CPUs",
    4: "memory",
    5: "IDE controller",
    6: "SCSI controller",
    10: "NIC",
    14: "floppy drive",
    15: "CD-ROM",
    17: "disk",
    20: "SATA controller",
    21: "serial port",
    23: "USB controller",
    24: "video card",
    35: "sound card",
}


def facts(package: Package) -> dict[str, Any]:
    """Sizes in bytes. Nothing is judged, and no disk is read. Raises FileError where there is no descriptor to read."""
    envelope, size = package.envelope, sum(package.file_of(one).stat().st_size for one in package.members)
    options = envelope.deployment_options
    products = envelope.virtual_system.products
    return {
        "path": str(package.path),
        "size": size if package.in_folder else package.path.stat().st_size,
        "members": [{"name": member.name, "size": member.size} for member in package.members],
        "manifest": _manifest(package),
        "system": _system(envelope),
        "further_systems": [_system(other) for other in package.envelopes[1:]],
        "networks": [
            network.name for network in (envelope.network_section.networks if envelope.network_section else ())
        ],
        "disks": _disks(envelope),
        "configurations": [
            {"id": one.id, "label": one.label, "description": one.description, "default": one.default}
            for one in (options.configurations if options else ())
        ],
        "product": _product(products[0]) if products else {},
        "further_products": [_product(one) for one in products[1:]],
        "properties": _properties(products),
        "annotation": envelope.virtual_system.annotation.annotation if envelope.virtual_system.annotation else None,
        "signature": _signature(package),
        "eulas": [eula.license for eula in envelope.virtual_system.eulas],
        "not_read": [{"element": one.name, "line": one.line, "required": one.required} for one in envelope.unread],
    }


def _manifest(package: Package) -> dict[str, Any] | None:
    member = named(package, ".mf")
    if member is None:
        return None
    lines = manifest.read(text_of(package, member, manifest.LARGEST)).lines
    return {"file": member.name, "algorithms": sorted({line.algorithm for line in lines}), "files": len(lines)}


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


def _disks(envelope: Envelope) -> list[dict[str, Any]]:
    section, files = envelope.disk_section, {file.id: file for file in envelope.files}
    items = envelope.virtual_system.hardware.items
    drives = {m[1]: one for one in items if (m := HOST_RESOURCE.fullmatch(one.host_resource or ""))}
    return [
        {
            "id": disk.disk_id,
            "file": file.href if (file := files.get(disk.file_ref or "")) else None,
            "capacity": size_of(disk) or disk.capacity,
            "populated": disk.populated_size,
            "size": file.size if file else None,
            "format": disk.format,
            "compression": file.compression if file else None,
            "piece_size": file.chunk_size if file else None,
            **_place(disk, drives, {one.instance_id: one for one in items}),
        }
        for disk in (section.disks if section else ())
    ]


def _place(disk: Disk, drives: dict[str, Item], items: dict[int, Item]) -> dict[str, Any]:
    """Where a disk is attached: the controller's name, and the address there."""
    drive = drives.get(disk.disk_id)
    controller = items.get(drive.parent) if drive and drive.parent is not None else None
    return {
        "controller": controller.element_name if controller else None,
        "address": drive.address_on_parent if drive else None,
    }


def _system(envelope: Envelope) -> dict[str, Any]:
    system = envelope.virtual_system
    hardware, guest, machine = system.hardware, system.operating_system, system.machine
    # Without a configuration: what is there where none is chosen.
    quantities = {item.resource_type: item.virtual_quantity for item in hardware.items if not item.configuration}
    return {
        "name": system.name or system.id,
        "id": system.id,
        "os": guest.description if guest else None,
        "os_id": guest.id if guest else None,
        "vmw_os_type": guest.os_type if guest else None,
        "vbox_os_type": machine.get("OSType") if machine else None,
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
        "items": [_item(item) for item in hardware.items],
        "settings": {one.key: one.value for one in (*hardware.configs, *hardware.extra_configs)},
    }


def _device(item: Item) -> str:
    kind = _KINDS.get(item.resource_type, f"resource type {item.resource_type}")
    model = f", {item.resource_sub_type}" if item.resource_sub_type else ""
    where = f", on {item.connection}" if item.connection else ""
    only = f" (in {item.configuration})" if item.configuration else ""
    return f"{kind}: {item.element_name}{model}{where}{'' if item.required else ' (optional)'}{only}"


def _item(item: Item) -> dict[str, Any]:
    """The item as it stands there."""
    return {
        "id": item.instance_id,
        "type": item.resource_type,
        "kind": _KINDS.get(item.resource_type),
        "name": item.element_name,
        "model": item.resource_sub_type,
        "quantity": item.virtual_quantity,
        "unit": item.allocation_units,
        "parent": item.parent,
        "address": item.address_on_parent,
        "connection": item.connection,
        "host_resource": item.host_resource,
        "required": item.required,
        "configuration": item.configuration,
        "bound": item.bound,
        "settings": {one.key: one.value for one in item.configs},
        "line": item.line,
    }


def _product(one: ProductSection) -> dict[str, Any]:
    return {
        "name": one.product,
        "vendor": one.vendor,
        "version": one.version,
        "full_version": one.full_version,
        "url": one.product_url,
        "vendor_url": one.vendor_url,
        "class": one.class_,
        "instance": one.instance,
    }


def _properties(products: tuple[ProductSection, ...]) -> list[dict[str, Any]]:
    """Each by the key that the guest finds it under: `class.key.instance` (DSP0243 9.5.1)."""
    return [
        {
            "key": environment_key(product.class_, prop.key, product.instance),
            "type": prop.type,
            "value": prop.value,
            "label": prop.label,
            "description": prop.description,
            "category": prop.category,
            "qualifiers": prop.qualifiers,
            "user_configurable": prop.user_configurable,
            "password": prop.password,
        }
        for product in products
        for prop in product.properties
    ]
