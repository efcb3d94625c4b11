"""Signatures, judged by openssl; and those that openssl made, judged by ovfbuild."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ovfbuild import packages, pipeline, signing
from ovfbuild.cli import render
from ovfbuild.errors import FileError, UsageError
from ovfbuild.formats import certificate
from ovfbuild.progress import Silent
from ovfbuild.signing import By
from ovfbuild.spec.appliance import load
from ovfbuild.spec.plan import Plan, resolve
from ovfbuild.verify.judging import judge
from ovfbuild.verify.package import open_package
from tests.unit.formats.conftest import noise, program
from tests.unit.verify import kit

PASSPHRASE = "correct horse 'battery'"
Resolve = Callable[..., Plan]


def openssl(*words: str | Path) -> bytes:
    program("openssl")
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.key and one.crt, two.key and two.crt; locked.key is one.key under a passphrase; ec.key and ec.crt."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("one", "two"):
        new = ("-newkey", "rsa:2048", "-nodes", "-keyout", folder / f"{name}.key", "-subj", f"/O=Example/CN={name}")
        openssl("req", "-x509", "-sha256", "-days", "36500", *new, "-out", folder / f"{name}.crt")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "ec.key")
    openssl("req", "-x509", "-days", "36500", *curve, "-subj", "/CN=ec", "-out", folder / "ec.crt")
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    locked = ("-passout", f"file:{folder / 'passphrase'}", "-out", folder / "locked.key")
    openssl("pkey", "-in", folder / "one.key", "-aes256", *locked)
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Resolve:
    def make(package: str = "", *profiles: str) -> Plan:
        text = f'name="two"\nversion="1.0"\n[base]\ndistribution="debian:12"\n[package]\n{package}\n'
        (tmp_path / "appliance.toml").write_text(text)
        return resolve(load(tmp_path / "appliance.toml"), {}, profiles=profiles)

    return make


@pytest.fixture
def pack(tmp_path: Path, plan: Resolve, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "disk.raw").write_bytes(noise(1 << 20))

    def make(by: By, package: str = "", *profiles: str) -> Path:
        resolved = plan(package, *profiles)
        options = pipeline.Options(tmp_path / "dist", boot=False, signer=signing.signer(resolved, by, None))
        return pipeline.pack(resolved, tmp_path / "disk.raw", options, Silent())[0]

    return make


def members(path: Path, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", folder], check=True)
    return {one.suffix: one for one in folder.iterdir()}


def good_by_openssl(manifest: Path, cert: Path, folder: Path, digest: str = "SHA256") -> None:
    """What the certificate file says is that certificate's signature of the manifest."""
    line, _, pem = cert.read_text().partition("\n")
    head, _, signature = line.partition("= ")
    assert head == f"{digest}({manifest.name})"
    (folder / "signature").write_bytes(bytes.fromhex(signature))
    (folder / "cert.pem").write_text(pem)
    (folder / "public.pem").write_bytes(openssl("x509", "-in", folder / "cert.pem", "-noout", "-pubkey"))
    signed = ("-verify", folder / "public.pem", "-signature", folder / "signature", manifest)
    assert openssl("dgst", f"-{digest.lower()}", *signed) == b"Verified OK\n"


@pytest.mark.parametrize(("profile", "digest"), [("portable", "SHA256"), ("vcloud", "SHA1")])
def test_openssl_verifies_what_is_signed(
    profile: str, digest: str, pack: Callable[..., Path], keys: Path, tmp_path: Path
) -> None:
    path = pack(By(keys / "one.crt", keys / "one.key"), "", profile)
    found = members(path, tmp_path / "unpacked")
    good_by_openssl(found[".mf"], found[".cert"], tmp_path, digest)
    names = [member.name.rpartition(".")[2] for member in open_package(path).members]
    assert names == ["ovf", "mf", "cert", "vmdk"]
    assert b"cert" not in found[".mf"].read_bytes()
    said = judge(open_package(path), Silent())
    assert said.errors == ()
    first = path.read_bytes()
    assert pack(By(keys / "one.crt", keys / "one.key"), "", profile).read_bytes() == first, "the same every time"


def test_a_folder_is_signed_too(pack: Callable[..., Path], keys: Path, tmp_path: Path) -> None:
    path = pack(By(keys / "one.crt", keys / "one.key"), 'format = "ovf"')
    good_by_openssl(path.with_suffix(".mf"), path.with_suffix(".cert"), tmp_path)


def test_the_appliance_names_who_signs(pack: Callable[..., Path], keys: Path) -> None:
    named = f'[package.sign]\ncertificate = "{keys}/one.crt"\nkey = "{keys}/locked.key"\n'
    named += f'passphrase_file = "{keys}/passphrase"'
    path = pack(By(), named)
    assert packages.inspect(path)["signature"]["signer"] == "CN=one,O=Example"
    other = pack(By(keys / "two.crt", keys / "two.key"), named)
    facts = packages.inspect(other)
    assert facts["signature"]["signer"] == "CN=two,O=Example", "the command line goes before it"
    assert facts["signature"]["fits"] is True
    assert "CN=two,O=Example, until 21" in render.package(facts)


def test_what_openssl_signed_is_read(keys: Path, tmp_path: Path) -> None:
    """ovftool's and others' way: openssl dgst, then the certificate."""
    good = kit.small()
    (tmp_path / "a.mf").write_bytes(good.right_manifest)
    for name in ("one", "ec"):
        octets = openssl("dgst", "-sha256", "-sign", keys / f"{name}.key", tmp_path / "a.mf")
        text = f"SHA256(a.mf)= {octets.hex()}\n" + (keys / f"{name}.crt").read_text()
        signature = certificate.read(text.encode())
        assert signature.fits(good.right_manifest)
        assert not signature.fits(good.right_manifest + b" ")
        assert signature.facts()["fingerprint"] == fingerprint(keys / f"{name}.crt")


def fingerprint(path: Path) -> str:
    said = openssl("x509", "-in", path, "-noout", "-fingerprint", "-sha256").decode()
    return said.strip().partition("=")[2].replace(":", "").lower()


def test_a_change_after_the_signature_is_seen(pack: Callable[..., Path], keys: Path) -> None:
    path = pack(By(keys / "one.crt", keys / "one.key"))
    octets = path.read_bytes()
    path.write_bytes(octets.replace(b"SHA256(two-1.0.ovf)= ", b"SHA256(two-1.0.ovf)= "[:-1] + b"\t", 1))
    rules = {finding.rule for finding in judge(open_package(path), Silent()).errors}
    assert "certificate-signature" in rules
    assert packages.inspect(path)["signature"]["fits"] is False
    assert "DOES NOT FIT" in render.package(packages.inspect(path))


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("two.crt", "one.key", "has no certificate for the key in"),
        ("ec.crt", "ec.key", "is no RSA key of 2048 bits"),
        ("one.key", "one.key", "has no X.509 certificate in PEM"),
        ("one.crt", "one.crt", "has no private key in PEM"),
        ("none.crt", "one.key", "can't be read: No such file"),
    ],
)
def test_what_can_t_sign(cert: str, key: str, said: str, keys: Path, plan: Resolve) -> None:
    with pytest.raises(FileError, match=said):
        signing.signer(plan(), By(keys / cert, keys / key), None)


@pytest.mark.parametrize(
    ("year", "said"), [(2019, r"is valid from 20\d\d-"), (2300, r"expired on 21\d\d-")], ids=["too early", "too late"]
)
def test_a_certificate_has_its_time(year: int, said: str, keys: Path) -> None:
    with pytest.raises(FileError, match=said):
        certificate.load(keys / "one.crt", keys / "one.key", lambda: "", datetime(year, 1, 1, tzinfo=UTC))


def test_a_certificate_that_is_not_to_sign_with(keys: Path, tmp_path: Path) -> None:
    usage = ("-addext", "keyUsage=keyCertSign", "-subj", "/CN=authority", "-out", tmp_path / "ca.crt")
    openssl("req", "-x509", "-days", "36500", "-key", keys / "one.key", *usage)
    with pytest.raises(FileError, match=r"not to sign with \(keyUsage\)"):
        certificate.load(tmp_path / "ca.crt", keys / "one.key", lambda: "")


def test_a_chain_may_stand_behind_the_certificate(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "chain.crt").write_bytes((keys / "two.crt").read_bytes() + (keys / "one.crt").read_bytes())
    found = certificate.load(tmp_path / "chain.crt", keys / "one.key", lambda: "")
    assert found.name == "CN=one,O=Example"


def test_what_has_no_manifest_is_not_signed(keys: Path, plan: Resolve) -> None:
    with pytest.raises(UsageError, match="a qcow2 alone has no manifest"):
        signing.signer(plan("", "openstack"), By(keys / "one.crt", keys / "one.key"), None)
    with pytest.raises(UsageError, match="needs a key and its certificate"):
        signing.signer(plan(), By(keys / "one.crt"), None)


@pytest.mark.parametrize("asked", [PASSPHRASE, "wrong"])
def test_a_passphrase_is_asked_for_or_read(
    asked: str, keys: Path, plan: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, questions = By(keys / "one.crt", keys / "locked.key"), list[str]()

    def ask(question: str) -> str:
        questions.append(question)
        return asked

    monkeypatch.setenv("KEY_WORD", asked)
    for one in (by, By(by.certificate, by.key, passphrase_env="KEY_WORD")):
        if asked == PASSPHRASE:
            found = signing.signer(plan(), one, ask)
            assert found
            assert found.name == "CN=one,O=Example"
        else:
            with pytest.raises(UsageError, match="does not open the key"):
                signing.signer(plan(), one, ask)
    assert len(questions) == 1
    assert "locked.key" in questions[0]
    with pytest.raises(UsageError, match="there is no terminal to ask"):
        signing.signer(plan(), by, None)
    with pytest.raises(UsageError, match="the environment has no NOT_SET"):
        signing.signer(plan(), By(by.certificate, by.key, passphrase_env="NOT_SET"), ask)


def test_on_a_terminal_it_is_not_echoed(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(noise(1 << 20))
    (tmp_path / "appliance.toml").write_text('name="two"\nversion="1.0"\n[base]\ndistribution="debian:12"\n')
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", "ovfbuild", "pack", str(tmp_path), "--disk", str(tmp_path / "disk.raw"), "-v"]
    argv += ["--sign-key", str(keys / "locked.key"), "--sign-cert", str(keys / "one.crt"), "-o", str(tmp_path / "dist")]
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.execve(sys.executable, argv, env)
    said = b""
    while b"passphrase" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, f"{PASSPHRASE}\n".encode())
    try:
        while octets := os.read(terminal, 4096):
            said += octets
    except OSError:  # the end, on Linux
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said.decode()
    os.close(terminal)
    assert PASSPHRASE.encode() not in said
    assert b"battery" not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 2
    assert not [path for path in written if PASSPHRASE.encode() in path.read_bytes()]
    assert packages.inspect(tmp_path / "dist" / "two-1.0.ova")["signature"]["fits"] is True
