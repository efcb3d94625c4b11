"""What scripts/fuzz found before: each case is answered, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild import packages
from ovfbuild.errors import FileError
from ovfbuild.formats import ovf_reader
from ovfbuild.formats.ovf_repair import repaired
from ovfbuild.progress import Silent

CORPUS = Path(__file__).parents[2] / "corpus"


def answered(target: str, path: Path, scratch: Path) -> None:
    if target == "ovf":
        octets = path.read_bytes()
        ovf_reader.read(octets)
        again = repaired(octets, {}, {})
        assert repaired(again, {}, {}) == again, "what is mended needs no mending"
        return
    verdict = packages.check(path, Silent())
    assert all(len(str(finding)) < 2000 and str(finding).isprintable() for finding in verdict.findings)
    if target == "fix":
        before = {finding.rule for finding in verdict.findings}
        done = packages.fix(path, scratch / "out.ova", Silent())
        assert {finding.rule for finding in done.left if finding.level == "error"} <= before


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_it_is_held(path: Path, tmp_path: Path) -> None:
    try:
        answered(path.name.partition("-")[0], path, tmp_path)
    except FileError as error:
        assert "\n" not in error.message
        assert len(error.message) < 1000
