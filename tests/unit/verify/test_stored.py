"""Disks in pieces and disks compressed once more, as other tools pack them, and what is wrong with some."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild.formats import gunzip
from ovfbuild.formats.fault import Hostile
from tests.unit.verify import kit

CHUNK = 40_000


def packed_by_gzip(octets: bytes, content: bytes | None = None) -> kit.Kit:
    """The good one with its disk as a .gz, whose bytes may be others."""
    good = kit.good()
    packed = gzip.compress(good.files["a-disk1.vmdk"]) if content is None else content
    text = kit.descriptor(len(packed)).replace(b'href="a-disk1.vmdk"', b'href="a-disk1.vmdk.gz" ovf:compression="gzip"')
    return replace(good, text=text, files={"a-disk1.vmdk.gz": packed + octets})


def in_pieces() -> kit.Kit:
    good = kit.good()
    octets = good.files["a-disk1.vmdk"]
    files = {f"a-disk1.vmdk.{at // CHUNK:09}": octets[at : at + CHUNK] for at in range(0, len(octets), CHUNK)}
    assert len(files) > 2
    return replace(good.text_with(b"<File ", b'<File ovf:chunkSize="%d" ' % CHUNK), files=files)


def warned(path: Path) -> set[str]:
    return {one.rule for one in kit.verdict(path).findings if one.level != "note"}


def test_they_are_looked_into(tmp_path: Path) -> None:
    assert warned(packed_by_gzip(b"").pack(tmp_path / "x.ova")) == {"file-compressed"}
    assert warned(in_pieces().pack(tmp_path / "x.ova")) == {"file-chunked"}


def test_two_gzip_streams_are_one_file(tmp_path: Path) -> None:
    octets = kit.good().files["a-disk1.vmdk"]
    both = gzip.compress(octets[:5000]) + gzip.compress(octets[5000:])
    assert warned(packed_by_gzip(b"", both).pack(tmp_path / "x.ova")) == {"file-compressed"}


def test_a_piece_that_is_not_there(tmp_path: Path) -> None:
    whole = in_pieces()
    files = {name: octets for name, octets in whole.files.items() if not name.endswith("1")}
    path = replace(whole, files=files).pack(tmp_path / "x.ova")
    (missing,) = (one for one in kit.verdict(path).findings if one.rule == "file-missing")
    assert missing.place == "a-disk1.vmdk.000000001"


def test_a_piece_that_was_changed(tmp_path: Path) -> None:
    whole = in_pieces()
    name = "a-disk1.vmdk.000000002"
    octets = bytearray(whole.files[name])
    octets[100] ^= 0xFF
    changed = replace(whole, files={**whole.files, name: bytes(octets)}, manifest=whole.right_manifest)
    assert {"manifest-digest", "disk-damaged"} <= warned(changed.pack(tmp_path / "x.ova"))


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(kit.vmdk(), mtime=0)[:-100]])
def test_a_gzip_stream_that_is_damaged(content: bytes, tmp_path: Path) -> None:
    assert "disk-damaged" in warned(packed_by_gzip(b"", content).pack(tmp_path / "x.ova"))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunzip, "LEAST", 1 << 20)
    path = packed_by_gzip(b"", gzip.compress(bytes(200 << 20))).pack(tmp_path / "x.ova")
    with pytest.raises(Hostile, match=r"a-disk1\.vmdk\.gz unpacks to more than 100 times its size"):
        kit.verdict(path)


def test_another_compression_is_not_looked_into(tmp_path: Path) -> None:
    other = packed_by_gzip(b"").text_with(b'"gzip"', b'"bzip2"')
    assert "disk-unread" in warned(other.pack(tmp_path / "x.ova"))
