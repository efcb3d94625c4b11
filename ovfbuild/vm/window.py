"""A VMDK inside an OVA as a disk of a VM: read where it lies in the archive, written to an overlay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ovfbuild.vm import disk
from ovfbuild.vm.hardware import file_node
from ovfbuild.vm.process import run


def overlay(archive: Path, offset: int, size: int, path: Path) -> dict[str, Any]:
    """Makes an empty overlay at `path` and returns the block device of both; places in bytes.

    Raises:
        ProgramError: qemu-img can't read what lies there as a VMDK.
    """
    described = disk.inside(archive, offset, size)
    capacity = json.loads(run(["qemu-img", "info", "--output=json", "--image-opts", described]))["virtual-size"]
    run(["qemu-img", "create", "-q", "-f", "qcow2", path.absolute(), str(capacity)])
    window = {"driver": "raw", "offset": offset, "size": size, "file": _file(archive)}
    return {**file_node(path, "qcow2"), "backing": {"driver": "vmdk", "read-only": True, "file": window}}


def _file(path: Path) -> dict[str, Any]:
    return {"driver": "file", "filename": str(path.absolute())}
