"""What `check` found and `fix` mended, as text for people and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ovfbuild.verify import catalogue
from ovfbuild.verify.catalogue import REFUSES
from ovfbuild.verify.mend import Mended
from ovfbuild.verify.verdict import Finding, Verdict

_LEVELS = ("error", "warning", "note")


def as_json(file: Path, said: Verdict) -> dict[str, Any]:
    """Every finding with its effects, and the outcome for every importer."""
    return {
        "path": str(file),
        "findings": [_finding(one) for one in said.findings],
        "importers": [
            {"importer": one, "name": catalogue.importers()[one].name, "outcome": outcome}
            | {"known": catalogue.importers()[one].known}
            for one, outcome in said.by_importer().items()
        ],
    }


def _finding(one: Finding) -> dict[str, Any]:
    rule = one.catalogued
    return {
        "level": rule.level,
        "rule": rule.id,
        "member": one.member or None,
        "line": one.line or None,
        "place": one.place,
        "text": one.text,
        "wants": rule.wants,
        "importers": [{"importer": e.importer, "effect": e.kind, "what": e.what} for e in one.effects],
        "source": rule.source,
        "do": rule.do,
        "mended": rule.mended,
    }


def as_text(file: Path, said: Verdict) -> str:
    """The findings, the worst first, what each rule's do and what to do; then a line an importer."""
    by_rule: dict[str, list[Finding]] = {}
    for one in sorted(said.findings, key=lambda one: _LEVELS.index(one.level)):
        by_rule.setdefault(one.rule, []).append(one)
    lines = [line for found in by_rule.values() for line in _lines(found)]
    width = max(len(one.name) for one in catalogue.importers().values())
    lines.append(f"{file}:")
    for id_, outcome in said.by_importer().items():
        importer = catalogue.importers()[id_]
        because = _because(said, id_, outcome) or f"({importer.known})"
        lines.append(f"  {importer.name:{width}}  {outcome:23}  {because}")
    return "\n".join(lines)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    """The findings of one rule, and what it does, once."""
    for one in found:
        yield f"{one.level}: {one.where}: {one.text} ({one.rule})"
    hits: dict[tuple[str, str], list[str]] = {}
    for effect in dict.fromkeys(effect for one in found for effect in one.effects):
        hits.setdefault((effect.kind, effect.what), []).append(effect.importer)
    for (kind, what), ids in hits.items():
        yield f"    {catalogue.names(ids)}: {kind}: {what}"
    rule = found[0].catalogued
    yield f"    source: {rule.source}"
    yield f"    → {rule.do}{' (ovfbuild fix does it)' if rule.mended else ''}"


def _because(said: Verdict, importer: str, outcome: str) -> str:
    """The rules that make an importer refuse, or be warned of."""
    kinds = (REFUSES,) if outcome == REFUSES else ("misreads",)
    found = [one.rule for one in said.findings for e in one.effects if e.importer == importer and e.kind in kinds]
    return ", ".join(dict.fromkeys(found))


def mended(done: Mended) -> str:
    """A line for each thing that was mended, and for each that was not."""
    lines = [f"mended: {one.where}: {one.text} ({one.rule})" for one in done.done]
    lines += [f"left: {one.where}: {one.text} ({one.rule})" for one in done.left if one.level != "note"]
    return "".join(f"{line}\n" for line in [*lines, *(f"lost: {text}" for text in done.notes)])
