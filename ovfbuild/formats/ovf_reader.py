"""Reads an OVF descriptor into the models of `envelope`: `read` anybody's, with what is wrong with it, `parse` ours.

What has no model there is not refused but listed, as `Envelope.unread`: whether it may be there is
for the reader of a package to judge (DSP0243 1.1.0 clause 7.3: skip it only if it is not required).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovfbuild.errors import FileError
from ovfbuild.formats import envelope as model
from ovfbuild.formats.fault import Fault
from ovfbuild.formats.ovf import OVF, OVF_2, RASD, VBOX, VMW, VSSD, Element, as_utf8, elements, tree
from ovfbuild.formats.ovf_values import RASD_NAMES, SEE, Values, line_of, name_of

_MACHINE = f"{{{VBOX}}}Machine"
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
    own = (one for one in elements(root) if str(one.tag).startswith((f"{{{OVF}}}", f"{{{OVF_2}}}")))
    prefixed = next((one for one in own if one.prefix), None)
    prefix, at = (prefixed.prefix, line_of(prefixed)) if prefixed is not None else (None, 0)
    if root.tag == f"{{{OVF_2}}}Envelope":
        faults.append(Fault("descriptor-version", "an Envelope of OVF 2.0", root.sourceline or 1))
        _as_ovf_1(root)
    _judge_root(root)
    if prefix:
        faults.append(Fault("descriptor-prefix", f"elements of OVF have the prefix {prefix}", at or 1))
    reading = _read(root)
    return Reading(reading.envelopes, (*faults, *reading.faults, *_order(root)))


def _read(root: Element) -> Reading:
    reader = _Reader()
    envelopes = tuple(reader.envelopes(root))
    return Reading(envelopes, tuple(reader.faults))


def _judge_root(root: Element) -> None:
    if root.tag == f"{{{OVF_2}}}Envelope":
        raise _error(root, "an Envelope of OVF 2.0", "VMware and virt-v2v read OVF 1.1 only; export as that")
    if root.tag != f"{{{OVF}}}Envelope":
        raise _error(root, f"the root is {name_of(root)[:200]}", f"it must be Envelope of the namespace {OVF}")


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
    names = [name_of(child) for child in root if name_of(child) != "Strings"]
    ranks = [0 if name == "References" else 2 if name.startswith("VirtualSystem") else 1 for name in names]
    if ranks != sorted(ranks):
        text = "References, sections and VirtualSystem do not follow each other"
        yield Fault("section-order", text, root.sourceline or 1)
    for item in root.iter(f"{{{OVF}}}Item"):
        children = [str(child.tag).rpartition("}")[2] for child in item if str(child.tag).startswith(f"{{{RASD}}}")]
        if children != sorted(children):
            yield Fault("rasd-order", f"the children of an Item: {', '.join(children[:20])}", item.sourceline or 1)


def _error(element: Element, what: str, hint: str = SEE) -> FileError:
    return FileError(f"descriptor, line {element.sourceline}: {what}", hint)


def _extension(element: Element) -> model.Extension:
    text = (element.text or "").strip()
    return model.Extension(
        str(element.tag),
        tuple((str(name), str(value)) for name, value in element.attrib.items()),
        tuple(_extension(child) for child in element),
        text or None,
        line_of(element),
    )


class _Reader(Values):
    """One walk over one descriptor, an element after the other."""

    def envelopes(self, root: Element) -> Iterator[model.Envelope]:
        """One for each virtual machine; one that is empty where there is none."""
        files = self.maybe(root, "References", self._references)
        if files is None:
            self.fault(root, "Envelope lacks the element References")
        disks = self.maybe(root, "DiskSection", self._disk_section)
        networks = self.maybe(root, "NetworkSection", self._network_section)
        systems = [self._virtual_system(element) for element in self._systems(root)]
        options = self.maybe(root, "DeploymentOptionSection", self._deployment_options)
        self.note(root, _KNOWN)
        unread = tuple(sorted(self.unread, key=lambda element: element.line))
        for system in systems or [_nothing()]:
            yield model.Envelope(files or (), disks, networks, system, unread, options)

    def _systems(self, root: Element) -> list[Element]:
        collection = self.only(root, "VirtualSystemCollection")
        if collection is not None:
            hint = "a package can hold one machine only"
            self.fault(collection, "a collection of virtual systems", hint, "several-systems")
            return list(collection.iter(f"{{{OVF}}}VirtualSystem"))
        found = self.only(root, "VirtualSystem")
        if found is None:
            self.fault(root, "Envelope lacks the element VirtualSystem")
            return []
        return [found]

    def _references(self, element: Element) -> tuple[model.File, ...]:
        self.note(element, frozenset({"File"}))
        return self.all(element, "File", self._file)

    def _file(self, element: Element) -> model.File:
        return model.File(
            line=line_of(element),
            id=self.need(element, "id"),
            href=self.need(element, "href"),
            size=self.maybe_number(element, "size", self.get(element, "size")),
            compression=self.get(element, "compression"),
            chunk_size=self.maybe_number(element, "chunkSize", self.get(element, "chunkSize")),
        )

    def _disk_section(self, element: Element) -> model.DiskSection:
        self.note(element, frozenset({"Info", "Disk"}))
        return model.DiskSection(self.all(element, "Disk", self._disk), self.needed(element, "Info"))

    def _disk(self, element: Element) -> model.Disk:
        return model.Disk(
            line=line_of(element),
            disk_id=self.need(element, "diskId"),
            capacity=self.number(element, "capacity", self.need(element, "capacity")),
            capacity_allocation_units=self.get(element, "capacityAllocationUnits"),
            file_ref=self.get(element, "fileRef"),
            format=self.get(element, "format"),
            populated_size=self.maybe_number(element, "populatedSize", self.get(element, "populatedSize")),
            vbox_uuid=self.get(element, "uuid", VBOX),
        )

    def _network_section(self, element: Element) -> model.NetworkSection:
        self.note(element, frozenset({"Info", "Network"}))
        return model.NetworkSection(self.all(element, "Network", self._network), self.needed(element, "Info"))

    def _deployment_options(self, element: Element) -> model.DeploymentOptionSection:
        self.note(element, frozenset({"Info", "Configuration"}))
        found = self.all(element, "Configuration", self._configuration)
        return model.DeploymentOptionSection(found, self.needed(element, "Info"), line_of(element))

    def _configuration(self, element: Element) -> model.Configuration:
        default = self.boolean(element, "default", self.get(element, "default"), False)
        label, description = self.needed(element, "Label"), self.needed(element, "Description")
        return model.Configuration(self.need(element, "id"), label, description, default)

    def _network(self, element: Element) -> model.Network:
        return model.Network(self.need(element, "name"), self.text(element, "Description"), line_of(element))

    def _virtual_system(self, element: Element) -> model.VirtualSystem:
        sections = {"OperatingSystemSection", "VirtualHardwareSection", "AnnotationSection", "ProductSection"}
        self.note(element, frozenset(sections | {"Info", "Name", "EulaSection", _MACHINE}))
        machine = self.only(element, "Machine", VBOX)
        hardware = self.maybe(element, "VirtualHardwareSection", self._hardware)
        if hardware is None:
            self.fault(element, "VirtualSystem lacks the element VirtualHardwareSection")
        return model.VirtualSystem(
            line=line_of(element),
            id=self.need(element, "id"),
            name=self.text(element, "Name"),
            operating_system=self.maybe(element, "OperatingSystemSection", self._operating_system),
            hardware=hardware or model.VirtualHardwareSection(None, ()),
            annotation=self.maybe(element, "AnnotationSection", self._annotation),
            products=self.all(element, "ProductSection", self._product),
            eulas=self.all(element, "EulaSection", self._eula),
            machine=None if machine is None else _extension(machine),
            info=self.needed(element, "Info"),
        )

    def _operating_system(self, element: Element) -> model.OperatingSystemSection:
        self.note(element, frozenset({"Info", "Description"}))
        return model.OperatingSystemSection(
            line=line_of(element),
            id=self.number(element, "id", self.need(element, "id")),
            version=self.get(element, "version"),
            os_type=self.get(element, "osType", VMW),
            description=self.text(element, "Description"),
            info=self.needed(element, "Info"),
        )

    def _hardware(self, element: Element) -> model.VirtualHardwareSection:
        self.note(element, frozenset({"Info", "System", "Item", f"{{{VMW}}}Config", f"{{{VMW}}}ExtraConfig"}))
        return model.VirtualHardwareSection(
            line=line_of(element),
            system=self.maybe(element, "System", self._system),
            items=self.all(element, "Item", self._item),
            configs=tuple(self._configs(element, "Config")),
            extra_configs=tuple(self._configs(element, "ExtraConfig")),
            transport=tuple((self.get(element, "transport") or "").split()),
            info=self.needed(element, "Info"),
        )

    def _configs(self, element: Element, name: str) -> Iterator[model.Config]:
        for child in element.findall(f"{{{VMW}}}{name}"):
            key, value = self.need(child, "key", VMW), self.need(child, "value", VMW)
            yield model.Config(key, value, self.required(child), line_of(child))

    def _system(self, element: Element) -> model.System:
        names = ("ElementName", "InstanceID", "VirtualSystemIdentifier", "VirtualSystemType")
        self.note(element, frozenset(f"{{{VSSD}}}{name}" for name in names))
        return model.System(
            line=line_of(element),
            virtual_system_identifier=self.text(element, "VirtualSystemIdentifier", VSSD),
            virtual_system_type=self.text(element, "VirtualSystemType", VSSD),
            element_name=self.needed(element, "ElementName", VSSD),
            instance_id=self.number(element, "InstanceID", self.needed(element, "InstanceID", VSSD)),
        )

    def _item(self, element: Element) -> model.Item:
        known = {f"{{{RASD}}}{name}" for name in RASD_NAMES}
        self.note(element, frozenset(known | {f"{{{VMW}}}CoresPerSocket", f"{{{VMW}}}Config"}))

        def text(name: str) -> str | None:
            return self.text(element, name, RASD)

        def number(name: str) -> int:
            return self.number(element, name, self.needed(element, name, RASD))

        automatic = text("AutomaticAllocation")
        cores = self.text(element, "CoresPerSocket", VMW)
        return model.Item(
            line=line_of(element),
            instance_id=number("InstanceID"),
            element_name=self.needed(element, "ElementName", RASD),
            resource_type=number("ResourceType"),
            resource_sub_type=text("ResourceSubType"),
            address=text("Address"),
            address_on_parent=text("AddressOnParent"),
            allocation_units=text("AllocationUnits"),
            automatic_allocation=None
            if automatic is None
            else self.boolean(element, "AutomaticAllocation", automatic, False),
            connection=text("Connection"),
            description=text("Description"),
            host_resource=text("HostResource"),
            parent=self.maybe_number(element, "Parent", text("Parent")),
            virtual_quantity=self.maybe_number(element, "VirtualQuantity", text("VirtualQuantity")),
            cores_per_socket=self.maybe_number(element, "CoresPerSocket", cores),
            required=self.required(element),
            bound=self.get(element, "bound"),
            configuration=self.get(element, "configuration"),
            configs=tuple(self._configs(element, "Config")),
        )

    def _annotation(self, element: Element) -> model.AnnotationSection:
        return model.AnnotationSection(self.needed(element, "Annotation"), self.needed(element, "Info"))

    def _product(self, element: Element) -> model.ProductSection:
        names = {"Product", "Vendor", "Version", "FullVersion", "ProductUrl", "VendorUrl"}
        self.note(element, frozenset(names | {"Info", "Property", "Category", "Icon"}))
        return model.ProductSection(
            line=line_of(element),
            product=self.text(element, "Product"),
            vendor=self.text(element, "Vendor"),
            version=self.text(element, "Version"),
            full_version=self.text(element, "FullVersion"),
            product_url=self.text(element, "ProductUrl"),
            vendor_url=self.text(element, "VendorUrl"),
            icon=self.maybe(element, "Icon", self._icon),
            properties=tuple(self._properties(element)),
            class_=self.get(element, "class"),
            instance=self.get(element, "instance"),
            required=self.required(element),
            info=self.needed(element, "Info"),
        )

    def _icon(self, element: Element) -> model.Icon:
        height, width = (self.number(element, name, self.need(element, name)) for name in ("height", "width"))
        return model.Icon(self.need(element, "fileRef"), height, width, self.need(element, "mimeType"))

    def _properties(self, element: Element) -> Iterator[model.Property]:
        """Each under the Category that stands before it."""
        category = None
        for child in element:
            if name_of(child) == "Category":
                category = child.text or None
            elif name_of(child) == "Property":
                yield self._property(child, category)

    def _property(self, element: Element, category: str | None) -> model.Property:
        self.note(element, frozenset({"Label", "Description"}))
        configurable = self.get(element, "userConfigurable")
        return model.Property(
            key=self.need(element, "key"),
            type=self.need(element, "type"),
            value=self.get(element, "value"),
            user_configurable=self.boolean(element, "userConfigurable", configurable, False),
            password=self.boolean(element, "password", self.get(element, "password"), False),
            qualifiers=self.get(element, "qualifiers"),
            category=category,
            label=self.text(element, "Label"),
            description=self.text(element, "Description"),
        )

    def _eula(self, element: Element) -> model.EulaSection:
        return model.EulaSection(self.needed(element, "License"), self.needed(element, "Info"), line_of(element))


def _nothing() -> model.VirtualSystem:
    return model.VirtualSystem("", None, None, model.VirtualHardwareSection(None, ()))
