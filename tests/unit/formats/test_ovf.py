"""The descriptor: written, read back, and judged by DMTF's schema and by ovfbuild's own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.formats import ovf, ovf_reader
from ovfbuild.formats.envelope import (
    MEBIBYTE,
    AnnotationSection,
    Config,
    Disk,
    DiskSection,
    Envelope,
    EulaSection,
    File,
    Item,
    Network,
    NetworkSection,
    OperatingSystemSection,
    ProductSection,
    Property,
    System,
    Unread,
    VirtualHardwareSection,
    VirtualSystem,
)
from tests.unit.formats.conftest import Program

SHARED = Path(__file__).parents[4] / "shared"

ITEMS = (
    Item(1, "2 virtual CPU(s)", 3, allocation_units="hertz * 10^6", virtual_quantity=2, cores_per_socket=2),
    Item(2, "2048MB of memory", 4, allocation_units=MEBIBYTE, virtual_quantity=2048, description="Memory Size"),
    Item(3, "SATA Controller 0", 20, "vmware.sata.ahci", address="0"),
    Item(4, "IDE 0", 5, address="0"),
    Item(5, "Hard Disk 1", 17, host_resource="ovf:/disk/vmdisk1", parent=3, address_on_parent="0"),
    Item(6, "CD", 15, "vmware.cdrom.remotepassthrough", parent=4, automatic_allocation=False, required=False),
    Item(7, "Ethernet 1", 10, "E1000", connection="VM Network", automatic_allocation=True),
)

HARDWARE = VirtualHardwareSection(
    System("demo", "vmx-14"),
    ITEMS,
    configs=(Config("firmware", "efi"), Config("bootOptions.efiSecureBootEnabled", "true")),
    transport=("iso", "com.vmware.guestInfo"),
)

PRODUCT = ProductSection(
    product="Démo <&> “quotes”",
    vendor="v",
    version="1",
    full_version="1.2.3",
    product_url="https://example.org/?a=1&b=2",
    vendor_url="https://example.org",
    properties=(
        Property("instance-id", value="id-ovf", user_configurable=True, label="Instance ID"),
        Property("password", value="", user_configurable=True, password=True, description="two\nlines"),
        Property("plain", qualifiers="MaxLen(10)"),
    ),
)

ENVELOPE = Envelope(
    files=(File("file1", "demo-disk1.vmdk", 264704),),
    disk_section=DiskSection((Disk("vmdisk1", 100, file_ref="file1", populated_size=262144),)),
    network_section=NetworkSection((Network("VM Network", "The VM Network network"), Network("bare"))),
    virtual_system=VirtualSystem(
        "demo",
        "demo",
        OperatingSystemSection(96, os_type="debian12_64Guest", description="Debian 12 (64-bit)"),
        HARDWARE,
        AnnotationSection("  a text\n\n  of lines "),
        (PRODUCT,),
        (EulaSection("Do what you like.\n"),),
    ),
)

BARE = Envelope((), None, None, VirtualSystem("x", None, OperatingSystemSection(1), VirtualHardwareSection(None, ())))


def dmtf_schema() -> Path:
    """DMTF's schema, which may not be copied into the tree; the test is skipped without it."""
    given = os.environ.get("OVFBUILD_DSP8023")
    path = Path(given) if given else SHARED / "schemas" / "dsp8023-1.1.1" / "dsp8023_1.1.1.xsd"
    if given is None and not path.exists():
        pytest.skip("set OVFBUILD_DSP8023 to dsp8023_1.1.1.xsd")
    return path


@pytest.mark.parametrize("envelope", [ENVELOPE, BARE], ids=["all", "bare"])
def test_round_trip(envelope: Envelope) -> None:
    octets = ovf.dump(envelope)
    assert ovf_reader.parse(octets) == envelope
    assert ovf.dump(ovf_reader.parse(octets)) == octets


@pytest.mark.parametrize("envelope", [ENVELOPE, BARE], ids=["all", "bare"])
def test_dmtf_schema_takes_it(envelope: Envelope, tmp_path: Path, judge: Program) -> None:
    path = tmp_path / "x.ovf"
    path.write_bytes(ovf.dump(envelope))
    result = judge("xmllint", "--nonet", "--noout", "--schema", dmtf_schema(), path)
    assert result.returncode == 0, result.stderr


def test_dmtf_schema_is_looked_at(tmp_path: Path, judge: Program) -> None:
    path = tmp_path / "x.ovf"
    path.write_bytes(ovf.dump(ENVELOPE).replace(b"rasd:InstanceID", b"rasd:InstanceId"))
    assert judge("xmllint", "--nonet", "--noout", "--schema", dmtf_schema(), path).returncode == 3


@pytest.mark.parametrize("envelope", [ENVELOPE, BARE], ids=["all", "bare"])
def test_own_schema_takes_it(envelope: Envelope) -> None:
    assert ovf.validate(ovf.dump(envelope)) == []


@pytest.mark.parametrize("kind", ["ahci", "bios", "efi"])
def test_the_reference_descriptors(kind: str, tmp_path: Path, judge: Program) -> None:
    """What importers were seen to take is read whole and written again, the same but for its indentation."""
    path = SHARED / "reference" / f"portable-{kind}.ovf"
    if not path.exists():
        pytest.skip("the reference descriptors are not beside the repository")
    envelope = ovf_reader.parse(path.read_bytes())
    assert envelope.unread == ()
    assert ovf.validate(path.read_bytes()) == []
    again = tmp_path / "again.ovf"
    again.write_bytes(ovf.dump(envelope))
    canonical = [judge("xmllint", "--noblanks", "--c14n", file).stdout for file in (path, again)]
    stripped = ["".join(line.strip() for line in text.splitlines()) for text in canonical]
    assert stripped[0] == stripped[1] != ""


def test_form() -> None:
    octets = ovf.dump(ENVELOPE)
    text = octets.decode("utf-8")
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<Envelope xmlns="http://schemas.dmtf.org/')
    assert "<ovf:" not in text, "CloudStack reads elements without a prefix only"
    for name in ("id", "href", "capacity", "key", "value", "required", "transport"):
        assert f" {name}=" not in text, "attributes have the prefix"
    assert '\n    <Disk ovf:capacity="100" ovf:capacityAllocationUnits="byte * 2^20"' in text
    assert '<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>' in text
    assert '<vmw:CoresPerSocket ovf:required="false">2</vmw:CoresPerSocket>' in text
    assert text.endswith("</Envelope>\n")


def test_rasd_children_are_alphabetical() -> None:
    names = [name for _, name in ovf.RASD_CHILDREN]
    assert names == sorted(names)


def test_control_characters() -> None:
    envelope = replace(ENVELOPE, virtual_system=replace(ENVELOPE.virtual_system, name="a\x00b"))
    with pytest.raises(FileError, match="cannot hold"):
        ovf.dump(envelope)


CHANGES: dict[str, tuple[bytes, bytes]] = {
    "unit of disk": (b'Units="byte * 2^20"', b'Units="byte"'),
    "unit of memory": (b">byte * 2^20<", b">MegaBytes<"),
    "no InstanceID": (b"<rasd:InstanceID>3</rasd:InstanceID>", b""),
    "InstanceID of zero": (b"<rasd:InstanceID>3</", b"<rasd:InstanceID>0</"),
    "order of children": (
        b"<rasd:ElementName>IDE 0</rasd:ElementName>\n        <rasd:InstanceID>4</rasd:InstanceID>",
        b"<rasd:InstanceID>4</rasd:InstanceID><rasd:ElementName>IDE 0</rasd:ElementName>",
    ),
    "old form of HostResource": (b"ovf:/disk/vmdisk1", b"/disk/vmdisk1"),
    "unknown element": (b"<Annotation>", b"<Anotation/><Annotation>"),
    "unprefixed attribute": (b"<File ovf:href", b"<File href"),
    "unknown attribute": (b"<File ", b'<File ovf:colour="red" '),
    "type of a property": (b'ovf:type="string"', b'ovf:type="text"'),
    "folder": (b"demo-disk1.vmdk", b"disks/demo-disk1.vmdk"),
    "range": (b"<Item>", b'<Item ovf:bound="min">'),
    "no licence": (b"<License>Do what you like.\n</License>", b""),
}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_own_schema_refuses(old: bytes, new: bytes) -> None:
    """And says in which line; libxml2 names an element's own, its first child's or its last one's."""
    octets = ovf.dump(ENVELOPE)
    before, found, after = octets.partition(old)
    assert found
    problems = ovf.validate(before + new + after)
    lines = [int(problem.removeprefix("line ").split(":")[0]) for problem in problems]
    changed = 1 + before.count(b"\n")
    assert any(abs(line - changed) <= 3 for line in lines), (changed, problems)
    assert 0 not in lines


REFUSED: dict[str, tuple[bytes, bytes, str]] = {
    "OVF 2.0": (b"ovf/envelope/1", b"ovf/envelope/2", "OVF 2.0"),
    "no namespace": (b' xmlns="http://schemas.dmtf.org/ovf/envelope/1"', b"", "line 2: the root is Envelope"),
    "collection": (b"VirtualSystem>", b"VirtualSystem><VirtualSystemCollection/>", "collection"),
    "not closed": (b"</Envelope>", b"", "line [0-9]+: Premature end"),
    "no number": (b"<rasd:Parent>3<", b"<rasd:Parent>three<", "line [0-9]+: Parent is 'three', no number"),
    "no disk id": (b' ovf:diskId="vmdisk1"', b"", "line 8: Disk lacks the attribute diskId"),
    "no boolean": (b'ovf:required="false"', b'ovf:required="no"', "neither true nor false"),
    "twice": (
        b"<rasd:Parent>3</rasd:Parent>",
        b"<rasd:Parent>3</rasd:Parent><rasd:Parent>4</rasd:Parent>",
        "twice",
    ),
    "no hardware": (
        b"VirtualHardwareSection",
        b"HardwareSection",
        "lacks the element VirtualHardwareSection",
    ),
    "DOCTYPE": (
        b"<Envelope",
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<Envelope',
        "line 2: a DOCTYPE",
    ),
    "entity": (b"demo", b"&a;", "line [0-9]+: "),
    "no UTF-8": ("Démo".encode(), "Démo".encode("latin-1"), "line [0-9]+"),
}


@pytest.mark.parametrize(("old", "new", "message"), REFUSED.values(), ids=REFUSED)
def test_parse_refuses(old: bytes, new: bytes, message: str) -> None:
    octets = ovf.dump(ENVELOPE)
    assert old in octets
    with pytest.raises(FileError, match=message) as caught:
        ovf_reader.parse(octets.replace(old, new, 1 if old == b"VirtualSystem>" else -1))
    assert caught.value.message.startswith("descriptor, line")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", "line 1"),
        (b"\xef\xbb\xbf" + ovf.dump(BARE), "byte order mark"),
        (ovf.dump(BARE).decode().encode("utf-16"), "line 1"),
        (b" " * ((12 << 20) + 1), "12582913 bytes"),
        (b"KDMV" + bytes(508), "line 1"),
    ],
    ids=["nothing", "mark", "utf-16", "huge", "binary"],
)
def test_not_xml(octets: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message):
        ovf_reader.parse(octets)


def test_entities_of_a_billion_laughs_are_never_expanded() -> None:
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY l0 "ha">{levels}]>\n<x>&l9;</x>'
    with pytest.raises(FileError, match="DOCTYPE"):
        ovf.validate(bomb.encode())


def test_unread_elements_are_listed() -> None:
    octets = ovf.dump(ENVELOPE).replace(
        b"  <VirtualSystem ",
        b"  <ovf:Unheard><Info/></ovf:Unheard>\n  <VirtualSystem ",
    )
    octets = octets.replace(b"<AnnotationSection>", b'<vmw:Odd ovf:required="false"/><AnnotationSection>')
    envelope = ovf_reader.parse(octets)
    lines = octets.decode().splitlines()
    assert [(u.name, u.required) for u in envelope.unread] == [
        ("Unheard", True),
        ("{http://www.vmware.com/schema/ovf}Odd", False),
    ]
    for unread in envelope.unread:
        assert isinstance(unread, Unread)
        assert unread.name.rpartition("}")[2] in lines[unread.line - 1]
