"""A hypervisor's names and limits: descriptors/NAME.toml, or a user's own file, as a frozen `Profile`.

Code branches on a field of a profile, never on its name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from ovfbuild.errors import UsageError
from ovfbuild.spec.catalogue import Controller, ControllerName, NicName, controller
from ovfbuild.spec.mistakes import closest, quoted, sentences
from ovfbuild.spec.table import Table

_NOT_PROFILES = ("guest_os", "hardware", "libraries", "rules")
_SUFFIX = r"(-[A-Za-z0-9._-]{1,30})?"

Feature = Literal[
    "efi",
    "secure_boot",
    "cores_per_socket",
    "serial",
    "usb",
    "video_memory",
    "vmware",
    "deployment_options",
    "icon",
]
"""What an appliance may ask for and not every importer takes."""
LEFT_OUT: tuple[Feature, ...] = ("vmware", "deployment_options", "icon")
"""What a package is the same machine without: refused only where no profile of the appliance takes it."""


Format = Literal["ova", "ovf", "qcow2", "vmdk", "vhdx", "raw"]
"""What comes out: a package as one file or as a folder, or the disks alone."""
PACKAGES: tuple[Format, ...] = ("ova", "ovf")
"""Those that have a descriptor."""


class DiskProfile(Table):
    """How the appliance's disk is written and attached."""

    format: Literal["streamOptimized"]
    adapter_type: Literal["lsilogic", "ide"]
    """`ddb.adapterType` in the VMDK's disk descriptor; it binds no importer to that controller."""
    controller: ControllerName
    """Where the appliance does not say."""
    controllers: tuple[ControllerName, ...]
    """Those that an appliance may ask for."""
    most: int | None = Field(None, ge=1)
    """How many disks the importers take, where that is less than a controller has room for."""


class CdromProfile(Table):
    """The CD-ROM drive that carries the OVF environment, or a seed."""

    present: bool
    """Where the appliance does not say."""
    required: bool = False
    """False: `ovf:required="false"`, so that importers without one go on."""
    resource_subtype: str = ""
    controller: ControllerName

    @property
    def bus(self) -> Controller:
        """What a descriptor says of its controller."""
        return controller(self.controller)


class NicProfile(Table):
    """The network cards."""

    model: NicName
    """Where the appliance does not say."""
    models: tuple[NicName, ...]
    """Those that an appliance may ask for."""


class SerialProfile(Table):
    """The serial port, of an appliance that declares one."""

    required: bool = False


class VirtualBoxProfile(Table):
    """A vbox:Machine element, from which VirtualBox takes the whole machine."""

    settings: str
    """Its `version`: that of VirtualBox's settings."""


class GlanceProfile(Table):
    """The image properties of OpenStack, which stand beside the disk."""

    machine_type: Literal["q35", "pc"]


class Profile(Table):
    """What one kind of importer wants of a package."""

    name: str
    """As it was asked for: the stem of its file, with a version behind a colon; a user's own by its path."""
    title: str
    summary: str
    importers: tuple[str, ...]
    """Those that it is meant for, for people."""
    suffix: str
    """Put between the appliance's version and the file's ending, so that two profiles' packages differ in name."""
    format: Format
    """What comes out, where [package] or the command line do not say."""
    manifest: Literal["sha1", "sha256"]
    virtual_system_type: str
    """vssd:VirtualSystemType, such as `vmx-14`."""
    versions: dict[str, str] = Field(default_factory=dict)
    """By the importer's own version, where one can be asked for: its virtual_system_type."""
    transport: tuple[str, ...]
    """`ovf:transport`: how the OVF environment may reach the guest. Empty: not at all."""
    vmware: bool
    """Whether elements and attributes of VMware's namespace are written."""
    takes: tuple[Feature, ...]
    """What an appliance may ask for; anything else is refused before a build."""
    waives: tuple[str, ...] = ()
    """Rules of docs/formats.md whose warnings mean nothing to these importers."""
    virtualbox: VirtualBoxProfile | None = None
    """A vbox:Machine, where one is written."""
    glance: GlanceProfile | None = None
    """OpenStack's image properties, where they are written."""
    disk: DiskProfile
    cdrom: CdromProfile
    nic: NicProfile
    serial: SerialProfile

    @property
    def packaged(self) -> bool:
        """Whether what comes out has a descriptor, and so a machine to boot."""
        return self.format in PACKAGES

    @property
    def hardware_version(self) -> int:
        """14 of `vmx-14`."""
        return int(self.virtual_system_type.removeprefix("vmx-"))

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        cdrom, transport = table.get("cdrom"), table.get("transport")
        drive = isinstance(cdrom, Mapping) and cdrom.get("present")
        if isinstance(transport, list | tuple) and "iso" in transport and not drive:
            yield "transport", 'has "iso" without a CD-ROM, which vSphere refuses; set cdrom.present = true'
        for key, one, many in (("disk", "controller", "controllers"), ("nic", "model", "models")):
            inner = table.get(key)
            if isinstance(inner, Mapping) and inner.get(one) not in (inner.get(many) or ()):
                yield key, f"{one} is none of {many}; write it there too"
        versions = table.get("versions")
        families = [table.get("virtual_system_type"), *(versions.values() if isinstance(versions, dict) else ())]
        for family in families:
            if isinstance(family, str) and not re.fullmatch(r"vmx-\d{1,3}", family, re.ASCII):
                yield "virtual_system_type", f'{quoted(family)} is no hardware family of VMware\'s; write "vmx-14"'
        if isinstance(table.get("suffix"), str) and not re.fullmatch(_SUFFIX, table["suffix"], re.ASCII):
            yield "suffix", 'is put into file names; write one such as "-mine", or ""'
        yield from _without_vmware(table)


def _without_vmware(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Features that only VMware's elements, or a vbox:Machine, can say."""
    takes = table.get("takes")
    for feature in takes if table.get("vmware") is False and isinstance(takes, list | tuple) else ():
        machine = feature in ("efi", "video_memory") and table.get("virtualbox")
        if feature in ("efi", "secure_boot", "cores_per_socket", "video_memory", "vmware") and not machine:
            yield "takes", f"has {quoted(feature)}, which is said in VMware's words; set vmware = true"


def profile_names() -> tuple[str, ...]:
    """The profiles that ship, sorted."""
    folder = resources.files("ovfbuild.descriptors")
    stems = (entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(stem for stem in stems if stem not in _NOT_PROFILES))


def is_path(name: str) -> bool:
    """Whether a profile is named by its file."""
    return "/" in name or name.endswith(".toml")


def takers(feature: Feature) -> list[str]:
    """The profiles that ship and take it."""
    return [name for name in profile_names() if feature in load_profile(name).takes]


@cache
def load_profile(name: str) -> Profile:
    """The profile of that name: `portable`, `vsphere:7.0`, or the path of a file.

    UsageError with the closest one if there is none, or if its file is wrong.
    """
    if is_path(name):
        try:
            return parse_profile(name, Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise UsageError(f"profile {name}: {said}", "ovfbuild profiles lists those that ship") from None
    stem, colon, version = name.partition(":")
    known = profile_names()
    if stem not in known:
        near = closest(stem, known) or f"; known: {', '.join(known)}"
        raise UsageError(f"unknown profile '{stem}'{near}")
    found = parse_profile(stem, _text(stem))
    return _of_version(found, version) if colon else found


def parse_profile(name: str, text: str) -> Profile:
    """The profile that `text` describes, with all of its mistakes in one UsageError.

    A file with `extends = "NAME"` has what that profile that ships has, but for its own keys.
    """
    file = name if is_path(name) else f"{name}.toml"
    try:
        table = tomllib.loads(text)
        if isinstance(table.get("extends"), str):
            table = _extended(table, file)
        return Profile.model_validate({"name": name, **table})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}") from None
    except ValidationError as error:
        lines = (": ".join(filter(None, (file, path, said))) for path, said in sentences(error))
        raise UsageError("\n".join(lines)) from None


def _extended(table: dict[str, Any], file: str) -> dict[str, Any]:
    parent = table.pop("extends")
    if parent not in profile_names():
        near = closest(parent, profile_names()) or f"; write one of {', '.join(profile_names())}"
        raise UsageError(f"{file}: extends: there is no profile '{parent}'{near}")
    return _merged(tomllib.loads(_text(parent)), table)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in over.items()
    }
    return {**under, **both}


def _of_version(found: Profile, version: str) -> Profile:
    if version not in found.versions:
        near = closest(version, found.versions) or f"; known: {', '.join(found.versions) or 'none, leave it out'}"
        raise UsageError(f"profile {found.name} has no version '{version}'{near}")
    changes = {
        "name": f"{found.name}:{version}",
        "suffix": f"{found.suffix}-{version}",
        "virtual_system_type": found.versions[version],
        "versions": {},
    }
    return found.model_copy(update=changes)


def _text(name: str) -> str:
    return (resources.files("ovfbuild.descriptors") / f"{name}.toml").read_text(encoding="utf-8")


FEATURES: tuple[Feature, ...] = get_args(Feature)
