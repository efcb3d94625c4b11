"""Writes and judges the XML of an OVF descriptor; `ovf_reader` reads it into models.

Source: DSP0243 1.1.0 and its schema DSP8023 1.1.1, narrowed to what importers read: OVF 1.1 (2.0's
elements fail on VMware and virt-v2v), elements without a prefix and attributes with `ovf:` (CloudStack
#5415, xen-orchestra #3962), UTF-8 without a byte order mark, rasd: children in alphabetical order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources

from lxml import etree

from ovfbuild.errors import FileError
from ovfbuild.formats import envelope as model
from ovfbuild.formats.fault import Hostile

OVF = "http://schemas.dmtf.org/ovf/envelope/1"
OVF_2 = "http://schemas.dmtf.org/ovf/envelope/2"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW = "http://www.vmware.com/schema/ovf"
VBOX = "http://www.virtualbox.org/ovf/machine"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
LARGEST = 12 << 20
"""Bytes: vCloud Director's limit for a descriptor."""

_MOST_TAGS = 400_000
_FORM = "a descriptor is XML 1.0 in UTF-8 without a byte order mark and without a DOCTYPE"
_ENCODINGS = ("utf-8", "utf-8-sig", "us-ascii", "utf-16", "iso-8859-1", "iso-8859-15", "windows-1252")

Element = etree._Element

# The prefixes are declared in this order because lxml takes the first declaration of a namespace for
# an element: the default one; and for an attribute the first that has a prefix.
_ROOT = (
    f'<Envelope xmlns="{OVF}" xmlns:ovf="{OVF}" xmlns:rasd="{RASD}" xmlns:vmw="{VMW}" '
    f'xmlns:vssd="{VSSD}" xmlns:xsi="{XSI}"/>'
)
_ROOT_WITH_MACHINE = _ROOT.replace("/>", f' xmlns:vbox="{VBOX}"/>')

# Of Item: its field, the name of the rasd: child. Alphabetical, which is the schema's sequence.
RASD_CHILDREN = (
    ("address", "Address"),
    ("address_on_parent", "AddressOnParent"),
    ("allocation_units", "AllocationUnits"),
    ("automatic_allocation", "AutomaticAllocation"),
    ("connection", "Connection"),
    ("description", "Description"),
    ("element_name", "ElementName"),
    ("host_resource", "HostResource"),
    ("instance_id", "InstanceID"),
    ("parent", "Parent"),
    ("resource_sub_type", "ResourceSubType"),
    ("resource_type", "ResourceType"),
    ("virtual_quantity", "VirtualQuantity"),
)

Scalar = str | int | bool | None


def dump(envelope: model.Envelope) -> bytes:
    """The descriptor as XML, indented, the same bytes for the same Envelope; `unread` is left out.

    Raises FileError for a text that XML cannot hold (control characters).
    """
    root = etree.fromstring(_ROOT_WITH_MACHINE if envelope.virtual_system.machine else _ROOT)
    try:
        _put_package(root, envelope)
        _put_virtual_system(root, envelope.virtual_system)
    except ValueError as error:
        raise FileError(f"the descriptor cannot hold a text: {error}", "remove control characters") from error
    etree.indent(root, "  ")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + etree.tostring(root, encoding="UTF-8") + b"\n"


def validate(octets: bytes) -> list[str]:
    """What is wrong with a descriptor by ovfbuild's own schema (descriptors/envelope.rng): “line N: …”.

    Empty if nothing is. Raises FileError for what `tree` refuses.
    """
    schema = _schema()
    if schema.validate(tree(octets)):
        return []
    # libxml2 gives line 0 to what it says about attributes, and then says it again with the line.
    problems = [f"line {entry.line}: {entry.message}" for entry in schema.error_log if entry.line]
    return list(dict.fromkeys(problems)) or ["line 1: no descriptor of OVF 1.1"]


@cache
def _schema() -> etree.RelaxNG:
    grammar = resources.files("ovfbuild.descriptors").joinpath("envelope.rng").read_bytes()
    return etree.RelaxNG(etree.fromstring(grammar))


def tree(octets: bytes) -> Element:
    """The root of an XML document, without its comments, read without entities, DTDs or the network.

    Raises FileError, with the line, for anything that is not well-formed UTF-8 XML, for a document type
    (where entity attacks live), and for more than 12 MiB or 400 000 tags.
    """
    return _tree(octets, comments=False)


def document(octets: bytes) -> Element:
    """The same with its comments, to be changed and `serialized` again."""
    return _tree(octets, comments=True)


def elements(root: Element) -> Iterator[Element]:
    """Every element, a vbox:Machine too, but none inside it: VirtualBox's own bear OVF's namespace there."""
    open_ = [root]
    while open_:
        element = open_.pop()
        if isinstance(element.tag, str):
            yield element
        if element.tag != f"{{{VBOX}}}Machine":
            open_.extend(reversed(element))


def serialized(root: Element) -> bytes:
    """The document that a root is of, in UTF-8."""
    text = etree.tostring(root.getroottree(), encoding="UTF-8", xml_declaration=False)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + text + b"\n"


def _tree(octets: bytes, *, comments: bool) -> Element:
    _refuse_attacks(octets)
    if octets.startswith(b"\xef\xbb\xbf"):
        raise FileError("descriptor, line 1: a byte order mark", _FORM)
    try:
        return etree.fromstring(octets, _parser(comments))
    except etree.XMLSyntaxError as error:
        what = error.msg.partition("\n")[0][:200]
        raise FileError(f"descriptor, line {error.lineno or 1}: {what}", _FORM) from error


def as_utf8(octets: bytes) -> tuple[bytes, str]:
    """A descriptor in UTF-8 without a byte order mark, whichever of the usual encodings it came in, and its name.

    Raises FileError for another encoding, and for bytes that are not of the one that it declares.
    """
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    declared = re.match(rb"<\?xml[^>]{0,200}?encoding=[\"']([A-Za-z0-9._-]{1,40})[\"']", octets)
    name = declared[1].decode("ascii").lower() if declared else "utf-8"
    name = next((encoding for mark, encoding in marks.items() if octets.startswith(mark)), name)
    if name not in _ENCODINGS:
        raise FileError(f"descriptor, line 1: the encoding {name}", _FORM)
    if name in ("utf-8", "us-ascii"):
        return octets, "utf-8"
    try:
        return octets[: 4 * LARGEST].decode(name).encode("utf-8"), name
    except UnicodeError as error:
        raise FileError(f"descriptor, line 1: it is not {name}", _FORM) from error


def _refuse_attacks(octets: bytes) -> None:
    """Hostile for what would take more memory or time than any descriptor is worth."""
    if len(octets) > LARGEST:
        raise Hostile(f"the descriptor has {len(octets)} bytes", "importers read 12 MiB of it at most")
    if (at := octets.find(b"<!DOCTYPE")) >= 0:
        raise Hostile(f"descriptor, line {octets.count(10, 0, at) + 1}: a DOCTYPE", _FORM)
    if (tags := octets.count(b"<")) > _MOST_TAGS:
        raise Hostile(f"descriptor, line 1: {tags} tags", "that is no descriptor")


def _parser(comments: bool) -> etree.XMLParser[Element]:
    """Whatever the document declares, it is UTF-8."""
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=not comments,
        remove_pis=not comments,
    )


# Writing


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _attributes(pairs: Iterable[tuple[str, Scalar]], namespace: str = OVF) -> dict[str, str]:
    """{namespace}name → text of what is there."""
    return {f"{{{namespace}}}{name}": _text(value) for name, value in pairs if value is not None}


def _not_required(required: bool) -> Iterator[tuple[str, Scalar]]:
    """The attribute is written where it says something: it is true by default."""
    if not required:
        yield "required", False


def _put(
    parent: Element,
    name: str,
    text: Scalar = None,
    attributes: Mapping[str, str] | None = None,
    namespace: str = OVF,
) -> Element:
    child = etree.SubElement(parent, f"{{{namespace}}}{name}", dict(sorted((attributes or {}).items())))
    if text is not None:
        child.text = _text(text)
    return child


def _put_all(parent: Element, children: Iterable[tuple[str, Scalar]], namespace: str = OVF) -> None:
    """A child for each value that is there."""
    for name, value in children:
        if value is not None:
            _put(parent, name, value, namespace=namespace)


def _put_section(parent: Element, name: str, info: str, attributes: Mapping[str, str] | None = None) -> Element:
    section = _put(parent, name, None, attributes)
    _put(section, "Info", info)
    return section


def _put_package(root: Element, envelope: model.Envelope) -> None:
    references = _put(root, "References")
    for file in envelope.files:
        pairs: list[tuple[str, Scalar]] = [("id", file.id), ("href", file.href), ("size", file.size)]
        pairs += [("compression", file.compression), ("chunkSize", file.chunk_size)]
        _put(references, "File", None, _attributes(pairs))
    if envelope.disk_section:
        section = _put_section(root, "DiskSection", envelope.disk_section.info)
        for disk in envelope.disk_section.disks:
            attributes = _attributes(_disk_attributes(disk)) | _attributes([("uuid", disk.vbox_uuid)], VBOX)
            _put(section, "Disk", None, attributes)
    if envelope.network_section:
        section = _put_section(root, "NetworkSection", envelope.network_section.info)
        for network in envelope.network_section.networks:
            child = _put(section, "Network", None, _attributes([("name", network.name)]))
            _put_all(child, [("Description", network.description)])
    if envelope.deployment_options:
        section = _put_section(root, "DeploymentOptionSection", envelope.deployment_options.info)
        for one in envelope.deployment_options.configurations:
            pairs = [("id", one.id), ("default", one.default or None)]
            child = _put(section, "Configuration", None, _attributes(pairs))
            _put_all(child, [("Label", one.label), ("Description", one.description)])


def _disk_attributes(disk: model.Disk) -> Iterator[tuple[str, Scalar]]:
    yield "capacity", disk.capacity
    yield "capacityAllocationUnits", disk.capacity_allocation_units
    yield "diskId", disk.disk_id
    yield "fileRef", disk.file_ref
    yield "format", disk.format
    yield "populatedSize", disk.populated_size


def _put_virtual_system(root: Element, system: model.VirtualSystem) -> None:
    """In the order that VMware expects: what runs, on what, and only then what it is."""
    parent = _put_section(root, "VirtualSystem", system.info, _attributes([("id", system.id)]))
    _put_all(parent, [("Name", system.name)])
    if guest := system.operating_system:
        attributes = _attributes([("id", guest.id), ("version", guest.version)])
        attributes |= _attributes([("osType", guest.os_type)], VMW)
        section = _put_section(parent, "OperatingSystemSection", guest.info, attributes)
        _put_all(section, [("Description", guest.description)])
    _put_hardware(parent, system.hardware)
    if system.machine:
        _put_extension(parent, system.machine)
    if system.annotation:
        section = _put_section(parent, "AnnotationSection", system.annotation.info)
        _put(section, "Annotation", system.annotation.annotation)
    for product in system.products:
        _put_product(parent, product)
    for eula in system.eulas:
        _put(_put_section(parent, "EulaSection", eula.info), "License", eula.license)


def _put_hardware(parent: Element, hardware: model.VirtualHardwareSection) -> None:
    transport = " ".join(hardware.transport) or None
    attributes = _attributes([("transport", transport)])
    section = _put_section(parent, "VirtualHardwareSection", hardware.info, attributes)
    if system := hardware.system:
        children: list[tuple[str, Scalar]] = [("ElementName", system.element_name)]
        children.append(("InstanceID", system.instance_id))
        children.append(("VirtualSystemIdentifier", system.virtual_system_identifier))
        children.append(("VirtualSystemType", system.virtual_system_type))
        _put_all(_put(section, "System"), children, VSSD)
    for item in hardware.items:
        _put_item(section, item)
    _put_configs(section, "Config", hardware.configs)
    _put_configs(section, "ExtraConfig", hardware.extra_configs)


def _put_configs(parent: Element, name: str, configs: Iterable[model.Config]) -> None:
    for config in configs:
        attributes = _attributes(_not_required(config.required))
        attributes |= _attributes([("key", config.key), ("value", config.value)], VMW)
        _put(parent, name, None, attributes, VMW)


def _put_extension(parent: Element, extension: model.Extension) -> None:
    """As it is, in the order of its attributes; a name without a namespace has none."""
    child = etree.SubElement(parent, extension.name, dict(extension.attributes))
    child.text = extension.text
    for inner in extension.children:
        _put_extension(child, inner)


def _put_item(section: Element, item: model.Item) -> None:
    pairs = [("bound", item.bound), ("configuration", item.configuration), *_not_required(item.required)]
    element = _put(section, "Item", None, _attributes(pairs))
    _put_all(element, ((name, getattr(item, field)) for field, name in RASD_CHILDREN), RASD)
    if item.cores_per_socket is not None:
        not_required = _attributes(_not_required(False))
        _put(element, "CoresPerSocket", item.cores_per_socket, not_required, VMW)
    _put_configs(element, "Config", item.configs)


def _put_product(parent: Element, product: model.ProductSection) -> None:
    pairs = [("class", product.class_), ("instance", product.instance), *_not_required(product.required)]
    section = _put_section(parent, "ProductSection", product.info, _attributes(pairs))
    children = [("Product", product.product), ("Vendor", product.vendor), ("Version", product.version)]
    children += [("FullVersion", product.full_version), ("ProductUrl", product.product_url)]
    children += [("VendorUrl", product.vendor_url)]
    _put_all(section, children)
    if icon := product.icon:
        pairs = [("fileRef", icon.file_ref), ("height", icon.height), ("width", icon.width)]
        _put(section, "Icon", None, _attributes([*pairs, ("mimeType", icon.mime_type)]))
    category = None
    for entry in product.properties:
        if entry.category != category:
            _put(section, "Category", entry.category or "")
            category = entry.category
        attributes = _attributes(_property_attributes(entry))
        element = _put(section, "Property", None, attributes)
        _put_all(element, [("Label", entry.label), ("Description", entry.description)])


def _property_attributes(entry: model.Property) -> Iterator[tuple[str, Scalar]]:
    yield "key", entry.key
    yield "type", entry.type
    yield "qualifiers", entry.qualifiers
    yield "value", entry.value
    if entry.user_configurable:
        yield "userConfigurable", True
    if entry.password:
        yield "password", True
