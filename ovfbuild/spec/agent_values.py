"""The values that `{{agent.NAME}}` stands for in one appliance, and the defaults of the agent's properties."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ovfbuild.spec.agent import BUILD_SLOT, Agent, AgentProperty, Setting
from ovfbuild.spec.agent_table import flat
from ovfbuild.spec.mistakes import closest, in_toml, quoted

_TYPES = {"string": str, "int": int, "bool": bool}
_WORDS = {"string": "a string", "int": "an integer", "bool": "true or false"}


@dataclass(frozen=True)
class Values:
    """What texts of an agent are filled in with."""

    version: str | None
    given: Mapping[str, str | None]
    """None: it has to be given, and was not."""
    properties: tuple[AgentProperty, ...]
    rights: Mapping[str, str]
    """What would be right, of each that has to be given."""
    asked: set[str]
    """Those that a text asked for in vain."""

    def fill(self, text: str) -> str:
        """The text with every {{agent.NAME}} filled in; properties stay as they are."""

        def value(match: re.Match[str]) -> str:
            found = self.given.get(match[1])
            if found is None:
                self.asked.add(match[1])
            return found or ""

        return BUILD_SLOT.sub(value, text)

    @property
    def target(self) -> str:
        """The folder that an archive goes into."""
        return self.given.get("target") or ""

    def missing(self) -> Iterator[tuple[str, str]]:
        """(name, what would be right) of every setting that was asked for in vain."""
        for name in sorted(self.asked):
            yield name, self.rights.get(name, "write it")


def values_of(agent: Agent, settings: Mapping[str, Any], version: str | None, said: list[str]) -> Values:
    """The values of an appliance's agent; what is wrong with [agent.settings] goes to `said`."""
    given: dict[str, str | None] = {s.name: None if s.default is None else _text(s.default) for s in agent.settings}
    known = {setting.name: setting for setting in agent.settings}
    properties = {prop.key: prop for prop in agent.properties if prop.fits(version)}
    short = {prop.setting: prop.key for prop in properties.values()} | {key: key for key in properties}
    for name, value in flat(settings):
        if name in known:
            if _right_type(known[name], value, said):
                given[name] = _text(value)
        elif name in short:
            properties[short[name]] = _with_default(properties[short[name]], name, value, said)
        else:
            names = [*known, *short]
            near = closest(name, names) or f"; known: {', '.join(sorted(set(names) - set(properties))) or 'none'}"
            said.append(f"agent.settings.{name}: {agent.name} has no setting {quoted(name)}{near}")
    if agent.versions and version:
        given |= agent.versions.values(version)
    given["version"] = version or ""
    rights = {s.name: f'for example {s.name} = "{s.example}"' for s in agent.settings if s.example}
    values = Values(version, given, tuple(properties.values()), rights, set())
    given["target"] = values.fill(agent.source.target) if agent.source.target else ""
    return values


def _with_default(prop: AgentProperty, name: str, value: object, said: list[str]) -> AgentProperty:
    """The property with a default of [agent.settings]'s."""
    wanted = {"int": int, "bool": bool}.get(prop.type, str)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        words = {"int": "an integer", "bool": "true or false"}.get(prop.type, "a string")
        said.append(f"agent.settings.{name}: must be {words}, not {in_toml(value)}")
        return prop
    try:
        return prop.model_copy(update={"default": prop.value_of(_text(value)) if value != "" else None})
    except ValueError as error:
        said.append(f"agent.settings.{name}: {error}")
        return prop


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _right_type(setting: Setting, value: object, said: list[str]) -> bool:
    right = isinstance(value, _TYPES[setting.type]) and not (setting.type == "int" and isinstance(value, bool))
    text = _text(value)
    if not right:
        said.append(f"agent.settings.{setting.name}: must be {_WORDS[setting.type]}, not {in_toml(value)}")
    elif not text.isprintable():
        said.append(
            f"agent.settings.{setting.name}: {quoted(text)} is not one line of text; leave out control characters"
        )
        return False
    return right
