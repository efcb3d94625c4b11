"""Agents from a third party: a .deb, and an apt repository with a key, both made here by dpkg-deb and gpg."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import guests

pytestmark = pytest.mark.acceptance

CONTROL = """Package: beacon
Version: 1.2-3
Architecture: all
Maintainer: Example <root@example.com>
Depends: python3, libjs-jquery
Description: An agent that answers on a port
 Its service is enabled and started by nobody but its package's user.
"""
UNIT = """[Unit]
Description=Beacon
[Service]
ExecStart=/usr/bin/python3 -m http.server 8099 --directory /usr/share/javascript/jquery
[Install]
WantedBy=multi-user.target
"""
ALIVE = """
[agent.settings]
service = "beacon"
[[agent.alive]]
kind = "http"
port = 8099
path = "/jquery.js"
"""


def package(folder: Path) -> Path:
    """A .deb with a service, which depends on something that only apt can bring."""
    tree = folder / "beacon"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL)
    (tree / "lib/systemd/system").mkdir(parents=True)
    (tree / "lib/systemd/system/beacon.service").write_text(UNIT)
    deb = folder / "beacon_1.2-3_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True, capture_output=True)
    return deb


def signed_repository(folder: Path, home: Path) -> Path:
    """A flat apt repository with one package, signed by a new key; the path of the public key."""
    folder.mkdir()
    deb = package(folder)
    facts = {name: hashlib.new(name, deb.read_bytes()).hexdigest() for name in ("md5", "sha256")}
    entry = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nMD5sum: {facts['md5']}\nSHA256: {facts['sha256']}\n"
    head, _, description = CONTROL.partition("Description:")
    packages = f"{head}{entry}Description:{description}\n".encode()
    (folder / "Packages").write_bytes(packages)
    digest = hashlib.sha256(packages).hexdigest()
    date = subprocess.run(["date", "-R", "-u"], check=True, capture_output=True, text=True).stdout.strip()
    release = f"Origin: Example\nSuite: stable\nDate: {date}\nSHA256:\n {digest} {len(packages)} Packages\n"
    (folder / "Release").write_text(release)
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "beacon@example.com", "ed25519", "sign"], check=True)
    subprocess.run([*gpg, "--clearsign", "-o", folder / "InRelease", folder / "Release"], check=True)
    key = home / "beacon.asc"
    subprocess.run([*gpg, "--armor", "--export", "--output", key], check=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)
    return key


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The folder by HTTP on loopback; the port."""
    port = guests.free_port()
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        server.wait(10)


def write(folder: Path, agent: str) -> None:
    """An appliance.toml with nothing but those lines of [agent]."""
    folder.mkdir()
    head = 'name = "beacon"\nversion = "1"\n[base]\ndistribution = "debian:12"\n[agent]\nprofile = "package"\n'
    (folder / "appliance.toml").write_text(head + agent + ALIVE)


def made(folder: Path, agent: str) -> tuple[Path, str]:
    """The OVA with that [agent], which `make` booted, and what it said."""
    write(folder, agent)
    done = guests.command("make", folder, "-o", folder / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    return Path(done.stdout.strip()), done.stderr


def test_a_deb_with_what_it_depends_on(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "dpkg-deb")
    deb = package(tmp_path)
    ova, said = made(tmp_path / "deb", f'archive = "{deb}"')
    assert "was seen alive: unit beacon.service; HTTP port 8099, /jquery.js" in said
    sbom = json.loads(ova.with_suffix(".cdx.json").read_text())
    assert ("beacon", "1.2-3") in {(one["name"], one.get("version")) for one in sbom["components"]}


def test_a_repository_of_a_third_party(tmp_path: Path, needs: Callable[..., None]) -> None:
    """Its line and its key stay in the appliance, and the key vouches for that repository alone."""
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "dpkg-deb", "gpg", "gpgconf")
    key = signed_repository(tmp_path / "repository", tmp_path / "keys")
    with served(tmp_path / "repository") as port:
        line = f"deb http://10.0.2.2:{port}/ ./"
        words = f'package = "beacon"\nversion = "1.2-3"\nrepository = "{line}"\nkey = "{key}"'
        ova, said = made(tmp_path / "repository-agent", words)
    assert "was seen alive: unit beacon.service; HTTP port 8099, /jquery.js" in said
    with guests.disk_of(ova, tmp_path / "inside") as (root, _):
        source = root.read("/etc/apt/sources.list.d/agent.list", 4096).decode()
        assert source == f"deb [signed-by=/etc/apt/keyrings/agent.asc] http://10.0.2.2:{port}/ ./\n"
        assert root.read("/etc/apt/keyrings/agent.asc", 1 << 16) == key.read_bytes()


def test_a_repository_with_another_key_fails_the_build(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "dpkg-deb", "gpg", "gpgconf")
    signed_repository(tmp_path / "repository", tmp_path / "keys")
    other = signed_repository(tmp_path / "other", tmp_path / "other-keys")
    folder = tmp_path / "agent"
    with served(tmp_path / "repository") as port:
        write(folder, f'package = "beacon"\nrepository = "deb http://10.0.2.2:{port}/ ./"\nkey = "{other}"')
        done = guests.command("make", folder, "-o", folder / "dist")
    assert done.returncode == 4, "the guest failed"
    assert "NO_PUBKEY" in done.stderr
    assert not list((folder / "dist").glob("*.ova"))
