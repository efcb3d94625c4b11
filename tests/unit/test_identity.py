"""`ovfbuild deploy-seed`: what it refuses, and the ISO as other programs and the broker read it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml

from ovfbuild import identity
from ovfbuild.errors import FileError, UsageError
from ovfbuild.formats import ovf_environment, ovf_reader
from ovfbuild.guest import firstboot
from ovfbuild.identity import Account, Declared
from ovfbuild.spec.deployment import Property
from ovfbuild.verify import boot
from ovfbuild.verify.package import Package
from tests.unit.test_describe import descriptor, properties_of

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me"
TABLES: list[dict[str, Any]] = [
    {"key": "dm.host", "label": "Deployment Manager", "required": True},
    {"key": "dm.port", "type": "int", "default": 5672, "min": 1, "max": 65535},
    {"key": "dm.password", "type": "password", "min": 8},
    {"key": "tls", "type": "bool"},
    {"key": "address", "type": "ip"},
    {"key": "level", "choices": ["info", "debug"], "default": "info"},
]
DECLARED = Declared("hello", tuple(map(Property.model_validate, TABLES)))


def files_in(path: Path) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    found = {}
    for name in next(iter(iso.walk(rr_path="/")))[2]:
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, rr_path=f"/{name}")
        found[name] = content.getvalue()
    iso.close()
    return found


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("dm.hots=x", "--set dm.hots: hello has no such property; did you mean 'dm.host'?"),
        ("zzz=x", "--set zzz: hello has no such property; known: dm.host, dm.port, dm.password, tls, address, level"),
        ("dm.host", "--set dm.host: has no value; write --set dm.host=VALUE"),
        ("dm.port=x", "--set dm.port: 'x' is not a whole number of 32 bits; write digits, such as 5672"),
        ("dm.port=0", "--set dm.port: 0 is out of range; at least 1"),
        ("dm.password=s3cret", "--set dm.password: the password has 6 characters; at least 8 characters"),
        ("tls=maybe", "--set tls: 'maybe' is neither true nor false; write one of them"),
        (
            "address=1.2.3",
            '--set address: \'1.2.3\' is not an IP address; write one such as "192.0.2.1" or "2001:db8::1"',
        ),
        ("level=trace", "--set level: 'trace' is not a choice; write 'info' or 'debug'"),
        ("hostname=x", "--set hostname: is cloud-init's own; use --hostname NAME"),
    ],
)
def test_a_wrong_setting(setting: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        identity.values_of(DECLARED, [setting])
    assert caught.value.message == sentence


def test_all_mistakes_at_once_and_no_password() -> None:
    with pytest.raises(UsageError) as caught:
        identity.values_of(DECLARED, ["dm.host=a", "dm.host=b", "dm.password=s3\x1bcret", "x"])
    assert caught.value.message.count("\n") == 2
    assert "cret" not in caught.value.message


def test_values_are_typed() -> None:
    given = ["dm.host=a=b", "dm.port= 7 ", "tls=yes", "address=2001:DB8::1"]
    values = identity.values_of(DECLARED, given)
    assert values == {"dm.host": "a=b", "dm.port": 7, "tls": True, "address": "2001:db8::1"}
    assert DECLARED.missing(values) == []
    assert DECLARED.missing({}) == ["dm.host"]


VALUES: dict[str, Any] = {"dm.host": 'it\'s "x"\n$(id)', "dm.port": 1, "tls": True, "dm.password": "p@ss <&> wörd"}
WHO = Account("web1.example.org", (KEY,))


def broker_reads(path: Path, root: Path) -> dict[str, Any]:
    """What the guest's broker makes of an ISO that lies in the only drive."""
    root.mkdir()
    target = root / firstboot.DECLARATION[1:]
    target.parent.mkdir(parents=True)
    declared = [{**one, "type": one.get("type", "string"), "default": one.get("default")} for one in TABLES]
    target.write_text(json.dumps({"properties": declared}))
    (root / "dev").mkdir()
    shutil.copy(path, root / "dev/sr0")
    report = firstboot.broker(str(root))
    assert report["problems"] == []
    return dict(json.loads((root / firstboot.IDENTITY[1:]).read_text())["properties"])


def test_a_no_cloud_seed(tmp_path: Path) -> None:
    iso = tmp_path / "seed.iso"
    identity.write(iso, DECLARED, VALUES, WHO, "nocloud")
    files = files_in(iso)
    assert set(files) == {"meta-data", "user-data"}
    meta = yaml.safe_load(files["meta-data"])
    assert meta["local-hostname"] == "web1.example.org"
    assert files["user-data"].startswith(b"#cloud-config\n")
    config = yaml.safe_load(files["user-data"])
    assert config == {"ssh_authorized_keys": [KEY], "ovfbuild": {"properties": VALUES}}
    taken = broker_reads(iso, tmp_path / "guest")
    assert {key: taken[key] for key in VALUES} == VALUES


def test_an_ovf_environment(tmp_path: Path) -> None:
    iso = tmp_path / "env.iso"
    identity.write(iso, DECLARED, VALUES, WHO, "ovf-env")
    files = files_in(iso)
    assert set(files) == {"ovf-env.xml"}
    said = ovf_environment.parse(files["ovf-env.xml"]).properties
    assert said["hostname"] == "web1.example.org"
    assert said["public-keys"] == KEY
    assert (said["tls"], said["dm.host"]) == ("true", VALUES["dm.host"])
    taken = broker_reads(iso, tmp_path / "guest")
    assert {key: taken[key] for key in VALUES} == VALUES


@pytest.mark.parametrize(("form", "label"), [("nocloud", "CIDATA"), ("ovf-env", "OVF ENV")])
def test_other_programs_see_its_label(tmp_path: Path, needs: Callable[..., None], form: Any, label: str) -> None:
    needs("blkid")
    iso = tmp_path / "x.iso"
    identity.write(iso, DECLARED, VALUES, WHO, form)
    said = subprocess.run(
        ["/usr/sbin/blkid", "-p", "-s", "LABEL", "-s", "TYPE", "-o", "export", iso], capture_output=True, text=True
    )
    assert f"LABEL={label}" in said.stdout.replace("\\", "")
    assert "TYPE=iso9660" in said.stdout


@pytest.mark.parametrize("form", ["nocloud", "ovf-env"])
def test_the_same_values_are_the_same_bytes_and_others_another_instance(tmp_path: Path, form: Any) -> None:
    def made(name: str, values: dict[str, Any], who: Account = WHO) -> tuple[bytes, str]:
        identity.write(tmp_path / name, DECLARED, values, who, form)
        text = b"".join(files_in(tmp_path / name).values()).decode()
        return (tmp_path / name).read_bytes(), text.partition("ovfbuild-")[2][:16]

    assert made("a", VALUES) == made("b", dict(VALUES))
    instances = {made("c", VALUES)[1], made("d", {})[1], made("e", VALUES, replace(WHO, hostname="x"))[1]}
    assert len(instances) == 3


def test_only_a_seed_with_a_password_is_closed(tmp_path: Path) -> None:
    for name, values in (("open", {"dm.port": 1}), ("closed", VALUES)):
        identity.write(tmp_path / name, DECLARED, values, Account(), "nocloud")
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) & 0o400


def test_host_name_and_keys_are_checked(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "two.pub").write_text(f"# mine\n{KEY}\n\n{KEY}2\n")
    (tmp_path / "none").write_text("\n")
    with pytest.raises(UsageError, match="is not a host name"):
        identity.account("a b", None)
    with pytest.raises(UsageError, match="is a private key"):
        identity.account(None, tmp_path / "id")
    with pytest.raises(UsageError, match="no key in it"):
        identity.account(None, tmp_path / "none")
    with pytest.raises(FileError):
        identity.account(None, tmp_path / "absent")
    two = identity.account("x", tmp_path / "two.pub")
    assert len(two.ssh_keys) == 2
    with pytest.raises(UsageError, match="one SSH key only"):
        identity.write(tmp_path / "x", DECLARED, {}, two, "ovf-env")
    assert not (tmp_path / "x").exists()


def test_an_appliance_and_its_package_declare_the_same(tmp_path: Path) -> None:
    envelope = ovf_reader.parse(descriptor(tmp_path, properties=TABLES))
    found = identity.declared_in(Package(tmp_path, (), b"", (envelope,)))
    assert found.name == "hello"
    told = {one.key: (one.type, one.default) for one in found.properties}
    assert told == {
        **{"dm.host": ("string", None), "dm.port": ("int", 5672), "dm.password": ("password", None)},
        **{"tls": ("bool", False), "address": ("string", None), "level": ("string", "info")},
    }
    assert found.properties[5].choices == ("info", "debug")
    assert [one.key for one in properties_of(tmp_path, {"properties": TABLES})] == list(told)
    (tmp_path / "appliance.toml").write_text(
        'name = "hello"\nversion = "1"\n[base]\ndistribution = "debian:12"\n[[properties]]\nkey = "dm.host"\n'
    )
    assert [one.key for one in identity.declared_by(tmp_path).properties] == ["dm.host"]


# --- verify --boot --set -------------------------------------------------------------------------


def test_verification_s_seed_tells_and_starts_the_witness(tmp_path: Path) -> None:
    cdrom, beside = boot._media("hello", "t0k3n", boot.Told(VALUES), tmp_path)
    assert beside is None
    config = yaml.safe_load(files_in(cdrom)["user-data"])
    assert config["ovfbuild"]["properties"] == VALUES
    assert "ovfbuild.guest.witness" in str(config["runcmd"])


def test_verification_s_environment_starts_the_witness_from_the_disk_beside_it(tmp_path: Path) -> None:
    cdrom, beside = boot._media("hello", "t0k3n", boot.Told(VALUES, "ovf-env"), tmp_path)
    said = ovf_environment.parse(files_in(cdrom)["ovf-env.xml"]).properties
    config = yaml.safe_load(base64.b64decode(said["user-data"]))
    assert "LABEL=CIDATA" in str(config["runcmd"])
    assert "t0k3n" in str(config["runcmd"])
    assert (said["dm.port"], said["tls"]) == ("1", "true")
    assert beside is not None
    iso = pycdlib.PyCdlib()
    iso.open(str(beside))
    assert iso.pvd.volume_identifier.strip() == b"CIDATA"
    assert iso.get_record(rr_path="/ovfbuild/guest/witness.py")
    iso.close()


def test_a_machine_that_is_somebody_else_fails_the_verification() -> None:
    from hashlib import sha256

    from ovfbuild.errors import VerificationError

    digests = {key: sha256(f"t:{json.dumps(value)}".encode()).hexdigest() for key, value in VALUES.items()}
    answer = boot.Answer("m", "hello", 1.0, (), {}, {"digests": digests, "problems": []})
    boot._judge_identity(boot.Told(VALUES), "t", answer)
    other = replace(answer, identity={"digests": {**digests, "dm.host": "x"}, "problems": ["why"]})
    with pytest.raises(VerificationError, match=r"did not take its value of dm\.host\n  why"):
        boot._judge_identity(boot.Told(VALUES), "t", other)
    with pytest.raises(VerificationError, match="left no identity"):
        boot._judge_identity(boot.Told(VALUES), "t", replace(answer, identity=None))


def test_the_properties_of_a_product_are_told_by_the_keys_of_the_environment(tmp_path: Path) -> None:
    """DSP0243 9.5.1: class.key.instance. Two of one key are two properties."""
    product = {"class": "com.example.db", "name": "DB", "properties": [{"key": "port", "type": "int", "default": 1}]}
    both = [product, {**product, "instance": "2"}]
    envelope = ovf_reader.parse(descriptor(tmp_path, properties=[{"key": "own"}], products=both))
    declared = identity.declared_in(Package(tmp_path, (), b"", (envelope,)))
    assert [one.key for one in declared.properties] == ["own", "com.example.db.port", "com.example.db.port.2"]
    values = identity.values_of(declared, ["com.example.db.port=5", "com.example.db.port.2=7"])
    identity.write(tmp_path / "seed.iso", declared, values, Account(), "ovf-env")
    (octets,) = files_in(tmp_path / "seed.iso").values()
    told = ovf_environment.parse(octets).properties
    assert (told["com.example.db.port"], told["com.example.db.port.2"]) == ("5", "7")
