"""The plan of a build: all that follows from text, before any program is started. Read this first.

    appliance.toml ─ appliance.load ─▶ Appliance ─┐
    descriptors/   ─ profile.load   ─▶ Profile …  ├─ resolve ─▶ Plan ─┬─▶ steps, payload   for the guest
    environment    ─ epoch          ─▶ int       ─┘                   ├─▶ profiles         for the packages
                                                                      └─▶ disk_inputs      for the cache

What can be known to be wrong from text ends here, as a UsageError. A plan is a value: the same
appliance.toml, files and environment give the same plan.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ovfbuild.errors import UsageError
from ovfbuild.spec.agent_plan import AgentPlan, resolve_agent
from ovfbuild.spec.appliance import FILE_NAME, HINT, Appliance, User
from ovfbuild.spec.deployment import Deployment, deployment
from ovfbuild.spec.guest_os import GuestOs, guest_os
from ovfbuild.spec.machine import refusals, unheard
from ovfbuild.spec.models import Compression
from ovfbuild.spec.payload import Blob, Payload
from ovfbuild.spec.profile import Format, Profile, load_profile
from ovfbuild.spec.steps import (
    Account,
    AgentPackagesStep,
    DisksStep,
    FilesStep,
    JavaStep,
    Mount,
    NodeStep,
    PackagesStep,
    PythonStep,
    ScriptStep,
    Step,
    SystemStep,
    UsersStep,
)

DEFAULT_EPOCH = 315532800
"""1980-01-01T00:00:00Z: the first moment that a FAT file system can hold."""

JAVA_ARCHIVE, NODE_ARCHIVE = "libraries/java/archive", "libraries/node/archive"
PYTHON_WHEELS, NODE_PACKAGES = "libraries/python", "libraries/node"
"""Where the seed has what the steps of the languages install."""

PackedBy = Compression | Literal["reproducible"]
"""What [package] can say; and what only the command line can: Python's own zlib, the same bytes everywhere."""

_SUDO_ALL = "ALL=(ALL:ALL) NOPASSWD: ALL"
_HIDDEN = "…"
_FOLDER = 'write format = "ovf", or leave it out'


@dataclass(frozen=True)
class Plan:
    """What is to be made."""

    appliance: Appliance
    profiles: tuple[Profile, ...]
    """One package is made for each; at least one, no two of the same name."""
    guest_os: GuestOs
    epoch: int
    """The time that everything in a package bears, in seconds since 1970."""
    steps: tuple[Step, ...]
    """What the guest does, in order."""
    payload: tuple[Blob, ...]
    """The content that the steps refer to."""
    user_data: str | None
    """The author's cloud-config, checked; None where there is none."""
    agent: AgentPlan | None = None
    """What the appliance's agent comes to."""
    deployment: Deployment = field(default_factory=Deployment)
    """What the appliance is told where it is deployed: its own properties and its agent's."""
    compression: PackedBy = "balanced"
    """How the disk in the packages is compressed."""

    @property
    def agent_packages(self) -> bool:
        """Whether the agent comes from a network that the guest needs."""
        return any(isinstance(step, AgentPackagesStep) for step in self.steps)

    @property
    def language_packages(self) -> tuple[str, ...]:
        """The languages whose steps install packages of the distribution, for which the guest needs a network."""
        ours = (step for step in self.steps if isinstance(step, JavaStep | NodeStep | PythonStep))
        return tuple(step.kind for step in ours if isinstance(step, PythonStep) or step.package)

    def _shown_agent(self) -> dict[str, Any]:
        """[agent] with its settings, but for secrets; nothing where there is none."""
        table, agent = self.appliance.agent, self.agent
        if table is None or agent is None:
            return {}
        return {"agent": table.model_dump(mode="json") | {"settings": agent.shown(table.settings)}}

    def to_json(self) -> dict[str, Any]:
        """The plan for people and programs. Contents and password hashes are not in it."""
        return {
            "appliance": _hidden(self.appliance.model_dump(mode="json", by_alias=True) | self._shown_agent()),
            "profiles": [profile.model_dump(mode="json") for profile in self.profiles],
            "guest_os": self.guest_os.model_dump(mode="json"),
            "epoch": self.epoch,
            "compression": self.compression,
            "agent": self.agent.to_json() if self.agent else None,
            "steps": [_hidden(step.to_json()) for step in self.steps],
            "payload": [
                {
                    "name": blob.name,
                    "source": FILE_NAME if isinstance(blob.source, bytes) else str(blob.source),
                    "size": blob.size,
                    "sha256": blob.sha256,
                }
                for blob in self.payload
            ],
        }


def resolve(
    appliance: Appliance,
    environ: Mapping[str, str],
    *,
    profiles: Sequence[str] = (),
    compression: PackedBy | None = None,
    form: Format | None = None,
) -> Plan:
    """The plan of an appliance. `profiles`, `compression` and `form`, where given, stand for the appliance's own.

    Reads every file that goes into the guest, for its digest.
    """
    payload = Payload()
    agent = resolve_agent(appliance, payload)
    steps = tuple(_steps(appliance, payload, agent))
    chosen = tuple(load_profile(name) for name in dict.fromkeys(profiles or appliance.profiles))
    if asked := form or appliance.package.format:
        chosen = tuple(profile.model_copy(update={"format": asked}) for profile in chosen)
    mistakes = [*payload.mistakes, *_same_targets(steps), *_same_names(chosen), *_unwritable(appliance, chosen)]
    mistakes += dict.fromkeys(said for profile in chosen for said in refusals(appliance, profile))
    mistakes += unheard(appliance, chosen)
    if mistakes:
        raise UsageError("\n".join(f"{FILE_NAME}: {mistake}" for mistake in mistakes), HINT)
    author = appliance.cloud_init.user_data
    return Plan(
        appliance=appliance,
        profiles=chosen,
        guest_os=guest_os(appliance.base.guest_os),
        epoch=_epoch(environ),
        steps=steps,
        payload=payload.blobs,
        user_data=author.read_text(encoding="utf-8") if author else None,
        agent=agent,
        deployment=_deployment(appliance, agent),
        compression=compression or appliance.package.compression,
    )


def disk_inputs(plan: Plan) -> dict[str, Any]:
    """All that decides what is on the sealed disk, and nothing else; for `files.digest_of`, not for eyes.

    Not in it, as no text holds them: the digest of an image (where no `checksum` is given), the
    packages that a mirror has today, ovfbuild's own programs in the guest. The caller adds what it knows.
    """
    base, user_data = plan.appliance.base, plan.user_data
    return {
        "base": {
            "distribution": base.distribution,
            # A checksum is the image, wherever it lies.
            "image": base.checksum or (str(base.image) if base.image else None),
            "checksums": base.checksums,
            "mirror": base.mirror,
            "sources": list(base.sources),
        },
        "disk": plan.appliance.hardware.disk,
        "steps": [step.to_json() for step in plan.steps],
        "payload": {blob.name: blob.sha256 for blob in plan.payload},
        "user_data": hashlib.sha256(user_data.encode()).hexdigest() if user_data is not None else None,
        **({"agent": plan.agent.disk_inputs()} if plan.agent else {}),
        # Only what the image holds of them: a label or a description is in the descriptor alone.
        "first_boot": plan.deployment.seal_orders(),
    }


def _deployment(appliance: Appliance, agent: AgentPlan | None) -> Deployment:
    if agent is None:
        return deployment(appliance.told)
    return deployment(
        appliance.told,
        agent.properties,
        drop_files=agent.drop_files,
        before=agent.units,
        aliases=agent.aliases,
    )


def _steps(appliance: Appliance, payload: Payload, agent: AgentPlan | None) -> Iterator[Step]:
    system = appliance.system
    yield SystemStep(
        name="system",
        hostname=appliance.hostname,
        timezone=system.timezone,
        locale=system.locale,
        keyboard=system.keyboard,
        serial=appliance.hardware.serial,
    )
    mounts = [Mount(n, one.mount, one.image is None) for n, one in enumerate(appliance.disks, 2) if one.mount]
    if mounts:
        yield DisksStep(name="disks", mounts=tuple(sorted(mounts, key=lambda one: one.path)))
    if system.packages:
        yield PackagesStep(name="packages", packages=system.packages)
    yield from _language_steps(appliance)
    if system.users:
        yield UsersStep(name="users", users=tuple(_account(user) for user in system.users))
    times: Counter[str] = Counter()
    for index, file in enumerate(appliance.files):
        times[file.target] += 1
        again = f" ({times[file.target]})" if times[file.target] > 1 else ""
        yield FilesStep(name=f"files {file.target}{again}", entries=payload.entries(f"files[{index}]", file))
    if agent:
        yield from agent.steps
    for index, script in enumerate(appliance.scripts):
        yield ScriptStep(name=f"script {script.name}", blob=payload.script(f"scripts[{index}]", script))


def _language_steps(appliance: Appliance) -> Iterator[Step]:
    """Java, Python and Node.js. What the seed carries for them is fetched later: `ovfbuild.libraries`."""
    java, python, node = appliance.java, appliance.python, appliance.node
    if java:
        package = "" if java.archive else f"openjdk-{java.version}-jre-headless"
        archive = JAVA_ARCHIVE if java.archive else ""
        yield JavaStep("java", java.version, package, archive, java.path.rstrip("/"))
    if python:
        path = python.path or f"/opt/{appliance.name}/venv"
        yield PythonStep("python", path.rstrip("/"), PYTHON_WHEELS)
    if node:
        path = (node.path or f"/opt/{appliance.name}/node").rstrip("/")
        archive, packages = NODE_ARCHIVE if node.archive else "", NODE_PACKAGES if node.packages else ""
        yield NodeStep("node", node.version, "" if archive else "nodejs", archive, path, packages)


def _account(user: User) -> Account:
    rule = user.sudo if isinstance(user.sudo, str) else _SUDO_ALL if user.sudo else ""
    return Account(user.name, user.groups, rule, user.shell, user.ssh_keys, user.password_hash)


def _same_targets(steps: Sequence[Step]) -> Iterator[str]:
    """A file that two [[files]] name outright is an oversight; a later folder over an earlier is not."""
    first: dict[str, int] = {}
    files = [step for step in steps if isinstance(step, FilesStep)]
    for index, step in enumerate(files):
        if len(step.entries) == 1 and step.entries[0].type == "file":
            target = step.entries[0].target
            if target in first:
                yield f"files[{index}].target: '{target}' is also files[{first[target]}]'s; keep one"
            first.setdefault(target, index)


def _unwritable(appliance: Appliance, profiles: Sequence[Profile]) -> Iterator[str]:
    """What [package] asks for and the format of a profile has not got."""
    asked = appliance.package
    for profile in profiles:
        if asked.chunk and profile.format != "ovf":
            yield (
                f'package.chunk: pieces are files of a folder; write format = "ovf", profile {profile.name} gives '
                f"{profile.format}"
            )
        if asked.gzip and not profile.packaged:
            yield f"package.gzip: nothing would say so of a {profile.format} alone; leave it out for {profile.name}"


def _same_names(profiles: Sequence[Profile]) -> Iterator[str]:
    """Two packages of one name: the second would stand in the place of the first."""
    first: dict[str, str] = {}
    for profile in profiles:
        if profile.suffix in first:
            yield f"profiles: {first[profile.suffix]} and {profile.name} give packages of one name; change a suffix"
        first.setdefault(profile.suffix, profile.name)


def _epoch(environ: Mapping[str, str]) -> int:
    """SOURCE_DATE_EPOCH, https://reproducible-builds.org/specs/source-date-epoch/."""
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return DEFAULT_EPOCH
    if not re.fullmatch(r"[0-9]{1,11}", text, re.ASCII):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is '{text}', not a number of seconds since 1970",
            "Unset it, or: export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        )
    return int(text)


def _hidden(value: Any) -> Any:
    """The same without what may be a secret: passwords, their hashes, and contents (the payload has digests)."""
    if isinstance(value, dict) and value.get("type") == "password" and value.get("default"):
        value = {**value, "default": _HIDDEN}
    if isinstance(value, dict):
        return {
            key: _HIDDEN if key in ("password_hash", "content", "run") and inner else _hidden(inner)
            for key, inner in value.items()
        }
    return [_hidden(inner) for inner in value] if isinstance(value, list | tuple) else value
