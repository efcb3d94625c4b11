"""The rules and the importers as data: descriptors/rules.toml, read once.

    python -m ovfbuild.verify.catalogue docs/formats.md

writes the tables between the two marks in that page, so that the page and the program say the same.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

REFUSES, MISREADS = "refuses", "misreads"
BEGIN, END = "<!-- rules: begin -->\n", "<!-- rules: end -->\n"
_HEADINGS = {
    "archive": "The archive",
    "manifest": "Manifest and certificate",
    "descriptor": "The descriptor as a text",
    "references": "References and disks",
    "disk": "The disks' own bytes",
    "system": "The virtual system",
    "hardware": "The hardware",
    "boot": "The boot (`verify --boot`)",
}


@dataclass(frozen=True)
class Importer:
    """A program that imports packages; `known` says whence its rules are known."""

    id: str
    name: str
    known: str


@dataclass(frozen=True)
class Effect:
    """What an importer makes of a package that breaks a rule: `kind` is REFUSES or MISREADS."""

    importer: str
    kind: str
    what: str


@dataclass(frozen=True)
class Rule:
    """A rule: its fields are the keys of its table in descriptors/rules.toml."""

    id: str
    of: str
    level: str
    wants: str
    source: str
    do: str
    effects: tuple[Effect, ...]
    mended: bool


@cache
def importers() -> Mapping[str, Importer]:
    """Every importer, by its id, in the order in which they are shown."""
    return {id_: Importer(id_, **fields) for id_, fields in _table()["importers"].items()}


@cache
def rules() -> Mapping[str, Rule]:
    """Every rule, by its id."""
    return {id_: _rule(id_, dict(fields)) for id_, fields in _table()["rules"].items()}


def named(word: str) -> tuple[str, ...]:
    """The importers that a user means: an id, or `vsphere` for all its versions; empty for any other word."""
    return tuple(id_ for id_ in importers() if id_ == word or id_.startswith(f"{word}-"))


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("ovfbuild.descriptors").joinpath("rules.toml").read_text(encoding="utf-8"))


def _rule(id_: str, fields: dict[str, Any]) -> Rule:
    effects = [
        Effect(importer, kind, what)
        for kind in (REFUSES, MISREADS)
        for word, what in fields.pop(kind, {}).items()
        for importer in named(word) or (word,)
    ]
    order = list(importers())
    effects.sort(key=lambda effect: order.index(effect.importer))
    return Rule(id=id_, effects=tuple(effects), mended=fields.pop("mended", False), **fields)


def page() -> str:
    """The rules as tables in Markdown, a heading for each part of a package."""
    lines = []
    for part, heading in _HEADINGS.items():
        lines += [
            f"### {heading}",
            "",
            "| rule | level | what it wants | who trips | source |",
            "|---|---|---|---|---|",
        ]
        lines += [_row(rule) for rule in rules().values() if rule.of == part]
        lines.append("")
    return "\n".join(lines)


def _row(rule: Rule) -> str:
    trips = "; ".join(filter(None, (_who(rule, REFUSES), _who(rule, MISREADS)))) or "nobody known: the standard"
    cells = (f"`{rule.id}`", rule.level, rule.wants + (" ✚" if rule.mended else ""), trips, rule.source)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def names(ids: Collection[str]) -> str:
    """The names of importers; the versions of vSphere are one where all of them are meant."""
    versions = named("vsphere")
    every = set(versions) <= set(ids)
    found = ["vSphere" if every and one in versions else importers()[one].name for one in ids]
    return ", ".join(dict.fromkeys(found))


def _who(rule: Rule, kind: str) -> str:
    """`refuse: VirtualBox, vSphere`."""
    hit = [effect.importer for effect in rule.effects if effect.kind == kind]
    return f"{kind.removesuffix('s')}: {names(hit)}" if hit else ""


def _write(path: Path) -> None:
    head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{page()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
