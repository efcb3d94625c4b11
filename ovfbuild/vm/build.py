"""One build in one VM: a disk over the base, a seed, a guest that works through its steps, its verdict.

A power-off is not a success: only the guest's last word, `sealed`, followed by a power-off that the
guest itself made, is one. Everything else ends in a GuestError that names the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ovfbuild.errors import GuestError
from ovfbuild.progress import Progress, step
from ovfbuild.vm import disk, seed
from ovfbuild.vm.hardware import Accelerator, Disk, Hardware, Nic, disk_serial, file_node, ovmf
from ovfbuild.vm.machine import Cause, Decision, Ending, Limits, run


@dataclass(frozen=True)
class Attached:
    """A disk of the appliance's beside the one that it boots from; what the guest writes goes over it."""

    number: int
    """In the package; that it boots from is 1."""
    base: Path
    base_format: str

    @property
    def overlay(self) -> str:
        """The name of the file that is over it when it was built."""
        return f"overlay{self.number}.qcow2"


@dataclass(frozen=True)
class BuildOrder:
    """All that one build needs. Sizes in bytes, times in seconds."""

    base: Path
    base_format: str
    capacity: int
    instance: str
    """cloud-init's instance-id of this build."""
    hostname: str
    user_data: str
    steps: Mapping[str, Any]
    """The runner's orders: `steps` and `seal`, as JSON."""
    payload: Mapping[str, bytes | Path]
    limits: Limits
    cpus: int
    memory: int
    efi: bool
    isolated: bool
    on_failure: str
    disks: tuple[Attached, ...] = ()


def build(order: BuildOrder, accelerator: Accelerator, work: Path, evidence: Path, progress: Progress) -> Path:
    """Builds in `work` and returns the overlay, whose guest has sealed it and is gone; further disks' are beside it.

    Raises:
        GuestError: what failed, with the guest's last words; the logs are in `evidence`.
    """
    overlay, iso = work / "overlay.qcow2", work / "seed.iso"
    disk.overlay(order.base, order.base_format, overlay, order.capacity)
    for one in order.disks:
        disk.overlay(one.base, one.base_format, work / one.overlay)
    orders = json.dumps({**order.steps, "on_failure": order.on_failure}, sort_keys=True).encode()
    files = seed.build_seed(order.instance, order.hostname, order.user_data, orders)
    seed.write(iso, {**files, **order.payload})
    evidence.mkdir(parents=True, exist_ok=True)
    with (evidence / "report.jsonl").open("w", encoding="utf-8") as log:
        ears = _Ears(progress, log)
        # The guest's own steps take the place of this one as it reports them.
        with step(progress, "boot the build VM"):
            ending = run(
                _hardware(order, accelerator, overlay, iso),
                order.limits,
                ears,
                evidence,
                shell_on_failure=order.on_failure == "shell",
            )
            if ending.cause is Cause.POWERED_OFF and ending.detail == "guest-shutdown" and ears.sealed:
                return overlay
            raise _failure(ending, ears)


def _hardware(order: BuildOrder, accelerator: Accelerator, overlay: Path, iso: Path) -> Hardware:
    """Ours, whatever the appliance declares: virtio for everything."""
    variables = None
    if order.efi:
        variables = overlay.with_name("efi-variables.fd")
        variables.write_bytes(ovmf()[1].read_bytes())
    return Hardware(
        accelerator,
        cpus=order.cpus,
        memory=order.memory,
        disks=(
            Disk(file_node(overlay, "qcow2"), "virtio", bootindex=1),
            Disk(file_node(iso, "raw", read_only=True), "virtio"),
            *(
                Disk(file_node(overlay.with_name(one.overlay), "qcow2"), "virtio", serial=disk_serial(one.number))
                for one in order.disks
            ),
        ),
        nics=(Nic(isolated=order.isolated, mac=seed.BUILD_MAC),),
        efi_variables=variables,
    )


class _Ears:
    """Hears a build: turns reports into progress, and keeps what the verdict needs."""

    def __init__(self, progress: Progress, log: TextIO) -> None:
        self._progress = progress
        self._log = log
        self.sealed = False
        self.step = ""
        self.failure: dict[str, Any] = {}
        self.last_line = ""

    def report(self, line: str) -> Decision:
        self._log.write(line + "\n")
        try:
            said = json.loads(line)
        except ValueError:
            return Decision.GO_ON  # not ours: something else in the guest wrote there
        if not isinstance(said, dict):
            return Decision.GO_ON
        match said.get("event"):
            case "started":
                for warning in (said.get("cloud_init") or {}).get("warnings") or {}:
                    self._progress.warn(f"cloud-init in the build VM: {warning}")
            case "begin":
                self.step = str(said.get("step"))
                self._progress.begin(self.step)
            case "end":
                self._progress.end()
            case "line":
                self._progress.line(str(said.get("text")))
            case "failed":
                self.failure = said
                self._progress.end(ok=False)
                return Decision.FAIL
            case "sealed":
                self.sealed = True
                self._progress.begin("power off")
        return Decision.GO_ON

    def console(self, line: str) -> None:
        self.last_line = line
        if not self.step:
            self._progress.line(line)


def _failure(ending: Ending, ears: _Ears) -> GuestError:
    where = f"in step {ears.step!r}" if ears.step else "before its first step"
    if ending.cause is Cause.FAILED:
        output = "".join(f"\n  | {line}" for line in ears.failure.get("output", ()))
        name, error = ears.failure.get("step"), ears.failure.get("error")
        return GuestError(f"step {name!r} failed in the guest: {error}{output}", "mend the step and build again")
    if ending.cause is Cause.POWERED_OFF:
        return GuestError(
            f"the guest powered off {where}, without having said that it was sealed",
            "a script must not power the machine off",
        )
    hints = {
        Cause.REBOOTED: "a script must not reboot the machine",
        Cause.STALLED: "raise [build] stall if the step is silent for so long by nature",
        Cause.TIMED_OUT: "raise [build] timeout; under TCG everything is ten times slower",
        Cause.NOT_BOOTABLE: 'is the image a bootable disk? one for UEFI alone needs [build] firmware = "efi"',
        Cause.IO_ERROR: "is the host's disk full?",
        Cause.PANICKED: "the console log has the kernel's last words; too little [build] memory is a common cause",
    }
    detail = f" ({ending.detail})" if ending.detail else ""
    last = f"\n  last line of its console: {ears.last_line.strip()}" if ears.last_line else ""
    message = f"the guest failed {where} after {ending.seconds:.0f} s: {ending.cause.value}{detail}{last}"
    return GuestError(message, hints.get(ending.cause, ""))
