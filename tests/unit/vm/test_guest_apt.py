"""What apt in the build VM is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild.vm.apt import Mirrors, Settings
from ovfbuild.vm.guest_apt import passwords, seed_files, seen_from_guest

MIRRORS = Mirrors("http://deb.example.org/debian", "http://deb.example.org/debian-security", signed_by="/etc/k.gpg")


def text(files: dict[str, bytes | Path], name: str) -> str:
    content = files[name]
    assert isinstance(content, bytes)
    return content.decode()


def test_the_hosts_mirror_without_the_hosts_keyring() -> None:
    files = seed_files(MIRRORS, "bookworm", Settings(), {})
    assert text(files, "sources.list").splitlines() == [
        "deb http://deb.example.org/debian bookworm main",
        "deb http://deb.example.org/debian bookworm-updates main",
        "deb http://deb.example.org/debian-security bookworm-security main",
    ]
    assert 'Dir::Etc::sourcelist "/run/ovfbuild/seed/sources.list";' in text(files, "apt.conf")
    assert "ca.crt" not in files


def test_https_brings_the_hosts_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificates")
    files = seed_files(
        Mirrors("https://deb.example.org/debian"), "bookworm", Settings(), {"SSL_CERT_FILE": f"{tmp_path}/ca.pem"}
    )
    assert files["ca.crt"] == tmp_path / "ca.pem"
    assert 'Acquire::https::CAInfo "/run/ovfbuild/seed/ca.crt";' in text(files, "apt.conf")


def test_an_image_keeps_its_own_sources_and_gets_the_proxy() -> None:
    settings = Settings((("Acquire::http::Proxy", "http://127.0.0.1:3142/"),))
    files = seed_files(None, "", settings, {})
    assert "sources.list" not in files
    assert 'Acquire::http::Proxy "http://10.0.2.2:3142/";' in text(files, "apt.conf")
    assert "sourcelist" not in text(files, "apt.conf")


def test_a_proxy_of_the_environment_is_the_guests_too() -> None:
    environ = {"http_proxy": "http://localhost:3128"}
    assert 'Acquire::http::Proxy "http://10.0.2.2:3128";' in text(seed_files(None, "", Settings(), environ), "apt.conf")
    own = Settings((("Acquire::http::Proxy", "http://proxy.example.org/"),))
    assert "3128" not in text(seed_files(None, "", own, environ), "apt.conf")


def test_a_mirror_on_the_hosts_disk_is_not_the_guests() -> None:
    files = seed_files(Mirrors("file:/srv/debian"), "bookworm", Settings(), {})
    assert "sources.list" not in files


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("http://localhost/debian", "http://10.0.2.2/debian"),
        ("http://127.0.0.1:3142/", "http://10.0.2.2:3142/"),
        ('"http://[::1]:80"', '"http://10.0.2.2:80"'),
        ("http://localhost.example.org/", "http://localhost.example.org/"),
        ("http://deb.example.org/127.0.0.1/", "http://deb.example.org/127.0.0.1/"),
    ],
)
def test_loopback_is_the_host(before: str, after: str) -> None:
    assert seen_from_guest(before) == after


def test_the_passwords_that_the_guest_is_told_are_known() -> None:
    settings = Settings((("Acquire::http::Proxy", "http://me:s3cret%40word@proxy.example.org:3128/"),))
    mirrors = Mirrors("http://you:another-1@deb.example.org/debian")
    assert passwords(seed_files(mirrors, "bookworm", settings, {})) == [b"another-1", b"s3cret%40word"]
    assert passwords(seed_files(Mirrors("http://deb.example.org/debian"), "bookworm", Settings(), {})) == []
