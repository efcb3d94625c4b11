"""A small package that is good, in parts that can be broken one by one before they are packed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovfbuild.formats import ovf
from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.formats.envelope import (
    Disk,
    DiskSection,
    Envelope,
    File,
    Item,
    Network,
    NetworkSection,
    OperatingSystemSection,
    ProductSection,
    Property,
    System,
    VirtualHardwareSection,
    VirtualSystem,
)
from ovfbuild.progress import Silent
from ovfbuild.verify.judging import judge
from ovfbuild.verify.package import open_package
from ovfbuild.verify.verdict import Verdict
from tests.unit.formats.conftest import Pieces, noise, written

MIB = 1 << 20
DESCRIPTORS = Path(__file__).parent / "data"
"""Descriptors that other programs wrote."""
DISK = Pieces(3 * MIB, ((0, noise(30000)), (MIB, noise(70000, 1))))
ITEMS = (
    Item(1, "2 CPUs", 3, virtual_quantity=2),
    Item(2, "memory", 4, allocation_units="byte * 2^20", virtual_quantity=1024),
    Item(3, "SATA", 20, "vmware.sata.ahci"),
    Item(4, "IDE", 5),
    Item(5, "disk", 17, host_resource="ovf:/disk/vmdisk1", parent=3, address_on_parent="0"),
    Item(6, "CD", 15, parent=4, required=False),
    Item(7, "NIC", 10, "E1000", connection="VM Network"),
)


def vmdk() -> bytes:
    return written(DISK)[1]


def descriptor(size: int) -> bytes:
    return ovf.dump(
        Envelope(
            files=(File("file1", "a-disk1.vmdk", size),),
            disk_section=DiskSection((Disk("vmdisk1", 3, file_ref="file1", populated_size=4 * 65536),)),
            network_section=NetworkSection((Network("VM Network"),)),
            virtual_system=VirtualSystem(
                id="a",
                name="a",
                operating_system=OperatingSystemSection(96, os_type="debian10_64Guest"),
                hardware=VirtualHardwareSection(System("a", "vmx-13"), ITEMS, transport=("iso",)),
                products=(ProductSection("p", properties=(Property("user-data"),)),),
            ),
        )
    )


@dataclass(frozen=True)
class Entry:
    """A file on its way into an archive; `kind` is its type there."""

    name: str
    octets: bytes
    kind: bytes = tarfile.REGTYPE


@dataclass(frozen=True)
class Kit:
    """A package before it is packed: `text` is the descriptor, `files` follow it in their order.

    Without `manifest` a right one is put in as the second member. `form` and `fields` are the tar's; `change` makes
    other entries of those that there would be, `after` another file of the whole.
    """

    text: bytes
    files: Mapping[str, bytes]
    manifest: bytes | None = None
    form: int = tarfile.GNU_FORMAT
    fields: Mapping[str, object] = field(default_factory=dict)
    change: Callable[[list[Entry]], list[Entry]] = list
    after: Callable[[bytes], bytes] = bytes

    @property
    def right_manifest(self) -> bytes:
        named = {"a.ovf": self.text, **self.files}
        lines = [f"SHA256({name})= {hashlib.sha256(octets).hexdigest()}\n" for name, octets in named.items()]
        return "".join(lines).encode()

    def entries(self) -> list[Entry]:
        text = self.right_manifest if self.manifest is None else self.manifest
        whole = {"a.ovf": self.text, "a.mf": text, **self.files}
        return self.change([Entry(name, octets) for name, octets in whole.items()])

    def packed(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=self.form) as archive:
            for one in self.entries():
                entry = tarfile.TarInfo(one.name)
                entry.size, entry.type = len(one.octets), one.kind
                for key, value in self.fields.items():
                    setattr(entry, key, value)
                archive.addfile(entry, io.BytesIO(one.octets))
        return self.after(out.getvalue())

    def pack(self, path: Path) -> Path:
        path.write_bytes(self.packed())
        return path

    def text_with(self, old: bytes, new: bytes) -> Kit:
        assert old in self.text, old
        return replace(self, text=self.text.replace(old, new, 1))

    def disk_with(self, change: Callable[[bytes], bytes]) -> Kit:
        """With another disk, and the size of that in References."""
        octets = change(self.files["a-disk1.vmdk"])
        was = b'ovf:size="%d"' % len(self.files["a-disk1.vmdk"])
        return replace(self.text_with(was, b'ovf:size="%d"' % len(octets)), files={"a-disk1.vmdk": octets})


def good() -> Kit:
    octets = vmdk()
    return Kit(descriptor(len(octets)), {"a-disk1.vmdk": octets})


def verdict(path: Path) -> Verdict:
    return judge(open_package(path), Silent())


def rules(path: Path) -> set[str]:
    return {finding.rule for finding in verdict(path).findings}


def stream(
    *grains: tuple[int, bytes], capacity: int = MIB, at_end: bool = True, header: Mapping[str, Any] | None = None
) -> bytes:
    """A streamOptimized VMDK of a few sectors, put together by hand: (number, 64 KiB) of each grain, for breaking.

    `header` are fields of the header that are other than they should be, and so other than the footer's.
    """
    text = f"""# Disk DescriptorFile
version=1
CID=1
parentCID=ffffffff
createType="streamOptimized"
RW {capacity // 512} SPARSE "x"
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "1"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
"""
    right = layout.Header(capacity // 512, layout.DIRECTORY_AT_END, overhead=2, descriptor=1, descriptor_sectors=1)
    out = bytearray(1024)
    entries, tables = [0] * layout.TABLE_ENTRIES, layout.tables_of(capacity // 512)
    for number, octets in grains:
        packed = zlib.compress(octets)
        entries[number] = len(out) // 512
        out += layout.padded(layout.pack_grain_marker(number, len(packed)) + packed)
    out += layout.pack_marker(4, layout.MARK_TABLE)
    table = len(out) // 512
    out += layout.pack_entries(entries) + layout.pack_marker(layout.directory_sectors(tables), layout.MARK_DIRECTORY)
    directory = len(out) // 512
    out += layout.pack_entries([table] + [0] * (tables - 1))
    if at_end:
        out += layout.pack_marker(1, layout.MARK_FOOTER)
        out += layout.pack_header(replace(right, directory=directory))
    first = right if at_end else replace(right, directory=directory)
    out[:1024] = layout.pack_header(replace(first, **(header or {}))) + layout.padded(text.encode())
    return bytes(out + bytes(512))


def small() -> Kit:
    """A good package of a few KiB, for what is done very often."""
    octets = stream((0, b"\1" * 65536), (3, b"\2" * 65536))
    text = descriptor(len(octets)).replace(b'ovf:capacity="3"', b'ovf:capacity="1"')
    return Kit(text.replace(b'populatedSize="262144"', b'populatedSize="131072"'), {"a-disk1.vmdk": octets})


def gzipped(octets: bytes | None = None) -> Kit:
    """With its disk compressed once more, or with other bytes in its place."""
    good = small()
    packed = gzip.compress(good.files["a-disk1.vmdk"], mtime=0) if octets is None else octets
    text = good.text.replace(b'ovf:href="a-disk1.vmdk"', b'ovf:compression="gzip" ovf:href="a-disk1.vmdk.gz"')
    text = text.replace(b'ovf:size="7168"', b'ovf:size="%d"' % len(packed))
    return replace(good, text=text, files={"a-disk1.vmdk.gz": packed})


def seeds(target: str) -> list[bytes]:
    """What a fuzzer of that target begins with."""
    kits = [small(), replace(small(), form=tarfile.PAX_FORMAT, fields={"mtime": 0.5}), gzipped()]
    if target == "manifest":
        return [kits[0].right_manifest, b"SHA2-256(a)= 00\nSHA1 (b)=" + b"0" * 40]
    if target == "ovf":
        return [kits[0].text, *(path.read_bytes() for path in sorted(DESCRIPTORS.glob("*.ovf")))]
    if target == "vmdk":
        one = (1, b"\1" * 65536)
        return [stream(one), stream(one, at_end=False), stream((0, bytes(65536)), (15, b"\3" * 65536))]
    return [one.packed() for one in kits]
