"""The agents that ship and those of a user's own folder: found, read, with all mistakes at once.

agents/NAME/agent.toml ─▶ load_agent ─▶ AgentProfile(agent, folder, digest)
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ovfbuild.errors import UsageError
from ovfbuild.files import digest_of, sha256_of
from ovfbuild.spec.agent import MACHINE, SLOT, Agent
from ovfbuild.spec.mistakes import closest, sentences

FILE_NAME = "agent.toml"


@dataclass(frozen=True)
class AgentProfile:
    """An agent and where its files lie."""

    agent: Agent
    folder: Path
    digest: str
    """Of agent.toml and of every file beside it."""

    def text(self, name: str) -> str:
        """A file of the profile's, which was seen to be there."""
        return (self.folder / name).read_text(encoding="utf-8")


def shipped_folder() -> Path:
    """Where the profiles that ship lie."""
    return Path(str(resources.files("ovfbuild.agents")))


def agent_names() -> tuple[str, ...]:
    """The agents that ship, sorted."""
    return tuple(sorted(path.parent.name for path in shipped_folder().glob(f"*/{FILE_NAME}")))


def load_agent(name: str | Path) -> AgentProfile:
    """The agent of that name, or of a folder.

    Raises:
        UsageError: there is none, or its agent.toml is wrong: a line for each mistake.
    """
    if isinstance(name, Path):
        return _load(name.absolute())
    if name not in agent_names():
        near = closest(name, agent_names()) or f"; known: {', '.join(agent_names())}"
        raise UsageError(f"unknown agent '{name}'{near}", "or give the path of a folder with an agent.toml")
    return _load(shipped_folder() / name)


@cache
def _load(folder: Path) -> AgentProfile:
    path = folder / FILE_NAME
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "an agent's folder has an agent.toml") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    try:
        agent = Agent.model_validate({"name": folder.name, **table}, context={"folder": folder})
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {key}: {said}" for key, said in sentences(error))) from None
    wrong = tuple(_slots_in_files(agent, folder))
    if wrong:
        raise UsageError("\n".join(f"{path}: {said}" for said in wrong))
    return AgentProfile(agent, folder, _digest(folder))


def _slots_in_files(agent: Agent, folder: Path) -> list[str]:
    """What a file beside agent.toml speaks of and agent.toml does not declare."""
    names = {f"agent.{name}" for name in declared(agent)}
    keys = {prop.key for prop in agent.properties}
    found = []
    for kind, files, known in (
        ("units", [unit.file for unit in agent.units], names),
        ("files", [file.file for file in agent.files], names),
        ("templates", [template.file for template in agent.templates], names | keys | {*MACHINE}),
    ):
        for number, name in enumerate(files):
            text = (folder / name).read_text(encoding="utf-8", errors="replace") if name else ""
            found += [
                f"{kind}[{number}].file: {name} speaks of {{{{{slot}}}}}, which is not declared; declare it"
                for slot in SLOT.findall(text)
                if slot not in known
            ]
    return found


def declared(agent: Agent) -> set[str]:
    """The NAMEs that `{{agent.NAME}}` may have."""
    values = {name for row in agent.versions.table for name in row.values} if agent.versions else set()
    return {"version", "target", *(setting.name for setting in agent.settings), *values}


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content: list[Any] = [[str(path.relative_to(folder)), sha256_of(path)] for path in files]
    return digest_of(content)
