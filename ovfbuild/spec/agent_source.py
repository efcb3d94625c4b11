"""Where one appliance's agent comes from: packages, a repository, or a file that is here or is to be fetched."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovfbuild.spec.agent import Agent, Source
from ovfbuild.spec.agent_table import AgentTable
from ovfbuild.spec.agent_values import Values
from ovfbuild.spec.payload import Payload

ARCHIVE = "agent/archive"
"""Where the seed has what was fetched."""
_KEY_ARMORED, _KEY_BINARY = "/etc/apt/keyrings/agent.asc", "/etc/apt/keyrings/agent.gpg"
_DEB = ".deb"


@dataclass(frozen=True)
class Download:
    """A file to be fetched on the host."""

    name: str
    """Its path in the seed."""
    key: str
    """The key of appliance.toml that asks for it."""
    url: str | None
    maven: str | None
    """Maven coordinates; exactly one of the two is there."""
    checksum: str | None

    def to_json(self) -> dict[str, Any]:
        """A checksum is the file, wherever it lies."""
        return asdict(self) if self.checksum is None else {"name": self.name, "checksum": self.checksum}


@dataclass(frozen=True)
class Origin:
    """What the steps install."""

    packages: tuple[str, ...] = ()
    repository: str = ""
    key: str = ""
    key_path: str = ""
    debs: tuple[str, ...] = ()
    """Blobs, or names of downloads."""
    archive: str = ""
    """A blob, or the name of a download."""
    downloads: tuple[Download, ...] = ()


def origin_of(agent: Agent, wanted: AgentTable, values: Values, payload: Payload) -> Origin:
    """Where this agent comes from; [agent] goes before its profile."""
    source, right = agent.source, agent.source.missing
    if wanted.archive is None and wanted.maven is None and (wanted.package or source.packages):
        return _packages(agent, wanted, payload)
    archive = wanted.archive or (source.archive if wanted.maven is None else None)
    maven = wanted.maven or (source.maven if wanted.archive is None else None)
    if archive is None and maven is None:
        key = "package" if source.kind in ("package", "repository") else "archive"
        payload.mistakes.append(f"agent.{key}: is missing; {right or 'say where the agent comes from'}")
        return Origin()
    is_deb = str(archive or maven).endswith(_DEB) or (maven or "").endswith(":deb") or source.kind == "deb"
    if not is_deb and not source.target:
        payload.mistakes.append(f"agent.archive: {agent.name} is no agent of archives; take the profile archive")
    if wanted.package or wanted.repository:
        key = "package" if wanted.package else "repository"
        payload.mistakes.append(f"agent.{key}: {agent.name} does not come from packages here; leave it out")
    if isinstance(archive, Path):
        return _placed(_local(archive, wanted.checksum, payload), is_deb)
    return _remote(values, source, wanted, archive, maven, is_deb, payload)


def _packages(agent: Agent, wanted: AgentTable, payload: Payload) -> Origin:
    first, *others = [wanted.package] if wanted.package else agent.source.packages
    if wanted.version and agent.versions is None and "=" not in first:
        first = f"{first}={wanted.version}"
    if agent.source.kind == "repository" and wanted.repository is None:
        payload.mistakes.append(f"agent.repository: is missing; {agent.source.missing or 'write a line of apt'}")
    if wanted.checksum:
        payload.mistakes.append("agent.checksum: is for an archive or for Maven; leave it out")
    if wanted.repository is None or wanted.key is None:
        return Origin((first, *others))
    content = wanted.key.read_bytes()
    path = _KEY_ARMORED if content.startswith(b"-----BEGIN PGP") else _KEY_BINARY
    return Origin((first, *others), _signed(wanted.repository, path), payload.add(wanted.key), path)


def _signed(line: str, key: str) -> str:
    """The line with `signed-by`, so that the key vouches for this repository alone."""
    match = re.match(r"(deb(?:-src)?) +(?:\[([^\]]*)\] +)?(.*)", line)
    assert match is not None
    options = [word for word in (match[2] or "").split() if not word.startswith("signed-by=")]
    return f"{match[1]} [{' '.join([*options, f'signed-by={key}'])}] {match[3]}"


def _local(path: Path, checksum: str | None, payload: Payload) -> str:
    if checksum:
        algorithm, _, wanted = checksum.partition(":")
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found != wanted:
            payload.mistakes.append(f"agent.checksum: the {algorithm} of '{path}' is {found}; get the file again")
    return payload.add(path)


def _remote(
    values: Values,
    source: Source,
    wanted: AgentTable,
    archive: str | None,
    maven: str | None,
    is_deb: bool,
    payload: Payload,
) -> Origin:
    checksum = wanted.checksum or (source.checksum if wanted.archive is None and wanted.maven is None else None)
    url = values.fill(archive) if archive else None
    if url and checksum is None:
        payload.mistakes.append('agent.checksum: is missing for a URL; write checksum = "sha256:…"')
    download = Download(
        ARCHIVE, "agent.archive" if url else "agent.maven", url, values.fill(maven or "") or None, checksum
    )
    placed = _placed(download.name, is_deb)
    return Origin(debs=placed.debs, archive=placed.archive, downloads=(download,))


def _placed(name: str, is_deb: bool) -> Origin:
    return Origin(debs=(name,)) if is_deb else Origin(archive=name)
