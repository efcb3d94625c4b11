"""An agent's page, made of its data: what `ovfbuild agents NAME` prints, and docs/agents/NAME.md.

`python -m ovfbuild.spec.agent_page FOLDER` writes the pages of all agents that ship; a test sees that they are up to
date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ovfbuild.files import published
from ovfbuild.spec.agent import Agent, Alive, Source, Versioned
from ovfbuild.spec.agents import AgentProfile, agent_names, load_agent
from ovfbuild.spec.units import format_duration, format_size

_KINDS = {
    "package": "a package of the distribution",
    "repository": "a third party's apt repository",
    "deb": "a .deb file",
    "archive": "an archive",
    "maven": "an archive, by default by Maven coordinates",
}


def origin(source: Source) -> str:
    """Where an agent comes from, in a few words."""
    what = source.maven or source.archive or " ".join(source.packages)
    return f"{_KINDS[source.kind]}{': ' if what else ''}{what}"


def versions(agent: Agent) -> str:
    """The versions that a profile is for."""
    known = agent.versions
    return f"{known.least} to {known.most}" if known else "any"


def page(profile: AgentProfile) -> str:
    """The whole page, in Markdown."""
    agent = profile.agent
    parts = [f"# {agent.name}\n", f"{agent.title}. {agent.summary}."]
    parts += [agent.notes.strip()] if agent.notes.strip() else []
    parts += [f"More: <{agent.url}>"] if agent.url else []
    parts += ["```toml\n" + _example(agent) + "```"]
    for title, lines in _sections(agent):
        body = "\n".join(lines)
        if body:
            parts.append(f"## {title}\n\n{body}")
    return "\n\n".join(part.rstrip("\n") if part.startswith("#") else part for part in parts) + "\n"


def _example(agent: Agent) -> str:
    lines = [f'[agent]\nprofile = "{agent.name}"']
    if agent.versions:
        lines.append(f'version = "{agent.versions.default}"')
    if agent.source.kind in ("archive", "maven"):
        lines += ['archive = "agent.tar.gz"', 'checksum = "sha256:…"']
    if agent.source.kind == "package" and not agent.source.packages:
        lines.append('package = "…"')
    if agent.source.kind == "repository":
        lines += ['repository = "deb URL stable main"', 'key = "key.asc"']
    needed = [setting for setting in agent.settings if setting.default is None]
    if needed:
        lines += ["[agent.settings]", *(f'{setting.name} = "{setting.example}"' for setting in needed)]
    return "\n".join(lines) + "\n"


def _sections(agent: Agent) -> Iterator[tuple[str, Iterable[str]]]:
    yield "Where it comes from", _origin(agent)
    yield "What it needs", _needs(agent)
    yield "What is said when the appliance is deployed", _properties(agent)
    yield "What is said when it is built, in [agent.settings]", _settings(agent)
    yield (
        "Plugins",
        [f"- `{name}`: {plugin.summary}{_brought(plugin.packages)}" for name, plugin in agent.plugins.items()],
    )
    yield "Files of your own, in [[agent.extras]]", _extras(agent)
    yield "Services", [f"- `{unit.name}`{_span(unit)}" for unit in agent.units]
    yield "Configuration that is written at first boot", _templates(agent)
    yield "Closed when the image is sealed", _harden(agent)
    yield "Cleaned when the image is sealed", [f"- `{pattern}`" for pattern in agent.clean]
    yield "How it is seen to live", [*(f"- {_sign(sign)}" for sign in agent.alive), f"- {tested(agent)}"]
    yield "By version", _by_version(agent)


def tested(agent: Agent) -> str:
    """Where a test has seen it alive, in a few words."""
    return f"seen alive on {', '.join(agent.tested)}" if agent.tested else "not seen alive by a test yet"


def _origin(agent: Agent) -> Iterator[str]:
    source = agent.source
    yield f"- {origin(source)}"
    if source.missing:
        yield f"- `[agent]` says the rest: {source.missing}"
    if source.target:
        head = ", without the folder at the head of its names" if source.strip == 1 else ""
        yield f"- an archive goes into `{source.target}`{head}"
    for name, place in source.moves.items():
        yield f"- its `{name}` lives in `{place}`, with a link in its place"
    if agent.versions:
        yield f"- versions {versions(agent)}; by default {agent.versions.default}"


def _needs(agent: Agent) -> Iterator[str]:
    needs = agent.needs
    if needs.java:
        yield f"- Java {needs.java.min} to {needs.java.max}"
    if needs.memory:
        yield f"- {format_size(needs.memory)} of memory"
    if needs.packages:
        yield f"- packages: {_codes(needs.packages)}"


def _properties(agent: Agent) -> Iterator[str]:
    rows = [
        (
            f"`{prop.key}`{_span(prop)}",
            f"`{prop.setting}`",
            prop.type + (f": {', '.join(prop.choices)}" if prop.choices else ""),
            "required" if prop.required else f"`{_shown(prop.default)}`" if prop.default is not None else "",
            _also(f"{prop.label}. {prop.description}" if prop.description else prop.label, prop.aliases),
        )
        for prop in agent.properties
    ]
    return _table(("property", "default in `[agent.settings]`", "type", "default", "what it is"), rows)


def _settings(agent: Agent) -> Iterator[str]:
    rows = [
        (f"`{s.name}`", s.type, "required" if s.default is None else f"`{_shown(s.default)}`", s.description)
        for s in agent.settings
    ]
    return _table(("setting", "type", "default", "what it is"), rows)


def _extras(agent: Agent) -> Iterator[str]:
    for name, extra in agent.extras.items():
        yield f"- `{name}`{_span(extra)}: {extra.summary}; {_codes(extra.suffixes)} into `{extra.target}`"


def _templates(agent: Agent) -> Iterator[str]:
    for template in agent.templates:
        yield f"- `{template.target}`{_span(template)}, mode {template.mode}"


def _harden(agent: Agent) -> Iterator[str]:
    for edit in agent.harden.edits:
        for key, value in edit.set.items():
            yield f"- `{edit.file}`: `{key} = {value}`"
        if edit.remove:
            yield f"- `{edit.file}`: lines like {_codes(edit.remove)} go"
    for key, value in agent.harden.sysctl.items():
        yield f"- sysctl `{key} = {value}`"
    for command in agent.harden.commands:
        yield f"- `{command}`"


def _by_version(agent: Agent) -> Iterator[str]:
    rows = agent.versions.table if agent.versions else ()
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    cells = [[f"`{row.values[name]}`" if name in row.values else "as before" for name in names] for row in rows]
    return _table(("from", *names), [(row.since, *line) for row, line in zip(rows, cells, strict=True)])


def _sign(sign: Alive) -> str:
    said = {
        "unit": f"the unit `{sign.unit}` is active",
        "tcp": f"TCP port `{sign.port}` takes connections",
        "http": f"HTTP port `{sign.port}` answers `GET {sign.path}`",
        "amqp": f"RabbitMQ has the queue `{sign.queue}`, and the exchange `{sign.exchange}` gets a message with the "
        f"routing key `{sign.routing_key}`",
        "file": f"the file `{sign.path}` is there",
        "journal": f"the journal of `{sign.unit}` has a line",
        "guest-agent": "it answers `guest-ping` on the hypervisor's channel",
    }[sign.kind]
    said += f", asked `{sign.send.encode('unicode_escape').decode()}`," if sign.send else ""
    said += f" that holds {_codes(sign.text)}" if sign.text else ""
    said += "".join(f", where `{key}` is {f'`{value}`' if value else 'empty'}" for key, value in sign.when.items())
    said += "".join(f", unless `{key}` is `{value}`" for key, value in sign.unless.items())
    said += f", on {sign.virtualization} alone" if sign.virtualization else ""
    said += f", within {format_duration(sign.within)}{_span(sign)}"
    return said + (f" ({sign.note})" if sign.note else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield "| " + " | ".join(head) + " |"
        yield "|" + "---|" * len(head)
        yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _also(text: str, aliases: Sequence[str]) -> str:
    return f"{text}. Also known as {_codes(aliases)}" if aliases else text


def _brought(packages: Sequence[str]) -> str:
    return f" (brings {_codes(packages)})" if packages else ""


def _span(what: Versioned) -> str:
    said = f" from {what.since} on" if what.since else ""
    return said + (f" before {what.before}" if what.before else "")


def _codes(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or " "


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in agent_names():
        with published(folder / f"{name}.md") as partial:
            partial.write_text(page(load_agent(name)), encoding="utf-8")
