"""What judging a package comes to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from ovfbuild.verify import catalogue
from ovfbuild.verify.catalogue import MISREADS, REFUSES, Effect, Rule

IMPORTS, WARNS, UNKNOWN = "imports", "imports with a warning", "unknown"
"""Beside REFUSES: what an importer does with a package. `unknown`: part of it could not be looked into."""
_BLIND = {"disk-unread"}
"""Rules that say that something was not seen: whoever has no other reason to refuse is not known to take it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a package, or to be known. What breaking its rule does is in the catalogue."""

    rule: str
    """The rule's id, which tests and documentation use."""
    place: str
    """The element or the file that it is about."""
    text: str
    member: str = ""
    """The file of the package where it stands; empty for the package itself."""
    line: int = 0
    """The line there, from 1; 0 where there are none."""
    only: tuple[str, ...] | None = None
    """Of the importers that the rule names, those that this case hits; None for all."""

    def shown(self) -> Finding:
        """The same as one line that a terminal may get: what a package says of itself can be anything."""
        return replace(self, place=_line(self.place, 80), text=_line(self.text, 300), member=_line(self.member, 120))

    @property
    def catalogued(self) -> Rule:
        return catalogue.rules()[self.rule]

    @property
    def level(self) -> str:
        return self.catalogued.level

    @property
    def effects(self) -> tuple[Effect, ...]:
        return tuple(e for e in self.catalogued.effects if self.only is None or e.importer in self.only)

    @property
    def where(self) -> str:
        """`x.ovf:12: item 5 (disk)`: the member, the line and the place, as far as there are any."""
        spot = f"{self.member}:{self.line}" if self.line else self.member
        return spot if self.place == self.member else ": ".join(filter(None, (spot, self.place)))

    def __str__(self) -> str:
        names = catalogue.names([effect.importer for effect in self.effects])
        return f"{self.where}: {self.text} ({self.rule})" + (f" [{names}]" if names else "")


def _line(text: str, longest: int) -> str:
    """At most that many characters, each of them printable."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(one if one.isprintable() else "�" for one in cut)


@dataclass(frozen=True)
class Verdict:
    """What was found, and what was looked at."""

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    def by_importer(self) -> dict[str, str]:
        """What each importer does with the package: IMPORTS, WARNS, REFUSES or UNKNOWN."""
        return {importer: _outcome(self.findings, importer) for importer in catalogue.importers()}

    def fails(self, wanted: Collection[str]) -> bool:
        """Whether one of the importers asked for refuses; with none asked for, whether anything is an error."""
        if not wanted:
            return bool(self.errors)
        return any(said == REFUSES for importer, said in self.by_importer().items() if importer in wanted)


def _outcome(findings: Iterable[Finding], importer: str) -> str:
    kinds = {effect.kind for finding in findings for effect in finding.effects if effect.importer == importer}
    if REFUSES in kinds:
        return REFUSES
    if any(finding.rule in _BLIND for finding in findings):
        return UNKNOWN
    return WARNS if MISREADS in kinds else IMPORTS
