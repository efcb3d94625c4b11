"""Descriptors as domains."""

from __future__ import annotations

import pytest

from ovfbuild.errors import PublishError
from ovfbuild.formats import ovf_reader
from ovfbuild.publish.domain import Host, Origin, Volume, domain_xml
from tests.unit.verify import kit

ORIGIN = Origin("a", "1.0+b", "d" * 64, "01234567", 1795439979.25)
HOST = Host("kvm", {}, "default")
VOLUMES = {"vmdisk1": Volume("/pool/a", "qcow2")}


def described(host: Host = HOST, *changes: tuple[bytes, bytes]) -> str:
    package = kit.good()
    for old, new in changes:
        package = package.text_with(old, new)
    (envelope,) = ovf_reader.read(package.text).envelopes
    return domain_xml(envelope, "a-1.0", "00000000-0000-4000-8000-000000000000", ORIGIN, VOLUMES, host)


def test_where_it_came_from_is_read_again() -> None:
    assert Origin.of(ORIGIN.element()) == ORIGIN
    assert Origin.of("<libosinfo xmlns='x' name='a'/>") is None


def test_what_is_declared_is_there() -> None:
    text = described()
    for part in (
        ' type="kvm"><name>a-1.0</name>',
        '<memory unit="MiB">1024</memory><vcpu>2</vcpu>',
        'machine="q35"',
        '<target dev="sda" bus="sata" />',
        '<source file="/pool/a" />',
        '<source network="default" /><model type="e1000" />',
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (b">20<", b">6<", ('model="vmpvscsi"', 'bus="scsi"')),
        (b">20<", b">5<", ('machine="pc"', '<target dev="hda" bus="ide" />', '<target dev="hdb" bus="ide" />')),
    ],
)
def test_other_controllers(old: bytes, new: bytes, parts: tuple[str, ...]) -> None:
    kind = b"VirtualSCSI" if new == b">6<" else b"PIIX4"
    text = described(HOST, (old, new), (b"vmware.sata.ahci", kind))
    for part in parts:
        assert part in text, text


def test_what_libvirt_has_not_is_said_and_can_be_another() -> None:
    nvme = (b"vmware.sata.ahci", b"vmware.nvme.controller")
    with pytest.raises(PublishError, match=r"no such disk controller as the descriptor declares: vmware\.nvme"):
        described(HOST, nvme)
    assert '<target dev="vda" bus="virtio" />' in described(Host("qemu", {}, "default", "virtio"), nvme)


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("user", '<interface type="user"><model'),
        ("bridge:br0", '<interface type="bridge"><source bridge="br0" />'),
        ("lan", '<interface type="network"><source network="lan" />'),
    ],
)
def test_networks(where: str, part: str) -> None:
    assert part in described(Host("kvm", {}, where))
    assert part in described(Host("kvm", {"VM Network": where}, "default"))
