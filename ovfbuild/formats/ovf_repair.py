"""Changes a descriptor where importers stumble over it, and leaves the rest as it came: foreign sections, comments.

Nothing is taken out, and nothing is put in but what is known of the files: sizes, names, units, and the mark that
a device may be left out. Which importers want what: docs/formats.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from ovfbuild.errors import FileError
from ovfbuild.formats.envelope import MEBIBYTE, STREAM_OPTIMIZED
from ovfbuild.formats.ovf import RASD, VBOX, VMW, VSSD, Element, as_utf8, document, elements, serialized

_MIB = 1 << 20
_MEMORY, _IDE, _DISK = "4", "5", "17"
_VIRTUALBOX_KNOWS = frozenset(map(str, (3, 4, 5, 6, 10, 14, 15, 17, 20, 23, 35)))
_MEMORY_UNITS = {"byte": 1, "KiloBytes": 1 << 10, "KB": 1 << 10, "MegaBytes": _MIB, "MB": _MIB, "GigaBytes": 1 << 30}
_POWER = re.compile(r"byte\s*\*\s*2\^(\d{1,2})")
_OLD_HOST_RESOURCE = re.compile(r"(?:ovf:/)?/?/disk/(.+)")
FAMILY = "vmx-13"
"""Of vSphere 6.5 and later; VirtualBox takes it as it takes its own."""


@dataclass(frozen=True)
class FileFacts:
    """A File as it will lie in the package; `size` is bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class DiskFacts:
    """What a disk was found to be; sizes are bytes. `stream_optimized` is false where the VMDK is of another kind."""

    capacity: int
    populated_size: int
    stream_optimized: bool


def repaired(octets: bytes, files: Mapping[str, FileFacts], disks: Mapping[str, DiskFacts]) -> bytes:
    """The descriptor, mended; the same bytes if there was nothing to mend.

    `files` are known by their href, `disks` by their diskId. Raises FileError for what `ovf.tree` refuses, and where
    the prefix `ovf` means another namespace within.
    """
    text, encoding = as_utf8(octets)
    root = document(text)
    before = serialized(root)
    after = serialized(_Repair(_prefixed(root), files, disks).all())
    return octets if after == before and encoding == "utf-8" else after


class _Repair:
    """One descriptor at work; OVF's own names are those of its root's namespace."""

    def __init__(self, root: Element, files: Mapping[str, FileFacts], disks: Mapping[str, DiskFacts]) -> None:
        self._root = root
        self._files = files
        self._disks = disks
        self._ovf = str(root.tag).rpartition("}")[0] + "}"

    def all(self) -> Element:
        for file in self._every("File"):
            self._file(file)
        for disk in self._every("Disk"):
            self._disk(disk)
        for section in self._every("VirtualHardwareSection"):
            self._hardware(section)
        for item in self._every("Item"):
            self._item(item)
        self._optional()
        self._order()
        return self._root

    def _every(self, name: str) -> list[Element]:
        return [one for one in elements(self._root) if one.tag == f"{self._ovf}{name}"]

    def _get(self, element: Element, name: str) -> str | None:
        value = element.get(f"{self._ovf}{name}")
        return element.get(name) if value is None else value

    def _set(self, element: Element, name: str, value: str) -> None:
        if self._get(element, name) != value:
            element.set(f"{self._ovf}{name}", value)

    def _file(self, file: Element) -> None:
        facts = self._files.get(self._get(file, "href") or "")
        if facts:
            self._set(file, "href", facts.name)
            self._set(file, "size", str(facts.size))

    def _disk(self, disk: Element) -> None:
        """The capacity as the disk has it, in MiB unless it was right, in a unit that all read."""
        facts = self._disks.get(self._get(disk, "diskId") or "")
        if facts is None:
            return
        power = _POWER.fullmatch(self._get(disk, "capacityAllocationUnits") or "")
        said = self._get(disk, "capacity") or ""
        right = power and said.isdigit() and facts.capacity <= int(said) << int(power[1]) < facts.capacity + _MIB
        if not right:
            self._set(disk, "capacity", str(-(-facts.capacity // _MIB)))
            self._set(disk, "capacityAllocationUnits", MEBIBYTE)
        populated = self._get(disk, "populatedSize")
        if populated is not None and not (
            populated.isdigit() and facts.populated_size <= int(populated) <= facts.capacity
        ):
            self._set(disk, "populatedSize", str(facts.populated_size))
        if facts.stream_optimized:
            self._set(disk, "format", STREAM_OPTIMIZED)

    def _hardware(self, section: Element) -> None:
        """A family that VMware knows, and the name that Xen Orchestra wants."""
        system = section.find(f"{self._ovf}System")
        if system is None:
            return
        family = system.find(f"{{{VSSD}}}VirtualSystemType")
        if family is not None and (family.text or "").startswith("virtualbox-"):
            family.text = FAMILY
        name = system.find(f"{{{VSSD}}}VirtualSystemIdentifier")
        if name is None:
            name = system.makeelement(f"{{{VSSD}}}VirtualSystemIdentifier")
            before = system.find(f"{{{VSSD}}}VirtualSystemType")
            system.insert(len(system) if before is None else system.index(before), name)
        if not name.text:
            parent = section.getparent()
            name.text = (self._get(parent, "id") if parent is not None else None) or "vm"

    def _item(self, item: Element) -> None:
        kind = _text(item, "ResourceType")
        if kind and kind not in _VIRTUALBOX_KNOWS:
            self._set(item, "required", "false")
        for model in item.findall(f"{{{RASD}}}ResourceSubType") if kind == _IDE else ():
            if (model.text or "").lower() == "piix4":
                item.remove(model)
        if kind == _MEMORY:
            _memory(item)
        host = item.find(f"{{{RASD}}}HostResource")
        if kind == _DISK and host is not None and (match := _OLD_HOST_RESOURCE.fullmatch(host.text or "")):
            host.text = f"ovf:/disk/{match[1]}"

    def _optional(self) -> None:
        """Marks what only some know as what may be skipped; of OVF's own, and of CIM's, nothing."""
        for element in list(elements(self._root)):
            tag, parent = str(element.tag), element.getparent()
            if not tag.startswith("{") or tag.startswith((self._ovf, f"{{{RASD}}}", f"{{{VSSD}}}")):
                continue
            if "CIM_" in tag or parent is None or not str(parent.tag).startswith(self._ovf):
                continue
            if tag.startswith((f"{{{VMW}}}", f"{{{VBOX}}}")) or not str(parent.tag).endswith("}Item"):
                self._set(element, "required", "false")

    def _order(self) -> None:
        """The schema's sequence of sections, and of an Item's children."""
        ranks = {f"{self._ovf}References": 0, f"{self._ovf}VirtualSystem": 2}
        ranks |= {f"{self._ovf}VirtualSystemCollection": 2, f"{self._ovf}Strings": 3}
        self._root[:] = sorted(self._root, key=lambda child: ranks.get(str(child.tag), 1))
        for item in self._every("Item"):
            inside = [child for child in item if str(child.tag).startswith(f"{{{RASD}}}")]
            others = [child for child in item if not str(child.tag).startswith(f"{{{RASD}}}")]
            ordered = sorted(inside, key=lambda child: str(child.tag))
            if inside != ordered:
                item[:] = [*ordered, *others]


def _prefixed(root: Element) -> Element:
    """The root with OVF's namespace as the default one, and OVF's attributes with `ovf:`; itself, if it was so."""
    namespace = str(root.tag).rpartition("}")[0][1:]
    for one in root.iter("*"):
        if one.nsmap.get("ovf", namespace) != namespace:
            text = f"descriptor, line {one.sourceline}: the prefix ovf stands for another namespace here"
            raise FileError(text, "give it one meaning in all of the descriptor")
    own = [one for one in elements(root) if str(one.tag).startswith(f"{{{namespace}}}")]
    for one in own:
        for name in [str(name) for name in one.attrib if not str(name).startswith("{")]:
            one.set(f"{{{namespace}}}{name}", one.attrib.pop(name))
    if root.nsmap.get("ovf") == namespace and all(one.prefix is None for one in own):
        return root
    # The default one is declared first: elements take the first, attributes the first that has a prefix.
    names = {"xmlns": namespace, "xmlns:ovf": namespace}
    names |= {f"xmlns:{prefix}": uri for prefix, uri in root.nsmap.items() if prefix not in (None, "ovf")}
    new = document(f"<Envelope {' '.join(f'{name}={quoteattr(uri)}' for name, uri in names.items())}/>".encode())
    for name, value in root.attrib.items():
        new.set(name, value)
    new.text, new[:] = root.text, root[:]
    return new


def _text(item: Element, name: str) -> str:
    found = item.find(f"{{{RASD}}}{name}")
    return "" if found is None else (found.text or "").strip()


def _memory(item: Element) -> None:
    """The quantity in MiB, where it is a whole number of them."""
    unit, quantity = item.find(f"{{{RASD}}}AllocationUnits"), item.find(f"{{{RASD}}}VirtualQuantity")
    said = "byte" if unit is None else (unit.text or "").strip()
    power = _POWER.fullmatch(said)
    scale = 1 << int(power[1]) if power else _MEMORY_UNITS.get(said)
    if said == MEBIBYTE or scale is None or quantity is None or not (quantity.text or "").strip().isdigit():
        return
    octets = int(quantity.text or "") * scale
    if octets % _MIB:
        return
    if unit is None:
        unit = item.makeelement(f"{{{RASD}}}AllocationUnits")
        item.insert(0, unit)
    unit.text, quantity.text = MEBIBYTE, str(octets // _MIB)
