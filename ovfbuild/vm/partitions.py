"""Where things lie on a base image's disk: a GPT with room for both firmwares' boot loaders.

    sector 0      protective MBR, with GRUB's boot.img in its first 440 bytes
    1 MiB         1  BIOS boot partition: GRUB's core.img
    2 MiB         2  EFI system partition, FAT32
    66 MiB        3  root, ext4: the last, so that it can grow

UEFI 2.10 §5.3 (GPT), the Discoverable Partitions Specification (types).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

SECTOR = 512
MIB = 1 << 20

ROOT_LABEL = "ovfbuild-root"
ESP_LABEL = "OVFBUILDEFI"

_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT_X86_64 = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ovfbuild:base")


@dataclass(frozen=True)
class Partition:
    """One partition; `start` and `size` are bytes."""

    name: str
    type: str
    start: int
    size: int

    @property
    def first_sector(self) -> int:
        return self.start // SECTOR

    @property
    def guid(self) -> str:
        return fixed_uuid(f"partition/{self.name}")


@dataclass(frozen=True)
class Layout:
    """A whole disk."""

    size: int
    bios: Partition
    esp: Partition
    root: Partition

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return (self.bios, self.esp, self.root)


def fixed_uuid(name: str) -> str:
    """An identifier that is the same in every image, so that the same input gives the same bytes."""
    return str(uuid.uuid5(_NAMESPACE, name)).upper()


def fixed_serial(name: str) -> int:
    """The same for FAT, whose identifier has 32 bits."""
    return uuid.uuid5(_NAMESPACE, name).int & 0xFFFFFFFF


def lay_out(content: int) -> Layout:
    """The layout for a root file system that holds `content` bytes.

    A quarter and 384 MiB more are for ext4 itself, its journal, and for what a first boot writes
    before the file system has grown. The last MiB holds the second GPT.
    """
    root_size = _round_up(content * 5 // 4 + 384 * MIB, 256 * MIB) - 67 * MIB
    bios = Partition("bios", _BIOS_BOOT, MIB, MIB)
    esp = Partition("esp", ESP, 2 * MIB, 64 * MIB)
    root = Partition("root", _ROOT_X86_64, 66 * MIB, root_size)
    return Layout(root.start + root.size + MIB, bios, esp, root)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def dump_sfdisk(layout: Layout) -> str:
    """The layout as a script for sfdisk(8)."""
    lines = ["label: gpt", f"label-id: {fixed_uuid('disk')}", "unit: sectors", ""]
    lines += [
        f'start={part.first_sector}, size={part.size // SECTOR}, type={part.type}, uuid={part.guid}, name="{part.name}"'
        for part in layout.partitions
    ]
    return "\n".join(lines) + "\n"
