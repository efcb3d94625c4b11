"""`check`, `fix` and `inspect` as commands: what they print, and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ovfbuild.cli.main import cli
from ovfbuild.errors import OvfbuildError
from ovfbuild.verify import catalogue
from tests.unit.verify import broken, kit


def ran(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def code(result: Result) -> int:
    """The exit code that the entry point makes of it."""
    return result.exception.exit_code if isinstance(result.exception, OvfbuildError) else result.exit_code


@pytest.fixture
def pax(tmp_path: Path) -> Path:
    """A package that VirtualBox, vSphere and Xen Orchestra refuse."""
    return broken.PACKAGES["archive-pax"]().pack(tmp_path / "a.ova")


def test_a_good_one(tmp_path: Path) -> None:
    result = ran("check", kit.small().pack(tmp_path / "a.ova"))
    assert code(result) == 0
    rows = result.stdout.splitlines()[1:]
    assert len(rows) == len(catalogue.importers())
    assert all(" imports " in row for row in rows)


def test_a_finding_says_all_of_it_and_a_table_ends_it(pax: Path) -> None:
    result = ran("check", pax)
    assert code(result) == 6
    said = result.stdout
    rule = catalogue.rules()["archive-pax"]
    for part in (
        "error: byte 0: ",
        "(archive-pax)",
        "VERR_TAR_UNSUPPORTED_PAX_TYPE",
        rule.source,
        rule.do,
        "ovfbuild fix does it",
    ):
        assert part in said
    rows = said.splitlines()[-len(catalogue.importers()) :]
    table = dict(re.split(" {2,}", row.strip(), maxsplit=1) for row in rows)
    assert "refuses" in table["VirtualBox"]
    assert "archive-pax" in table["vSphere 8.0"]
    assert "imports" in table["Proxmox VE"]


@pytest.mark.parametrize(
    ("importers", "expected"),
    [((), 6), (("proxmox",), 0), (("vsphere",), 6), (("proxmox", "xo"), 6), (("proxmox", "incus"), 0), (("none",), 2)],
)
def test_for_whom(importers: tuple[str, ...], expected: int, pax: Path) -> None:
    assert code(ran("check", pax, *(word for one in importers for word in ("--for", one)))) == expected


def test_json(tmp_path: Path) -> None:
    path = broken.PACKAGES["capacity-units"]().pack(tmp_path / "a.ova")
    result = ran("check", "--json", path)
    assert code(result) == 6
    said = json.loads(result.stdout)
    (finding,) = [one for one in said["findings"] if one["rule"] == "capacity-units"]
    rule = catalogue.rules()["capacity-units"]
    assert (finding["level"], finding["member"], finding["mended"]) == ("error", "a.ovf", True)
    assert kit.small().text.splitlines()[finding["line"] - 1].strip().startswith(b"<Disk ")
    assert (finding["source"], finding["do"]) == (rule.source, rule.do)
    assert {one["importer"] for one in finding["importers"]} == {"proxmox"}
    assert all(one["what"] for one in finding["importers"])
    outcomes = {one["importer"]: one["outcome"] for one in said["importers"]}
    assert set(outcomes) == set(catalogue.importers())
    assert outcomes["proxmox"] == "imports with a warning"


def test_fix_says_what_it_did(pax: Path, tmp_path: Path) -> None:
    result = ran("fix", pax, "-o", tmp_path / "b.ova")
    assert code(result) == 0
    assert all(line.startswith("mended: byte ") for line in result.stdout.splitlines())
    assert code(ran("check", tmp_path / "b.ova")) == 0


def test_what_is_no_package(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    path.write_bytes(b"no package")
    for words in (("check", path), ("fix", path, "-o", tmp_path / "b.ova"), ("inspect", path)):
        assert code(ran(*words)) == 5
