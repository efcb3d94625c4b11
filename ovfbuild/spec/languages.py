"""[java], [python] and [node] of appliance.toml; and descriptors/libraries.toml, what each distribution has of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from ovfbuild.spec import fields as f
from ovfbuild.spec import references as r
from ovfbuild.spec.mistakes import quoted
from ovfbuild.spec.table import Table

Language = Literal["java", "node"]
_TITLES: Mapping[str, str] = MappingProxyType({"java": "Java", "node": "Node.js"})


class Java(Table):
    """A Java runtime, of the distribution or of an archive."""

    version: int | None = Field(None, ge=1, le=99, examples=[17])
    """The major version; of an archive, what it must be."""
    archive: r.FileOrUrl | None = None
    """A tar archive with bin/java in it, instead of the distribution's package: a path, or an http(s) URL."""
    checksum: f.Checksum | None = None
    """The archive's digest, "sha256:…" or "sha512:…"; required for a URL."""
    path: f.Target = "/opt/java"
    """Where an archive is unpacked."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if not {"version", "archive"} & table.keys():
            yield "", "has neither version nor archive; write for example version = 17"
        if "path" in table and "archive" not in table:
            yield "path", "is for an archive; leave it out, the distribution's package has its own place"
        yield from _archive_mistakes(table)


class Python(Table):
    """Python packages in a virtual environment, fetched by the host's pip."""

    packages: tuple[f.Requirement, ...] = ()
    """What to install, each as pip takes it: "requests==2.32.3"."""
    requirements: r.RequirementsFile | None = None
    """A requirements.txt, beside or instead of packages."""
    path: f.Target | None = None
    """The virtual environment; by default /opt/NAME/venv."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if not {"packages", "requirements"} & table.keys():
            yield "", 'has neither packages nor requirements; write for example packages = ["requests==2.32.3"]'
        if table.get("packages") == [] and "requirements" not in table:
            yield "packages", "is empty; write a package, or leave out [python]"
        yield from _twice(table.get("packages"), r"[\[<>=!~; ]")
        yield from _no_root(table)


class Node(Table):
    """Node.js, of the distribution or of an archive, and packages of npm, fetched by the host's npm."""

    version: int | None = Field(None, ge=1, le=99, examples=[18])
    """The major version; by default the one that the distribution has."""
    archive: r.FileOrUrl | None = None
    """A tar archive with bin/node in it, instead of the distribution's package: a path, or an http(s) URL."""
    checksum: f.Checksum | None = None
    """The archive's digest, "sha256:…" or "sha512:…"; required for a URL."""
    packages: tuple[f.NpmPackage, ...] = ()
    """What to install, each as npm takes it: "pm2@5.4.2". Their commands are linked into /usr/local/bin."""
    path: f.Target | None = None
    """Where packages and an archive go; by default /opt/NAME/node."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _archive_mistakes(table)
        yield from _twice(table.get("packages"), r"(?<=.)@")


def _archive_mistakes(table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    archive = table.get("archive")
    if isinstance(archive, str) and "://" in archive and "checksum" not in table:
        yield "archive", 'is a URL without a checksum; add checksum = "sha256:…"'
    if "checksum" in table and "archive" not in table:
        yield "checksum", "is for an archive; leave it out"
    yield from _no_root(table)


def _no_root(table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    path = table.get("path")
    if isinstance(path, str) and path.startswith("/") and len([part for part in path.split("/") if part]) < 2:
        yield "path", f'{quoted(path)} is not a folder of its own; write one such as "/opt/tools"'


def _twice(packages: object, end: str) -> Iterable[tuple[str, str]]:
    """A mistake for every package that is named a second time; its name goes until `end`."""
    seen: set[str] = set()
    for package in packages if isinstance(packages, list | tuple) else ():
        name = re.sub(r"[-_.]+", "-", re.split(end, package)[0].lower()) if isinstance(package, str) else ""
        if name and name in seen:
            yield "packages", f"has {quoted(re.split(end, package)[0])} twice; keep one"
        seen.add(name)


class Offer(Table):
    """The major versions that one distribution has packages of, smallest first."""

    java: tuple[int, ...]
    node: tuple[int, ...]

    def of(self, language: Language) -> tuple[int, ...]:
        return self.java if language == "java" else self.node


def not_offered(appliance: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """A mistake for [java] and [node] of an appliance.toml, as it was read, whose version its base has not got."""
    base = appliance.get("base")
    named = base.get("distribution", base.get("os")) if isinstance(base, Mapping) else None
    offer = _offers().get(named) if isinstance(named, str) else None
    languages: tuple[Language, ...] = ("java", "node")
    for language in languages:
        table = appliance.get(language)
        version = table.get("version") if isinstance(table, Mapping) and "archive" not in table else None
        if offer and type(version) is int and version > 0 and version not in offer.of(language):
            has = _either(offer.of(language))
            wrong = f"version {version} is not in {named}, which has {_TITLES[language]} {has}"
            yield language, f"{wrong}; write {has}, {_elsewhere(language, version)}or archive = a path or URL"


def _elsewhere(language: Language, version: int) -> str:
    names = [f'"{name}"' for name, offer in _offers().items() if version in offer.of(language)]
    return f"take base.distribution = {' or '.join(names)}, " if names else ""


def _either(versions: tuple[int, ...]) -> str:
    return " or ".join(filter(None, (", ".join(map(str, versions[:-1])), str(versions[-1]))))


@cache
def _offers() -> Mapping[str, Offer]:
    text = (resources.files("ovfbuild.descriptors") / "libraries.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: Offer.model_validate(entry) for name, entry in tomllib.loads(text).items()})
