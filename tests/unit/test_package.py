"""Packages of one disk for several profiles, judged by tar, sha256sum and qemu-img."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild import package, pipeline
from ovfbuild.formats import ova, ova_reader, vmdk
from ovfbuild.progress import Silent
from ovfbuild.spec.appliance import load
from ovfbuild.spec.plan import Plan, resolve
from ovfbuild.spec.profile import load_profile
from ovfbuild.vm.sealed import SealedDisk
from tests.unit.conftest import MIB, SIZE
from tests.unit.formats.conftest import Program, noise

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2, 3, 8, 0, 0, 0, 0) + bytes(4)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two profiles that differ in more than their names, of one disk format."""
    (tmp_path / "appliance.toml").write_text('name="two"\nversion="1"\n[base]\ndistribution="debian:12"\n')
    one = load_profile("portable")
    other = one.model_copy(
        update={"name": "other", "suffix": "-other", "virtual_system_type": "vmx-17", "firmware_config": False}
    )
    return replace(resolve(load(tmp_path / "appliance.toml"), {}), profiles=(one, other))


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a disk was compressed."""
    times: list[int] = []
    write = vmdk.write

    def counted(*words: object, **more: object) -> vmdk.Extent:
        times.append(1)
        return write(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(vmdk, "write", counted)
    return times


def unpacked(path: Path, folder: Path, judge: Program) -> dict[str, Path]:
    folder.mkdir()
    result = judge("tar", "-xf", path, "-C", folder)
    assert result.returncode == 0, result.stderr
    return {member.suffix: member for member in folder.iterdir()}


def check(path: Path, disk: Path, folder: Path, judge: Program) -> bytes:
    """The package by other programs' judgement; returns its VMDK."""
    members = unpacked(path, folder, judge)
    for line in members[".mf"].read_text().splitlines():
        name, _, digest = line.removeprefix("SHA256(").partition(")= ")
        assert judge("sha256sum", folder / name).stdout.split()[0] == digest
    assert judge("qemu-img", "check", "-f", "vmdk", members[".vmdk"]).returncode == 0
    assert judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", members[".vmdk"], disk).returncode == 0
    return members[".vmdk"].read_bytes()


@pytest.mark.parametrize("level", ["balanced", "turbo"])
def test_a_second_profile_takes_the_first_one_s_disk(
    level: str,
    plan: Plan,
    disk: Path,
    tmp_path: Path,
    compressed: list[int],
    judge: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = pipeline.Options(tmp_path / "dist", boot=False)
    paths = pipeline.pack(replace(plan, compression=level), disk, options, Silent())  # type: ignore[arg-type]
    assert [path.name for path in paths] == ["two-1.ova", "two-1-other.ova"]
    assert len(compressed) == 1
    first, second = (check(path, disk, tmp_path / path.stem, judge) for path in paths)
    assert first == second
    assert b"vmx-17" not in paths[0].read_bytes()
    assert b"vmx-17" in paths[1].read_bytes()


def test_alone_it_is_the_same_package(plan: Plan, disk: Path, tmp_path: Path) -> None:
    """Not a byte of a package tells whether another one was made before it."""
    sealed = SealedDisk(disk, "raw", SIZE)
    one, other = plan.profiles
    stream = package.write([sealed], plan, one, tmp_path / "1.ova", package.Tools(tmp_path, Silent()))
    package.write([sealed], plan, other, tmp_path / "2.ova", package.Tools(tmp_path, Silent()), stream)
    package.write([sealed], plan, other, tmp_path / "3.ova", package.Tools(tmp_path, Silent()))
    assert (tmp_path / "2.ova").read_bytes() == (tmp_path / "3.ova").read_bytes()


def test_another_adapter_type_is_another_disk(plan: Plan, disk: Path, tmp_path: Path, compressed: list[int]) -> None:
    sealed = SealedDisk(disk, "raw", SIZE)
    one, other = plan.profiles
    ide = other.model_copy(update={"disk": other.disk.model_copy(update={"adapter_type": "ide"})})
    stream = package.write([sealed], plan, one, tmp_path / "1.ova", package.Tools(tmp_path, Silent()))
    package.write([sealed], plan, ide, tmp_path / "2.ova", package.Tools(tmp_path, Silent()), stream)
    assert len(compressed) == 2


@pytest.mark.parametrize("failing", ["copy_file_range", None])
def test_a_copy_that_the_file_system_can_t_make_is_made_all_the_same(
    failing: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if failing:

        def refused(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr("os.copy_file_range", refused)
    source = tmp_path / "source"
    source.write_bytes(noise(3 * MIB))
    with ova.create(tmp_path / "x.ova", mtime=0) as archive:
        slot = archive.reserve("x.ovf", 10)
        with archive.member("x.vmdk") as out:
            out.write(b"before")
            out.copy(source, 1000, 2 * MIB)
            out.write(b"after")
        slot.fill(bytes(10))
    found = {member.name: member for member in ova_reader.members(tmp_path / "x.ova")}
    with ova.window(tmp_path / "x.ova", found["x.vmdk"]) as stream:
        assert stream.read() == b"before" + source.read_bytes()[1000 : 1000 + 2 * MIB] + b"after"


def test_turbo_says_that_its_bytes_may_differ(plan: Plan, disk: Path, tmp_path: Path) -> None:
    sealed = SealedDisk(disk, "raw", SIZE)
    told = Told()
    package.write([sealed], plan, plan.profiles[0], tmp_path / "1.ova", package.Tools(tmp_path, told))
    assert told.notes == []
    fast = replace(plan, compression="turbo")
    package.write([sealed], fast, plan.profiles[0], tmp_path / "2.ova", package.Tools(tmp_path, told))
    assert "another run may give other bytes" in "".join(told.notes)


def pack_to_stdout(tmp_path: Path, disk: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "ovfbuild", "pack", str(tmp_path), "--disk", str(disk), "-o", "-", *words]
    cwd = tmp_path / "cwd"
    cwd.mkdir(exist_ok=True)
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_stdout_carries_the_same_package_and_nothing_else(
    plan: Plan, disk: Path, tmp_path: Path, judge: Program
) -> None:
    octets, said = pack_to_stdout(tmp_path, disk).communicate(timeout=60)
    target = tmp_path / "piped.ova"
    target.write_bytes(octets)
    check(target, disk, tmp_path / "unpacked", judge)
    sealed, tools = SealedDisk(disk, "raw", SIZE), package.Tools(tmp_path, Silent())
    package.write([sealed], plan, plan.profiles[0], tmp_path / "x.ova", tools)
    assert (tmp_path / "x.ova").read_bytes() == octets
    assert b"verify" in said
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_reader_that_goes_away_is_an_error(plan: Plan, disk: Path, tmp_path: Path) -> None:
    command = pack_to_stdout(tmp_path, disk)
    assert command.stdout
    assert command.stderr
    command.stdout.close()
    said = command.stderr.read().decode()
    assert command.wait(60) == 3
    command.stderr.close()
    assert "ended before the whole OVA" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_stdout_takes_one_package(plan: Plan, disk: Path, tmp_path: Path) -> None:
    command = pack_to_stdout(tmp_path, disk, "--compression", "fast", "--reproducible")
    octets, said = command.communicate(timeout=60)
    assert (command.returncode, octets) == (2, b"")
    assert b"leave out --compression" in said


def test_an_icon_lies_behind_the_disk_and_is_listed(plan: Plan, disk: Path, tmp_path: Path, judge: Program) -> None:
    (tmp_path / "icon.png").write_bytes(PNG)
    appliance = plan.appliance.model_copy(update={"icon": tmp_path / "icon.png"})
    (profile,) = profiles = (load_profile("workstation"),)
    made = replace(plan, appliance=appliance, profiles=profiles)
    package.write([SealedDisk(disk, "raw", SIZE)], made, profile, tmp_path / "1.ova", package.Tools(tmp_path, Silent()))
    listed = judge("tar", "-tf", tmp_path / "1.ova").stdout.split()
    stem = "two-1-workstation"
    assert listed == [f"{stem}.ovf", f"{stem}.mf", f"{stem}-disk1.vmdk", f"{stem}-icon.png"]
    folder = tmp_path / "icon"
    check(tmp_path / "1.ova", disk, folder, judge)
    assert (folder / f"{stem}-icon.png").read_bytes() == PNG
    assert f"({stem}-icon.png)" in (folder / f"{stem}.mf").read_text()
    text = (folder / f"{stem}.ovf").read_text()
    assert 'ovf:height="3"' in text
    assert 'ovf:width="2"' in text


def test_each_disk_is_a_file_and_an_empty_one_a_small_one(
    plan: Plan, disk: Path, tmp_path: Path, judge: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of [[disks]]: an image as it is, a file system made here, and nothing at all; a second profile copies all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = tmp_path / "image.qcow2"
    assert judge("qemu-img", "convert", "-O", "qcow2", disk, image).returncode == 0
    (tmp_path / "appliance.toml").write_text(
        'name="two"\nversion="1"\nprofiles=["portable", "virtualbox"]\n[base]\ndistribution="debian:12"\n'
        '[[disks]]\nimage="image.qcow2"\n[[disks]]\nsize="64 GiB"\nmount="/srv"\nlabel="data"\n'
        '[[disks]]\nsize="1 TiB"\n'
    )
    made = resolve(load(tmp_path / "appliance.toml"), {})
    options = pipeline.Options(tmp_path / "dist", boot=False)
    for ova_path in pipeline.pack(made, disk, options, Silent()):
        folder = tmp_path / ova_path.stem
        folder.mkdir()
        assert judge("tar", "-xf", ova_path, "-C", folder).returncode == 0
        stem = ova_path.stem
        order = [f"{stem}.ovf", f"{stem}.mf", *(f"{stem}-disk{number}.vmdk" for number in (1, 2, 3, 4))]
        assert judge("tar", "-tf", ova_path).stdout.split() == order
        for line in (folder / f"{stem}.mf").read_text().splitlines():
            name, _, digest = line.removeprefix("SHA256(").partition(")= ")
            assert judge("sha256sum", folder / name).stdout.split()[0] == digest
        for number in (1, 2):
            packed = folder / f"{stem}-disk{number}.vmdk"
            assert judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", packed, disk).returncode == 0
        sizes = [(folder / f"{stem}-disk{number}.vmdk").stat().st_size for number in (3, 4)]
        assert sizes[0] < 4 * MIB
        assert sizes[1] < 80 * MIB, "its grain tables"
    raw = tmp_path / "data.raw"
    assert judge("qemu-img", "convert", "-f", "vmdk", "-O", "raw", folder / f"{stem}-disk3.vmdk", raw).returncode == 0
    checked = judge("e2fsck", "-f", "-n", raw)
    assert checked.returncode == 0, checked.stdout
    assert "Filesystem volume name:   data" in judge("dumpe2fs", "-h", raw).stdout
