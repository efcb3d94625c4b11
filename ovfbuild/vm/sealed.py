"""SealedDisk: what may be packed. Only `seal`, which looks at it from outside, and `adopt` return one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import FileError, GuestError
from ovfbuild.progress import Progress
from ovfbuild.vm import disk, freespace, outside
from ovfbuild.vm.leftovers import find_canaries, find_leftovers

COMPONENTS = "components.json"


@dataclass(frozen=True)
class SealedDisk:
    """A disk that nobody writes again. `capacity` in bytes."""

    path: Path
    format: str
    capacity: int
    components: Path | None = None
    """What is installed on it (`ovfbuild.sbom`), where that was read."""


def seal(overlay: Path, target: Path, work: Path, progress: Progress, canaries: Sequence[bytes] = ()) -> SealedDisk:
    """Flattens an overlay into `target` (qcow2) and sees for itself that nothing unique is left in it.

    Args:
        canaries: what the build was told and no block may hold: passwords.

    Raises:
        GuestError: the guest said that it was sealed, and it isn't; every leftover is named.
    """
    disk.convert(overlay, "qcow2", target, "qcow2", progress)
    disk.check(target, "qcow2")
    with outside.open_root(target, "qcow2", work) as root:
        if root is None:
            progress.warn("the disk has no ext4 file system: that it is sealed is the guest's word alone")
        else:
            root.check_clean()
            freespace.erase(root, target, "qcow2")
            left = find_leftovers(root, canaries)
            if left:
                raise GuestError(
                    "the disk is not sealed:\n" + "\n".join(f"  {sentence}" for sentence in left),
                    "a script or package left it after the clean-up; report it if it was ovfbuild itself",
                )
    return SealedDisk(target, "qcow2", disk.probe(target).virtual_size)


def seal_data(
    overlay: Path, target: Path, work: Path, progress: Progress, canaries: Sequence[bytes] = ()
) -> SealedDisk:
    """The same of a disk that the appliance does not boot from, on which nothing is left but what may not be told.

    Raises:
        GuestError: it holds what the build was told and no block may hold.
    """
    disk.convert(overlay, "qcow2", target, "qcow2", progress)
    disk.check(target, "qcow2")
    with outside.open_root(target, "qcow2", work, holding="/") as found:
        if found is None:
            progress.warn("a disk has no ext4 file system: that it is unmounted whole is the guest's word alone")
        else:
            found.check_clean()
            freespace.erase(found, target, "qcow2")
            if left := find_canaries(found, canaries):
                raise GuestError(
                    "a disk is not sealed:\n" + "\n".join(f"  {sentence}" for sentence in left),
                    "a script or package left it on that disk",
                )
    return SealedDisk(target, "qcow2", disk.probe(target).virtual_size)


def adopt(path: Path) -> SealedDisk:
    """A disk that the user brings, taken as it is (`ovfbuild pack`).

    Raises:
        FileError: it is no disk image, or a part of one.
    """
    image = disk.probe(path)
    if image.virtual_size == 0:
        raise FileError(f"{path} is a disk of no size", "name the disk that is to be packed")
    return SealedDisk(path, image.format, image.virtual_size)


def disk_name(number: int) -> str:
    """What the sealed disk of that number is called in its folder."""
    return f"disk{number}.qcow2" if number > 1 else "disk.qcow2"


def sealed_in(folder: Path, number: int = 1) -> SealedDisk:
    """A sealed disk that a cache entry holds; 1 is the one to boot from."""
    path, components = folder / disk_name(number), folder / COMPONENTS
    known = components if number == 1 and components.exists() else None
    return SealedDisk(path, "qcow2", disk.probe(path).virtual_size, known)


def keep(work: Path, target: Path) -> None:
    """`--on-failure keep`: the disk and the seed of a failed build, beside its logs."""
    for name in ("overlay.qcow2", "seed.iso"):
        if (work / name).exists():
            shutil.move(work / name, target / name)
