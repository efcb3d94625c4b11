"""QEMU's command line, word by word."""

from __future__ import annotations

import json
from pathlib import Path

from ovfbuild.vm.accelerator import KVM, TCG
from ovfbuild.vm.hardware import Channels, Disk, Hardware, Nic, command_line, disk_serial, file_node

CHANNELS = Channels(qmp=3, report=4, console=5, firmware=6, guest_agent=7)


def words(hardware: Hardware) -> list[str]:
    return command_line(hardware, CHANNELS, Path("/logs/console,1.log"))


def after(option: str, argv: list[str]) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == option]


def build_vm() -> Hardware:
    return Hardware(
        TCG,
        cpus=2,
        memory=2**30,
        disks=(
            Disk(file_node(Path("/scratch/overlay.qcow2"), "qcow2"), "virtio", bootindex=1),
            Disk(file_node(Path("/scratch/seed.iso"), "raw", read_only=True), "virtio"),
        ),
        nics=(Nic(mac="52:54:00:12:34:56"),),
    )


def test_the_build_machine() -> None:
    argv = words(build_vm())
    assert argv[:6] == ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-S", "-no-shutdown", "-no-reboot"]
    assert after("-accel", argv) == ["tcg,thread=multi,tb-size=128"]
    assert after("-cpu", argv) == ["max"]
    assert after("-m", argv) == ["1024M"]
    assert after("-netdev", argv) == ["user,id=net0"]
    assert after("-device", argv) == [
        "isa-serial,chardev=console",
        "virtio-serial-pci,id=serialbus",
        "virtserialport,bus=serialbus.0,chardev=report,name=org.ovfbuild.report.0",
        "isa-debugcon,iobase=0x402,chardev=firmware",
        "virtio-blk-pci,drive=disk0,bootindex=1",
        "virtio-blk-pci,drive=disk1",
        "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56",
        "virtio-rng-pci",
        "pvpanic",
    ]


def test_a_comma_in_a_path_is_no_option() -> None:
    assert "logfile=/logs/console,,1.log" in after("-chardev", words(build_vm()))[1]


def test_what_the_guest_discards_is_freed_and_a_seed_is_read_only() -> None:
    disk, seed = (json.loads(node) for node in after("-blockdev", words(build_vm())))
    assert (disk["discard"], disk["detect-zeroes"], disk["file"]["discard"]) == ("unmap", "unmap", "unmap")
    assert seed["read-only"] is True
    assert "discard" not in seed


def test_kvm_and_an_isolated_network() -> None:
    hardware = Hardware(KVM, 1, 2**29, (), (Nic("e1000e", isolated=True, forwards=((8080, 80),)),))
    argv = words(hardware)
    assert after("-accel", argv) == ["kvm"]
    assert after("-netdev", argv) == ["user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:8080-:80"]


def test_a_controller_is_there_once_and_the_cdrom_on_ide() -> None:
    node = file_node(Path("/d"), "raw")
    disks = (Disk(node, "ahci", bootindex=1), Disk(node, "ahci", bootindex=2), Disk(node, "ide", cdrom=True))
    devices = after("-device", words(Hardware(TCG, 1, 2**29, disks)))
    assert [word for word in devices if "ide" in word or "ahci" in word] == [
        "ich9-ahci,id=disks0",
        "ide-hd,bus=disks0.0,drive=disk0,bootindex=1",
        "ide-hd,bus=disks0.1,drive=disk1,bootindex=2",
        "ide-cd,bus=ide.1,drive=disk2",
    ]


def test_each_nic_has_a_subnet_of_its_own() -> None:
    argv = words(Hardware(TCG, 1, 2**29, (), (Nic("e1000"), Nic("e1000"))))
    assert after("-netdev", argv) == ["user,id=net0", "user,id=net1,net=10.0.3.0/24"]


def test_many_disks_have_room() -> None:
    """Seven on AHCI, whose controller has six ports; three on IDE, where the CD-ROM drive has a place too."""
    node = file_node(Path("/d"), "raw")
    devices = after("-device", words(Hardware(TCG, 1, 2**29, (Disk(node, "ahci"),) * 7)))
    assert [word for word in devices if word.startswith("ich9-ahci")] == ["ich9-ahci,id=disks0", "ich9-ahci,id=disks1"]
    assert "ide-hd,bus=disks1.0,drive=disk6" in devices
    three = (*(Disk(node, "ide"),) * 3, Disk(node, "ide", cdrom=True))
    devices = after("-device", words(Hardware(TCG, 1, 2**29, three)))
    assert [word for word in devices if word.startswith("ide-")] == [
        "ide-hd,bus=ide.0,drive=disk0",
        "ide-hd,bus=ide.0,drive=disk1",
        "ide-hd,bus=ide.1,drive=disk2",
        "ide-cd,bus=ide.1,drive=disk3",
    ]


def test_a_serial_is_how_the_guest_knows_a_disk() -> None:
    disk = Disk(file_node(Path("/d"), "qcow2"), "virtio", serial=disk_serial(2))
    assert "virtio-blk-pci,drive=disk0,serial=ovfbuild-disk2" in after(
        "-device", words(Hardware(TCG, 1, 2**29, (disk,)))
    )


def test_each_disk_of_a_sas_controller_has_an_address() -> None:
    """Linux's mptsas finds none that has not."""
    disks = (Disk(file_node(Path("/d"), "raw"), "lsilogicsas"),) * 2
    found = [word.split(",") for word in after("-device", words(Hardware(TCG, 1, 2**29, disks)))]
    addresses = {option for options in found for option in options if option.startswith("wwn=0x5")}
    assert len(addresses) == 2
