"""For each rule a package that breaks it: one that is good, but for that."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from ovfbuild.formats import vmdk_layout as layout
from ovfbuild.formats.certificate import Signer
from tests.unit.verify import kit
from tests.unit.verify.kit import Entry, Kit, stream

ONE = (1, b"\1" * 65536)
GOOD = kit.small()


@cache
def signer(days: int = 36500) -> Signer:
    """Somebody with a certificate of his own making that ends so many days from 2020 on."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Tester")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=days))
    return Signer(made.sign(key, hashes.SHA256()), key)


def signed(by: Signer | None = None, manifest: bytes = GOOD.right_manifest) -> bytes:
    return (by or signer()).sign(manifest, "a.mf", "SHA256")


def third(octets: bytes) -> Callable[[list[Entry]], list[Entry]]:
    """With a certificate right behind the manifest."""
    return lambda all_: [*all_[:2], Entry("a.cert", octets), *all_[2:]]


def text(old: str, new: str, good: Kit = GOOD) -> Kit:
    """With a descriptor that says something else."""
    return good.text_with(old.encode(), new.encode())


def without(pattern: str, good: Kit = GOOD) -> Kit:
    """With a descriptor that lacks something."""
    found = re.search(pattern.encode(), good.text, re.DOTALL)
    assert found, pattern
    return good.text_with(found[0], b"")


def item(*lines: str, kind: int, number: int = 8, attributes: str = "") -> Kit:
    """With another piece of hardware, whose other children are `<rasd:Name>value</…>` as `Name=value`."""
    children = {"ElementName": "more", "InstanceID": number, "ResourceType": kind}
    children |= dict(line.split("=") for line in lines)
    inside = "".join(f"<rasd:{name}>{children[name]}</rasd:{name}>" for name in sorted(children))
    return text("</VirtualHardwareSection>", f"<Item{attributes}>{inside}</Item></VirtualHardwareSection>")


def after_hardware(element: str) -> Kit:
    return text("</VirtualHardwareSection>", f"</VirtualHardwareSection>{element}")


def in_hardware(element: str) -> Kit:
    return text("</VirtualHardwareSection>", f"{element}</VirtualHardwareSection>")


def renamed(old: str, new: str) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: [replace(one, name=new) if one.name == old else one for one in entries]


def reordered(*names: str) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: sorted(entries, key=lambda one: names.index(one.name))


def more(*entries: Entry) -> Callable[[list[Entry]], list[Entry]]:
    return lambda there: [*there, *entries]


def manifest(change: Callable[[bytes], bytes]) -> Kit:
    return replace(GOOD, manifest=change(GOOD.right_manifest))


def disk(octets: bytes) -> Kit:
    return GOOD.disk_with(lambda _: octets)


def other_disk(change: Callable[[bytes], bytes]) -> Kit:
    return GOOD.disk_with(change)


def cut_at_first_grain(octets: bytes) -> bytes:
    return octets[: 1024 + 40]


def cut_at_the_end(octets: bytes) -> bytes:
    """Right after the last member."""
    return octets[: sum(512 + len(layout.padded(one.octets)) for one in GOOD.entries())]


def torn_grain(octets: bytes) -> bytes:
    return octets[:1040] + b"\xff" * 8 + octets[1048:]


def other_table(octets: bytes) -> bytes:
    """The grain table says of the first grain that it is elsewhere."""
    at = octets.index(layout.pack_marker(4, layout.MARK_TABLE)) + 512
    return octets[:at] + b"\x09" + octets[at + 1 :]


def other_footer(octets: bytes) -> bytes:
    at = len(octets) - 1024 + 12
    return octets[:at] + b"\x01" + octets[at + 1 :]


def two_disks() -> Kit:
    files = {**GOOD.files, "a-disk2.vmdk": GOOD.files["a-disk1.vmdk"]}
    kits = replace(GOOD, files=files)
    kits = text("  </References>", '<File ovf:href="a-disk2.vmdk" ovf:id="file2" ovf:size="7168"/></References>', kits)
    found = re.search(b"<Disk .*?/>", kits.text)
    assert found
    second = found[0].replace(b"vmdisk1", b"vmdisk2").replace(b"file1", b"file2")
    kits = kits.text_with(found[0], found[0] + second)
    drive = (
        "<Item><rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:ElementName>disk 2</rasd:ElementName>"
        "<rasd:HostResource>ovf:/disk/vmdisk2</rasd:HostResource><rasd:InstanceID>8</rasd:InstanceID>"
        "<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item></VirtualHardwareSection>"
    )
    return text("</VirtualHardwareSection>", drive, kits)


def machine(uuid: str, attributes: str = 'uuid="{1}" name="a" version="1.19-linux" OSType="Debian_64"') -> Kit:
    inside = f'<AttachedDevice type="HardDisk"><Image uuid="{uuid}"/></AttachedDevice>'
    element = (
        f'<vbox:Machine xmlns:vbox="http://www.virtualbox.org/ovf/machine" ovf:required="false" {attributes}>{inside}'
    )
    known = text('ovf:diskId="vmdisk1"', 'ovf:diskId="vmdisk1" vbox:uuid="1"')
    known = text("<Envelope ", '<Envelope xmlns:vbox="http://www.virtualbox.org/ovf/machine" ', known)
    return text("</VirtualHardwareSection>", f"</VirtualHardwareSection>{element}</vbox:Machine>", known)


OPTIONS = (
    '<DeploymentOptionSection><Info>i</Info><Configuration ovf:id="s"><Label>l</Label><Description>d</Description>'
    "</Configuration></DeploymentOptionSection>"
)
EULA = "<EulaSection><Info>i</Info><License>Pay.</License></EulaSection>"
CONFIG = '<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>'

ARCHIVE: dict[str, Callable[[], Kit]] = {
    "archive-first": lambda: replace(GOOD, change=reordered("a.mf", "a.ovf", "a-disk1.vmdk")),
    "archive-pax": lambda: replace(GOOD, form=tarfile.PAX_FORMAT, fields={"mtime": 0.5}),
    "archive-long-name": lambda: replace(GOOD, change=more(Entry("x" * 120, b""))),
    "archive-folder": lambda: replace(GOOD, change=lambda all_: [replace(one, name=f"./{one.name}") for one in all_]),
    "archive-sparse": lambda: replace(GOOD, change=more(Entry("s", b"", tarfile.GNUTYPE_SPARSE))),
    "archive-name": lambda: replace(GOOD, change=more(Entry("read me (first)", b""))),
    "archive-twice": lambda: replace(GOOD, change=more(Entry("a-disk1.vmdk", b"other"))),
    "archive-end": lambda: replace(GOOD, after=cut_at_the_end),
    "archive-tail": lambda: replace(GOOD, after=lambda octets: octets + bytes(100 << 10)),
    "archive-order": lambda: replace(two_disks(), change=reordered("a.ovf", "a.mf", "a-disk2.vmdk", "a-disk1.vmdk")),
    "manifest-order": lambda: replace(GOOD, change=reordered("a.ovf", "a-disk1.vmdk", "a.mf")),
    "names-differ": lambda: replace(GOOD, change=renamed("a.mf", "b.mf")),
    "certificate-order": lambda: replace(GOOD, change=more(Entry("a.cert", signed()))),
    "certificate-alone": lambda: replace(
        GOOD, change=lambda all_: [*(one for one in all_ if one.name != "a.mf"), Entry("a.cert", signed())]
    ),
    "certificate-grammar": lambda: replace(GOOD, change=third(signed().replace(b")= ", b") = "))),
    "certificate-signature": lambda: replace(GOOD, change=third(signed(manifest=b"another"))),
    "certificate-expired": lambda: replace(GOOD, change=third(signed(signer(30)))),
    "certificate-self-signed": lambda: replace(GOOD, change=third(signed())),
}
MANIFEST: dict[str, Callable[[], Kit]] = {
    "manifest-missing": lambda: replace(GOOD, change=lambda all_: [one for one in all_ if one.name != "a.mf"]),
    "manifest-grammar": lambda: manifest(lambda octets: octets + b"what is this\n"),
    "manifest-spacing": lambda: manifest(lambda octets: octets.replace(b"SHA256(", b"SHA256 (")),
    "manifest-algorithm": lambda: manifest(lambda octets: octets.replace(b"SHA256(", b"SHA2-256(")),
    "manifest-end": lambda: manifest(lambda octets: octets.removesuffix(b"\n")),
    "manifest-twice": lambda: manifest(lambda octets: octets + octets),
    "manifest-itself": lambda: manifest(lambda octets: octets + b"SHA256(a.mf)= " + b"0" * 64 + b"\n"),
    "manifest-names-nothing": lambda: manifest(lambda octets: octets + b"SHA256(c.iso)= " + b"0" * 64 + b"\n"),
    "manifest-digest": lambda: manifest(lambda octets: octets[:-9] + b"00000000\n"),
    "manifest-incomplete": lambda: manifest(lambda octets: octets.splitlines(keepends=True)[0]),
    "manifest-sha1": lambda: manifest(lambda _: b"SHA1(a.ovf)= " + b"0" * 40 + b"\n"),
    "manifest-sha512": lambda: manifest(lambda _: b"SHA512(a.ovf)= " + b"0" * 128 + b"\n"),
    "manifest-large": lambda: manifest(lambda octets: octets + b"\n" * (1 << 20)),
}
DESCRIPTOR: dict[str, Callable[[], Kit]] = {
    "descriptor-xml": lambda: text("</Envelope>", ""),
    "descriptor-root": lambda: replace(GOOD, text=b"<html/>\n"),
    "descriptor-encoding": lambda: replace(GOOD, text=b"\xef\xbb\xbf" + GOOD.text),
    "descriptor-prefix": lambda: text('<File ovf:href="', '<File href="'),
    "descriptor-version": lambda: replace(GOOD, text=GOOD.text.replace(b"ovf/envelope/1", b"ovf/envelope/2")),
    "descriptor-incomplete": lambda: text("<rasd:Parent>3<", "<rasd:Parent>three<"),
    "descriptor-narrow": lambda: text(
        '<Network ovf:name="VM Network"/>', '<Network ovf:colour="1" ovf:name="VM Network"/>'
    ),
    "rasd-order": lambda: text(
        "<rasd:ElementName>IDE</rasd:ElementName>",
        "<rasd:Parent>3</rasd:Parent><rasd:ElementName>IDE</rasd:ElementName>",
    ),
    "section-order": lambda: replace(GOOD, text=moved_references()),
    "several-systems": lambda: replace(GOOD, text=collection()),
    "deployment-options": lambda: text("<NetworkSection>", f"{OPTIONS}<NetworkSection>"),
    "item-variants": lambda: item("VirtualQuantity=4", kind=3, attributes=' ovf:bound="max"'),
    "unknown-element": lambda: after_hardware('<x:Thing xmlns:x="urn:x"/>'),
    "boot-order": lambda: text("<NetworkSection>", "<vmw:BootOrderSection/><NetworkSection>"),
    "extra-config": lambda: in_hardware('<vmw:ExtraConfig ovf:required="false" vmw:key="k" vmw:value="v"/>'),
}
REFERENCES: dict[str, Callable[[], Kit]] = {
    "file-missing": lambda: text('ovf:href="a-disk1.vmdk"', 'ovf:href="b.vmdk"'),
    "file-size": lambda: text('ovf:size="7168"', 'ovf:size="65536"'),
    "file-size-missing": lambda: text(' ovf:size="7168"', ""),
    "file-id": lambda: text('ovf:id="file2"', 'ovf:id="file1"', two_disks()),
    "file-unlisted": lambda: replace(GOOD, files={**GOOD.files, "readme": b"Read me.\n"}),
    "file-compressed": lambda: text("<File ", '<File ovf:compression="gzip" '),
    "file-chunked": lambda: text("<File ", '<File ovf:chunkSize="4096" '),
    "file-ref": lambda: text('ovf:fileRef="file1"', 'ovf:fileRef="file9"'),
    "disk-id": lambda: replace(GOOD, text=GOOD.text.replace(b"vmdisk1", b"vm disk 1")),
    "disk-count": two_disks,
    "disk-unattached": lambda: text("ovf:/disk/vmdisk1", "ovf:/disk/vmdisk9"),
    "capacity-units": lambda: text('"byte * 2^20" ovf:diskId', '"MegaBytes" ovf:diskId'),
    "capacity-differs": lambda: text('ovf:capacity="1"', 'ovf:capacity="8192"'),
    "populated-size": lambda: text('populatedSize="131072"', 'populatedSize="4194304"'),
    "populated-small": lambda: text('populatedSize="131072"', 'populatedSize="1"'),
    "disk-format-uri": lambda: text("vmdk.html#streamOptimized", "vmdk.html#sparse"),
}
DISK: dict[str, Callable[[], Kit]] = {
    "disk-format": lambda: disk(b"QFI\xfb".ljust(7168, b"\0")),
    "disk-subformat": lambda: disk(stream(ONE, header={"version": 1})),
    "disk-header": lambda: disk(stream(ONE, header={"newline_test": b"\n \n\n"})),
    "disk-descriptor-begin": lambda: other_disk(lambda octets: octets.replace(b"# Disk", b"# Risk")),
    "disk-descriptor": lambda: other_disk(lambda octets: octets.replace(b"CID=1", b"CAD=1")),
    "disk-order": lambda: disk(stream((3, b"\1" * 65536), ONE)),
    "disk-no-end": lambda: other_disk(lambda octets: octets[:-512]),
    "disk-tail": lambda: other_disk(lambda octets: octets + bytes(65536)),
    "disk-truncated": lambda: other_disk(cut_at_first_grain),
    "disk-damaged": lambda: other_disk(torn_grain),
    "disk-tables": lambda: other_disk(other_table),
    "disk-footer": lambda: other_disk(other_footer),
    "disk-odd": lambda: disk(stream((0, bytes(65536)))),
    "disk-adapter": lambda: other_disk(lambda octets: octets.replace(b'"lsilogic"', b'"ide"     ')),
    "disk-unread": lambda: text("<File ", '<File ovf:compression="bzip2" '),
}
SYSTEM: dict[str, Callable[[], Kit]] = {
    "two-names": lambda: text("<Name>a</Name>", "<Name>web</Name>"),
    "system-identifier": lambda: without("<vssd:VirtualSystemIdentifier>a</vssd:VirtualSystemIdentifier>"),
    "hardware-family": lambda: text("vmx-13", "virtualbox-2.2"),
    "hardware-new": lambda: text("vmx-13", "vmx-22"),
    "hardware-old": lambda: text("vmx-13", "vmx-10"),
    "hardware-feature": lambda: text("vmx-13", "vmx-11", item("ResourceSubType=vmware.nvme.controller", kind=20)),
    "os-missing": lambda: without("<OperatingSystemSection.*?</OperatingSystemSection>"),
    "os-type": lambda: text(' vmw:osType="debian10_64Guest"', ""),
    "os-type-new": lambda: text("debian10_64Guest", "debian12_64Guest"),
    "firmware": lambda: in_hardware(CONFIG),
    "vbox-machine": lambda: machine("{1}"),
    "vbox-attributes": lambda: machine("{1}", ""),
    "vbox-images": lambda: machine("{2}"),
    "transport-cdrom": lambda: without('<Item ovf:required="false">.*?</Item>'),
    "product-class": lambda: text("<ProductSection>", '<ProductSection ovf:class="com.example">'),
    "eula": lambda: after_hardware(EULA),
    "config-required": lambda: in_hardware(CONFIG.replace("false", "true")),
}
HARDWARE: dict[str, Callable[[], Kit]] = {
    "instance-id": lambda: text("<rasd:InstanceID>7<", "<rasd:InstanceID>6<"),
    "parent-missing": lambda: text("<rasd:Parent>4<", "<rasd:Parent>9<"),
    "parent-loop": lambda: item("Parent=8", kind=6),
    "item-required": lambda: item(kind=24),
    "one-of-each": lambda: item("VirtualQuantity=4", kind=3),
    "memory-units": lambda: text("<rasd:AllocationUnits>byte * 2^20<", "<rasd:AllocationUnits>byte * 2^10<"),
    "memory-units-old": lambda: text("<rasd:AllocationUnits>byte * 2^20<", "<rasd:AllocationUnits>MegaBytes<"),
    "controllers": lambda: text("</VirtualHardwareSection>", THIRD_IDE, item(kind=5)),
    "sata-subtype": lambda: without("<rasd:ResourceSubType>vmware.sata.ahci</rasd:ResourceSubType>"),
    "ide-subtype": lambda: text(
        "<rasd:ResourceType>5<", "<rasd:ResourceSubType>PIIX4</rasd:ResourceSubType><rasd:ResourceType>5<"
    ),
    "scsi-model": lambda: item("ResourceSubType=VirtualSCSI", kind=6),
    "nvme": lambda: item("ResourceSubType=vmware.nvme.controller", kind=20),
    "scsi-unit-7": lambda: text("</VirtualHardwareSection>", TAPE, item("ResourceSubType=lsilogic", kind=6)),
    "host-resource": lambda: text("ovf:/disk/vmdisk1", "ovf:/disk/vmdisk9"),
    "host-resource-old": lambda: text("ovf:/disk/vmdisk1", "/disk/vmdisk1"),
    "disk-parent": lambda: without("<rasd:Parent>3</rasd:Parent>"),
    "cd-file": lambda: text(
        "<rasd:InstanceID>6<", "<rasd:HostResource>ovf:/file/file1</rasd:HostResource><rasd:InstanceID>6<"
    ),
    "connection": lambda: text("<rasd:Connection>VM Network<", "<rasd:Connection>LAN<"),
    "nic-model": lambda: text("<rasd:ResourceSubType>E1000<", "<rasd:ResourceSubType>VmxNet3<"),
}
THIRD_IDE = (
    "<Item><rasd:ElementName>IDE 2</rasd:ElementName><rasd:InstanceID>9</rasd:InstanceID>"
    "<rasd:ResourceType>5</rasd:ResourceType></Item></VirtualHardwareSection>"
)
TAPE = (
    "<Item><rasd:AddressOnParent>7</rasd:AddressOnParent><rasd:ElementName>tape</rasd:ElementName>"
    "<rasd:InstanceID>9</rasd:InstanceID><rasd:Parent>8</rasd:Parent><rasd:ResourceType>16</rasd:ResourceType></Item>"
    "</VirtualHardwareSection>"
)


def moved_references() -> bytes:
    """The descriptor, with References at its end."""
    found = re.search(b"  <References>.*?</References>\n", GOOD.text, re.DOTALL)
    assert found
    return GOOD.text.replace(found[0], b"").replace(b"</Envelope>", found[0] + b"</Envelope>")


def collection() -> bytes:
    """The descriptor, with its machine in a collection."""
    begin = b'<VirtualSystemCollection ovf:id="all"><Info>i</Info><VirtualSystem '
    inside = GOOD.text.replace(b"<VirtualSystem ", begin)
    return inside.replace(b"</VirtualSystem>", b"</VirtualSystem></VirtualSystemCollection>")


PACKAGES = {**ARCHIVE, **MANIFEST, **DESCRIPTOR, **REFERENCES, **DISK, **SYSTEM, **HARDWARE}
