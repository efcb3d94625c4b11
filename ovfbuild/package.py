"""(SealedDisk, Plan, Profile) → an OVA or a folder, in one pass: the disk is read, compressed, hashed and packed once.

For a second profile of the same build not even that: the VMDK that lies in the first package is copied by the kernel.

The descriptor and the manifest stand before the disk and know its size and digest, so room for them is
reserved and filled in at the end; the descriptor is padded with white space after its last tag.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.describe import PackedDisk, PackedIcon, describe
from ovfbuild.formats import compression, folder, manifest, ova, ovf, vmdk
from ovfbuild.formats.pieces import FileWriter, Form, Piece, size_of
from ovfbuild.progress import Progress
from ovfbuild.spec.plan import Plan
from ovfbuild.spec.profile import Format, Profile
from ovfbuild.vm.disk import open_reader
from ovfbuild.vm.sealed import SealedDisk

_ANY_SIZE = 10**18
"""Longer in digits than any size that will come."""


@dataclass(frozen=True)
class Names:
    """What the files in a package are called: all alike, as VirtualBox and govc want."""

    stem: str
    format: Format = "ova"

    @classmethod
    def of(cls, plan: Plan, profile: Profile) -> Names:
        return cls(f"{plan.appliance.name}-{plan.appliance.version}{profile.suffix}", profile.format)

    @property
    def package(self) -> str:
        """The archive, or the folder."""
        return self.stem if self.format == "ovf" else f"{self.stem}.ova"

    def image(self, number: int, count: int) -> str:
        """One of so many disks that come out alone."""
        return f"{self.stem}-disk{number}.{self.format}" if count > 1 else f"{self.stem}.{self.format}"

    @property
    def descriptor(self) -> str:
        return f"{self.stem}.ovf"

    @property
    def manifest(self) -> str:
        return f"{self.stem}.mf"

    @property
    def disk(self) -> str:
        return f"{self.stem}-disk1.vmdk"

    @property
    def icon(self) -> str:
        return f"{self.stem}-icon.png"


@dataclass(frozen=True)
class PackedStream:
    """A VMDK that lies in a package, the archive or folder `package`; the rest is that of its profile."""

    package: Path
    pieces: tuple[Piece, ...]
    extent: vmdk.Extent
    adapter_type: str
    algorithm: str

    def serves(self, profile: Profile) -> bool:
        """Whether a package of that profile would have the very same VMDK."""
        return (self.adapter_type, self.algorithm) == (profile.disk.adapter_type, profile.manifest)

    def file_of(self, piece: Piece) -> Path:
        """The file that a piece lies in."""
        return self.package / piece.name if self.package.is_dir() else self.package


def write(
    disk: SealedDisk,
    plan: Plan,
    profile: Profile,
    target: Path,
    work: Path,
    progress: Progress,
    earlier: PackedStream | None = None,
) -> PackedStream:
    """Writes the package to `target`, a file or a new folder, and says where its VMDK lies.

    The same disk, plan and profile give the same bytes, but for the compression “turbo”. `earlier` is the VMDK of
    another profile's package of the same disk and plan, which is copied if it serves this one.
    """
    names, form = Names.of(plan, profile), form_of(plan)
    icon, href = _icon(plan, profile), form.href(names.disk)
    with _create(profile, target, plan.epoch) as archive:
        longest = PackedDisk(href, _ANY_SIZE, disk.capacity, _ANY_SIZE, form)
        descriptor = archive.reserve(names.descriptor, len(_descriptor(plan, profile, longest, icon)))
        nothing = [Piece(href, 0, 0, _digest(profile, b""))]
        digests = archive.reserve(names.manifest, len(_manifest(names, profile, b"", nothing, icon)))
        writer = FileWriter(archive, names.disk, form, profile.manifest)
        if earlier and earlier.serves(profile):
            extent = earlier.extent
            for piece in earlier.pieces:
                writer.copy(earlier.file_of(piece), piece)
            pieces = writer.copied
        else:
            extent = compress(disk, plan, profile.manifest, writer, work, progress)
            pieces = writer.finish(extent.digest if form.plain else "")
        if icon:
            archive.add(names.icon, icon)
        packed = PackedDisk(href, size_of(pieces), extent.capacity, extent.populated_size, form)
        text = _descriptor(plan, profile, packed, icon)
        text += b" " * (descriptor.size - len(text) - 1) + b"\n" if len(text) < descriptor.size else b""
        descriptor.fill(text)
        digests.fill(_manifest(names, profile, text, pieces, icon))
    return PackedStream(target, pieces, extent, profile.disk.adapter_type, profile.manifest)


def form_of(plan: Plan) -> Form:
    """How the disk lies in every package of the plan."""
    return Form(plan.appliance.package.chunk, plan.appliance.package.gzip)


def _create(profile: Profile, target: Path, epoch: int) -> AbstractContextManager[ova.Archive | folder.Folder]:
    return folder.create(target) if profile.format == "ovf" else ova.create(target, mtime=epoch)


def compress(
    disk: SealedDisk, plan: Plan, algorithm: str, out: vmdk.Sink, work: Path, progress: Progress
) -> vmdk.Extent:
    """The disk as a VMDK. What it calls itself has no profile in it, so that it is the same for all of them."""
    compressor = compression.compressor(plan.compression)
    if not compressor.stable:
        progress.note(f"packed by {compressor.program}: another run may give other bytes of the same disk")
    with open_reader(disk.path, disk.format, work) as source:
        return vmdk.write(
            source,
            out,
            name=f"{plan.appliance.name}-{plan.appliance.version}-disk1.vmdk",
            cid=content_id(plan, source.capacity),
            packing=vmdk.Packing(compressor.compress, algorithm),
            on_bytes=lambda done: progress.bytes(done, source.capacity),
        )


def content_id(plan: Plan, capacity: int) -> int:
    """The VMDK's CID: any number but ffffffff, the same for the same appliance."""
    seed = f"{plan.appliance.name}\n{plan.appliance.version}\n{capacity}"
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") & 0xFFFF_FFFE


def _icon(plan: Plan, profile: Profile) -> bytes | None:
    """The PNG image, where the profile's packages have one."""
    path = plan.appliance.icon
    return path.read_bytes() if path and "icon" in profile.takes else None


def _descriptor(plan: Plan, profile: Profile, disk: PackedDisk, icon: bytes | None) -> bytes:
    shown = None
    if icon:
        width, height = struct.unpack(">II", icon[16:24])  # of the chunk IHDR (PNG, 11.2.2)
        shown = PackedIcon(Names.of(plan, profile).icon, len(icon), width, height)
    told = plan.deployment.properties
    return ovf.dump(describe(plan.appliance, profile, plan.guest_os, [disk], told, shown))


def _manifest(names: Names, profile: Profile, descriptor: bytes, pieces: Sequence[Piece], icon: bytes | None) -> bytes:
    digests = [(names.descriptor, _digest(profile, descriptor)), *((one.name, one.digest) for one in pieces)]
    digests += [(names.icon, _digest(profile, icon))] if icon else []
    return manifest.dump(digests, profile.manifest.upper())


def _digest(profile: Profile, octets: bytes) -> str:
    return hashlib.new(profile.manifest, octets, usedforsecurity=False).hexdigest()
