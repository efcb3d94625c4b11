"""A virtual machine as data, and the QEMU command line that it becomes.

The build VM's hardware is ours (virtio); the verification's is what an OVF descriptor declares.
Sources: QEMU's qemu-options.hx and docs/system; SeaBIOS tries one disk only, so the system disk
always has a bootindex (reference: "No bootable device" with the seed on virtio-blk).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovfbuild.errors import ProgramError

REPORT_PORT = "org.ovfbuild.report.0"
"""The virtio-serial port on which the guest reports: `/dev/virtio-ports/org.ovfbuild.report.0` there."""

REPORT_DEVICES: tuple[str, ...] = (
    "virtio-serial-pci,id=serialbus",
    f"virtserialport,bus=serialbus.0,chardev=report,name={REPORT_PORT}",
)
"""How the report channel reaches the guest. (A 512-byte guest has no virtio driver: tests give it a UART.)"""

HOST = "10.0.2.2"
"""This host's loopback, seen from a guest on QEMU's user network (the first NIC's)."""

GUEST_AGENT_PORT = "org.qemu.guest_agent.0"
"""Where a hypervisor speaks with QEMU's guest agent (docs/interop/qemu-ga)."""

_OVMF = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""Where distributions put OVMF (Debian, Fedora, Arch): code and an empty variable store."""

_CONTROLLERS: Mapping[str, Sequence[str]] = {
    "virtio": (),
    "ahci": ("ich9-ahci,id=disks{number}",),
    "ide": (),
    "nvme": (),
    "pvscsi": ("pvscsi,id=disks",),
    "virtio-scsi": ("virtio-scsi-pci,id=disks",),
    "lsilogicsas": ("mptsas1068,id=disks",),
}
_AHCI_PORTS = 6
"""Of QEMU's ich9-ahci; more disks get another one."""
_DISKS: Mapping[str, str] = {
    "virtio": "virtio-blk-pci",
    "ahci": "ide-hd,bus=disks{number}.{port}",
    "ide": "ide-hd,bus=ide.{bus}",
    "nvme": "nvme,serial=disk{unit}",
    "pvscsi": "scsi-hd,bus=disks.0,scsi-id={unit}",
    "virtio-scsi": "scsi-hd,bus=disks.0,scsi-id={unit}",
    # Linux's mptsas finds no disk that has no address of its own (seen with Linux 6.1 and QEMU 7.2).
    "lsilogicsas": "scsi-hd,bus=disks.0,scsi-id={unit},wwn=0x5000c5000000000{unit:x}",
}


@dataclass(frozen=True)
class Accelerator:
    """What runs the guest's instructions: `kvm` or `tcg`, with the CPU model it was proven with."""

    name: str
    cpu: str


@dataclass(frozen=True)
class Disk:
    """One disk: QEMU's block device tree (without its node name) and the controller it hangs on."""

    blockdev: Mapping[str, Any]
    controller: str
    bootindex: int | None = None
    cdrom: bool = False
    serial: str = ""
    """Of virtio-blk, at most 20 characters: /dev/disk/by-id/virtio-SERIAL in the guest."""


@dataclass(frozen=True)
class Nic:
    """One network card on QEMU's user network.

    `forwards` are (host port on 127.0.0.1, guest port); `isolated` lets nothing out but keeps DHCP.
    """

    model: str = "virtio-net-pci"
    mac: str = ""
    isolated: bool = False
    forwards: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Hardware:
    """A machine to start. Memory in bytes."""

    accelerator: Accelerator
    cpus: int
    memory: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    efi_variables: Path | None = None
    """A writable copy of OVMF's variable store; given, the machine starts with UEFI, else with SeaBIOS."""
    guest_agent: bool = False
    """Whether it has a channel to a guest agent."""


@dataclass(frozen=True)
class Channels:
    """The file descriptors that QEMU inherits: QMP, the guest's report, console, firmware's log and agent."""

    qmp: int
    report: int
    console: int
    firmware: int
    guest_agent: int


def disk_serial(number: int) -> str:
    """By which the build's guest knows a disk: /dev/disk/by-id/virtio-ovfbuild-disk2 there."""
    return f"ovfbuild-disk{number}"


def file_node(path: Path, image_format: str, *, read_only: bool = False) -> dict[str, Any]:
    """The block device of an image file; what the guest discards or zeroes is freed in it.

    No flush reaches the host's disk: a scratch disk need not survive the host's crash.
    """
    cache = {"no-flush": True}
    node: dict[str, Any] = {
        "driver": image_format,
        "read-only": read_only,
        "cache": cache,
        "file": {"driver": "file", "filename": str(path), "cache": cache, "discard": "unmap"},
    }
    if not read_only:
        node |= {"discard": "unmap", "detect-zeroes": "unmap"}
    return node


def ovmf() -> tuple[Path, Path]:
    """OVMF's code and its empty variable store.

    Raises:
        ProgramError: it is not installed.
    """
    for code, variables in _OVMF:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(variables)
    raise ProgramError("OVMF, the UEFI firmware for QEMU, is not installed", "install it: apt install ovmf")


def command_line(hardware: Hardware, channels: Channels, console_log: Path) -> list[str]:
    """QEMU's arguments, its name first.

    The machine is stopped at first (`-S`), so that no event is missed; a power-off is kept
    (`-no-shutdown`), so that it is surely heard; a reboot is a power-off (`-no-reboot`).
    """
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-S", "-no-shutdown", "-no-reboot"),
        *("-machine", "pc,usb=off,vmport=off"),
        *_processor(hardware),
        *("-m", f"{hardware.memory // 2**20}M"),
        *("-display", "none", "-vga", "std"),
        *_channels(channels, console_log),
        *(_guest_agent(channels) if hardware.guest_agent else ()),
        *_firmware(hardware),
        *_disks(hardware.disks),
        *_nics(hardware.nics),
        *_devices("virtio-rng-pci", "pvpanic"),
        *("-action", "panic=none"),
    ]


def _processor(hardware: Hardware) -> list[str]:
    accelerator = hardware.accelerator
    # 128 MiB of translated code is as fast as the default 1 GiB (measured) and half the memory.
    accel = "tcg,thread=multi,tb-size=128" if accelerator.name == "tcg" else accelerator.name
    return ["-accel", accel, "-cpu", accelerator.cpu, "-smp", str(hardware.cpus)]


def _channels(channels: Channels, console_log: Path) -> list[str]:
    log = str(console_log).replace(",", ",,")
    return [
        *("-chardev", f"socket,id=qmp,fd={channels.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={channels.console},logfile={log}"),
        *_devices("isa-serial,chardev=console"),
        *("-chardev", f"socket,id=report,fd={channels.report}"),
        *_devices(*REPORT_DEVICES),
        *("-chardev", f"socket,id=firmware,fd={channels.firmware}"),
        *_devices("isa-debugcon,iobase=0x402,chardev=firmware"),
    ]


def _guest_agent(channels: Channels) -> list[str]:
    return [
        *("-chardev", f"socket,id=guest-agent,fd={channels.guest_agent}"),
        *_devices(
            "virtio-serial-pci,id=agentbus",
            f"virtserialport,bus=agentbus.0,chardev=guest-agent,name={GUEST_AGENT_PORT}",
        ),
    ]


def _firmware(hardware: Hardware) -> list[str]:
    if hardware.efi_variables is None:
        return []
    code, _ = ovmf()
    return [
        *_blockdev(file_node(code, "raw", read_only=True), "efi-code"),
        *_blockdev(file_node(hardware.efi_variables, "raw"), "efi-variables"),
        *("-global", "driver=cfi.pflash01,property=secure,value=off"),
        *("-machine", "pflash0=efi-code,pflash1=efi-variables"),
    ]


def _disks(disks: Sequence[Disk]) -> list[str]:
    argv: list[str] = []
    for controller in dict.fromkeys(disk.controller for disk in disks if not disk.cdrom):
        count = sum(disk.controller == controller and not disk.cdrom for disk in disks)
        for number in range(-(-count // _AHCI_PORTS) if controller == "ahci" else 1):
            argv += _devices(*(word.format(number=number) for word in _CONTROLLERS[controller]))
    units: Counter[str] = Counter()
    for index, disk in enumerate(disks):
        argv += _blockdev(disk.blockdev, f"disk{index}")
        unit = units[disk.controller]
        place = {"unit": unit, "bus": unit // 2, "number": unit // _AHCI_PORTS, "port": unit % _AHCI_PORTS}
        # On the second IDE channel: an IDE disk has the first.
        model = "ide-cd,bus=ide.1" if disk.cdrom else _DISKS[disk.controller].format(**place)
        units[disk.controller] += not disk.cdrom
        boot = "" if disk.bootindex is None else f",bootindex={disk.bootindex}"
        serial = f",serial={disk.serial}" if disk.serial else ""
        argv += _devices(f"{model},drive=disk{index}{boot}{serial}")
    return argv


def _nics(nics: Sequence[Nic]) -> list[str]:
    argv: list[str] = []
    for number, nic in enumerate(nics):
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in nic.forwards)
        isolated = ",restrict=on" if nic.isolated else ""
        # A subnet each: with the same address on two NICs, answers would leave by the wrong one.
        subnet = f",net=10.0.{2 + number}.0/24" if number else ""
        argv += ["-netdev", f"user,id=net{number}{subnet}{isolated}{forwards}"]
        mac = f",mac={nic.mac}" if nic.mac else ""
        argv += _devices(f"{nic.model},netdev=net{number},romfile={mac}")
    return argv


def _devices(*devices: str) -> list[str]:
    return [word for device in devices for word in ("-device", device)]


def _blockdev(node: Mapping[str, Any], name: str) -> list[str]:
    return ["-blockdev", json.dumps({**node, "node-name": name}, sort_keys=True)]
