"""What the languages bring along: fetched once, kept, and refused before a VM starts."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ovfbuild import libraries
from ovfbuild.bases import BaseImage
from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, UsageError
from ovfbuild.files import sha256_of
from ovfbuild.progress import Progress, Silent
from ovfbuild.spec.appliance import from_table
from ovfbuild.spec.plan import Plan, resolve
from ovfbuild.vm import archive, npm, pip


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A base whose packages are known, and a place for a cache."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base/packages.txt").write_text("libc6 2.36-9+deb12u10\npython3 3.11.2-1+b1\n")
    return tmp_path


def plan_of(folder: Path, **tables: Any) -> Plan:
    base = {"name": "hello", "version": "1.0.0", "base": {"distribution": "debian:12"}}
    return resolve(from_table({**base, **tables}, folder), {})


def fetch(shop: Path, plan: Plan, *, offline: bool = False, again: bool = False) -> dict[str, Path]:
    base = BaseImage(shop / "base/disk.qcow2", "qcow2", 0, "0", "debian:12")
    source = libraries.Source(Cache(shop / "cache"), shop, Silent(), offline, again)
    return dict(libraries.library_files(plan, base, source))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What pip and npm were asked for."""
    found: list[Any] = []

    def wheels(lines: Sequence[str], python: pip.GuestPython, folder: Path, progress: Progress) -> None:
        found.append((list(lines), python))
        (folder / "six-1.whl").write_text(str(len(found)))
        (folder / "lock.txt").write_text("six==1\n")

    def packages(wanted: Sequence[str], folder: Path, progress: Progress) -> None:
        found.append(list(wanted))
        (folder / "packages.tar").write_text("x")
        (folder / "lock.json").write_text("{}")

    monkeypatch.setattr(pip, "fetch_wheels", wheels)
    monkeypatch.setattr(npm, "fetch_packages", packages)
    return found


def test_nothing_is_fetched_for_nothing(shop: Path, asked: list[Any]) -> None:
    assert fetch(shop, plan_of(shop, java={"version": 17}, node={"version": 18})) == {}
    assert asked == []


def test_packages_are_fetched_once_and_kept(shop: Path, asked: list[Any]) -> None:
    (shop / "r.txt").write_text("five==1\n")
    wanted = {"packages": ["six==1"], "requirements": "r.txt"}
    plan = plan_of(shop, python=wanted, node={"packages": ["pm2@5"]})
    names = ["libraries/node/lock.json", "libraries/node/packages.tar"]
    names += ["libraries/python/lock.txt", "libraries/python/six-1.whl"]
    for _ in range(2):
        assert sorted(fetch(shop, plan)) == names
    assert asked == [(["six==1", "five==1"], pip.GuestPython("3.11.2", (2, 36))), ["pm2@5"]]
    assert sorted(fetch(shop, plan, offline=True)) == names
    fetch(shop, plan, again=True)
    assert len(asked) == 4
    assert fetch(shop, plan)["libraries/python/six-1.whl"].read_text() == "3"


def test_offline_there_is_only_the_cache(shop: Path, asked: list[Any]) -> None:
    with pytest.raises(UsageError, match="with --offline, Python packages can only come from the cache"):
        fetch(shop, plan_of(shop, python={"packages": ["six"]}), offline=True)
    assert asked == []


def test_a_base_that_does_not_show_its_python(shop: Path, asked: list[Any]) -> None:
    (shop / "base/packages.txt").write_text("libc6 2.36-9\n")
    with pytest.raises(UsageError, match="debian:12 does not show which Python it has"):
        fetch(shop, plan_of(shop, python={"packages": ["six"]}))


def tarball(path: Path, **files: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"jdk-17+1/{name.replace('__', '/')}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_an_archive_of_java(shop: Path) -> None:
    path = tarball(shop / "jdk.tgz", bin__java="x", release='IMPLEMENTOR="X"\nJAVA_VERSION="17.0.9"\n')
    table = {"archive": "jdk.tgz", "version": 17, "checksum": f"sha256:{sha256_of(path)}"}
    assert fetch(shop, plan_of(shop, java=table)) == {"libraries/java/archive": path}
    with pytest.raises(UsageError, match=r"java.archive: jdk.tgz has version 17, not 8"):
        fetch(shop, plan_of(shop, java={**table, "version": 8}))
    with pytest.raises(FileError, match=f"its sha256 is {sha256_of(path)}, not 0000"):
        fetch(shop, plan_of(shop, java={**table, "checksum": "sha256:" + "0" * 64}))


def test_archives_without_the_program(shop: Path) -> None:
    tarball(shop / "x.tgz", bin__other="x")
    with pytest.raises(FileError, match="has no bin/node in it"):
        fetch(shop, plan_of(shop, node={"archive": "x.tgz"}))
    (shop / "x.tgz").write_text("no archive")
    with pytest.raises(FileError, match="is no tar archive"):
        fetch(shop, plan_of(shop, java={"archive": "x.tgz"}))


def test_versions_that_archives_tell() -> None:
    assert archive.java_major('JAVA_VERSION="1.8.0_392"\n') == 8
    assert archive.java_major("") is None
    assert archive.node_major("#define NODE_MAJOR_VERSION 18\n#define NODE_MINOR_VERSION 20\n") == 18


def test_what_is_asked_for_is_the_key(shop: Path, asked: list[Any]) -> None:
    fetch(shop, plan_of(shop, python={"packages": ["six==1"]}))
    fetch(shop, plan_of(shop, python={"packages": ["six==2"]}))
    (shop / "base/packages.txt").write_text("libc6 2.41-12\npython3 3.13.5-1\n")
    fetch(shop, plan_of(shop, python={"packages": ["six==2"]}))
    assert len(asked) == 3
    assert [entry.kind for entry in Cache(shop / "cache").entries()] == ["libraries"] * 3
