"""What the tests of publishing share: a small OVA that is good, progress that remembers, and targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def shipment(path: Path, version: str = "1.0") -> Shipment:
    return prepare(open_package(ova(path, version)), None, None, Silent())


def target(folder: Path, **table: Any) -> Target:
    """The target of a table of [[publish]]."""
    (found,) = Targets.model_validate({"publish": [table]}, context={"folder": folder}).publish
    return found
