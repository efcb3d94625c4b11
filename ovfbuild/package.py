"""(SealedDisk, Plan, Profile) → an OVA, written in one pass: the disk is read, compressed, hashed and archived once.

The descriptor and the manifest stand before the disk and know its size and digest, so room for them is
reserved and filled in at the end; the descriptor is padded with white space after its last tag.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.describe import PackedDisk, describe
from ovfbuild.formats import manifest, ova, ovf, vmdk
from ovfbuild.progress import Progress
from ovfbuild.spec.plan import Plan
from ovfbuild.spec.profile import Profile
from ovfbuild.vm.disk import open_reader
from ovfbuild.vm.sealed import SealedDisk

_ANY_SIZE = 10**18
"""Longer in digits than any size that will come."""


@dataclass(frozen=True)
class Names:
    """What the files in a package are called: all alike, as VirtualBox and govc want."""

    stem: str

    @classmethod
    def of(cls, plan: Plan, profile: Profile) -> Names:
        return cls(f"{plan.appliance.name}-{plan.appliance.version}{profile.suffix}")

    @property
    def package(self) -> str:
        return f"{self.stem}.ova"

    @property
    def descriptor(self) -> str:
        return f"{self.stem}.ovf"

    @property
    def manifest(self) -> str:
        return f"{self.stem}.mf"

    @property
    def disk(self) -> str:
        return f"{self.stem}-disk1.vmdk"


def write(disk: SealedDisk, plan: Plan, profile: Profile, target: Path, work: Path, progress: Progress) -> None:
    """Writes the package to `target`. The same disk, plan and profile give the same bytes."""
    names = Names.of(plan, profile)
    with (
        open_reader(disk.path, disk.format, work) as source,
        ova.create(target, mtime=plan.epoch) as archive,
    ):
        longest = PackedDisk(names.disk, _ANY_SIZE, source.capacity, _ANY_SIZE)
        descriptor = archive.reserve(names.descriptor, len(_descriptor(plan, profile, longest)))
        digests = archive.reserve(names.manifest, len(_manifest(names, b"", "0" * 64)))
        with archive.member(names.disk) as out:
            extent = vmdk.write(
                source,
                out,
                name=names.disk,
                cid=content_id(plan, source.capacity),
                on_bytes=lambda done: progress.bytes(done, source.capacity),
            )
        packed = PackedDisk(names.disk, extent.file_size, extent.capacity, extent.populated_size)
        text = _descriptor(plan, profile, packed)
        text += b" " * (descriptor.size - len(text) - 1) + b"\n" if len(text) < descriptor.size else b""
        descriptor.fill(text)
        digests.fill(_manifest(names, text, extent.sha256))


def content_id(plan: Plan, capacity: int) -> int:
    """The VMDK's CID: any number but ffffffff, the same for the same appliance."""
    seed = f"{plan.appliance.name}\n{plan.appliance.version}\n{capacity}"
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") & 0xFFFF_FFFE


def _descriptor(plan: Plan, profile: Profile, disk: PackedDisk) -> bytes:
    return ovf.dump(describe(plan.appliance, profile, plan.guest_os, disk, plan.deployment.properties))


def _manifest(names: Names, descriptor: bytes, disk_digest: str) -> bytes:
    return manifest.dump([(names.descriptor, hashlib.sha256(descriptor).hexdigest()), (names.disk, disk_digest)])
