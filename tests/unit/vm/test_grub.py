"""The two patches that make GRUB's files a BIOS boot loader."""

from __future__ import annotations

import struct

import pytest

from ovfbuild.errors import FileError
from ovfbuild.vm import grub


def test_boot_sector_keeps_the_partition_table() -> None:
    table = bytes(440) + bytes(range(72))
    patched = grub.patch_boot_sector(b"\xeb" * 512, table, 2048)
    assert patched[440:] == table[440:]
    assert struct.unpack_from("<Q", patched, 0x5C) == (2048,)
    assert patched[0x64] == 0xFF
    assert patched[0x66:0x68] == b"\x90\x90"
    assert patched[:0x5C] == b"\xeb" * 0x5C and patched[0x68:440] == b"\xeb" * (440 - 0x68)


def test_boot_sector_of_another_size_is_refused() -> None:
    with pytest.raises(FileError):
        grub.patch_boot_sector(b"", bytes(512), 2048)


def test_core_lists_the_sectors_behind_its_first() -> None:
    patched = grub.patch_core(b"\xaa" * 1300, 2048, 1 << 20)
    assert len(patched) == 1536
    assert struct.unpack_from("<QHH", patched, 500) == (2049, 2, 0x820)
    assert patched[:500] == b"\xaa" * 500 and patched[512:1300] == b"\xaa" * 788


@pytest.mark.parametrize("size", [0, 512, 2049])
def test_core_that_does_not_fit_is_refused(size: int) -> None:
    with pytest.raises(FileError):
        grub.patch_core(bytes(size), 2048, 2048)


def test_what_ships_writes_to_no_serial_port() -> None:
    assert "ttyS0" not in grub.DEFAULTS
    assert grub.BUILD_CONFIG.count("console=tty0 console=ttyS0,115200n8\n") == 1  # the serial port last
