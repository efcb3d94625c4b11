"""What runs the guest: KVM where it was seen to run one, else TCG, said aloud.

That `/dev/kvm` exists, opens, and creates a VM proves nothing: on nested and paravirtual hosts no
guest ever runs in it, or QEMU aborts over an MSR with `-cpu host`. So a guest of a few bytes has
to count to twenty million and power itself off (0.2 s under TCG) before KVM is believed in.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.errors import ProgramError
from ovfbuild.files import digest_of
from ovfbuild.progress import Progress
from ovfbuild.vm.hardware import Accelerator, Disk, Hardware, file_node
from ovfbuild.vm.machine import Cause, Decision, Limits, run
from ovfbuild.vm.process import run as run_program

KVM = Accelerator("kvm", "host")
TCG = Accelerator("tcg", "max")

_COUNT_AND_POWER_OFF = bytes.fromhex(
    "fa"  #              cli
    "66b9002d3101"  #    mov ecx, 20000000
    "6649"  #            again: dec ecx
    "75fc"  #            jnz again
    "ba0406"  #          mov dx, 0x604       ; PM1a_CNT of the PIIX4, as SeaBIOS places it
    "b80020"  #          mov ax, 0x2000      ; SLP_EN, S5
    "ef"  #              out dx, ax
    "f4ebfd"  #          hlt; jmp back to hlt
)
_PROBE = Limits(timeout=10, stall=10)


def boot_sector(code: bytes) -> bytes:
    """A disk of one MiB whose first sector is `code`."""
    if len(code) > 510:
        raise ValueError("a boot sector holds 510 bytes of code")
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(2**20, b"\0")


def choose(wanted: str, cache: Cache, progress: Progress, kvm_device: Path = Path("/dev/kvm")) -> Accelerator:
    """The accelerator for `auto`, `kvm` or `tcg`.

    Raises:
        ProgramError: `kvm` was asked for and does not run a guest here.
    """
    why = "it was asked for" if wanted == "tcg" else _what_keeps_kvm(cache, kvm_device)
    if not why:
        return KVM
    if wanted == "kvm":
        raise ProgramError(f"KVM does not work here: {why}", "use --accel auto, which falls back to TCG")
    progress.warn(
        f"the guest runs under TCG, QEMU's emulation ({'' if wanted == 'tcg' else 'no KVM: '}{why}): "
        "ten times slower than KVM; a Debian boots in about 90 s"
    )
    return TCG


def _what_keeps_kvm(cache: Cache, device: Path) -> str:
    """Why KVM can't be used, or "" if it can. The answer of the tiny guest is remembered for this machine."""
    if not device.exists():
        return f"there is no {device}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened; add yourself to its group: adduser $USER kvm"
    version = run_program(["qemu-system-x86_64", "--version"]).splitlines()[0]
    machine = [version, KVM.cpu, platform.release(), platform.node(), _cpu_model(), _boot_id()]

    def prove(folder: Path) -> None:
        (folder / "why").write_text(_try(KVM, folder), encoding="utf-8")

    entry, _ = cache.obtain("accelerators", digest_of(machine), f"does KVM run a guest? ({version})", prove)
    return (entry.path / "why").read_text(encoding="utf-8")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _boot_id() -> str:
    """Another boot may be another machine with the same name (CI runners)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


class _Deaf:
    def report(self, line: str) -> Decision:  # noqa: ARG002 - the probe says nothing
        return Decision.GO_ON

    def console(self, line: str) -> None: ...


def _try(accelerator: Accelerator, folder: Path) -> str:
    """Runs the tiny guest; "" if it came to its end."""
    image = folder / "probe.img"
    image.write_bytes(boot_sector(_COUNT_AND_POWER_OFF))
    disk = Disk(file_node(image, "raw", read_only=True), "virtio", bootindex=1)
    hardware = Hardware(accelerator, cpus=1, memory=2**26, disks=(disk,))
    try:
        ending = run(hardware, _PROBE, _Deaf(), folder)
    except ProgramError as error:
        return error.message.splitlines()[0]
    if ending.cause is Cause.POWERED_OFF:
        return ""
    return f"a guest of twenty bytes did not come to its end ({ending.cause.value}: {ending.detail})"
