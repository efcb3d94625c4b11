"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ovfbuild.files import digest_of, published, sha256_of


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file"
    with published(target) as partial:
        partial.write_text("whole")
        assert partial.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), published(target) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_before_the_first_byte(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), published(tmp_path / "file"):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_wrote_nothing_publishes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), published(target):
        pass
    assert target.read_text() == "old"


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with published(target) as first:
        first.write_text("1")
        with published(target) as second:
            second.write_text("2")
        assert target.read_text() == "2"
    assert target.read_text() == "1"


def test_sha256_of(tmp_path: Path) -> None:
    path = tmp_path / "file"
    octets = bytes(range(256)) * 9999
    path.write_bytes(octets)
    assert sha256_of(path) == hashlib.sha256(octets).hexdigest()


def test_digest_of_knows_no_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": ["é", None]}) == digest_of({"b": ["é", None], "a": 1})
    assert digest_of(["a", "b"]) != digest_of(["b", "a"])
    assert digest_of({"a": 1}) != digest_of({"a": "1"})


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".x[1].ova.aaaa.partial", tmp_path / ".x[1].ova.bbbb.partial"
    other = tmp_path / ".y.ova.cccc.partial"
    for path in (old, young, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (1, 1))
    with published(tmp_path / "x[1].ova") as partial:
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == [young, other, tmp_path / "x[1].ova"]
