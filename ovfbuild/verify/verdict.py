"""What judging a package comes to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (`error`) or unwise (`warning`) in a package."""

    level: str
    rule: str
    """The rule's id, which tests and documentation use."""
    place: str
    """The member, or the element, that it is about."""
    text: str
    importers: tuple[str, ...] = ()
    """Who trips over it; empty where the standard itself is broken."""

    def __str__(self) -> str:
        hits = f" [{', '.join(self.importers)}]" if self.importers else ""
        return f"{self.place}: {self.text} ({self.rule}){hits}"


@dataclass(frozen=True)
class Verdict:
    """What was found, and what was looked at."""

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")
