"""The steps of the languages, carried out here: archives, a real virtual environment, a tree of npm's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.guest import libraries
from ovfbuild.guest.steps import Guest, StepFailed


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "seed").mkdir()
    return Guest(str(tmp_path / "seed"), lambda text: None)


def member(name: str, content: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return str(path)


JDK = (
    member("jdk-17/", type=tarfile.DIRTYPE, mode=0o755),
    member("jdk-17/bin/java", b"#!/bin/sh\n", mode=0o4755, uid=1000),
    member("jdk-17/bin/link", type=tarfile.SYMTYPE, linkname="../bin/java"),
    member("jdk-17/same", type=tarfile.LNKTYPE, linkname="jdk-17/bin/java"),
    member("jdk-17/release", b'JAVA_VERSION="17"\n', mode=0o666),
)


def test_an_archive_without_its_top_folder(tmp_path: Path) -> None:
    target = tmp_path / "java"
    libraries.unpack(archive(tmp_path / "a", *JDK), str(target), strip=True)
    assert (target / "bin/java").stat().st_mode & 0o7777 == 0o755, "no set-user-id"
    assert (target / "release").stat().st_mode & 0o7777 == 0o644
    assert (target / "bin/java").stat().st_uid == os.getuid()
    assert str((target / "bin/link").readlink()) == "../bin/java"
    assert (target / "same").stat().st_ino == (target / "bin/java").stat().st_ino


def test_an_archive_of_several_folders_keeps_them(tmp_path: Path) -> None:
    libraries.unpack(archive(tmp_path / "a", member("./bin/java"), member("./lib/x")), str(tmp_path / "t"), strip=True)
    assert (tmp_path / "t/bin/java").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../out")], "would leave its folder"),
        ([member("/etc/out")], "would leave its folder"),
        ([member("a", type=tarfile.SYMTYPE, linkname="/etc")], "points out of"),
        ([member("a", type=tarfile.SYMTYPE, linkname="../..")], "points out of"),
        (
            [
                member("d/up", type=tarfile.SYMTYPE, linkname=".."),
                member("e", type=tarfile.SYMTYPE, linkname="d/up/../.."),
            ],
            "points out of",
        ),
        ([member("a", type=tarfile.LNKTYPE, linkname="../x")], "would leave its folder"),
        ([member("a", type=tarfile.CHRTYPE)], "neither file, folder nor link"),
        ([member("a"), member("a")], "is there already"),
    ],
)
def test_an_archive_that_means_harm(tmp_path: Path, members: list[Any], message: str) -> None:
    target = tmp_path / "deep/target"
    with pytest.raises(StepFailed, match=message):
        libraries.unpack(archive(tmp_path / "a", *members), str(target))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "deep"]


def test_commands_are_linked_over_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        libraries.link_command("x", "/opt/x", str(tmp_path / "bin"))
    assert str((tmp_path / "bin/x").readlink()) == "/opt/x"
    with pytest.raises(StepFailed, match="is there already"):
        libraries.link_command("x", "/opt/y", str(tmp_path / "bin"))


def test_java_home_for_everyone(tmp_path: Path) -> None:
    libraries.set_java_home("/opt/java", str(tmp_path))
    assert "export JAVA_HOME=/opt/java\n" in (tmp_path / "etc/profile.d/ovfbuild-java.sh").read_text()
    assert (
        "[Manager]\nDefaultEnvironment=JAVA_HOME=/opt/java\n"
        in next((tmp_path / "etc/systemd/system.conf.d").iterdir()).read_text()
    )
    (tmp_path / "usr/lib/jvm/java-8-openjdk-amd64").mkdir(parents=True)
    assert libraries.debian_java(8, str(tmp_path)) == "/usr/lib/jvm/java-8-openjdk-amd64"
    with pytest.raises(StepFailed, match="Java 17 put nothing"):
        libraries.debian_java(17, str(tmp_path))


@pytest.mark.parametrize(
    ("said", "wanted", "good"),
    [
        ('openjdk version "17.0.9" 2023-10-17\n', 17, True),
        ('openjdk version "1.8.0_392"\n', 8, True),
        ('openjdk version "21" 2023-09-19\n', None, True),
        ('openjdk version "17.0.9"\n', 8, False),
        ("", 8, False),
    ],
)
def test_java_is_what_was_wanted(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, said: str, wanted: int | None, good: bool
) -> None:
    monkeypatch.setattr(libraries, "said_by", lambda argv: said)
    if good:
        libraries.check_java(wanted, guest)
    else:
        with pytest.raises(StepFailed, match="Java 8 was wanted, and java -version says"):
            libraries.check_java(wanted, guest)


def wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """A wheel by hand, and its line of the lock."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{about}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{about}/RECORD"]))
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_a_virtual_environment_from_wheels_alone(guest: Guest, tmp_path: Path) -> None:
    lock = wheel(tmp_path / "seed", "alpha", "1.0", "beta>=2") + wheel(tmp_path / "seed", "beta", "2.1")
    (tmp_path / "seed/lock.txt").write_text(lock)
    venv = str(tmp_path / "opt/venv")
    libraries.make_venv(venv, str(tmp_path / "seed"), guest, sys.executable)
    said = libraries.said_by([f"{venv}/bin/python", "-c", "import alpha, beta; print(alpha.VERSION, beta.VERSION)"])
    assert said == "1.0 2.1\n"
    with pytest.raises(StepFailed, match="is there already, and not empty"):
        libraries.make_venv(venv, str(tmp_path / "seed"), guest, sys.executable)


@pytest.mark.parametrize("harm", ["another file", "a missing requirement"])
def test_a_virtual_environment_that_is_not_what_was_fetched(guest: Guest, tmp_path: Path, harm: str) -> None:
    lock = wheel(tmp_path / "seed", "alpha", "1.0", "beta>=2")
    if harm == "another file":
        wheel(tmp_path / "seed", "alpha", "1.0", "gamma")
    (tmp_path / "seed/lock.txt").write_text(lock)
    with pytest.raises(StepFailed):
        libraries.make_venv(str(tmp_path / "venv"), str(tmp_path / "seed"), guest, sys.executable)
    said = "\n".join(guest.last_lines())
    assert ("DO NOT MATCH THE HASHES" if harm == "another file" else "requires beta") in said


def npm_tree(folder: Path, version: str = "1.2.3") -> None:
    package = json.dumps({"name": "tool", "version": "1.2.3", "bin": "cli.js"}).encode()
    members = [
        member("node_modules/tool/package.json", package),
        member("node_modules/tool/cli.js", b"#!/usr/bin/env node\n", mode=0o644),
        member("node_modules/.bin/tool", type=tarfile.SYMTYPE, linkname="../tool/cli.js"),
    ]
    archive(folder / "packages.tar", *members)
    listed = [{"name": "tool", "path": "node_modules/tool", "version": version}]
    lock = {"packages": listed, "commands": {"tool": "node_modules/tool/cli.js"}}
    (folder / "lock.json").write_text(json.dumps(lock))


def test_a_tree_of_npm_s_and_its_commands(guest: Guest, tmp_path: Path) -> None:
    npm_tree(tmp_path / "seed")
    libraries.put_node_packages(str(tmp_path / "seed"), str(tmp_path / "lib"), guest, str(tmp_path / "bin"))
    assert os.access(tmp_path / "bin/tool", os.X_OK)
    assert str((tmp_path / "bin/tool").readlink()) == str(tmp_path / "lib/node_modules/tool/cli.js")


def test_a_tree_that_is_not_what_was_fetched(guest: Guest, tmp_path: Path) -> None:
    npm_tree(tmp_path / "seed", "1.2.4")
    with pytest.raises(StepFailed, match=r"tool 1\.2\.4 was wanted, and it is 1\.2\.3"):
        libraries.put_node_packages(str(tmp_path / "seed"), str(tmp_path / "lib"), guest, str(tmp_path / "bin"))


def test_versions_in_their_plain_form() -> None:
    assert libraries.plain_version("2024.01-1") == libraries.plain_version("2024.1.1")
    assert libraries.plain_name("Ruamel_Yaml.x") == "ruamel-yaml-x"
