"""Every rule of the catalogue, with a package that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovfbuild.formats.envelope import Disk
from ovfbuild.verify import catalogue, rules
from ovfbuild.verify.alive import Seen
from ovfbuild.verify.boot import Answer
from ovfbuild.verify.verdict import Finding
from tests.unit.verify import broken, kit


def boot_findings() -> Iterator[Finding]:
    """Of a machine that was booted: what it answers makes the findings."""
    yield from Answer("id", "host", 1.0, ("x.service",), {}, agent=Seen("Agent", (), ("it has no sign",))).findings()


def found(path: Path, rule: str) -> list[Finding]:
    findings = boot_findings() if catalogue.rules()[rule].of == "boot" else kit.verdict(path).findings
    return [finding for finding in findings if finding.rule == rule]


@pytest.mark.parametrize("make", [kit.small, kit.good], ids=["small", "real"])
def test_nothing_is_found_in_a_good_one(make: Callable[[], kit.Kit], tmp_path: Path) -> None:
    assert kit.verdict(make().pack(tmp_path / "a.ova")).findings == ()


@pytest.mark.parametrize("rule", catalogue.rules())
def test_each_rule_is_broken_by_its_package(rule: str, tmp_path: Path) -> None:
    """A rule without a package that breaks it fails here, and a package of a rule that is not looked for."""
    described = catalogue.rules()[rule]
    path = tmp_path / "a.ova"
    if described.of != "boot":
        broken.PACKAGES[rule]().pack(path)
    findings = found(path, rule)
    assert findings
    for finding in findings:
        assert finding.place
        assert finding.text
        assert (described.source, described.do, described.wants) != ("", "", "")
        assert finding.level in ("error", "warning", "note")
        assert {effect.importer for effect in finding.effects} <= set(catalogue.importers())


WITH_LINE = {*broken.DESCRIPTOR, *broken.REFERENCES, *broken.SYSTEM, *broken.HARDWARE} - {"file-unlisted"}


@pytest.mark.parametrize("rule", sorted(WITH_LINE))
def test_what_is_in_the_descriptor_has_its_line(rule: str, tmp_path: Path) -> None:
    for finding in found(broken.PACKAGES[rule]().pack(tmp_path / "a.ova"), rule):
        assert finding.member == "a.ovf"
        assert finding.line > 0


def test_no_package_breaks_a_rule_that_there_is_not() -> None:
    assert set(broken.PACKAGES) - set(catalogue.rules()) == set()


def test_an_optional_device_is_taken(tmp_path: Path) -> None:
    taken = broken.item(kind=24, attributes=' ovf:required="false"')
    assert kit.verdict(taken.pack(tmp_path / "a.ova")).findings == ()


@pytest.mark.parametrize(
    ("disk", "rule"),
    [
        (Disk("d", 100, "byte * 2^20"), None),
        (Disk("d", 1, "byte * 2^30"), "capacity-differs"),
        (Disk("d", 99, "byte * 2^20"), "capacity-differs"),
        (Disk("d", 100 << 20, "byte"), "capacity-units"),
        (Disk("d", 100 << 20, None), "capacity-units"),
        (Disk("d", 100, populated_size=200 << 20), "populated-size"),
        (Disk("d", 100, populated_size=1), "populated-small"),
        (Disk("d", 100, populated_size=65536), None),
    ],
)
def test_what_is_said_of_a_disk(disk: Disk, rule: str | None) -> None:
    findings = list(rules.judge_disk(disk, "a.vmdk", capacity=100 << 20, populated=65536))
    assert [finding.rule for finding in findings] == ([rule] if rule else [])
