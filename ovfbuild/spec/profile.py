"""A hypervisor's names and limits: descriptors/NAME.toml as a frozen `Profile`.

Code branches on a field of a profile, never on its name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import ValidationError

from ovfbuild.errors import UsageError
from ovfbuild.spec.mistakes import closest, sentences
from ovfbuild.spec.table import Table

_NOT_PROFILES = ("guest_os", "libraries")


class Controller(Table):
    """A controller of disks or drives, in the words of CIM_ResourceAllocationSettingData."""

    kind: Literal["ahci", "ide", "lsilogic", "lsilogicsas", "pvscsi", "nvme"]
    """What it is on the bus: decides what verification boots with and how units are addressed."""
    label: str
    """Its Description, and with a number its ElementName."""
    resource_type: Literal[5, 6, 20]
    """5 IDE, 6 parallel SCSI and SAS, 20 other storage (SATA, NVMe)."""
    resource_subtype: str = ""
    """Empty: the element is left out."""


class DiskProfile(Table):
    """How the appliance's disk is written and attached."""

    format: Literal["streamOptimized"]
    adapter_type: Literal["lsilogic", "ide"]
    """`ddb.adapterType` in the VMDK's disk descriptor; it binds no importer to that controller."""
    controller: Controller


class CdromProfile(Table):
    """The CD-ROM drive that carries the OVF environment, or a seed."""

    present: bool
    required: bool = False
    """False: `ovf:required="false"`, so that importers without one go on."""
    resource_subtype: str = ""
    controller: Controller


class NicProfile(Table):
    """The network card."""

    resource_subtype: Literal["E1000", "E1000e", "VmxNet3", "virtio", "PCNet32"]


class SerialProfile(Table):
    """The serial port, of an appliance that declares one."""

    required: bool = False


class Profile(Table):
    """What one kind of importer wants of a package."""

    name: str
    """The name of its file, without `.toml`."""
    title: str
    summary: str
    importers: tuple[str, ...]
    """Those that it is meant for, for people."""
    suffix: str
    """Put between the appliance's version and `.ova`, so that two profiles' packages differ in name."""
    format: Literal["ova"]
    manifest: Literal["sha1", "sha256"]
    virtual_system_type: str
    """vssd:VirtualSystemType, such as `vmx-14`."""
    transport: tuple[str, ...]
    """`ovf:transport`: how the OVF environment may reach the guest. Empty: not at all."""
    firmware_config: bool
    """Whether EFI is said with a `vmw:Config` of key `firmware`."""
    disk: DiskProfile
    cdrom: CdromProfile
    nic: NicProfile
    serial: SerialProfile

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        cdrom, transport = table.get("cdrom"), table.get("transport")
        drive = isinstance(cdrom, Mapping) and cdrom.get("present")
        if isinstance(transport, list | tuple) and "iso" in transport and not drive:
            yield "transport", 'has "iso" without a CD-ROM, which vSphere refuses; set cdrom.present = true'


def profile_names() -> tuple[str, ...]:
    """The profiles that ship, sorted."""
    folder = resources.files("ovfbuild.descriptors")
    stems = (entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(stem for stem in stems if stem not in _NOT_PROFILES))


@cache
def load_profile(name: str) -> Profile:
    """The profile of that name. UsageError with the closest one if there is none, or if its file is wrong."""
    known = profile_names()
    if name not in known:
        near = closest(name, known) or f"; known: {', '.join(known)}"
        raise UsageError(f"unknown profile '{name}'{near}")
    text = (resources.files("ovfbuild.descriptors") / f"{name}.toml").read_text(encoding="utf-8")
    return parse_profile(name, text)


def parse_profile(name: str, text: str) -> Profile:
    """The profile that `text` describes, with all of its mistakes in one UsageError."""
    try:
        return Profile.model_validate({"name": name, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}.toml: not TOML: {error}") from None
    except ValidationError as error:
        lines = (f"{name}.toml: {path}: {sentence}" for path, sentence in sentences(error))
        raise UsageError("\n".join(lines)) from None
