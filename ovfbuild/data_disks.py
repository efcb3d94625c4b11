"""[[disks]]: the disks beside the one that the appliance boots from, before and after the build.

An image is packed as it is, an empty disk as it is made here, without a VM. What the appliance mounts lies in the build
VM over that (an overlay, so that neither is written to), and comes back sealed: the packages, files and scripts of the
build write to it as they will in the appliance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovfbuild.files import sha256_of
from ovfbuild.spec.disks import DataDisk
from ovfbuild.spec.plan import Plan
from ovfbuild.vm import ext4
from ovfbuild.vm.build import Attached
from ovfbuild.vm.partitions import fixed_uuid
from ovfbuild.vm.sealed import SealedDisk, adopt, sealed_in


def numbered(plan: Plan) -> Iterator[tuple[int, DataDisk]]:
    """Each with its number in the package: the disk that it boots from is 1."""
    return enumerate(plan.appliance.disks, 2)


def inputs(plan: Plan) -> dict[str, Any]:
    """What is on those that are built, for the key of the sealed disks."""
    return {
        str(number): {
            **one.model_dump(mode="json", include={"size", "filesystem", "label", "mount"}),
            "image": sha256_of(one.image) if one.image else None,
        }
        for number, one in numbered(plan)
        if one.mount
    }


def attached(plan: Plan, scratch: Path) -> tuple[Attached, ...]:
    """Those that the build VM has, made in `scratch` where they are not there yet."""
    found = ((number, _as_given(plan, number, one, scratch)) for number, one in numbered(plan) if one.mount)
    return tuple(Attached(number, given.path, given.format) for number, given in found)


def sealed(plan: Plan, scratch: Path, built: Path | None = None) -> tuple[SealedDisk, ...]:
    """All of them, to be packed; `built` holds those that come from the build VM, where there was one."""
    return tuple(
        sealed_in(built, number) if built and one.mount else _as_given(plan, number, one, scratch)
        for number, one in numbered(plan)
    )


def _as_given(plan: Plan, number: int, one: DataDisk, scratch: Path) -> SealedDisk:
    """The image, or the empty disk with its file system."""
    if one.image:
        return adopt(one.image)
    assert one.size is not None
    path = scratch / f"disk{number}.raw"
    with path.open("wb") as stream:
        stream.truncate(one.size)
    if one.made_as == "ext4":
        ext4.make_file_system(path, fixed_uuid(f"{plan.appliance.name}/disk{number}"), one.label, plan.epoch)
    return SealedDisk(path, "raw", one.size)
