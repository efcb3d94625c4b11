"""Boots what was packed, from the VMDK inside the OVA, on the hardware that its descriptor declares.

The disk is not unpacked: QEMU reads the VMDK through a window into the archive, and writes to an overlay.
A NoCloud seed is attached as a user would attach it, on the CD-ROM; it carries a witness that tells
over a virtio-serial port that multi-user was reached and cloud-init is done.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ovfbuild.errors import VerificationError
from ovfbuild.formats import ovf_environment
from ovfbuild.formats.envelope import Envelope, Item
from ovfbuild.progress import Progress
from ovfbuild.spec.cloud_config import dump, with_properties
from ovfbuild.verify.alive import Seen, Vigil
from ovfbuild.verify.package import Package, StoredDisk
from ovfbuild.verify.verdict import Finding
from ovfbuild.vm import seed, window
from ovfbuild.vm.hardware import Accelerator, Disk, Hardware, Nic, file_node, ovmf
from ovfbuild.vm.machine import Cause, Decision, Ending, Limits, run

_CPU, _MEMORY, _NIC, _DISK = 3, 4, 10, 17

CONTROLLERS: Mapping[tuple[int, str], str] = {
    (20, "ahci"): "ahci",
    (20, "vmware.sata.ahci"): "ahci",
    (20, "vmware.nvme.controller"): "nvme",
    (20, "virtioscsi"): "virtio-scsi",
    (6, "virtualscsi"): "pvscsi",
    (6, "lsilogicsas"): "lsilogicsas",
    (5, ""): "ide",
    (5, "piix4"): "ide",
}
"""(ResourceType, ResourceSubType in small letters) → QEMU's controller."""

NICS: Mapping[str, str] = {
    "e1000": "e1000-82545em",  # VMware's and VirtualBox's E1000 is this one
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
    "pcnet32": "pcnet",
    "virtio": "virtio-net-pci",
}


def bootable(resource_type: int, resource_subtype: str) -> bool:
    """Whether QEMU has such a disk controller."""
    return (resource_type, resource_subtype.lower()) in CONTROLLERS


@dataclass(frozen=True)
class Told:
    """The properties that an appliance is given when it is booted, and how."""

    values: Mapping[str, str | int | bool]
    deliver: Literal["nocloud", "ovf-env"] = "nocloud"
    """In the user-data of its seed, or by the OVF environment on a CD-ROM."""


@dataclass(frozen=True)
class Room:
    """What a boot has for itself: seconds, a folder for its disks, and one for its logs."""

    timeout: float
    work: Path
    evidence: Path


@dataclass(frozen=True)
class Answer:
    """What the appliance said when it had come up."""

    machine_id: str
    hostname: str
    seconds: float
    failed_units: tuple[str, ...]
    cloud_init: Mapping[str, Any]
    identity: Mapping[str, Any] | None = None
    """What the first boot's broker took: digests of its values, sources, missing, problems. None without one."""
    agent: Seen | None = None
    """None where the image contains no agent of a profile."""

    def findings(self) -> Iterator[Finding]:
        for unit in self.failed_units:
            yield Finding("unit-failed", unit, "it failed when the appliance booted")
        if self.agent and not self.agent.seen:
            why = "; ".join(self.agent.skipped) or "its profile states no sign"
            yield Finding("agent-not-seen", self.agent.title, f"no sign of life was looked for ({why})")


def boot(
    package: Package,
    accelerator: Accelerator,
    room: Room,
    progress: Progress,
    told: Told | None = None,
    *,
    servers: bool = False,
) -> Answer:
    """Boots the package until it answers, and its agent is seen alive.

    Args:
        servers: whether the agent's signs are looked for on servers outside of the guest too.

    Raises:
        VerificationError: it does not come up in time, cloud-init fails, it does not take what it is told, or its
            agent is not seen alive; the logs are in the room's `evidence`.
    """
    token = secrets.token_hex(8)
    cdrom, beside = _media(package.envelope.virtual_system.id, token, told, room.work)
    vigil = Vigil(servers)
    ears = _Ears(token, progress, vigil)
    machine = replace(hardware(package, accelerator, room.work, cdrom, beside=beside), guest_agent=True)
    ending = run(machine, Limits(room.timeout, stall=room.timeout), ears, room.evidence, beside=vigil.run)
    if vigil.error:
        raise vigil.error
    if ears.answer is None or ending.cause is not Cause.FINISHED:
        raise _failure(ending, ears)
    status = ears.answer.get("cloud_init") or {}
    if status.get("status") == "error":
        raise VerificationError(
            f"the appliance booted, but cloud-init failed: {'; '.join(map(str, status.get('errors') or ['?']))}",
            "see the console log",
        )
    if lost := ears.answer.get("unmounted"):
        raise VerificationError(
            f"the appliance booted, but has no disk at {', '.join(map(str, lost))}",
            "the console log may say why; see [[disks]] in appliance.toml(5)",
        )
    answer = Answer(
        machine_id=str(ears.answer.get("machine_id")),
        hostname=str(ears.answer.get("hostname")),
        seconds=ending.seconds,
        failed_units=tuple(ears.answer.get("failed_units") or ()),
        cloud_init=status,
        identity=ears.answer.get("identity"),
        agent=vigil.result,
    )
    if told:
        _judge_identity(told, token, answer)
    if answer.agent and answer.agent.failure:
        raise VerificationError(
            f"the appliance booted, but {answer.agent.title} was not seen alive: {answer.agent.failure}",
            "the console log may say why; see the agent's page in docs/agents",
        )
    return answer


def _media(name: str, token: str, told: Told | None, work: Path) -> tuple[Path, Path | None]:
    """(what lies in the CD-ROM drive, a disk beside it): the seed with the witness, or that and an OVF environment.

    cloud-init takes an OVF environment before a seed, and then nothing of the seed. So the environment's own
    user-data starts the witness from there.
    """
    iso, config = work / "witness.iso", seed.witness_cloud_config(token)
    instance = f"ovfbuild-verify-{token}"
    if told is None or told.deliver == "nocloud":
        user_data = with_properties(config, told.values if told else {})
        seed.write(iso, seed.witness_seed(instance, name, user_data))
        return iso, None
    seed.write(iso, seed.witness_seed(instance, name, dump({})))
    own = {"instance-id": instance, "hostname": name, "user-data": base64.b64encode(dump(config).encode()).decode()}
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in told.values.items()}
    environment = work / "ovf-env.iso"
    document = ovf_environment.dump(ovf_environment.Environment(name, {**own, **texts}))
    seed.write(environment, {ovf_environment.FILE_NAME: document}, ovf_environment.LABEL)
    return environment, iso


def _judge_identity(told: Told, token: str, answer: Answer) -> None:
    """Whether the machine is who it was told to be. Its values come as digests: one of them may be a password."""
    hint = "the console log has the line of ovfbuild-firstboot; see [[properties]] in appliance.toml(5)"
    if answer.identity is None:
        raise VerificationError("the appliance booted, but its first boot left no identity", hint)
    digests = answer.identity.get("digests") or {}
    wrong = [
        key
        for key, value in told.values.items()
        if digests.get(key) != hashlib.sha256(f"{token}:{json.dumps(value)}".encode()).hexdigest()
    ]
    if wrong:
        said = "".join(f"\n  {problem}" for problem in answer.identity.get("problems") or ())
        raise VerificationError(f"the appliance did not take its value of {', '.join(wrong)}{said}", hint)


def hardware(
    package: Package,
    accelerator: Accelerator,
    work: Path,
    iso: Path | None,
    forwards: tuple[tuple[int, int], ...] = (),
    beside: Path | None = None,
) -> Hardware:
    """The machine that the descriptor declares; `iso` is in its CD-ROM drive, if given.

    Args:
        beside: an image that is attached too, as a disk.
        forwards: (port on the host's 127.0.0.1, port in the guest) of its first NIC.
    """
    system = package.envelope.virtual_system
    items = system.hardware.items
    disks = [
        Disk(_disk_node(package, item, work), _controller(package.envelope, item), bootindex=1 + number)
        for number, item in enumerate(item for item in items if item.resource_type == _DISK)
    ]
    if iso is not None:
        # Last of all, but with a bootindex: OVMF enables no IDE channel that it need not look at for a boot,
        # and Linux's ata_piix believes it (it finds no drive on a channel whose decode bit is off).
        disks.append(Disk(file_node(iso, "raw", read_only=True), "ide", bootindex=99, cdrom=True))
    if beside is not None:
        disks.append(Disk(file_node(beside, "raw", read_only=True), "virtio"))
    models = [
        NICS.get((item.resource_sub_type or "").lower(), "e1000-82545em")
        for item in items
        if item.resource_type == _NIC
    ]
    variables = None
    if system.efi:
        variables = work / "efi-variables.fd"
        variables.write_bytes(ovmf()[1].read_bytes())
    return Hardware(
        accelerator,
        cpus=_quantity(items, _CPU),
        memory=_quantity(items, _MEMORY) * 2**20,
        disks=tuple(disks),
        nics=tuple(Nic(model, forwards=() if number else forwards) for number, model in enumerate(models)),
        efi_variables=variables,
    )


def _place(package: Package, stored: StoredDisk, work: Path) -> tuple[Path, int, int]:
    """(file, offset, size) of the VMDK: in the package, or, of one in pieces or compressed once more, of a copy."""
    if stored.plain:
        (member,) = stored.members
        return package.file_of(member), member.offset, member.size
    path = work / f"{stored.disk.disk_id}.vmdk"
    with package.open_disk(stored) as stream, path.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
    return path, 0, path.stat().st_size


def _disk_node(package: Package, item: Item, work: Path) -> dict[str, Any]:
    """An overlay that takes the guest's writes, over the VMDK where it lies in the archive."""
    for stored in package.stored_disks:
        if (item.host_resource or "").endswith(f"/disk/{stored.disk.disk_id}"):
            path = work / f"overlay{item.instance_id}.qcow2"
            return window.overlay(*_place(package, stored, work), path)
    raise VerificationError(
        f"{item.element_name} ({item.host_resource}) is no disk in the package",
        "only packages whose disks are all in it can be booted",
    )


def _controller(envelope: Envelope, item: Item) -> str:
    parents = {parent.instance_id: parent for parent in envelope.virtual_system.hardware.items}
    parent = parents.get(item.parent or 0)
    if parent is not None:
        found = CONTROLLERS.get((parent.resource_type, (parent.resource_sub_type or "").lower()))
        if found:
            return found
    what = f"{parent.element_name} ({parent.resource_sub_type})" if parent else "none"
    raise VerificationError(
        f"QEMU has no such disk controller as the descriptor declares: {what}",
        "verify without --boot, or use a profile whose controller can be proven (portable: AHCI)",
    )


def _quantity(items: tuple[Item, ...], kind: int) -> int:
    return next((item.virtual_quantity or 1 for item in items if item.resource_type == kind), 1)


class _Ears:
    """Hears a boot until the witness, and no one else, has spoken, and then what it says of the agent."""

    def __init__(self, token: str, progress: Progress, vigil: Vigil) -> None:
        self._token = token
        self._progress = progress
        self._vigil = vigil
        self.answer: dict[str, Any] | None = None
        self.last_line = ""

    def report(self, line: str) -> Decision:
        try:
            said = json.loads(line)
        except ValueError:
            return Decision.GO_ON
        if isinstance(said, dict) and said.get("event") == "answered" and said.get("token") == self._token:
            self.answer = said
            if not said.get("agent"):
                return Decision.FINISH
            self._vigil.begin(said["agent"])
            self._progress.line(f"it came up; looking for {said['agent'].get('title')}")
        elif isinstance(said, dict) and said.get("event") == "sign":
            self._vigil.heard(said.get("number"), said.get("unseen"))
        if isinstance(said, dict) and said.get("event") == "line":
            self._progress.line(str(said.get("text")))
        return Decision.GO_ON

    def console(self, line: str) -> None:
        self.last_line = line
        self._progress.line(line)


def _failure(ending: Ending, ears: _Ears) -> VerificationError:
    detail = f" ({ending.detail})" if ending.detail else ""
    last = f"\n  last line of its console: {ears.last_line.strip()}" if ears.last_line else ""
    what = "did not come up" if ears.answer is None else "came up, but its agent was not seen alive"
    return VerificationError(
        f"the packed appliance {what} within {ending.seconds:.0f} s: {ending.cause.value}{detail}{last}",
        "the screenshot shows where it stopped; under TCG a boot takes a few minutes on a busy machine",
    )
