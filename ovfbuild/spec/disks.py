"""[[disks]]: the disks beside the one that the appliance boots from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ovfbuild.spec import fields as f
from ovfbuild.spec import references as r
from ovfbuild.spec.hardware import at_least
from ovfbuild.spec.mistakes import mistake, quoted
from ovfbuild.spec.table import Table

FileSystemName = Literal["ext4"]

_MIB = 1024**2
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}"
_NEEDED = ("", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/root", "/sbin", "/usr", "/var", "/var/lib")
"""What a system starts from, or what a base has put files into."""


def _mount(text: str, folder: Path) -> str:
    del folder
    path = re.sub(r"/+$", "", text)
    if not re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", path or "/x", re.ASCII) or not text.startswith("/"):
        raise ValueError(f'{quoted(text)} is not a place for a disk; write an absolute path such as "/srv/data"')
    if path in _NEEDED or path.split("/")[1] in ("proc", "sys", "dev", "run", "boot", "etc", "usr"):
        raise ValueError(f'{quoted(text)} is part of the system itself; choose a folder such as "/srv/data"')
    return path


MountPoint = Annotated[str, f.text_field(_mount), f.json_string(r"/.+")]


class DataDisk(Table):
    """A disk beside the one that the appliance boots from: an image, or an empty one."""

    image: r.FilePath | None = None
    """A qcow2, raw or VMDK disk that is there already."""
    size: f.Size | None = Field(None, examples=["20 GiB"])
    """The capacity of an empty disk, at least 16 MiB, in steps of 1 MiB."""
    filesystem: FileSystemName | None = None
    """The file system that an empty disk gets; by default ext4 if it is mounted, else none."""
    label: str = ""
    """That file system's label."""
    mount: MountPoint | None = None
    """Where the appliance has it; what the build puts there is on this disk."""

    @property
    def made_as(self) -> FileSystemName | None:
        """The file system that is made on it."""
        return self.filesystem or ("ext4" if self.size and self.mount else None)

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if "image" in table and "size" in table:
            yield "size", "stands beside an image; keep one of the two"
        if "image" not in table and "size" not in table:
            yield "", 'says neither image nor size; for example size = "20 GiB"'
        for key in ("filesystem", "label"):
            if key in table and "image" in table:
                yield key, "is for an empty disk; leave it out"
        if "label" in table and "filesystem" not in table and "mount" not in table:
            yield "label", 'is for a file system; add filesystem = "ext4" or a mount'

    @field_validator("size")
    @classmethod
    def _size_fits(cls, size: int | None) -> int | None:
        return None if size is None else at_least(size, 16 * _MIB, _MIB)

    @field_validator("label")
    @classmethod
    def _label_fits(cls, text: str) -> str:
        if text and not re.fullmatch(_LABEL, text, re.ASCII):
            raise mistake(f'{quoted(text)} is not a label; use at most 16 letters, digits and . _ -, such as "data"')
        return text


def disk_clashes(disks: object) -> Iterable[tuple[str, str]]:
    """Two disks in one place, or of one label."""
    tables = [one for one in disks if isinstance(one, Mapping)] if isinstance(disks, list | tuple) else []
    for key in ("mount", "label"):
        words = [one[key].rstrip("/") for one in tables if isinstance(one.get(key), str) and one[key]]
        for word in dict.fromkeys(word for word in words if words.count(word) > 1):
            yield "disks", f"has the {key} {quoted(word)} twice; each disk needs its own"
