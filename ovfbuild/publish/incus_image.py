"""A package's machine in Incus's words: an image's metadata and disk, and what only `incus launch` can be told.

An image is split: a tar with metadata.yaml, and a qcow2. Its fingerprint is the SHA-256 of both, one after the other.
Source: https://linuxcontainers.org/incus/docs/main/reference/image_format/
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ovfbuild.files import absorb
from ovfbuild.formats import ova
from ovfbuild.formats.envelope import Envelope
from ovfbuild.publish import nova
from ovfbuild.publish.image_content import PackedDisk

_ROOT = 10 * 2**30
"""The size of a machine's root disk where nothing says another (Incus, storage drivers, `size`)."""
_CPU = 3


@dataclass(frozen=True)
class Form:
    """An image as it is sent: multipart/form-data (RFC 7578) of `metadata`, a tar, and the disk, a qcow2."""

    metadata: bytes
    disk: Path
    fingerprint: str
    """SHA-256, in hex."""
    boundary: str

    @property
    def image_size(self) -> int:
        """Bytes, as Incus counts them."""
        return len(self.metadata) + self.disk.stat().st_size

    @property
    def size(self) -> int:
        """Bytes of the whole form."""
        return len(self._head) + self.disk.stat().st_size + len(self._tail)

    @contextmanager
    def opened(self) -> Iterator[Chain]:
        with self.disk.open("rb") as disk:
            yield Chain(io.BytesIO(self._head), disk, io.BytesIO(self._tail))

    @property
    def _head(self) -> bytes:
        return self._part("metadata", "metadata.tar") + self.metadata + b"\r\n" + self._part("rootfs.img", "disk.qcow2")

    @property
    def _tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()

    def _part(self, name: str, file: str) -> bytes:
        said = f'Content-Disposition: form-data; name="{name}"; filename="{file}"'
        return f"--{self.boundary}\r\n{said}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()


class Chain:
    """Streams, one after the other."""

    def __init__(self, *streams: BinaryIO) -> None:
        self._streams = list(streams)

    def read(self, size: int, /) -> bytes:
        while self._streams:
            if octets := self._streams[0].read(size):
                return octets
            self._streams.pop(0)
        return b""


def form(properties: Mapping[str, str], created: int, disk: Path) -> Form:
    """The image of a disk. `created` is in seconds since 1970, and not 0."""
    described = {"architecture": "x86_64", "creation_date": created, "properties": dict(properties)}
    stream = io.BytesIO()
    archive = ova.Archive(stream, created)
    archive.add("metadata.yaml", json.dumps(described, indent=1).encode())  # which is YAML, too
    archive.finish()
    metadata = stream.getvalue()
    running = hashlib.sha256(metadata)
    with disk.open("rb") as content:
        absorb(content, running)
    return Form(metadata, disk, running.hexdigest(), secrets.token_hex(16))


def properties(envelope: Envelope, disk: PackedDisk, name: str, version: str) -> dict[str, str]:
    """What an image says of itself. `requirements.secureboot` is the one that Incus heeds (driver_qemu.go)."""
    told = nova.machine(envelope, "qcow2", disk.declared.disk_id).properties
    product = next((one.product for one in envelope.virtual_system.products if one.product), None) or name
    found = {"name": f"{name}-{version}", "description": f"{product} {version}", "architecture": "x86_64"}
    found |= {ours: told[theirs] for ours, theirs in (("os", "os_distro"), ("release", "os_version")) if theirs in told}
    return found if _secure(told) else found | {"requirements.secureboot": "false"}


def launch(envelope: Envelope, disk: PackedDisk, image: str, name: str, *, csm: bool) -> str:
    """The command that starts such a machine as the descriptor has it; `csm` by BIOS, which Incus leaves out else."""
    machine = nova.machine(envelope, "qcow2", disk.declared.disk_id)
    items = envelope.virtual_system.hardware.items
    cpus = next((item.virtual_quantity for item in items if item.resource_type == _CPU), None)
    settings = {
        "limits.cpu": f"{cpus}" if cpus else "",
        "limits.memory": f"{machine.min_ram}MiB" if machine.min_ram else "",
        "security.csm": "true" if csm else "",
        "security.secureboot": "" if _secure(machine.properties) else "false",
    }
    words = ["incus", "launch", image, name, "--vm"]
    words += [word for key, value in settings.items() if value for word in ("-c", f"{key}={value}")]
    words += ["-d", f"root,size={disk.gibibytes}GiB"] if disk.capacity > _ROOT else []
    return shlex.join(words)


def _secure(told: Mapping[str, str]) -> bool:
    return told.get("os_secure_boot") == "required"
