"""Two ways to compare a packed disk with the sealed one, of one mind: qemu-img's and ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild.formats import ova, ova_reader, vmdk
from ovfbuild.verify import content
from ovfbuild.vm.blocks import open_reader
from ovfbuild.vm.sealed import SealedDisk
from tests.unit.formats.conftest import noise, program

MIB = 1 << 20
SIZE = 80 * MIB + 512
PIECES = {0: noise(5000), 31 * MIB + 100: noise(300_000, 1), 70 * MIB: bytes(2 * MIB), 80 * MIB: b"the last sector"}


def raw(path: Path, pieces: dict[int, bytes]) -> SealedDisk:
    with path.open("wb") as stream:
        stream.truncate(SIZE)
        for place, octets in pieces.items():
            stream.seek(place)
            stream.write(octets)
    return SealedDisk(path, "raw", SIZE)


CHANGES: dict[str, dict[int, bytes]] = {
    "the same": {},
    "zeros that are allocated elsewhere": {10 * MIB: bytes(MIB)},
    "a byte within a grain": {31 * MIB + 4000: b"!"},
    "the last byte": {SIZE - 1: b"!"},
    "more at the begin of a gap": {65536: b"!"},
    "more in a gap": {50 * MIB + 77: b"!"},
    "more among zeros": {71 * MIB: b"!"},
    "a grain less": {31 * MIB: bytes(MIB)},
    "nothing at all": dict.fromkeys(range(0, SIZE - 65536, 65536), bytes(65536)) | {80 * MIB: bytes(512)},
}


@pytest.mark.parametrize("largest", [content.LARGEST_FOR_QEMU, 0], ids=["qemu-img", "ours"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_packed_disk_is_the_sealed_one_or_is_not(
    name: str, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("qemu-img")
    monkeypatch.setattr(content, "LARGEST_FOR_QEMU", largest)
    packed = raw(tmp_path / "packed", PIECES)
    with (
        ova.create(tmp_path / "x.ova", mtime=0) as archive,
        open_reader(packed.path, "raw", tmp_path) as source,
    ):
        archive.add("x.ovf", b"<x/>")
        with archive.member("x.vmdk") as out:
            vmdk.write(source, out, name="x.vmdk", cid=1)
    sealed = raw(tmp_path / "sealed", PIECES | CHANGES[name])
    member = ova_reader.members(tmp_path / "x.ova")[1]
    same = name in ("the same", "zeros that are allocated elsewhere")
    assert content.is_packed(sealed, tmp_path / "x.ova", member, tmp_path) is same
