"""Reads an OVF descriptor into the models of `envelope`.

What has no model there is not refused but listed, as `Envelope.unread`: whether it may be there is
for the reader of a package to judge (DSP0243 1.1.0 clause 7.3: skip it only if it is not required).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ovfbuild.errors import FileError
from ovfbuild.formats import envelope as model
from ovfbuild.formats.ovf import OVF, OVF_2, RASD, RASD_CHILDREN, VMW, VSSD, Element, tree

_T = TypeVar("_T")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_RASD_NAMES = frozenset(name for _, name in RASD_CHILDREN)


def parse(octets: bytes) -> model.Envelope:
    """The descriptor in `octets`. `parse(dump(envelope)) == envelope`.

    Raises FileError, with the line, for what is no XML in UTF-8 (see `ovf.tree`), no Envelope of OVF 1, has
    not exactly one VirtualSystem with one VirtualHardwareSection, lacks a required element or attribute, has
    one twice that can be there once, or a number that is none.
    """
    root = tree(octets)
    if root.tag == f"{{{OVF_2}}}Envelope":
        raise _error(root, "an Envelope of OVF 2.0", "VMware and virt-v2v read OVF 1.1 only; export as that")
    if root.tag != f"{{{OVF}}}Envelope":
        raise _error(root, f"the root is {_name(root)}", f"it must be Envelope of the namespace {OVF}")
    return _Reader().envelope(root)


def _error(element: Element, what: str, hint: str = "see DSP0243 1.1 for what a descriptor says") -> FileError:
    return FileError(f"descriptor, line {element.sourceline}: {what}", hint)


def _name(element: Element) -> str:
    """The local name of OVF's own elements, {namespace}name of others."""
    return str(element.tag).removeprefix(f"{{{OVF}}}")


def _get(element: Element, name: str, namespace: str = OVF) -> str | None:
    return element.get(f"{{{namespace}}}{name}")


def _need(element: Element, name: str, namespace: str = OVF) -> str:
    value = _get(element, name, namespace)
    if value is None:
        raise _error(element, f"{_name(element)} lacks the attribute {name}")
    return value


def _only(element: Element, name: str, namespace: str = OVF) -> Element | None:
    found = element.findall(f"{{{namespace}}}{name}")
    if len(found) > 1:
        raise _error(found[1], f"{name} is there twice in one {_name(element)}", "importers read only one")
    return found[0] if found else None


def _text(element: Element, name: str, namespace: str = OVF) -> str | None:
    """The text of the only child of that name; None without one."""
    child = _only(element, name, namespace)
    return None if child is None else child.text or ""


def _needed(element: Element, name: str, namespace: str = OVF) -> str:
    text = _text(element, name, namespace)
    if text is None:
        raise _error(element, f"{_name(element)} lacks the element {name}")
    return text


def _number(element: Element, name: str, text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 30:
        raise _error(element, f"{name} is {text[:40]!r}, no number")
    return int(text)


def _maybe_number(element: Element, name: str, text: str | None) -> int | None:
    return None if text is None else _number(element, name, text)


def _boolean(element: Element, name: str, text: str | None, default: bool) -> bool:
    if text is None:
        return default
    if text.strip() not in _BOOLEANS:
        raise _error(element, f"{name} is {text[:40]!r}, neither true nor false")
    return _BOOLEANS[text.strip()]


def _required(element: Element) -> bool:
    return _boolean(element, "required", _get(element, "required"), True)


class _Reader:
    """Collects what no model is there for while it reads the rest."""

    def __init__(self) -> None:
        self._unread: list[model.Unread] = []

    def _note(self, element: Element, known: frozenset[str]) -> None:
        """Lists those children that are not `known`."""
        for child in element:
            if _name(child) not in known:
                self._unread.append(model.Unread(_name(child), child.sourceline or 0, _required(child)))

    def _all(self, element: Element, name: str, read: Callable[[Element], _T]) -> tuple[_T, ...]:
        return tuple(read(child) for child in element.findall(f"{{{OVF}}}{name}"))

    def _maybe(self, element: Element, name: str, read: Callable[[Element], _T]) -> _T | None:
        child = _only(element, name)
        return None if child is None else read(child)

    def _one(self, element: Element, name: str, read: Callable[[Element], _T]) -> _T:
        found = self._maybe(element, name, read)
        if found is None:
            raise _error(element, f"{_name(element)} lacks the element {name}")
        return found

    def envelope(self, root: Element) -> model.Envelope:
        collection = _only(root, "VirtualSystemCollection")
        if collection is not None:
            raise _error(collection, "a collection of virtual systems", "a package can hold one machine only")
        files = self._one(root, "References", self._references)
        disks = self._maybe(root, "DiskSection", self._disk_section)
        networks = self._maybe(root, "NetworkSection", self._network_section)
        system = self._one(root, "VirtualSystem", self._virtual_system)
        self._note(root, frozenset({"References", "DiskSection", "NetworkSection", "VirtualSystem"}))
        unread = sorted(self._unread, key=lambda element: element.line)
        return model.Envelope(files, disks, networks, system, tuple(unread))

    def _references(self, element: Element) -> tuple[model.File, ...]:
        self._note(element, frozenset({"File"}))
        return self._all(element, "File", self._file)

    def _file(self, element: Element) -> model.File:
        return model.File(
            id=_need(element, "id"),
            href=_need(element, "href"),
            size=_maybe_number(element, "size", _get(element, "size")),
            compression=_get(element, "compression"),
            chunk_size=_maybe_number(element, "chunkSize", _get(element, "chunkSize")),
        )

    def _disk_section(self, element: Element) -> model.DiskSection:
        self._note(element, frozenset({"Info", "Disk"}))
        return model.DiskSection(self._all(element, "Disk", self._disk), _needed(element, "Info"))

    def _disk(self, element: Element) -> model.Disk:
        return model.Disk(
            disk_id=_need(element, "diskId"),
            capacity=_number(element, "capacity", _need(element, "capacity")),
            capacity_allocation_units=_get(element, "capacityAllocationUnits"),
            file_ref=_get(element, "fileRef"),
            format=_get(element, "format"),
            populated_size=_maybe_number(element, "populatedSize", _get(element, "populatedSize")),
        )

    def _network_section(self, element: Element) -> model.NetworkSection:
        self._note(element, frozenset({"Info", "Network"}))
        return model.NetworkSection(self._all(element, "Network", self._network), _needed(element, "Info"))

    def _network(self, element: Element) -> model.Network:
        return model.Network(_need(element, "name"), _text(element, "Description"))

    def _virtual_system(self, element: Element) -> model.VirtualSystem:
        sections = {"OperatingSystemSection", "VirtualHardwareSection", "AnnotationSection", "ProductSection"}
        self._note(element, frozenset(sections | {"Info", "Name", "EulaSection"}))
        return model.VirtualSystem(
            id=_need(element, "id"),
            name=_text(element, "Name"),
            operating_system=self._maybe(element, "OperatingSystemSection", self._operating_system),
            hardware=self._one(element, "VirtualHardwareSection", self._hardware),
            annotation=self._maybe(element, "AnnotationSection", self._annotation),
            products=self._all(element, "ProductSection", self._product),
            eulas=self._all(element, "EulaSection", self._eula),
            info=_needed(element, "Info"),
        )

    def _operating_system(self, element: Element) -> model.OperatingSystemSection:
        self._note(element, frozenset({"Info", "Description"}))
        return model.OperatingSystemSection(
            id=_number(element, "id", _need(element, "id")),
            version=_get(element, "version"),
            os_type=_get(element, "osType", VMW),
            description=_text(element, "Description"),
            info=_needed(element, "Info"),
        )

    def _hardware(self, element: Element) -> model.VirtualHardwareSection:
        self._note(element, frozenset({"Info", "System", "Item", f"{{{VMW}}}Config"}))
        return model.VirtualHardwareSection(
            system=self._maybe(element, "System", self._system),
            items=self._all(element, "Item", self._item),
            configs=tuple(self._configs(element)),
            transport=tuple((_get(element, "transport") or "").split()),
            info=_needed(element, "Info"),
        )

    def _configs(self, element: Element) -> Iterator[model.Config]:
        for child in element.findall(f"{{{VMW}}}Config"):
            yield model.Config(_need(child, "key", VMW), _need(child, "value", VMW), _required(child))

    def _system(self, element: Element) -> model.System:
        names = ("ElementName", "InstanceID", "VirtualSystemIdentifier", "VirtualSystemType")
        self._note(element, frozenset(f"{{{VSSD}}}{name}" for name in names))
        return model.System(
            virtual_system_identifier=_text(element, "VirtualSystemIdentifier", VSSD),
            virtual_system_type=_text(element, "VirtualSystemType", VSSD),
            element_name=_needed(element, "ElementName", VSSD),
            instance_id=_number(element, "InstanceID", _needed(element, "InstanceID", VSSD)),
        )

    def _item(self, element: Element) -> model.Item:
        known = {f"{{{RASD}}}{name}" for name in _RASD_NAMES}
        self._note(element, frozenset(known | {f"{{{VMW}}}CoresPerSocket"}))

        def text(name: str) -> str | None:
            return _text(element, name, RASD)

        def number(name: str) -> int:
            return _number(element, name, _needed(element, name, RASD))

        automatic = text("AutomaticAllocation")
        cores = _text(element, "CoresPerSocket", VMW)
        return model.Item(
            instance_id=number("InstanceID"),
            element_name=_needed(element, "ElementName", RASD),
            resource_type=number("ResourceType"),
            resource_sub_type=text("ResourceSubType"),
            address=text("Address"),
            address_on_parent=text("AddressOnParent"),
            allocation_units=text("AllocationUnits"),
            automatic_allocation=None
            if automatic is None
            else _boolean(element, "AutomaticAllocation", automatic, False),
            connection=text("Connection"),
            description=text("Description"),
            host_resource=text("HostResource"),
            parent=_maybe_number(element, "Parent", text("Parent")),
            virtual_quantity=_maybe_number(element, "VirtualQuantity", text("VirtualQuantity")),
            cores_per_socket=_maybe_number(element, "CoresPerSocket", cores),
            required=_required(element),
            bound=_get(element, "bound"),
            configuration=_get(element, "configuration"),
        )

    def _annotation(self, element: Element) -> model.AnnotationSection:
        return model.AnnotationSection(_needed(element, "Annotation"), _needed(element, "Info"))

    def _product(self, element: Element) -> model.ProductSection:
        names = {"Product", "Vendor", "Version", "FullVersion", "ProductUrl", "VendorUrl"}
        self._note(element, frozenset(names | {"Info", "Property"}))
        return model.ProductSection(
            product=_text(element, "Product"),
            vendor=_text(element, "Vendor"),
            version=_text(element, "Version"),
            full_version=_text(element, "FullVersion"),
            product_url=_text(element, "ProductUrl"),
            vendor_url=_text(element, "VendorUrl"),
            properties=self._all(element, "Property", self._property),
            class_=_get(element, "class"),
            instance=_get(element, "instance"),
            required=_required(element),
            info=_needed(element, "Info"),
        )

    def _property(self, element: Element) -> model.Property:
        self._note(element, frozenset({"Label", "Description"}))
        configurable = _get(element, "userConfigurable")
        return model.Property(
            key=_need(element, "key"),
            type=_need(element, "type"),
            value=_get(element, "value"),
            user_configurable=_boolean(element, "userConfigurable", configurable, False),
            password=_boolean(element, "password", _get(element, "password"), False),
            qualifiers=_get(element, "qualifiers"),
            label=_text(element, "Label"),
            description=_text(element, "Description"),
        )

    def _eula(self, element: Element) -> model.EulaSection:
        return model.EulaSection(_needed(element, "License"), _needed(element, "Info"))
