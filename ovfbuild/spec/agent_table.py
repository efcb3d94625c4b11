"""[agent] of appliance.toml: which agent the appliance contains, from where, and set how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ovfbuild.errors import UsageError
from ovfbuild.spec import fields as f
from ovfbuild.spec import references as r
from ovfbuild.spec.agent import Sign
from ovfbuild.spec.agents import load_agent
from ovfbuild.spec.mistakes import in_toml
from ovfbuild.spec.table import Table

_SOURCES = ("archive", "maven", "package", "repository")


def _agent(text: str, folder: Path) -> str | Path:
    """A name of an agent that ships, or a folder with an agent.toml in it, whose mistakes are said here too."""
    is_path = "/" in text or text.startswith((".", "~"))
    try:
        return folder / load_agent(folder / Path(text).expanduser()).folder if is_path else load_agent(text).agent.name
    except UsageError as error:
        raise ValueError(error.message.replace("\n", "; ")) from None


AgentName = Annotated[Path | str, f.text_field(_agent), f.json_string()]
"""A str is an agent that ships, a Path a folder."""


class AgentExtra(Table):
    """A file that goes into a folder of the agent's."""

    into: f.SettingName = Field(examples=["bundles"])
    """Which folder, as the agent's profile calls it."""
    source: r.FilePath = Field(examples=["my-plugin.jar"])
    """The file."""


class AgentTable(Table):
    """The agent that the appliance contains."""

    profile: AgentName = Field(examples=["package"])
    """An agent that ships (ovfbuild agents lists them), or the path of a folder with an agent.toml."""
    version: f.AgentVersion | None = None
    """Its version; by default the profile's, or whatever the distribution has."""
    archive: r.FileOrUrl | None = None
    """A tar, zip or .deb to take it from: a path, or an http(s) URL."""
    maven: f.Coordinates | None = None
    """Or Maven coordinates, "group:artifact:version:packaging", fetched by the host's mvn."""
    package: f.Package | None = None
    """Or a package of the distribution."""
    repository: f.AptSource | None = None
    """A line of apt's sources that has the package; it stays in the appliance."""
    key: r.FilePath | None = None
    """The public key that signs the repository."""
    checksum: f.Checksum | None = None
    """The digest of the archive, or of what Maven brings."""
    unit: r.FilePath | None = None
    """A unit of systemd that runs it, instead of the profile's."""
    java_from: Literal["appliance", "own"] = "appliance"
    """Where an agent that needs Java finds it: in what [java] says, or in its own archive or the base."""
    plugins: tuple[f.SettingName, ...] = ()
    """Parts of the agent that need something of the system, which then comes along."""
    extras: tuple[AgentExtra, ...] = ()
    """Files for folders of the agent's."""
    alive: tuple[Sign, ...] = ()
    """Further signs of its life, which verification looks for beside the profile's."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The agent's settings, and defaults of its properties."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        given = [key for key in _SOURCES[:3] if key in table]
        if len(given) > 1:
            yield given[1], f"stands beside {given[0]}; keep one of them"
        archive = table.get("archive")
        if isinstance(archive, str) and "://" in archive and "checksum" not in table:
            yield "archive", 'is a URL without a checksum; add checksum = "sha256:…"'
        if "checksum" in table and ("package" in table or "repository" in table):
            yield "checksum", "is for an archive or for Maven: apt verifies packages itself; leave it out"
        if ("repository" in table) != ("key" in table):
            here, there = ("repository", "key") if "repository" in table else ("key", "repository")
            yield here, f"needs a {there} beside it; add one"
        for name, value in flat(table.get("settings")):
            if not isinstance(value, str | bool | int):
                yield f"settings.{name}", f"must be a string, an integer or a boolean, not {in_toml(value)}"


def flat(settings: object, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`{"rabbitmq": {"host": "x"}}` is the setting rabbitmq.host."""
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
