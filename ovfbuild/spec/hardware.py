"""[hardware] and [[networks]] of an appliance.toml. What they come to with a profile is in `machine`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from ovfbuild.spec import fields as f
from ovfbuild.spec.catalogue import ControllerName, NicName
from ovfbuild.spec.mistakes import mistake
from ovfbuild.spec.table import Table
from ovfbuild.spec.units import format_size

_MIB = 1024**2
_GIB = 1024**3


def at_least(size: int, least: int, step: int) -> int:
    """A size in bytes that is no less than `least`, and a multiple of `step`."""
    if size < least:
        raise mistake(f"{format_size(size)} is too small; at least {format_size(least)}")
    if size % step:
        below = size // step * step
        raise mistake(
            f"{format_size(size)} is not a multiple of {format_size(step)}; "
            f'the nearest are "{format_size(below)}" and "{format_size(below + step)}"'
        )
    return size


def memory_fits(size: int) -> int:
    """VMware takes memory in steps of 4 MB; less than 128 MiB does not unpack an initramfs."""
    return at_least(size, 128 * _MIB, 4 * _MIB)


class Hardware(Table):
    """The machine that the package declares. The build VM has its own, in [build]."""

    cpus: int = Field(2, ge=1, le=128)
    """Virtual CPUs."""
    cores_per_socket: int | None = Field(None, ge=1, le=128)
    """How many of them a socket has; by default the importer decides."""
    memory: f.Size = Field("1 GiB", validate_default=True)
    """Memory, at least 128 MiB, in steps of 4 MiB."""
    disk: f.Size = Field("4 GiB", validate_default=True)
    """Capacity of the disk, at least 1 GiB. The base's root file system grows to it."""
    controller: ControllerName | None = None
    """What the disk hangs on; by default what the profile says."""
    firmware: Literal["bios", "efi"] = "bios"
    """What the package asks for; the disk itself always boots with both."""
    secure_boot: bool = False
    """Whether the firmware starts signed boot loaders only; for an image that has one."""
    cdrom: bool | None = None
    """Whether there is a CD-ROM drive; by default what the profile says."""
    serial: bool = False
    """Whether the appliance has a serial port, and a console on it."""
    usb: bool = False
    """Whether it has a USB 3 controller."""
    video_memory: f.Size | None = None
    """The video card's memory, 1 MiB to 128 MiB; by default the importer decides."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if table.get("secure_boot") is True and table.get("firmware") != "efi":
            yield "secure_boot", 'is a matter of EFI; write firmware = "efi" too'
        cpus, cores = table.get("cpus", 2), table.get("cores_per_socket")
        if isinstance(cpus, int) and isinstance(cores, int) and cores > 0 and cpus % cores:
            yield "cores_per_socket", f"{cores} does not divide cpus, which is {cpus}; write one that does"

    @field_validator("memory")
    @classmethod
    def _memory_fits(cls, size: int) -> int:
        return memory_fits(size)

    @field_validator("disk")
    @classmethod
    def _disk_fits(cls, size: int) -> int:
        return at_least(size, _GIB, _MIB)

    @field_validator("video_memory")
    @classmethod
    def _video_memory_fits(cls, size: int | None) -> int | None:
        if size is not None and size > 128 * _MIB:
            raise mistake(f"{format_size(size)} is too much; at most 128 MiB, which every importer has")
        return None if size is None else at_least(size, _MIB, _MIB)


class Network(Table):
    """A network that the appliance is connected to, with one network card."""

    name: f.NetworkName = Field(examples=["VM Network"])
    """The name that the importer maps to one of its own networks."""
    model: NicName | None = None
    """The network card's model; by default what the profile says."""
