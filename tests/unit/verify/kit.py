"""A small package that is good, in parts that can be broken one by one before they are packed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovfbuild.formats import ovf
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
from ovfbuild.verify.verdict import Finding, Verdict
from tests.unit.formats.conftest import Pieces, noise, written

MIB = 1 << 20
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
class Kit:
    """`files` are what is packed, in that order; without `manifest` a right one is put in as the second."""

    text: bytes
    files: Mapping[str, bytes]
    manifest: bytes | None = None
    form: int = tarfile.GNU_FORMAT
    order: Callable[[list[str]], list[str]] = list
    fields: Mapping[str, object] = field(default_factory=dict)
    after: Callable[[bytes], bytes] = bytes

    def members(self) -> dict[str, bytes]:
        named = {"a.ovf": self.text, **self.files}
        lines = [f"SHA256({name})= {hashlib.sha256(octets).hexdigest()}\n" for name, octets in named.items()]
        text = "".join(lines).encode() if self.manifest is None else self.manifest
        whole = {"a.ovf": self.text, "a.mf": text, **self.files}
        return {name: whole[name] for name in self.order(list(whole))}

    def pack(self, path: Path) -> Path:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=self.form) as archive:
            for name, octets in self.members().items():
                entry = tarfile.TarInfo(name)
                entry.size = len(octets)
                for key, value in self.fields.items():
                    setattr(entry, key, value)
                archive.addfile(entry, io.BytesIO(octets))
        path.write_bytes(self.after(out.getvalue()))
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


def of(path: Path, rule: str) -> Finding:
    return next(finding for finding in verdict(path).findings if finding.rule == rule)
