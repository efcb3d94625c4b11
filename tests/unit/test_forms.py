"""What comes out in each format, judged by qemu-img and sha256sum; through the command, as a user asks for it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild import files, packages, pipeline
from ovfbuild.errors import FileError, UsageError
from ovfbuild.progress import Silent
from ovfbuild.spec.appliance import load
from ovfbuild.spec.plan import resolve
from ovfbuild.spec.profile import Format
from ovfbuild.verify.judging import judge as judge_package
from ovfbuild.verify.package import open_package
from ovfbuild.verify.verdict import Verdict
from tests.unit.conftest import MIB, SIZE
from tests.unit.formats.conftest import Program

Pack = Callable[..., list[Path]]


@pytest.fixture
def pack(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(form: Format | None = None, *, profiles: tuple[str, ...] = (), table: str = "") -> list[Path]:
        text = f'name="two"\nversion="1.0"\n[base]\ndistribution="debian:12"\n{table}\n'
        (tmp_path / "appliance.toml").write_text(text)
        plan = resolve(load(tmp_path / "appliance.toml"), {}, profiles=profiles, form=form)
        return pipeline.pack(plan, disk, pipeline.Options(tmp_path / "dist", boot=False), Silent())

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx", "raw"])
def test_a_disk_alone_is_the_disk_with_its_checksum(form: Format, pack: Pack, disk: Path, judge: Program) -> None:
    (path,) = pack(form)
    assert names(path.parent) == [f"two-1.0.{form}", f"two-1.0.{form}.sha256"]
    facts = json.loads(judge("qemu-img", "info", "--output=json", path).stdout)
    assert (facts["format"], facts["virtual-size"]) == (form, SIZE)
    assert judge("qemu-img", "compare", "-f", form, "-F", "raw", path, disk).returncode == 0
    said = subprocess.run(["sha256sum", "-c", f"{path.name}.sha256"], cwd=path.parent, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, f"{path.name}: OK\n")
    assert path.stat().st_blocks * 512 < 8 * MIB, "holes take no room"


def test_a_qcow2_is_compressed_by_zstd_and_the_same_every_time(pack: Pack, judge: Program) -> None:
    (path,) = pack("qcow2")
    facts = json.loads(judge("qemu-img", "info", "--output=json", path).stdout)
    assert facts["format-specific"]["data"]["compression-type"] == "zstd"
    assert path.stat().st_size < 2 * MIB, "noise stays, words go"
    assert judge("qemu-img", "check", path).returncode == 0
    first = path.read_bytes()
    assert pack("qcow2")[0].read_bytes() == first


def test_a_vmdk_alone_is_the_one_of_the_package(pack: Pack) -> None:
    octets = pack("vmdk")[0].read_bytes()
    package = open_package(pack("ova")[0])
    ((_, member),) = package.disks
    with package.window(member) as stream:
        assert stream.read() == octets


def test_a_folder_is_a_package(pack: Pack, disk: Path, judge: Program) -> None:
    (path,) = pack("ovf")
    assert path.name == "two-1.0.ovf"
    assert names(path.parent) == ["two-1.0-disk1.vmdk", "two-1.0.mf", "two-1.0.ovf"]
    assert names(path.parents[1]) == ["two-1.0"], "and nothing beside it"
    for line in (path.parent / "two-1.0.mf").read_text().splitlines():
        name, _, digest = line.removeprefix("SHA256(").partition(")= ")
        assert judge("sha256sum", path.parent / name).stdout.split()[0] == digest
    assert judge("xmllint", "--noout", path).returncode == 0
    assert not path.read_bytes().endswith(b"  \n"), "no room is kept where none is needed"
    assert packages.inspect(path)["size"] == sum(one.stat().st_size for one in path.parent.iterdir())
    assert packages.inspect(path.parent)["members"] == packages.inspect(path)["members"]
    vmdk = path.parent / "two-1.0-disk1.vmdk"
    assert judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", vmdk, disk).returncode == 0


def test_two_profiles_share_the_disk_of_a_folder(pack: Pack) -> None:
    one, other = pack("ovf", profiles=("portable", "libvirt"))
    first, second = ((path.parent / f"{path.stem}-disk1.vmdk").read_bytes() for path in (one, other))
    assert first == second
    shutil.rmtree(one.parents[1])
    (alone,) = pack("ovf", profiles=("libvirt",))
    assert (alone.parent / f"{alone.stem}-disk1.vmdk").read_bytes() == second


def test_a_folder_takes_the_place_of_its_elder_whole(pack: Pack) -> None:
    (path,) = pack("ovf")
    (path.parent / "two-1.0-disk9.vmdk").write_bytes(b"of another time")
    (again,) = pack("ovf")
    assert again == path
    assert names(path.parent) == ["two-1.0-disk1.vmdk", "two-1.0.mf", "two-1.0.ovf"]
    assert names(path.parents[1]) == ["two-1.0"]


def test_a_folder_of_something_else_is_left_alone(pack: Pack, tmp_path: Path) -> None:
    other = tmp_path / "dist" / "two-1.0"
    other.mkdir(parents=True)
    (other / "letters.txt").write_text("dear")
    with pytest.raises(FileError, match="is there already"):
        pack("ovf")
    assert names(other) == ["letters.txt"]
    assert names(other.parent) == ["two-1.0"]


@pytest.mark.parametrize("atomic", [True, False])
def test_folders_are_exchanged_with_or_without_the_kernel_s_help(
    atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not atomic:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    target = tmp_path / "folder"
    for text in ("one", "two"):
        with files.published_folder(target) as partial:
            partial.mkdir()
            (partial / "file").write_text(text)
    assert (target / "file").read_text() == "two"
    assert names(tmp_path) == ["folder"]
    with pytest.raises(RuntimeError), files.published_folder(target) as partial:
        partial.mkdir()
        raise RuntimeError
    assert (target / "file").read_text() == "two"
    assert names(tmp_path) == ["folder"]


def test_openstack_gets_a_qcow2_and_its_properties(pack: Pack) -> None:
    (path,) = pack(profiles=("openstack",))
    assert names(path.parent) == [
        "two-1.0-openstack.glance.json",
        "two-1.0-openstack.qcow2",
        "two-1.0-openstack.qcow2.sha256",
    ]
    said = json.loads((path.parent / "two-1.0-openstack.glance.json").read_text())
    assert said["disk_format"] == "qcow2"
    assert said["min_disk"] == 1
    assert (said["hw_disk_bus"], said["hw_scsi_model"], said["hw_vif_model"]) == ("scsi", "virtio-scsi", "virtio")
    assert said["hw_machine_type"] == "q35"


def test_the_file_says_the_format_and_the_command_line_goes_before_it(pack: Pack) -> None:
    table = '[package]\nformat = "raw"'
    assert pack(table=table)[0].suffix == ".raw"
    assert pack("vhdx", table=table)[0].suffix == ".vhdx"
    assert pack("ova", profiles=("openstack",))[0].name == "two-1.0-openstack.ova"


def command(tmp_path: Path, disk: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    (tmp_path / "appliance.toml").write_text('name="two"\nversion="1.0"\n[base]\ndistribution="debian:12"\n')
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", "ovfbuild", "pack", str(tmp_path), "--disk", str(disk), *words]
    return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, timeout=60)


def test_stdout_takes_what_is_one_file(tmp_path: Path, disk: Path, judge: Program) -> None:
    done = command(tmp_path, disk, "-o", "-", "--format", "qcow2")
    assert done.returncode == 0, done.stderr
    (tmp_path / "piped.qcow2").write_bytes(done.stdout)
    assert judge("qemu-img", "compare", tmp_path / "piped.qcow2", disk).returncode == 0
    done = command(tmp_path, disk, "-o", "-", "--format", "ovf")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"a folder" in done.stderr


def test_a_format_that_is_none(pack: Pack) -> None:
    with pytest.raises(UsageError, match=r"package\.format"):
        pack(table='[package]\nformat = "vdi"')


def told(path: Path) -> Verdict:
    return judge_package(open_package(path), Silent())


def warned(said: Verdict) -> set[str]:
    return {finding.rule for finding in said.findings if finding.level != "note"}


def test_a_disk_in_pieces(pack: Pack, disk: Path, judge: Program, tmp_path: Path) -> None:
    one, other = pack(profiles=("portable", "libvirt"), table='[package]\nformat = "ovf"\nchunk = "1 MiB"')
    pieces = sorted(one.parent.glob("*.vmdk.*"))
    assert [path.name for path in pieces] == [f"two-1.0-disk1.vmdk.00000000{number}" for number in range(2)]
    assert pieces[0].stat().st_size == MIB
    whole = tmp_path / "whole.vmdk"
    whole.write_bytes(b"".join(path.read_bytes() for path in pieces))
    assert judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", whole, disk).returncode == 0
    text = one.read_bytes()
    assert b'ovf:chunkSize="1048576"' in text
    assert b'ovf:size="%d"' % whole.stat().st_size in text
    sums = dict(re.findall(r"SHA256\((.*)\)= (.*)", (one.parent / "two-1.0.mf").read_text()))
    assert [sums[path.name] for path in pieces] == [judge("sha256sum", path).stdout.split()[0] for path in pieces]
    assert b"".join(path.read_bytes() for path in sorted(other.parent.glob("*.vmdk.*"))) == whole.read_bytes()
    said = told(one)
    assert warned(said) == {"file-chunked"}
    assert said.by_importer()["virtualbox"] == "refuses"
    assert said.by_importer()["vsphere-7.0"] == "imports"
    pieces[0].unlink()
    assert {"file-missing", "manifest-names-nothing"} <= warned(told(one))


@pytest.mark.parametrize("form", ["ova", "ovf"])
def test_a_disk_compressed_once_more(form: Format, pack: Pack, disk: Path, judge: Program, tmp_path: Path) -> None:
    (path,) = pack(form, table="[package]\ngzip = true")
    package = open_package(path)
    (stored,) = package.stored_disks
    assert stored.file.href == "two-1.0-disk1.vmdk.gz"
    packed = tmp_path / "disk.vmdk.gz"
    with package.window(stored.members[0]) as stream:
        packed.write_bytes(stream.read())
    assert judge("gunzip", packed).returncode == 0
    assert judge("qemu-img", "compare", "-f", "vmdk", "-F", "raw", tmp_path / "disk.vmdk", disk).returncode == 0
    said = told(path)
    assert warned(said) == {"file-compressed"}
    assert said.by_importer()["proxmox"] == "refuses"
    assert pack(form, table="[package]\ngzip = true")[0].read_bytes() == path.read_bytes()


def test_both_at_once(pack: Pack) -> None:
    (path,) = pack("ovf", table='[package]\ngzip = true\nchunk = "1 MiB"')
    assert (path.parent / "two-1.0-disk1.vmdk.gz.000000001").is_file()
    assert warned(told(path)) == {"file-chunked", "file-compressed"}


def test_what_has_no_descriptor_can_t_say_so(pack: Pack) -> None:
    with pytest.raises(UsageError) as caught:
        pack(profiles=("portable", "openstack"), table='[package]\nchunk = "1 MiB"\ngzip = true')
    assert "profile portable gives ova" in caught.value.message
    assert "package.gzip: nothing would say so of a qcow2 alone" in caught.value.message


def test_stdout_takes_one_profile(tmp_path: Path, disk: Path) -> None:
    done = command(tmp_path, disk, "-o", "-", "--profile", "portable", "--profile", "libvirt")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"-o - writes one OVA, and there are 2 (portable, libvirt)" in done.stderr


def test_stdout_is_no_terminal(tmp_path: Path, disk: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "appliance.toml").write_text('name="two"\nversion="1.0"\n[base]\ndistribution="debian:12"\n')
    argv = [sys.executable, "-m", "ovfbuild", "pack", str(tmp_path), "--disk", str(disk), "-o", "-"]
    done = subprocess.run(argv, env=env, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, timeout=100)
    assert done.returncode == 2
    assert b"-o - would write the OVA to the terminal" in done.stderr
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(ours)
    os.close(theirs)


def test_a_second_profile_s_disk_is_copied_by_the_kernel(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one piece, of a whole number of calls, and not a byte of it through Python."""
    copied: list[int] = []
    real = os.copy_file_range

    def counted(*words: int) -> int:
        copied.append(real(*words))
        return copied[-1]

    monkeypatch.setattr(os, "copy_file_range", counted)
    one, _ = pack(profiles=("portable", "libvirt"))
    ((_, member),) = open_package(one).disks
    assert sum(copied) == member.size
