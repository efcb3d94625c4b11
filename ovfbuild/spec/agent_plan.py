"""What an agent comes to in one appliance: steps for the guest, downloads for the host, orders for the seal.

    [agent] of appliance.toml ─┐
    agents/NAME/agent.toml    ─┴─ resolve_agent ─▶ AgentPlan

Everything that is wrong between the two is a line of `Payload.mistakes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovfbuild.spec.agent import BUILD_SLOT, MACHINE, SLOT, Agent, AgentProperty, Versioned
from ovfbuild.spec.agent_source import Download, Origin, origin_of
from ovfbuild.spec.agent_table import AgentTable, flat
from ovfbuild.spec.agent_values import Values, values_of
from ovfbuild.spec.agents import AgentProfile, load_agent
from ovfbuild.spec.mistakes import closest, quoted
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.payload import Payload
from ovfbuild.spec.steps import AgentPackagesStep, FileEntry, FilesStep, ServicesStep, Step, UnpackStep

ABOUT = "/usr/lib/ovfbuild/agent.json"
"""Says in the image which agent it contains, and how one sees that it lives."""
TEMPLATES = "/usr/lib/ovfbuild/templates.d"
"""Where the first-boot broker finds what it has to write."""
UNITS = "/etc/systemd/system"
FIRST_BOOT = "ovfbuild-firstboot.service"


@dataclass(frozen=True)
class AgentPlan:
    """One appliance's agent."""

    name: str
    title: str
    version: str | None
    digest: str
    """Of the profile: agent.toml and the files beside it."""
    steps: tuple[Step, ...]
    downloads: tuple[Download, ...]
    """What is fetched on the host before the guest starts."""
    properties: tuple[AgentProperty, ...]
    """What may be given where the appliance is deployed, with the defaults of [agent.settings]."""
    drop_files: tuple[str, ...]
    """Files that a deployment manager puts into the running machine."""
    units: tuple[str, ...]
    seal: dict[str, Any]
    """What is closed and cleaned when the image is sealed: edits, commands, clean."""
    alive: tuple[dict[str, Any], ...]
    """How one sees that it lives."""

    @property
    def aliases(self) -> dict[str, tuple[str, ...]]:
        """By a property's key: what else a deployment may call it."""
        return {prop.key: prop.aliases for prop in self.properties if prop.aliases}

    def shown(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """[agent.settings], flat, without the values of passwords."""
        secret = {name for prop in self.properties if prop.secret for name in (prop.setting, prop.key)}
        return {name: "…" if name in secret else value for name, value in flat(settings)}

    def to_json(self) -> dict[str, Any]:
        """For people and programs; a password's default is not in it."""
        return {
            "name": self.name,
            "title": self.title,
            "version": self.version,
            "digest": self.digest,
            "downloads": [download.to_json() for download in self.downloads],
            "properties": [
                prop.model_dump() | ({"default": "…"} if prop.secret and prop.default else {})
                for prop in self.properties
            ],
            "seal": self.seal,
            "alive": list(self.alive),
        }

    def disk_inputs(self) -> dict[str, Any]:
        """What of it decides what is on the disk, beside the steps and the payload."""
        return {
            "profile": self.digest,
            "downloads": [download.to_json() for download in self.downloads],
            "seal": self.seal,
        }


def resolve_agent(appliance: Appliance, payload: Payload) -> AgentPlan | None:
    """The agent of an appliance; None if it has none. Mistakes go to `payload.mistakes`."""
    wanted = appliance.agent
    if wanted is None:
        return None
    profile = load_agent(wanted.profile)
    agent, said = profile.agent, payload.mistakes
    version = _version(agent, wanted.version, said)
    values = values_of(agent, wanted.settings, version, said)
    origin = origin_of(agent, wanted, values, payload)
    said += _unmet(appliance, agent)
    said += _unknown(agent, appliance, version)
    said += _unknown_slots(wanted, values, [one.key for one in appliance.told])
    steps = tuple(_steps(appliance, profile, origin, values, payload))
    plan = AgentPlan(
        name=agent.name,
        title=agent.title,
        version=version or wanted.version,
        digest=profile.digest,
        steps=steps,
        downloads=origin.downloads,
        properties=values.properties,
        drop_files=tuple(map(values.fill, agent.drop_files)),
        units=_units(agent, wanted.unit, values),
        seal=_seal(agent, values),
        alive=tuple(_alive(agent, wanted, values)),
    )
    said += (f"agent.settings.{name}: is missing; {right}" for name, right in values.missing())
    return plan


def _version(agent: Agent, wanted: str | None, said: list[str]) -> str | None:
    """The version by which a profile's table is asked; None if it has none."""
    known = agent.versions
    if known is None:
        return None
    version = wanted or known.default
    if not Versioned(since=known.least).fits(version) or not Versioned(since=version).fits(known.most):
        said.append(f"agent.version: {agent.name} is known from {known.least} to {known.most}, not {quoted(version)}")
        return known.default
    return version


def _unmet(appliance: Appliance, agent: Agent) -> Iterator[str]:
    """What the agent needs and the appliance has not got."""
    java, has = agent.needs.java, appliance.java
    if java and appliance.agent and appliance.agent.java_from == "appliance":
        majors = f"Java {java.min}" if java.min == java.max else f"Java {java.min} to {java.max}"
        right = (
            f"write [java] version = {java.max} (an archive = path or URL where the distribution has no such package), "
            'or agent.java_from = "own" if the base or the archive brings one'
        )
        if has is None:
            yield f"agent.profile: {agent.name} needs {majors}; {right}"
        elif has.version is not None and not java.min <= has.version <= java.max:
            yield f"java.version: {agent.name} needs {majors}, not {has.version}; {right}"
    if appliance.hardware.memory < agent.needs.memory:
        least = agent.needs.memory // 2**20
        yield f'hardware.memory: is too little for {agent.name}; write at least "{least} MiB"'


def _unknown(agent: Agent, appliance: Appliance, version: str | None) -> Iterator[str]:
    """Plugins and extras that the profile does not know, or not in this version."""
    wanted = appliance.agent
    assert wanted is not None
    for number, name in enumerate(wanted.plugins):
        if name not in agent.plugins:
            near = closest(name, agent.plugins) or f"; known: {', '.join(sorted(agent.plugins)) or 'none'}"
            yield f"agent.plugins[{number}]: {agent.name} has no plugin {quoted(name)}{near}"
    for number, extra in enumerate(wanted.extras):
        known = agent.extras.get(extra.into)
        if known is None:
            near = closest(extra.into, agent.extras) or f"; known: {', '.join(sorted(agent.extras)) or 'none'}"
            yield f"agent.extras[{number}].into: {agent.name} has no folder {quoted(extra.into)}{near}"
        elif not known.fits(version):
            yield f"agent.extras[{number}].into: {extra.into} is of {agent.name} {known.since} and later; leave it out"
        elif known.suffixes and not extra.source.name.endswith(known.suffixes):
            ends = " or ".join(known.suffixes)
            yield f"agent.extras[{number}].source: '{extra.source.name}' does not end in {ends}, so nothing reads it"


def _unknown_slots(wanted: AgentTable, values: Values, own: Sequence[str]) -> Iterator[str]:
    """What a sign of [[agent.alive]] speaks of, and nobody declares."""
    known = {*own, *MACHINE, *(prop.key for prop in values.properties)}
    for number, sign in enumerate(wanted.alive):
        for text in map(str, sign.model_dump(exclude_none=True).values()):
            for key in SLOT.findall(BUILD_SLOT.sub("", text)):
                if key not in known:
                    yield f"agent.alive[{number}]: speaks of {{{{{key}}}}}, which is no property{closest(key, known)}"


def _steps(
    appliance: Appliance, profile: AgentProfile, origin: Origin, values: Values, payload: Payload
) -> Iterator[Step]:
    agent, wanted = profile.agent, appliance.agent
    assert wanted is not None
    plugins = [agent.plugins[name] for name in wanted.plugins if name in agent.plugins]
    extra = [*agent.needs.packages, *(package for plugin in plugins for package in plugin.packages)]
    packages = tuple(dict.fromkeys((*origin.packages, *extra)))
    if packages or origin.debs:
        yield AgentPackagesStep("agent packages", packages, origin.debs, origin.repository, origin.key, origin.key_path)
    accounts = tuple(name for name in map(values.fill, agent.accounts) if name not in ("", "root"))
    if origin.archive:
        moves = tuple((name, values.fill(place)) for name, place in agent.source.moves.items())
        yield UnpackStep("agent archive", origin.archive, values.target, agent.source.strip, moves)
    enable = _enabled(agent, wanted.unit, values)
    java = agent.needs.java if wanted.java_from == "appliance" else None
    if accounts or java:
        yield ServicesStep("agent accounts", accounts, (), (java.min, java.max) if java else None)
    yield FilesStep("agent files", tuple(_entries(appliance, profile, values, payload)))
    yield ServicesStep("agent services", (), enable)


def _units(agent: Agent, own: Path | None, values: Values) -> tuple[str, ...]:
    if own is not None:
        return (own.name,)
    return tuple(values.fill(unit.name) for unit in agent.units if unit.fits(values.version))


def _enabled(agent: Agent, own: Path | None, values: Values) -> tuple[str, ...]:
    if own is not None:
        return (own.name,)
    return tuple(values.fill(unit.name) for unit in agent.units if unit.enable and unit.fits(values.version))


def _entries(appliance: Appliance, profile: AgentProfile, values: Values, payload: Payload) -> Iterator[FileEntry]:
    """Every file that the profile, and [agent] for it, puts into the guest."""
    agent, wanted = profile.agent, appliance.agent
    assert wanted is not None
    for target, text, mode, owner in _texts(profile, wanted, values):
        user, _, group = owner.partition(":")
        yield FileEntry("file", target, mode, user, group or user, payload.add(text.encode()))
    own = [(f"{UNITS}/{wanted.unit.name}", wanted.unit)] if wanted.unit else []
    for extra in wanted.extras:
        if extra.into in agent.extras:
            folder = values.fill(agent.extras[extra.into].target)
            own.append((f"{folder.rstrip('/')}/{extra.source.name}", extra.source))
    for target, path in own:
        yield FileEntry("file", target, "0644", "root", "root", payload.add(path))


def _texts(profile: AgentProfile, wanted: AgentTable, values: Values) -> Iterator[tuple[str, str, str, str]]:
    """(path, text, mode, owner) of every file that the profile makes."""
    agent, own = profile.agent, wanted.unit
    for file in agent.files:
        if file.fits(values.version):
            yield values.fill(file.target), values.fill(profile.text(file.file)), file.mode, file.owner
    plain = [(f"{UNITS}/{name}", text) for name, text in _unit_texts(profile, own, values)]
    plain += [
        (f"{TEMPLATES}/50-agent-{number:02d}.json", _template(profile, number, values))
        for number, template in enumerate(agent.templates)
        if template.fits(values.version)
    ]
    if agent.harden.sysctl:
        lines = [f"{key} = {value}\n" for key, value in sorted(agent.harden.sysctl.items())]
        plain.append(("/etc/sysctl.d/60-ovfbuild-agent.conf", "".join(lines)))
    plain.append((ABOUT, _json(_about(agent, wanted, values))))
    for target, text in plain:
        yield target, text, "0644", "root"


def _unit_texts(profile: AgentProfile, own: Path | None, values: Values) -> Iterator[tuple[str, str]]:
    """The profile's units, and what is added to each unit of the agent's: it waits for the first boot's broker."""
    units = [unit for unit in profile.agent.units if unit.fits(values.version) and own is None]
    for unit in units:
        name = values.fill(unit.name)
        if unit.file:
            yield name, values.fill(profile.text(unit.file))
        yield f"{name}.d/50-ovfbuild.conf", _drop_in(unit.online) + values.fill(unit.drop_in)
    if own is not None:
        yield f"{own.name}.d/50-ovfbuild.conf", _drop_in(online=False)


def _drop_in(online: bool) -> str:
    also = f"{FIRST_BOOT} network-online.target" if online else FIRST_BOOT
    return f"# Written by ovfbuild.\n[Unit]\nAfter={also}\nWants={also}\n"


def _template(profile: AgentProfile, number: int, values: Values) -> str:
    template = profile.agent.templates[number]
    text = template.text if template.text is not None else profile.text(str(template.file))
    return _json(
        {
            "target": values.fill(template.target),
            "mode": template.mode,
            "owner": template.owner,
            "format": template.format,
            "text": values.fill(text),
            "restart": [values.fill(unit) for unit in template.restart],
        }
    )


def _about(agent: Agent, wanted: AgentTable, values: Values) -> dict[str, Any]:
    return {
        "profile": agent.name,
        "title": agent.title,
        "version": values.version,
        "units": list(_units(agent, wanted.unit, values)),
        "alive": list(_alive(agent, wanted, values)),
    }


def _alive(agent: Agent, wanted: AgentTable, values: Values) -> Iterator[dict[str, Any]]:
    for sign in (*agent.alive, *wanted.alive):
        if not isinstance(sign, Versioned) or sign.fits(values.version):
            said = sign.model_dump(exclude_none=True, exclude={"since", "before", "note"})
            yield {key: _filled(word, values) for key, word in said.items()}


def _filled(word: Any, values: Values) -> Any:
    """A field of a sign, with its settings filled in."""
    if isinstance(word, str):
        return values.fill(word)
    return [values.fill(text) for text in word] if isinstance(word, tuple) else word


def _seal(agent: Agent, values: Values) -> dict[str, Any]:
    edits = [
        {
            "file": values.fill(edit.file),
            "set": {key: values.fill(word) for key, word in edit.set.items()},
            "remove": list(edit.remove),
            "optional": edit.optional,
            "create": edit.create,
        }
        for edit in agent.harden.edits
        if edit.fits(values.version)
    ]
    commands = [values.fill(command) for command in agent.harden.commands]
    return {"edits": edits, "commands": commands, "clean": [values.fill(pattern) for pattern in agent.clean]}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
