"""Boots what was packed, from the VMDK inside the OVA, on the hardware that its descriptor declares.

The disk is not unpacked: QEMU reads the VMDK through a window into the archive, and writes to an overlay.
A NoCloud seed is attached as a user would attach it, on the CD-ROM; it carries a witness that tells
over a virtio-serial port that multi-user was reached and cloud-init is done.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovfbuild.errors import VerificationError
from ovfbuild.formats.envelope import Envelope, Item
from ovfbuild.progress import Progress
from ovfbuild.spec.cloud_config import dump
from ovfbuild.verify.package import Package
from ovfbuild.verify.verdict import Finding
from ovfbuild.vm import seed, window
from ovfbuild.vm.hardware import Accelerator, Disk, Hardware, Nic, file_node, ovmf
from ovfbuild.vm.machine import Cause, Decision, Ending, Limits, run

_CPU, _MEMORY, _NIC, _DISK = 3, 4, 10, 17

_CONTROLLERS: Mapping[tuple[int, str], str] = {
    (20, "ahci"): "ahci",
    (20, "vmware.sata.ahci"): "ahci",
    (20, "vmware.nvme.controller"): "nvme",
    (6, "virtualscsi"): "pvscsi",
    (6, "lsilogicsas"): "lsilogicsas",
    (5, ""): "ide",
    (5, "piix4"): "ide",
}
"""(ResourceType, ResourceSubType in small letters) → QEMU's controller."""

_NICS: Mapping[str, str] = {
    "e1000": "e1000-82545em",  # VMware's and VirtualBox's E1000 is this one
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
    "pcnet32": "pcnet",
    "virtio": "virtio-net-pci",
}


@dataclass(frozen=True)
class Answer:
    """What the appliance said when it had come up."""

    machine_id: str
    hostname: str
    seconds: float
    failed_units: tuple[str, ...]
    cloud_init: Mapping[str, Any]

    def findings(self) -> Iterator[Finding]:
        for unit in self.failed_units:
            yield Finding("warning", "unit-failed", unit, "it failed when the appliance booted")


def boot(
    package: Package, accelerator: Accelerator, timeout: float, work: Path, evidence: Path, progress: Progress
) -> Answer:
    """Boots the package until it answers.

    Raises:
        VerificationError: it does not come up in time, or cloud-init fails; the logs are in `evidence`.
    """
    token = secrets.token_hex(8)
    iso = work / "witness.iso"
    user_data = dump(seed.witness_cloud_config(token))
    seed.write(iso, seed.witness_seed(f"ovfbuild-verify-{token}", package.envelope.virtual_system.id, user_data))
    ears = _Ears(token, progress)
    ending = run(hardware(package, accelerator, work, iso), Limits(timeout, stall=timeout), ears, evidence)
    if ears.answer is None or ending.cause is not Cause.FINISHED:
        raise _failure(ending, ears)
    status = ears.answer.get("cloud_init") or {}
    if status.get("status") == "error":
        raise VerificationError(
            f"the appliance booted, but cloud-init failed: {'; '.join(map(str, status.get('errors') or ['?']))}",
            "see the console log",
        )
    return Answer(
        machine_id=str(ears.answer.get("machine_id")),
        hostname=str(ears.answer.get("hostname")),
        seconds=ending.seconds,
        failed_units=tuple(ears.answer.get("failed_units") or ()),
        cloud_init=status,
    )


def hardware(
    package: Package,
    accelerator: Accelerator,
    work: Path,
    iso: Path | None,
    forwards: tuple[tuple[int, int], ...] = (),
) -> Hardware:
    """The machine that the descriptor declares; `iso` is in its CD-ROM drive, if given.

    Args:
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
        disks.append(Disk(file_node(iso, "raw", read_only=True), "ide", bootindex=9, cdrom=True))
    models = [
        _NICS.get((item.resource_sub_type or "").lower(), "e1000-82545em")
        for item in items
        if item.resource_type == _NIC
    ]
    variables = None
    if any(config.key == "firmware" and config.value == "efi" for config in system.hardware.configs):
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


def _disk_node(package: Package, item: Item, work: Path) -> dict[str, Any]:
    """An overlay that takes the guest's writes, over the VMDK where it lies in the archive."""
    for disk, member in package.disks:
        if (item.host_resource or "").endswith(f"/disk/{disk.disk_id}"):
            path = work / f"overlay{item.instance_id}.qcow2"
            return window.overlay(package.path, member.offset, member.size, path)
    raise VerificationError(
        f"{item.element_name} ({item.host_resource}) is no disk in the package",
        "only packages whose disks are all in it can be booted",
    )


def _controller(envelope: Envelope, item: Item) -> str:
    parents = {parent.instance_id: parent for parent in envelope.virtual_system.hardware.items}
    parent = parents.get(item.parent or 0)
    if parent is not None:
        found = _CONTROLLERS.get((parent.resource_type, (parent.resource_sub_type or "").lower()))
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
    """Hears a boot until the witness, and no one else, has spoken."""

    def __init__(self, token: str, progress: Progress) -> None:
        self._token = token
        self._progress = progress
        self.answer: dict[str, Any] | None = None
        self.last_line = ""

    def report(self, line: str) -> Decision:
        try:
            said = json.loads(line)
        except ValueError:
            return Decision.GO_ON
        if isinstance(said, dict) and said.get("event") == "answered" and said.get("token") == self._token:
            self.answer = said
            return Decision.FINISH
        if isinstance(said, dict) and said.get("event") == "line":
            self._progress.line(str(said.get("text")))
        return Decision.GO_ON

    def console(self, line: str) -> None:
        self.last_line = line
        self._progress.line(line)


def _failure(ending: Ending, ears: _Ears) -> VerificationError:
    detail = f" ({ending.detail})" if ending.detail else ""
    last = f"\n  last line of its console: {ears.last_line.strip()}" if ears.last_line else ""
    return VerificationError(
        f"the packed appliance did not come up within {ending.seconds:.0f} s: {ending.cause.value}{detail}{last}",
        "the screenshot shows where it stopped; under TCG a boot takes a few minutes on a busy machine",
    )
