"""What an importer made of a package, in the project's own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Imported:
    """A machine as the importer has it. `disks`, `drives` and `nics` in the importer's own order."""

    cpus: int
    memory: int
    """MiB."""
    os_type: str
    firmware: str
    """`bios` or `efi`; empty where the importer does not say."""
    disks: tuple[str, ...]
    """The type of controller that each disk hangs on."""
    drives: tuple[str, ...]
    """The same of each CD-ROM drive."""
    nics: tuple[str, ...]
    """The model of each network card, and a slash, and the network that it is connected to."""


@dataclass(frozen=True)
class Import:
    """An import: the machine, the content of its disks as images, and what the importer said aloud."""

    machine: Imported
    images: tuple[Path, ...]
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    """The machine in the importer's own words, where it has them as keys and values."""
