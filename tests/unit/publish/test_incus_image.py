"""What goes to Incus: the form, read by a program that we did not write, and the words of a machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path

import yaml

from ovfbuild.formats.envelope import Config
from ovfbuild.publish import incus_image
from ovfbuild.publish.image_content import disks_of
from ovfbuild.verify.package import open_package
from tests.unit.publish import kit


def test_the_form_is_as_long_as_it_says_and_has_both_parts(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"\r\n--disk" * 100_000)
    form = incus_image.form({"os": "debian", "quoted": 'a "b": ü'}, 1_700_000_000, disk)
    with form.opened() as stream:
        body = b"".join(iter(lambda: stream.read(65536), b""))
    assert len(body) == form.size
    head = f"Content-Type: multipart/form-data; boundary={form.boundary}\r\n\r\n".encode()
    first, second = message_from_bytes(head + body, policy=policy.HTTP).iter_parts()
    metadata, content = first.get_payload(decode=True), second.get_payload(decode=True)
    assert isinstance(metadata, bytes) and isinstance(content, bytes)
    names = [part.get_param("name", header="content-disposition") for part in (first, second)]
    assert names == ["metadata", "rootfs.img"]
    assert hashlib.sha256(metadata + content).hexdigest() == form.fingerprint
    assert len(metadata + content) == form.image_size
    with tarfile.open(fileobj=io.BytesIO(metadata)) as archive:
        member = archive.extractfile("metadata.yaml")
        assert member is not None
        told = yaml.safe_load(member.read())
    assert told == {
        "architecture": "x86_64",
        "creation_date": 1_700_000_000,
        "properties": {"os": "debian", "quoted": 'a "b": ü'},
    }


def test_a_machine_in_the_client_s_words(tmp_path: Path) -> None:
    package = open_package(kit.ova(tmp_path / "a.ova"))
    (disk,) = disks_of(package)
    said = incus_image.launch(package.envelope, disk, "lab:a/1.0", "a", csm=False)
    settings = "-c limits.cpu=2 -c limits.memory=1024MiB -c security.secureboot=false"
    assert said == f"incus launch lab:a/1.0 a --vm {settings}"
    properties = incus_image.properties(package.envelope, disk, "a", "1.0")
    assert properties["requirements.secureboot"] == "false" and properties["os"] == "debian"


def test_what_incus_does_by_itself_is_left_out_and_what_it_does_not_is_said(tmp_path: Path) -> None:
    package = open_package(kit.ova(tmp_path / "a.ova"))
    (disk,) = disks_of(package)
    large = replace(disk, capacity=(20 << 30) + 1)
    said = incus_image.launch(package.envelope, large, "a/1.0", "a", csm=True)
    assert said.endswith("-c security.csm=true -c security.secureboot=false -d root,size=21GiB")
    hardware = package.envelope.virtual_system.hardware
    secure = replace(hardware, configs=(*hardware.configs, Config("bootOptions.efiSecureBootEnabled", "true")))
    envelope = replace(package.envelope, virtual_system=replace(package.envelope.virtual_system, hardware=secure))
    assert "security" not in incus_image.launch(envelope, disk, "a/1.0", "a", csm=False)
    assert "requirements.secureboot" not in incus_image.properties(envelope, disk, "a", "1.0")
