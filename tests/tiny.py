"""Guests of 512 bytes: boot sectors that write to the serial ports and power the machine off.

They test everything around a guest in a second or two. They know no virtio, so the report port is the
second UART for them (`REPORT_DEVICES` below takes the place of `ovfbuild.vm.hardware.REPORT_DEVICES`).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ovfbuild.vm.accelerator import boot_sector

REPORT_DEVICES = ("isa-serial,chardev=report",)

_CONSOLE, _REPORT = 0x3F8, 0x2F8
_BEGIN = bytes.fromhex("fa31c08ed8fc")  # cli; xor ax, ax; mov ds, ax; cld

POWER_OFF = bytes.fromhex("ba0406b80020ef")  # the PIIX4's PM1a_CNT: S5
HANG = bytes.fromhex("f4ebfd")  # hlt, for ever
REBOOT = bytes.fromhex("b0fee664")  # the keyboard controller's reset line


def console(text: str) -> tuple[int, bytes]:
    """Writes a line to the serial console."""
    return _CONSOLE, text.encode() + b"\n"


def report(event: str, **facts: object) -> tuple[int, bytes]:
    """Reports as ovfbuild's own programs in a guest do."""
    return _REPORT, json.dumps({"event": event, **facts}).encode() + b"\n"


def echo() -> bytes:
    """Sends back whatever comes over the serial console, in capitals (of letters: bit 5 cleared)."""
    return bytes.fromhex("bafd03eca80174fb" + "baf803ec24dfee" + "ebef")


def sector(*acts: tuple[int, bytes] | bytes) -> bytes:
    """A boot sector that does these, one after the other, and then hangs."""
    parts: list[bytes | tuple[int, bytes]] = [_BEGIN, *acts, HANG]
    length = sum(len(part) if isinstance(part, bytes) else 26 for part in parts)
    code, texts = b"", b""
    for part in parts:
        if isinstance(part, bytes):
            code += part
        else:
            code += _say(part[0], 0x7C00 + length + len(texts))
            texts += part[1] + b"\0"
    return code + texts


def _say(port: int, address: int) -> bytes:
    return (
        b"\xbe"
        + struct.pack("<H", address)  # mov si, text
        + b"\xac\x84\xc0\x74\x12\x88\xc4"  # again: lodsb; test al, al; jz done; mov ah, al
        + b"\xba"
        + struct.pack("<H", port + 5)  # mov dx, line status
        + b"\xec\xa8\x20\x74\xfb"  # wait: in al, dx; test al, 20h; jz wait
        + b"\xba"
        + struct.pack("<H", port)  # mov dx, port
        + b"\x88\xe0\xee\xeb\xe9"  # mov al, ah; out dx, al; jmp again
    )


def disk(path: Path, *acts: tuple[int, bytes] | bytes) -> Path:
    """A disk of 1 MiB with that boot sector."""
    path.write_bytes(boot_sector(sector(*acts)))
    return path
