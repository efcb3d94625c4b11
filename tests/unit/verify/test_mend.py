"""What `fix` says that it mends is mended, and the disks are what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild import packages
from ovfbuild.errors import FileError, UsageError
from ovfbuild.formats import vmdk_reader
from ovfbuild.progress import Silent
from ovfbuild.verify import catalogue
from ovfbuild.verify.package import open_package
from tests.unit.formats.conftest import Pieces, noise, run
from tests.unit.verify import broken, kit

MENDED = [rule.id for rule in catalogue.rules().values() if rule.mended]


def fixed(source: Path) -> Path:
    target = source.with_name("fixed.ova")
    packages.fix(source, target, Silent())
    return target


def disks(path: Path) -> list[list[tuple[int, bytes]]]:
    """Every grain of every disk, as far as it can be read."""
    package = open_package(path)
    found: list[list[tuple[int, bytes]]] = []
    for _, member in package.disks:
        with package.window(member) as stream:
            grains = vmdk_reader.grains(stream)
            found.append([])
            while True:
                try:
                    found[-1].append(next(grains))
                except (StopIteration, FileError):
                    break
    return found


@pytest.mark.parametrize("rule", MENDED)
def test_what_is_mended(rule: str, tmp_path: Path) -> None:
    path = broken.PACKAGES[rule]().pack(tmp_path / "a.ova")
    before = disks(path)
    target = fixed(path)
    after = kit.verdict(target)
    assert rule not in {finding.rule for finding in after.findings}
    assert [str(finding) for finding in after.errors] == []
    assert disks(target) == before
    assert before[0]


@pytest.mark.parametrize("rule", sorted(set(broken.PACKAGES) - set(MENDED)))
def test_what_is_not_mended_is_not_said_to_be_and_not_made_worse(rule: str, tmp_path: Path) -> None:
    path = broken.PACKAGES[rule]().pack(tmp_path / "a.ova")
    before = {finding.rule for finding in kit.verdict(path).findings}
    try:
        target = fixed(path)
    except FileError:
        assert rule in ("descriptor-xml", "descriptor-root")
        return
    assert {finding.rule for finding in kit.verdict(target).findings} <= before


def test_a_good_package_stays_as_it_is(tmp_path: Path) -> None:
    path = kit.small().pack(tmp_path / "a.ova")
    before = [(one.name, one.size) for one in open_package(path).members]
    target = fixed(path)
    assert [(one.name, one.size) for one in open_package(target).members] == before
    assert kit.verdict(target).findings == ()


def test_nothing_is_written_over_what_is_to_be_mended(tmp_path: Path) -> None:
    path = kit.small().pack(tmp_path / "a.ova")
    whole = path.read_bytes()
    with pytest.raises(UsageError, match="is what is to be mended"):
        packages.fix(path, path, Silent())
    with pytest.raises(UsageError, match="is a folder"):
        packages.fix(path, tmp_path, Silent())
    assert path.read_bytes() == whole


def test_a_package_that_can_t_be_mended_leaves_nothing(tmp_path: Path) -> None:
    path = broken.PACKAGES["descriptor-xml"]().pack(tmp_path / "a.ova")
    with pytest.raises(FileError, match="can't be read"):
        packages.fix(path, tmp_path / "b.ova", Silent())
    assert [one.name for one in tmp_path.iterdir()] == ["a.ova"]


@pytest.mark.parametrize("last", [noise(65536, 3), b"a" * 65536], ids=["no-end", "tail"])
def test_qemu_img_finds_the_same_disk_after_the_end_of_its_own_stream_was_mended(last: bytes, tmp_path: Path) -> None:
    """qemu-img leaves out the end of a stream whose last grain it can't compress, and leaves bytes behind of others."""
    raw = tmp_path / "disk.raw"
    disk = Pieces(4 << 20, ((0, noise(100000, 1)), ((4 << 20) - 65536, last)))
    raw.write_bytes(disk.read(0, disk.capacity))
    vmdk = tmp_path / "a-disk1.vmdk"
    made = run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk)
    assert made.returncode == 0, made.stderr
    octets = vmdk.read_bytes()
    source = kit.Kit(kit.descriptor(len(octets)).replace(b'capacity="3"', b'capacity="4"'), {vmdk.name: octets})
    path = source.pack(tmp_path / "a.ova")
    assert {"disk-no-end", "disk-tail"} & kit.rules(path)
    target = fixed(path)
    assert [str(finding) for finding in kit.verdict(target).errors] == []
    unpacked = run("tar", "-xf", target, "-C", tmp_path)
    assert unpacked.returncode == 0, unpacked.stderr
    assert run("qemu-img", "check", vmdk).returncode == 0
    assert vmdk.read_bytes() != octets
    same = run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, vmdk)
    assert "identical" in same.stdout, same.stderr


def test_a_folder_becomes_an_ova(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for one in kit.small().entries():
        (folder / one.name).write_bytes(one.octets)
    target = tmp_path / "b.ova"
    packages.fix(folder / "a.ovf", target, Silent())
    assert kit.verdict(target).findings == ()


def test_a_folder_that_was_packed_as_it_is_has_its_disk_found_and_described(tmp_path: Path) -> None:
    wrong = kit.good().text_with(b'ovf:capacity="3"', b'ovf:capacity="1"').text_with(b'ovf:size="', b'ovf:size="9')
    (tmp_path / "a").mkdir()
    for one in wrong.entries():
        (tmp_path / "a" / one.name).write_bytes(one.octets)
    assert run("tar", "-cf", tmp_path / "a.ova", "-C", tmp_path, "a/a.ovf", "a/a.mf", "a/a-disk1.vmdk").returncode == 0
    assert {"archive-folder", "file-missing"} <= kit.rules(tmp_path / "a.ova")
    target = fixed(tmp_path / "a.ova")
    assert kit.verdict(target).errors == ()
    assert len(disks(target)) == 1


def test_a_signature_that_no_longer_fits_is_left_out_and_said_so(tmp_path: Path) -> None:
    path = broken.PACKAGES["certificate-order"]().pack(tmp_path / "a.ova")
    mended = packages.fix(path, tmp_path / "b.ova", Silent())
    names = [one.name for one in open_package(tmp_path / "b.ova").members]
    assert ("a.cert" in names) != any("sign again" in note for note in mended.notes)
