"""GRUB on a disk image, for BIOS and UEFI, without grub-install (which wants a device and root).

The image's own grub-mkimage makes both boot loaders in the chroot; here are their texts and, for BIOS,
the two patches that grub-bios-setup would do (GRUB's util/setup.c, include/grub/i386/pc/boot.h).
"""

from __future__ import annotations

import struct

from ovfbuild.errors import FileError
from ovfbuild.vm.partitions import ROOT_LABEL, SECTOR

_KERNEL_SECTOR = 0x5C
_BOOT_DRIVE = 0x64
_DRIVE_CHECK = 0x66
_CODE_END = 440
"""Behind boot.img's code come the disk's signature and the partition table."""
_BLOCK_LIST = SECTOR - 12
_LOAD_SEGMENT = 0x820

_MODULES = "part_gpt ext2 search search_label search_fs_uuid normal linux"
BIOS_MODULES = f"biosdisk {_MODULES}"
EFI_MODULES = f"fat {_MODULES}"
"""What the two loaders need to find /boot/grub; the rest is loaded from there."""

EARLY_CONFIG = f"""\
search --no-floppy --label {ROOT_LABEL} --set=root
set prefix=($root)/boot/grub
"""

_TIMER = "no_timer_check"
"""The kernel else panics ("IO-APIC + timer doesn't work!") where an emulated machine gets too little of its
host's time to tick during the check. On a known hypervisor it leaves the check out by itself."""

_KERNEL_BUILD_OPTIONS = f"{_TIMER} nohz=off highres=off console=tty0 console=ttyS0,115200n8"
"""A tick that comes by itself: one that the kernel must ask for was lost, for minutes, on a starved host."""

BUILD_CONFIG = f"""\
# For the build only: its last console is the serial port. update-grub writes the one that ships.
set timeout=0
search --no-floppy --label {ROOT_LABEL} --set=root
menuentry "build" {{
    linux /boot/vmlinuz-@KERNEL@ root=LABEL={ROOT_LABEL} ro {_KERNEL_BUILD_OPTIONS}
    initrd /boot/initrd.img-@KERNEL@
}}
"""

DEFAULTS = f"""\
# Read by update-grub.
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="{_TIMER}"
# No serial port: a machine without one may take minutes to boot when the kernel writes to it.
GRUB_TERMINAL=console
GRUB_DISABLE_OS_PROBER=true
"""

INSTALL_SCRIPT = f"""\
mkdir -p "$1/boot/efi/EFI/BOOT"
for platform in i386-pc x86_64-efi; do
    mkdir -p "$1/boot/grub/$platform"
    cp "$1/usr/lib/grub/$platform"/*.mod "$1/usr/lib/grub/$platform"/*.lst "$1/boot/grub/$platform/"
done
cp "$1/usr/lib/grub/i386-pc/boot.img" "$1/boot/grub/i386-pc/"
chroot "$1" grub-mkimage -O i386-pc -c /boot/grub/early.cfg -p /boot/grub \\
    -o /boot/grub/i386-pc/core.img {BIOS_MODULES}
chroot "$1" grub-mkimage -O x86_64-efi -c /boot/grub/early.cfg -p /boot/grub \\
    -o /boot/efi/EFI/BOOT/BOOTX64.EFI {EFI_MODULES}
kernel=$(cd "$1/boot" && ls vmlinuz-* | sort -V | tail -n 1)
sed -i "s/@KERNEL@/${{kernel#vmlinuz-}}/" "$1/boot/grub/grub.cfg"
"""
"""Runs on the host with the chroot as $1. EFI/BOOT/BOOTX64.EFI is the path that firmware tries by itself:
an appliance arrives without boot entries."""


def patch_boot_sector(boot: bytes, existing: bytes, core_sector: int) -> bytes:
    """The first sector of a disk: GRUB's boot.img, told where core.img begins.

    Args:
        existing: the sector as it is; its partition table stays.
    """
    if len(boot) != SECTOR or len(existing) != SECTOR:
        raise FileError(f"GRUB's boot.img has {len(boot)} bytes instead of {SECTOR}")
    sector = bytearray(boot)
    struct.pack_into("<Q", sector, _KERNEL_SECTOR, core_sector)
    sector[_BOOT_DRIVE] = 0xFF  # the drive that the BIOS names, whichever it is
    sector[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"  # no work-around for a BIOS that names none
    sector[_CODE_END:] = existing[_CODE_END:]
    return bytes(sector)


def patch_core(core: bytes, core_sector: int, room: int) -> bytes:
    """core.img with the list of sectors that its first one (diskboot.img) loads: all that follow it.

    Args:
        room: bytes of the partition that takes it.
    """
    count = -(-len(core) // SECTOR)
    if count < 2 or len(core) > room:
        raise FileError(f"GRUB's core.img of {len(core)} bytes does not fit the BIOS boot partition of {room}")
    patched = bytearray(core.ljust(count * SECTOR, b"\0"))
    struct.pack_into("<QHH", patched, _BLOCK_LIST, core_sector + 1, count - 1, _LOAD_SEGMENT)
    return bytes(patched)
