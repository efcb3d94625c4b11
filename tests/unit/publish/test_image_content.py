"""A package's disks on their way into images: which there are, and never two conversions at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.publish.cloud import Surroundings
from ovfbuild.publish.credentials import Secrets
from ovfbuild.publish.image_content import Content, Contents, disks_of
from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from tests.unit.publish.kit import Heard, ova_of_three
from tests.unit.verify import kit


@pytest.fixture(autouse=True)
def qemu_img(needs: Callable[..., None]) -> None:
    needs("qemu-img")


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    """Workspaces are the folders in `tmp_path/work`."""

    @contextmanager
    def workspace() -> Iterator[Path]:
        made = tmp_path / "work" / "one"
        made.mkdir(parents=True)  # fails for a second one
        yield made
        for file in made.iterdir():
            file.unlink()
        made.rmdir()

    return Surroundings({}, Secrets({}), Heard(), workspace)


def test_disks_have_their_place_in_the_descriptor_and_their_size(tmp_path: Path) -> None:
    disks = disks_of(open_package(ova_of_three(tmp_path / "a.ova")))
    assert [(one.number, one.capacity // kit.MIB, one.gibibytes) for one in disks] == [
        (1, 16, 1),
        (2, 2000, 2),
        (3, 1100, 2),
    ]
    assert [one.member and one.member.name for one in disks] == ["a-disk1.vmdk", None, "a-disk3.vmdk"]


def test_what_can_not_become_an_image(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"vmdisk1 of a\.ova is no streamOptimized VMDK in one piece"):
        disks_of(open_package(kit.gzipped().pack(tmp_path / "a.ova")))
    empty = kit.good().text_with(b' ovf:fileRef="file1"', b"")
    with pytest.raises(FileError, match=r"b\.ova has no disk with a content"):
        disks_of(open_package(empty.pack(tmp_path / "b.ova")))


def test_one_conversion_lies_there_at_a_time(tmp_path: Path, around: Surroundings) -> None:
    package = open_package(ova_of_three(tmp_path / "a.ova"))
    first, _, third = disks_of(package)
    contents = Contents("qcow2", around)
    made = contents.of(package, third)
    assert contents.of(package, third) is made, "for another try"
    assert third.member
    inside = disk.inside(package.path, third.member.offset, third.member.size)
    assert disk.compare(disk.described(made.path, "qcow2"), inside)
    assert contents.of(package, first) != made
    assert len(list((tmp_path / "work").rglob("*.qcow2"))) == 1
    contents.close()
    assert not list((tmp_path / "work").iterdir())


def test_a_vmdk_is_sent_from_where_it_lies(tmp_path: Path, around: Surroundings) -> None:
    package = open_package(ova_of_three(tmp_path / "a.ova"))
    _, _, third = disks_of(package)
    assert third.member
    content = Contents("vmdk", around).of(package, third)
    assert content == Content(package.path, third.member.offset, third.member.size)
    with content.opened() as stream:
        assert stream.read(4) == b"KDMV" and len(stream.read()) == third.member.size - 4
