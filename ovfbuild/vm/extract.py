"""Disks that lie within other files, such as an OVA (`disk.inside`): how large they are, and out of there."""

from __future__ import annotations

import json
from pathlib import Path

from ovfbuild.progress import Progress
from ovfbuild.vm.disk import watched
from ovfbuild.vm.process import run


def capacity(source: str) -> int:
    """The size in bytes of a disk in the words of --image-opts. Raises ProgramError."""
    return int(json.loads(run(["qemu-img", "info", "--output=json", "--image-opts", source]))["virtual-size"])


def is_empty(source: str) -> bool:
    """Whether the tables of a disk in the words of --image-opts tell of no content at all. Raises ProgramError."""
    told = run(["qemu-img", "map", "--output=json", "--image-opts", source], timeout=600)
    return not any(extent["data"] for extent in json.loads(told))


def extract(source: str, target: Path, target_format: str, progress: Progress) -> None:
    """Writes a disk in the words of --image-opts as an image of its own. Raises ProgramError."""
    with watched(target, progress):
        run(["qemu-img", "convert", "--image-opts", "-O", target_format, source, target.absolute()], timeout=4 * 3600)
