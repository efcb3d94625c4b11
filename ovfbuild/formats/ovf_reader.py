"""Reads an OVF descriptor into the models of `envelope`: `read` anybody's, with what is wrong with it, `parse` ours.

What has no model there is not refused but listed, as `Envelope.unread`: whether it may be there is
for the reader of a package to judge (DSP0243 1.1.0 clause 7.3: skip it only if it is not required).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ovfbuild.errors import FileError
from ovfbuild.formats import envelope as model
from ovfbuild.formats.fault import Fault
from ovfbuild.formats.ovf import OVF, OVF_2, RASD, RASD_CHILDREN, VBOX, VMW, VSSD, Element, as_utf8, tree

_T = TypeVar("_T")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_MACHINE = f"{{{VBOX}}}Machine"
_RASD_NAMES = frozenset(name for _, name in RASD_CHILDREN)
_STANDARD_RASD = frozenset(
    (
        "Caption",
        "ChangeableType",
        "ConfigurationName",
        "ConsumerVisibility",
        "Generation",
        "InstanceId",
        "Limit",
        "MappingBehavior",
        "OtherResourceType",
        "PoolID",
        "Reservation",
        "SoID",
        "SoOrgID",
        "VirtualQuantityUnits",
        "Weight",
    )
)
"""Of CIM_ResourceAllocationSettingData, what importers skip; DSP8023 has them."""
_CIM_OF_2 = ("CIM_StorageAllocationSettingData", "CIM_EthernetPortAllocationSettingData")
_KNOWN = frozenset(
    (
        "References",
        "DiskSection",
        "NetworkSection",
        "DeploymentOptionSection",
        "VirtualSystem",
        "VirtualSystemCollection",
    )
)
_FATAL = {"descriptor-version", "descriptor-incomplete", "several-systems"}
"""The faults that `parse` does not read past."""
_SEE = "see DSP0243 1.1 for what a descriptor says"
_MOST_FAULTS = 50
_LARGEST_NUMBER = 30


@dataclass(frozen=True)
class Reading:
    """A descriptor, as far as it could be read: an Envelope for each of its virtual machines, which share the rest."""

    envelopes: tuple[model.Envelope, ...]
    faults: tuple[Fault, ...]


def parse(octets: bytes) -> model.Envelope:
    """The descriptor in `octets`. `parse(dump(envelope)) == envelope`.

    Raises FileError, with the line, for what is no XML in UTF-8 (see `ovf.tree`), no Envelope of OVF 1, has
    not exactly one VirtualSystem with one VirtualHardwareSection, lacks a required element or attribute, has
    one twice that can be there once, or a number that is none.
    """
    root = tree(octets)
    _judge_root(root)
    reading = _read(root)
    for fault in reading.faults:
        if fault.rule in _FATAL:
            raise FileError(f"descriptor, line {fault.line}: {fault.text}", fault.hint)
    return reading.envelopes[0]


def read(octets: bytes) -> Reading:
    """Whatever descriptor is in `octets`, and what is wrong with it.

    OVF 2.0 is read as if it were 1.1. What is missing is None, empty or 0. Raises FileError, with the line, for what
    `ovf.tree` refuses and for another root than an Envelope of OVF.
    """
    text, encoding = as_utf8(octets)
    faults = []
    if encoding != "utf-8":
        shown = "UTF-8 with a byte order mark" if encoding == "utf-8-sig" else encoding
        faults.append(Fault("descriptor-encoding", f"it is {shown}", 1))
    root = tree(text)
    prefix = root.prefix
    if root.tag == f"{{{OVF_2}}}Envelope":
        faults.append(Fault("descriptor-version", "an Envelope of OVF 2.0", root.sourceline or 1))
        _as_ovf_1(root)
    _judge_root(root)
    if prefix:
        faults.append(Fault("descriptor-prefix", f"elements of OVF have the prefix {prefix}", root.sourceline or 1))
    reading = _read(root)
    return Reading(reading.envelopes, (*faults, *reading.faults, *_order(root)))


def _read(root: Element) -> Reading:
    reader = _Reader()
    envelopes = tuple(reader.envelopes(root))
    return Reading(envelopes, tuple(reader.faults[:_MOST_FAULTS]))


def _judge_root(root: Element) -> None:
    if root.tag == f"{{{OVF_2}}}Envelope":
        raise _error(root, "an Envelope of OVF 2.0", "VMware and virt-v2v read OVF 1.1 only; export as that")
    if root.tag != f"{{{OVF}}}Envelope":
        raise _error(root, f"the root is {_name(root)}", f"it must be Envelope of the namespace {OVF}")


def _as_ovf_1(root: Element) -> None:
    """Gives the elements and attributes of OVF 2.0 the names that they have, or had, in 1.1."""
    for element in root.iter():
        namespace, _, name = str(element.tag).rpartition("}")
        if namespace == f"{{{OVF_2}":
            name = "Item" if name in ("StorageItem", "EthernetPortItem") else name
            element.tag = f"{{{OVF}}}{name}"
        elif namespace.removesuffix(".xsd").endswith(_CIM_OF_2):
            element.tag = f"{{{RASD}}}{name}"
        for key, value in list(element.attrib.items()):
            if str(key).startswith(f"{{{OVF_2}}}"):
                del element.attrib[key]
                element.set(f"{{{OVF}}}{str(key).rpartition('}')[2]}", value)


def _order(root: Element) -> Iterator[Fault]:
    """Where the schema's sequence of sections, and of an Item's children, is broken."""
    names = [_name(child) for child in root if _name(child) != "Strings"]
    ranks = [0 if name == "References" else 2 if name.startswith("VirtualSystem") else 1 for name in names]
    if ranks != sorted(ranks):
        text = "References, sections and VirtualSystem do not follow each other"
        yield Fault("section-order", text, root.sourceline or 1)
    for item in root.iter(f"{{{OVF}}}Item"):
        children = [str(child.tag).rpartition("}")[2] for child in item if str(child.tag).startswith(f"{{{RASD}}}")]
        if children != sorted(children):
            yield Fault("rasd-order", f"the children of an Item: {', '.join(children[:20])}", item.sourceline or 1)


def _error(element: Element, what: str, hint: str = _SEE) -> FileError:
    return FileError(f"descriptor, line {element.sourceline}: {what}", hint)


def _name(element: Element) -> str:
    """The local name of OVF's own elements, {namespace}name of others."""
    return str(element.tag).removeprefix(f"{{{OVF}}}")


def _line(element: Element) -> int:
    return element.sourceline or 0


def _get(element: Element, name: str, namespace: str = OVF) -> str | None:
    return element.get(f"{{{namespace}}}{name}")


def _extension(element: Element) -> model.Extension:
    text = (element.text or "").strip()
    return model.Extension(
        str(element.tag),
        tuple((str(name), str(value)) for name, value in element.attrib.items()),
        tuple(_extension(child) for child in element),
        text or None,
        _line(element),
    )


class _Reader:
    """Collects what no model is there for, and what is wrong, while it reads the rest."""

    def __init__(self) -> None:
        self._unread: list[model.Unread] = []
        self.faults: list[Fault] = []

    # One value

    def _fault(self, element: Element, what: str, hint: str = _SEE, rule: str = "descriptor-incomplete") -> None:
        self.faults.append(Fault(rule, what, _line(element), hint))

    def _need(self, element: Element, name: str, namespace: str = OVF) -> str:
        value = _get(element, name, namespace)
        if value is None and element.get(name) is not None:
            text = f"{_name(element)} has the attribute {name} without a prefix"
            self._fault(element, text, rule="descriptor-prefix")
            value = element.get(name)
        if value is None:
            self._fault(element, f"{_name(element)} lacks the attribute {name}")
        return value or ""

    def _only(self, element: Element, name: str, namespace: str = OVF) -> Element | None:
        found = element.findall(f"{{{namespace}}}{name}")
        if len(found) > 1:
            self._fault(found[1], f"{name} is there twice in one {_name(element)}", "importers read only one")
        return found[0] if found else None

    def _text(self, element: Element, name: str, namespace: str = OVF) -> str | None:
        """The text of the only child of that name; None without one."""
        child = self._only(element, name, namespace)
        return None if child is None else child.text or ""

    def _needed(self, element: Element, name: str, namespace: str = OVF) -> str:
        text = self._text(element, name, namespace)
        if text is None:
            self._fault(element, f"{_name(element)} lacks the element {name}")
        return text or ""

    def _number(self, element: Element, name: str, text: str) -> int:
        digits = text.strip()
        if not digits.isascii() or not digits.isdigit() or len(text) > _LARGEST_NUMBER:
            if text:
                self._fault(element, f"{name} is {text[:40]!r}, no number")
            return 0
        return int(digits)

    def _maybe_number(self, element: Element, name: str, text: str | None) -> int | None:
        return None if text is None else self._number(element, name, text)

    def _boolean(self, element: Element, name: str, text: str | None, default: bool) -> bool:
        if text is None:
            return default
        if text.strip() not in _BOOLEANS:
            self._fault(element, f"{name} is {text[:40]!r}, neither true nor false")
        return _BOOLEANS.get(text.strip(), default)

    def _required(self, element: Element) -> bool:
        return self._boolean(element, "required", _get(element, "required"), True)

    # Elements

    def _note(self, element: Element, known: frozenset[str]) -> None:
        """Lists those children that are not `known`, nor of CIM's own."""
        for child in element:
            name = _name(child)
            if name not in known and name.removeprefix(f"{{{RASD}}}") not in _STANDARD_RASD | _RASD_NAMES:
                self._unread.append(model.Unread(name, _line(child), self._required(child)))

    def _all(self, element: Element, name: str, read: Callable[[Element], _T]) -> tuple[_T, ...]:
        return tuple(read(child) for child in element.findall(f"{{{OVF}}}{name}"))

    def _maybe(self, element: Element, name: str, read: Callable[[Element], _T]) -> _T | None:
        child = self._only(element, name)
        return None if child is None else read(child)

    def envelopes(self, root: Element) -> Iterator[model.Envelope]:
        """One for each virtual machine; one that is empty where there is none."""
        files = self._maybe(root, "References", self._references)
        if files is None:
            self._fault(root, "Envelope lacks the element References")
        disks = self._maybe(root, "DiskSection", self._disk_section)
        networks = self._maybe(root, "NetworkSection", self._network_section)
        systems = [self._virtual_system(element) for element in self._systems(root)]
        options = self._maybe(root, "DeploymentOptionSection", self._deployment_options)
        self._note(root, _KNOWN)
        unread = tuple(sorted(self._unread, key=lambda element: element.line))
        for system in systems or [_nothing()]:
            yield model.Envelope(files or (), disks, networks, system, unread, options)

    def _systems(self, root: Element) -> list[Element]:
        collection = self._only(root, "VirtualSystemCollection")
        if collection is not None:
            hint = "a package can hold one machine only"
            self._fault(collection, "a collection of virtual systems", hint, "several-systems")
            return list(collection.iter(f"{{{OVF}}}VirtualSystem"))
        found = self._only(root, "VirtualSystem")
        if found is None:
            self._fault(root, "Envelope lacks the element VirtualSystem")
            return []
        return [found]

    def _references(self, element: Element) -> tuple[model.File, ...]:
        self._note(element, frozenset({"File"}))
        return self._all(element, "File", self._file)

    def _file(self, element: Element) -> model.File:
        return model.File(
            line=_line(element),
            id=self._need(element, "id"),
            href=self._need(element, "href"),
            size=self._maybe_number(element, "size", _get(element, "size")),
            compression=_get(element, "compression"),
            chunk_size=self._maybe_number(element, "chunkSize", _get(element, "chunkSize")),
        )

    def _disk_section(self, element: Element) -> model.DiskSection:
        self._note(element, frozenset({"Info", "Disk"}))
        return model.DiskSection(self._all(element, "Disk", self._disk), self._needed(element, "Info"))

    def _disk(self, element: Element) -> model.Disk:
        return model.Disk(
            line=_line(element),
            disk_id=self._need(element, "diskId"),
            capacity=self._number(element, "capacity", self._need(element, "capacity")),
            capacity_allocation_units=_get(element, "capacityAllocationUnits"),
            file_ref=_get(element, "fileRef"),
            format=_get(element, "format"),
            populated_size=self._maybe_number(element, "populatedSize", _get(element, "populatedSize")),
            vbox_uuid=_get(element, "uuid", VBOX),
        )

    def _network_section(self, element: Element) -> model.NetworkSection:
        self._note(element, frozenset({"Info", "Network"}))
        return model.NetworkSection(self._all(element, "Network", self._network), self._needed(element, "Info"))

    def _deployment_options(self, element: Element) -> model.DeploymentOptionSection:
        self._note(element, frozenset({"Info", "Configuration"}))
        found = self._all(element, "Configuration", self._configuration)
        return model.DeploymentOptionSection(found, self._needed(element, "Info"), _line(element))

    def _configuration(self, element: Element) -> model.Configuration:
        default = self._boolean(element, "default", _get(element, "default"), False)
        label, description = self._needed(element, "Label"), self._needed(element, "Description")
        return model.Configuration(self._need(element, "id"), label, description, default)

    def _network(self, element: Element) -> model.Network:
        return model.Network(self._need(element, "name"), self._text(element, "Description"), _line(element))

    def _virtual_system(self, element: Element) -> model.VirtualSystem:
        sections = {"OperatingSystemSection", "VirtualHardwareSection", "AnnotationSection", "ProductSection"}
        self._note(element, frozenset(sections | {"Info", "Name", "EulaSection", _MACHINE}))
        machine = self._only(element, "Machine", VBOX)
        hardware = self._maybe(element, "VirtualHardwareSection", self._hardware)
        if hardware is None:
            self._fault(element, "VirtualSystem lacks the element VirtualHardwareSection")
        return model.VirtualSystem(
            line=_line(element),
            id=self._need(element, "id"),
            name=self._text(element, "Name"),
            operating_system=self._maybe(element, "OperatingSystemSection", self._operating_system),
            hardware=hardware or model.VirtualHardwareSection(None, ()),
            annotation=self._maybe(element, "AnnotationSection", self._annotation),
            products=self._all(element, "ProductSection", self._product),
            eulas=self._all(element, "EulaSection", self._eula),
            machine=None if machine is None else _extension(machine),
            info=self._needed(element, "Info"),
        )

    def _operating_system(self, element: Element) -> model.OperatingSystemSection:
        self._note(element, frozenset({"Info", "Description"}))
        return model.OperatingSystemSection(
            line=_line(element),
            id=self._number(element, "id", self._need(element, "id")),
            version=_get(element, "version"),
            os_type=_get(element, "osType", VMW),
            description=self._text(element, "Description"),
            info=self._needed(element, "Info"),
        )

    def _hardware(self, element: Element) -> model.VirtualHardwareSection:
        self._note(element, frozenset({"Info", "System", "Item", f"{{{VMW}}}Config", f"{{{VMW}}}ExtraConfig"}))
        return model.VirtualHardwareSection(
            line=_line(element),
            system=self._maybe(element, "System", self._system),
            items=self._all(element, "Item", self._item),
            configs=tuple(self._configs(element, "Config")),
            extra_configs=tuple(self._configs(element, "ExtraConfig")),
            transport=tuple((_get(element, "transport") or "").split()),
            info=self._needed(element, "Info"),
        )

    def _configs(self, element: Element, name: str) -> Iterator[model.Config]:
        for child in element.findall(f"{{{VMW}}}{name}"):
            key, value = self._need(child, "key", VMW), self._need(child, "value", VMW)
            yield model.Config(key, value, self._required(child), _line(child))

    def _system(self, element: Element) -> model.System:
        names = ("ElementName", "InstanceID", "VirtualSystemIdentifier", "VirtualSystemType")
        self._note(element, frozenset(f"{{{VSSD}}}{name}" for name in names))
        return model.System(
            line=_line(element),
            virtual_system_identifier=self._text(element, "VirtualSystemIdentifier", VSSD),
            virtual_system_type=self._text(element, "VirtualSystemType", VSSD),
            element_name=self._needed(element, "ElementName", VSSD),
            instance_id=self._number(element, "InstanceID", self._needed(element, "InstanceID", VSSD)),
        )

    def _item(self, element: Element) -> model.Item:
        known = {f"{{{RASD}}}{name}" for name in _RASD_NAMES}
        self._note(element, frozenset(known | {f"{{{VMW}}}CoresPerSocket", f"{{{VMW}}}Config"}))

        def text(name: str) -> str | None:
            return self._text(element, name, RASD)

        def number(name: str) -> int:
            return self._number(element, name, self._needed(element, name, RASD))

        automatic = text("AutomaticAllocation")
        cores = self._text(element, "CoresPerSocket", VMW)
        return model.Item(
            line=_line(element),
            instance_id=number("InstanceID"),
            element_name=self._needed(element, "ElementName", RASD),
            resource_type=number("ResourceType"),
            resource_sub_type=text("ResourceSubType"),
            address=text("Address"),
            address_on_parent=text("AddressOnParent"),
            allocation_units=text("AllocationUnits"),
            automatic_allocation=None
            if automatic is None
            else self._boolean(element, "AutomaticAllocation", automatic, False),
            connection=text("Connection"),
            description=text("Description"),
            host_resource=text("HostResource"),
            parent=self._maybe_number(element, "Parent", text("Parent")),
            virtual_quantity=self._maybe_number(element, "VirtualQuantity", text("VirtualQuantity")),
            cores_per_socket=self._maybe_number(element, "CoresPerSocket", cores),
            required=self._required(element),
            bound=_get(element, "bound"),
            configuration=_get(element, "configuration"),
            configs=tuple(self._configs(element, "Config")),
        )

    def _annotation(self, element: Element) -> model.AnnotationSection:
        return model.AnnotationSection(self._needed(element, "Annotation"), self._needed(element, "Info"))

    def _product(self, element: Element) -> model.ProductSection:
        names = {"Product", "Vendor", "Version", "FullVersion", "ProductUrl", "VendorUrl"}
        self._note(element, frozenset(names | {"Info", "Property", "Category", "Icon"}))
        return model.ProductSection(
            line=_line(element),
            product=self._text(element, "Product"),
            vendor=self._text(element, "Vendor"),
            version=self._text(element, "Version"),
            full_version=self._text(element, "FullVersion"),
            product_url=self._text(element, "ProductUrl"),
            vendor_url=self._text(element, "VendorUrl"),
            icon=self._maybe(element, "Icon", self._icon),
            properties=tuple(self._properties(element)),
            class_=_get(element, "class"),
            instance=_get(element, "instance"),
            required=self._required(element),
            info=self._needed(element, "Info"),
        )

    def _icon(self, element: Element) -> model.Icon:
        height, width = (self._number(element, name, self._need(element, name)) for name in ("height", "width"))
        return model.Icon(self._need(element, "fileRef"), height, width, self._need(element, "mimeType"))

    def _properties(self, element: Element) -> Iterator[model.Property]:
        """Each under the Category that stands before it."""
        category = None
        for child in element:
            if _name(child) == "Category":
                category = child.text or None
            elif _name(child) == "Property":
                yield self._property(child, category)

    def _property(self, element: Element, category: str | None) -> model.Property:
        self._note(element, frozenset({"Label", "Description"}))
        configurable = _get(element, "userConfigurable")
        return model.Property(
            key=self._need(element, "key"),
            type=self._need(element, "type"),
            value=_get(element, "value"),
            user_configurable=self._boolean(element, "userConfigurable", configurable, False),
            password=self._boolean(element, "password", _get(element, "password"), False),
            qualifiers=_get(element, "qualifiers"),
            category=category,
            label=self._text(element, "Label"),
            description=self._text(element, "Description"),
        )

    def _eula(self, element: Element) -> model.EulaSection:
        return model.EulaSection(self._needed(element, "License"), self._needed(element, "Info"), _line(element))


def _nothing() -> model.VirtualSystem:
    return model.VirtualSystem("", None, None, model.VirtualHardwareSection(None, ()))
