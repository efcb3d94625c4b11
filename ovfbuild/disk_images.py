"""(SealedDisk, Plan, Profile) → the disks alone, in one format, each with its checksum beside it.

    two-1.0.qcow2         two-1.0.qcow2.sha256         two-1.0.glance.json, where the profile has image properties

No descriptor goes with them, so what it would say is lost: the machine, the networks, the properties, the licence.
A VMDK is written, and hashed, in the one pass that packages are written in; the others by qemu-img from where the disk
lies, with no copy between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ovfbuild import glance, package, sbom
from ovfbuild.errors import VerificationError
from ovfbuild.files import published, sha256_of
from ovfbuild.formats import ova, vmdk_reader
from ovfbuild.progress import Progress, step
from ovfbuild.spec.plan import Plan
from ovfbuild.spec.profile import Profile
from ovfbuild.verify import content
from ovfbuild.vm import disk
from ovfbuild.vm.sealed import SealedDisk

Write = Callable[[SealedDisk, Path], str]
"""Writes a disk to a path; returns the SHA-256 of the file."""


def publish(
    sealed: Sequence[SealedDisk], plan: Plan, profile: Profile, out: Path, work: Path, progress: Progress
) -> list[Path]:
    """Writes each disk and sees that it is the sealed one; all get their names then. The boot disk comes first.

    Raises:
        VerificationError: what was written is not the disk.
    """
    names = package.Names.of(plan, profile)
    targets = [out / names.image(number, len(sealed)) for number in range(1, len(sealed) + 1)]
    with ExitStack() as files:
        for number, (one, target) in enumerate(zip(sealed, targets, strict=True), 1):
            checksum = files.enter_context(published(checksum_of(target)))
            partial = files.enter_context(published(target))
            with step(progress, f"write {target.name}"):
                digest = _write(one, partial, plan, profile, work, progress, number)
                checksum.write_text(f"{digest}  {target.name}\n", encoding="ascii")
            with step(progress, "verify"):
                if not _same(one, partial, profile, work):
                    raise VerificationError(
                        f"{target.name} is not the disk that was packed", "report this: it is a bug"
                    )
        if profile.glance:
            beside = files.enter_context(published(out / f"{names.stem}.glance.json"))
            beside.write_text(image_of(sealed[0], plan, profile).dump(), encoding="utf-8")
    return targets


def checksum_of(image: Path) -> Path:
    """Where the checksum of a disk lies, as `sha256sum -c` reads it."""
    return image.with_name(f"{image.name}.sha256")


def image_of(sealed: SealedDisk, plan: Plan, profile: Profile) -> glance.GlanceImage:
    """What OpenStack is told of that disk, with what was seen on it."""
    components = sbom.load(sealed.components) if sealed.components else []
    return glance.image(
        plan.appliance,
        profile,
        plan.guest_os,
        capacity=sealed.capacity,
        disk_format=profile.format,
        installed={one["name"] for one in components},
    )


def _write(
    sealed: SealedDisk, target: Path, plan: Plan, profile: Profile, work: Path, progress: Progress, number: int
) -> str:
    """The SHA-256 of what was written."""
    if profile.format == "vmdk":
        with target.open("wb") as out:
            return package.compress(sealed, plan, "sha256", out, package.Tools(work, progress), number).digest
    disk.export(sealed.path, sealed.format, target, profile.format, progress)
    return sha256_of(target)


def _same(sealed: SealedDisk, written: Path, profile: Profile, work: Path) -> bool:
    if profile.format == "vmdk":
        with written.open("rb") as stream:
            vmdk_reader.walk(stream, written.name)
        return content.is_packed(sealed, written, ova.Member(written.name, 0, written.stat().st_size), work)
    return disk.compare(disk.described(sealed.path, sealed.format), disk.described(written, profile.format))
