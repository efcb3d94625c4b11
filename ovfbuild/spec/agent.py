"""An agent as data: agent.toml of a folder under agents/, or of a folder of one's own, as a frozen `Agent`.

A text of an agent (a unit, a template, a path) may say `{{agent.NAME}}`: a setting, a value of the version
table, `version` or `target`. It is filled in when the plan is made. What else stands in `{{ }}` in a template
is a property, filled in by the first-boot broker where the appliance is deployed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from ovfbuild.spec import fields as f
from ovfbuild.spec.deployment import Property, clashes
from ovfbuild.spec.mistakes import in_toml, mistake, quoted
from ovfbuild.spec.table import Table

SLOT = re.compile(r"\{\{ *([A-Za-z0-9_.-]+)\?? *\}\}")
"""A place in a text that is filled in."""
MACHINE = ("ovfbuild.hostname", "ovfbuild.interface", "ovfbuild.address", "ovfbuild.instance")
"""What the broker knows beside the properties (guest/firstboot.py)."""
BUILD_SLOT = re.compile(r"\{\{ *agent\.([A-Za-z0-9_.-]+) *\}\}")
"""Such a place that is filled in when the plan is made."""


def _place(text: str, folder: Path) -> str:
    """An absolute path in the guest, in which a setting may stand."""
    del folder
    if not (text.startswith("/") or text.startswith("{{")) or ".." in text.split("/") or not text.isprintable():
        raise ValueError(f"{quoted(text)} is not an absolute path without '..'; begin it with '/'")
    return text


def _own_file(text: str, folder: Path) -> str:
    """The name of a file that lies beside agent.toml."""
    if not text or Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError(f"{quoted(text)} is not a file beside agent.toml; write its name")
    if not (folder / text).is_file():
        raise ValueError(f"{quoted(text)} is not in {folder}; put the file there")
    return text


Place = Annotated[str, f.text_field(_place), f.json_string()]
OwnFile = Annotated[str, f.text_field(_own_file), f.json_string()]
Value = bool | int | str
"""What a setting can be."""


class Versioned(Table):
    """Something that not every version of an agent has."""

    since: f.AgentVersion | None = None
    """The first version that it is for; by default every one."""
    before: f.AgentVersion | None = None
    """The first version that it is no longer for."""

    def fits(self, version: str | None) -> bool:
        """Whether it is for this version; what has no version takes everything."""
        if version is None:
            return True
        number = numbers(version)
        early = self.since is not None and number < numbers(self.since)
        return not early and (self.before is None or number < numbers(self.before))


def numbers(version: str) -> tuple[int, ...]:
    """(0, 9, 1) of "0.9.1": what versions are compared by."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))


class Source(Table):
    """Where an agent comes from. What a profile leaves out, [agent] has to say."""

    kind: Literal["package", "repository", "deb", "archive", "maven"]
    """Of the distribution, of a third party's apt repository, a .deb, an archive, or by Maven coordinates."""
    packages: tuple[f.Package, ...] = ()
    """The packages that are the agent; a version in [agent] is that of the first."""
    archive: str | None = None
    """Of kind archive or deb: the URL."""
    maven: str | None = None
    """Of kind maven: `group:artifact:{{agent.version}}:packaging`."""
    checksum: f.Checksum | None = None
    target: Place | None = None
    """The folder that an archive goes into."""
    strip: int = Field(1, ge=0, le=9)
    """How many folders at the head of an archive's names are left out."""
    moves: dict[str, Place] = Field(default_factory=dict)
    """Folders of the archive that live elsewhere, with a link in their place."""
    missing: f.Line = ""
    """What to write into [agent] where this says not enough."""


class JavaRange(Table):
    """The major versions of Java that an agent runs with."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)


class Needs(Table):
    """What must be there for an agent."""

    packages: tuple[f.Package, ...] = ()
    java: JavaRange | None = None
    memory: f.Size = 0
    """The least [hardware] memory."""


class Setting(Table):
    """A value that is decided when the image is built."""

    name: f.SettingName
    type: Literal["string", "int", "bool"] = "string"
    default: Value | None = None
    """None: has to be given where a text that is used speaks of it."""
    description: f.Line = ""
    example: str = ""


class AgentProperty(Property, Versioned):
    """A value that is given where the appliance is deployed; its default when the image is built."""

    setting: f.SettingName
    """By which [agent.settings] gives its default."""
    aliases: tuple[f.SettingName, ...] = ()
    """Other names under which a deployment may give it: the agent's own words."""


class AgentFile(Versioned):
    """A file that a profile brings."""

    file: OwnFile
    target: Place
    mode: f.Mode = "0644"
    owner: f.Owner = "root"


class Unit(Versioned):
    """A service that runs the agent: the package's own, or one that the profile brings."""

    name: f.UnitName
    file: OwnFile | None = None
    """The unit's file; None where the package or the archive brings it."""
    enable: bool = True
    online: bool = False
    """Whether it waits for network-online.target."""
    drop_in: f.Prose = ""
    """Lines that are added to it."""


class Template(Versioned):
    """A file of the guest that the first-boot broker writes from the properties."""

    target: Place
    file: OwnFile | None = None
    text: f.Prose | None = None
    format: Literal["properties", "raw", "shell", "json"] = "raw"
    """How values are quoted."""
    mode: f.Mode = "0644"
    owner: f.Owner = "root"
    restart: tuple[f.UnitName, ...] = ()
    """What has to be restarted when the file changes."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if ("file" in table) == ("text" in table):
            yield "", "has not exactly one of file and text; write one of the two"


class Edit(Versioned):
    """Lines `key = value` of a file that is there, set to something else."""

    file: Place
    set: dict[str, str] = Field(default_factory=dict)
    remove: tuple[str, ...] = ()
    """Regular expressions; lines that begin with one go."""
    optional: bool = False
    """Whether the file may be missing."""
    create: bool = False
    """Whether it is made where it is missing."""


class Harden(Table):
    """What is closed when the image is sealed."""

    edits: tuple[Edit, ...] = ()
    sysctl: dict[str, str] = Field(default_factory=dict)
    commands: tuple[f.Line, ...] = ()
    """Run by sh as root; one that fails fails the build."""


class Plugin(Table):
    """A part of an agent that needs something of the system."""

    packages: tuple[f.Package, ...] = ()
    summary: f.Line = ""
    since: f.AgentVersion | None = None


class Extra(Versioned):
    """A folder of the agent that takes files of the user's."""

    target: Place
    suffixes: tuple[str, ...] = ()
    summary: f.Line = ""


_ALIVE = {
    "unit": ("unit",),
    "tcp": ("port",),
    "http": ("port", "path"),
    "amqp": ("server", "username", "password", "exchange", "routing_key", "queue"),
    "file": ("path",),
    "journal": ("unit", "text"),
    "guest-agent": (),
}


def _port(value: Any) -> str:
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if number is None and not (isinstance(value, str) and SLOT.search(value)):
        raise mistake(f'must be a port or a property such as "{{{{agent.port}}}}", not {in_toml(value)}')
    if number is not None and not 0 < number < 65536:
        raise mistake(f"{number} is not a port; write 1 to 65535")
    return str(value)


def _some_texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise mistake(f"must be a string, or an array of strings, not {in_toml(value)}")
    return tuple(texts)


Port = Annotated[str, PlainValidator(_port), WithJsonSchema({"type": ["integer", "string"]})]
_STRINGS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Texts = Annotated[tuple[str, ...], PlainValidator(_some_texts), WithJsonSchema(_STRINGS)]
"""One string, or several."""


class Sign(Table):
    """How one sees that the agent lives; in {{ }}: properties, settings, and what the broker knows of the machine.

    A sign that speaks of a property without a value is none in that deployment.
    """

    kind: Literal["unit", "tcp", "http", "amqp", "file", "journal", "guest-agent"]
    """unit, file, journal: seen by the guest; the others from outside. guest-agent: QEMU's, by its channel."""
    unit: f.UnitName | None = None
    """The unit that is active, or whose journal is read."""
    port: Port | None = None
    """The TCP port."""
    path: f.Line | None = None
    """What is asked for over HTTP; of kind file, the file that is there."""
    send: f.Content | None = None
    """Of kind tcp: what is asked, as it is."""
    text: Texts | None = None
    """What the answer, the message or the journal holds; of several, each."""
    server: f.Line | None = None
    """Of kind amqp: host or host:port, as the guest knows it."""
    username: f.Line | None = None
    """Of kind amqp: who may listen there."""
    password: f.Line | None = None
    """Of kind amqp: the password of that user."""
    exchange: f.Line | None = None
    """Of kind amqp: the topic exchange that the message comes to; its name is made as the queue's."""
    routing_key: f.Line | None = None
    """Of kind amqp: the message's."""
    queue: f.Line | None = None
    """Of kind amqp: what the agent reads; in its name a property's slashes are dots, and none is at the ends."""
    when: dict[str, f.Line] = Field(default_factory=dict)
    """Values of properties without which this is no sign."""
    unless: dict[str, f.Line] = Field(default_factory=dict)
    """Values of properties with which this is no sign."""
    virtualization: f.Line | None = None
    """The hypervisor, in systemd-detect-virt's words, without which this is no sign."""
    within: f.Duration = Field("2 min", validate_default=True)
    """After the appliance came up."""
    note: f.Line = ""
    """What else a reader should know."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        for key in _ALIVE.get(str(table.get("kind")), ()):
            if key not in table:
                yield key, f"is missing; a sign of kind {table.get('kind')} has one"


class Alive(Sign, Versioned):
    """A sign of life of a profile's."""


class VersionValues(Table):
    """Values that hold from a version on, until a later table says otherwise."""

    since: f.AgentVersion
    values: dict[str, str]


class Versions(Table):
    """The versions of an agent that a profile knows."""

    default: f.AgentVersion
    least: f.AgentVersion
    most: f.AgentVersion
    table: tuple[VersionValues, ...] = ()

    def values(self, version: str) -> dict[str, str]:
        """What holds for a version."""
        found: dict[str, str] = {}
        for row in self.table:
            if numbers(row.since) <= numbers(version):
                found |= row.values
        return found


class Agent(Table):
    """One agent: where it comes from, what it needs, how it learns who it is, and how it is seen to live."""

    name: str
    """The name of its folder."""
    title: f.Line
    summary: f.Line
    url: f.HttpUrl | None = None
    notes: f.Prose = ""
    """What else a reader should know."""
    tested: tuple[f.Line, ...] = ()
    """The distributions on which a test builds it and sees it alive (tests/acceptance)."""
    source: Source
    versions: Versions | None = None
    """None: the distribution's own, whatever it is."""
    needs: Needs = Needs()
    accounts: tuple[str, ...] = ()
    """System users that are made where they are missing."""
    settings: tuple[Setting, ...] = ()
    properties: tuple[AgentProperty, ...] = ()
    plugins: dict[str, Plugin] = Field(default_factory=dict)
    extras: dict[str, Extra] = Field(default_factory=dict)
    files: tuple[AgentFile, ...] = ()
    units: tuple[Unit, ...] = ()
    templates: tuple[Template, ...] = ()
    drop_files: tuple[Place, ...] = ()
    """Files that a deployment manager puts into the running machine."""
    clean: tuple[Place, ...] = ()
    """Patterns of paths that are removed when the image is sealed."""
    harden: Harden = Harden()
    alive: tuple[Alive, ...] = ()

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if not table.get("alive"):
            yield "alive", 'says no sign of life; write one, such as [[alive]] kind = "unit" unit = "agent.service"'
        keys = _strings(table.get("properties"), "key")
        names = _strings(table.get("settings"), "name")
        yield from dict.fromkeys(_clashes(table.get("properties")))
        known = {*names, "version", "target", *_version_values(table.get("versions"))}
        for place, text in _texts(table):
            top = re.split(r"[.\[]", place)[0]
            for name in BUILD_SLOT.findall(text):
                if name not in known:
                    yield (
                        top,
                        f"{place} speaks of {{{{agent.{name}}}}}, which is no setting; declare it in [[settings]]",
                    )
            for key in SLOT.findall(BUILD_SLOT.sub("", text)):
                if place.startswith("templates") and key not in (*keys, *MACHINE):
                    yield top, f"{place} speaks of {{{{{key}}}}}, which is no property; declare it in [[properties]]"


def _clashes(properties: object) -> Iterable[tuple[str, str]]:
    """Of those that are there in one version: two may share a key where no version has both."""
    rows = [row for row in properties if isinstance(row, Mapping)] if isinstance(properties, list | tuple) else []
    spans = dict.fromkeys((row.get("since"), row.get("before")) for row in rows)
    for span in spans:
        yield from clashes([row for row in rows if (row.get("since"), row.get("before")) in ((None, None), span)])


def _strings(tables: object, key: str) -> list[str]:
    rows = tables if isinstance(tables, list | tuple) else ()
    return [str(row[key]) for row in rows if isinstance(row, Mapping) and key in row]


def _version_values(versions: object) -> set[str]:
    rows = versions.get("table", ()) if isinstance(versions, Mapping) else ()
    return {
        str(name)
        for row in (rows if isinstance(rows, list | tuple) else ())
        if isinstance(row, Mapping) and isinstance(row.get("values"), Mapping)
        for name in row["values"]
    }


def _texts(node: object, place: str = "") -> Iterable[tuple[str, str]]:
    """(key path, text) of every string in a table."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, Mapping):
        for key, inner in node.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for number, inner in enumerate(node):
            yield from _texts(inner, f"{place}[{number}]")
