"""What the tests of publishing share: a small OVA that is good, progress that remembers, and targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ovfbuild.formats import ovf, ovf_reader
from ovfbuild.formats.envelope import Disk, DiskSection, File, Item
from ovfbuild.progress import Silent
from ovfbuild.publish.cloud import Shipment
from ovfbuild.publish.shipment import prepare
from ovfbuild.spec.targets import Target, Targets
from ovfbuild.verify.package import open_package
from tests.unit.formats.conftest import Pieces, noise, written
from tests.unit.verify import kit


class Heard(Silent):
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, name: str) -> None:
        self.said.append(name)

    def line(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")

    @property
    def text(self) -> str:
        return "\n".join(self.said)


def ova(path: Path, version: str = "1.0", product: str = "p", more: int = 0) -> Path:
    """A good OVA called `a`; with `more`, it is larger by so many MiB."""
    said = f"<Product>{product}</Product><Version>{version}</Version>"
    good = kit.good().text_with(b"<Product>p</Product>", said.encode())
    if more:
        octets = written(Pieces((more + 2) * kit.MIB, ((0, noise(30000)), (kit.MIB, noise(more * kit.MIB, 1)))))[1]
        good = good.disk_with(lambda _: octets).text_with(b'ovf:capacity="3"', b'ovf:capacity="%d"' % (more + 2))
    return good.pack(path)


def ova_of_three(path: Path, version: str = "1.0", seed: int = 1) -> Path:
    """A good OVA called `a` of three disks: 16 MiB to boot from, an empty one of 2000 MiB, and one of 1100 MiB."""
    (one,) = ovf_reader.read(kit.good().text).envelopes
    boot = Pieces(16 * kit.MIB, ((0, noise(30000)),))
    data = Pieces(1100 * kit.MIB, ((5 * kit.MIB, noise(2 * kit.MIB, seed)),))
    files = {"a-disk1.vmdk": written(boot)[1], "a-disk3.vmdk": written(data)[1]}
    system = replace(one.virtual_system, products=(replace(one.virtual_system.products[0], version=version),))
    more = (
        Item(8, "disk 2", 17, host_resource="ovf:/disk/vmdisk2", parent=3, address_on_parent="1"),
        Item(9, "disk 3", 17, host_resource="ovf:/disk/vmdisk3", parent=3, address_on_parent="2"),
    )
    items = (*system.hardware.items, *more)
    disks = Disk("vmdisk1", 16, file_ref="file1"), Disk("vmdisk2", 2000), Disk("vmdisk3", 1100, file_ref="file3")
    text = ovf.dump(
        replace(
            one,
            files=tuple(File(f"file{name[6]}", name, len(octets)) for name, octets in files.items()),
            disk_section=DiskSection(disks),
            virtual_system=replace(system, hardware=replace(system.hardware, items=items)),
        )
    )
    return kit.Kit(text, files).pack(path)


def shipment(path: Path, version: str = "1.0") -> Shipment:
    return prepare(open_package(ova(path, version)), None, None, Silent())


def target(folder: Path, **table: Any) -> Target:
    """The target of a table of [[publish]]."""
    (found,) = Targets.model_validate({"publish": [table]}, context={"folder": folder}).publish
    return found
