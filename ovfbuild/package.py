"""(SealedDisk…, Plan, Profile) → an OVA or a folder, in one pass: a disk is read, compressed, hashed and packed once.

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
from ovfbuild.formats.certificate import Signer
from ovfbuild.formats.pieces import FileWriter, Form, Piece, size_of
from ovfbuild.progress import Progress
from ovfbuild.spec.plan import Plan
from ovfbuild.spec.profile import Format, Profile
from ovfbuild.vm.blocks import open_reader
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
    def certificate(self) -> str:
        return f"{self.stem}.cert"

    def disk(self, number: int) -> str:
        """One of the package's disks, from 1."""
        return f"{self.stem}-disk{number}.vmdk"

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


@dataclass(frozen=True)
class Tools:
    """What a package is written with: a folder for scratch, who is told of it, and who signs it."""

    work: Path
    progress: Progress
    signer: Signer | None = None


@dataclass(frozen=True)
class _Slots:
    """The places before the disks of what is known after them."""

    descriptor: ova.Slot
    manifest: ova.Slot
    certificate: ova.Slot | None

    def fill(self, descriptor: bytes, lines: Sequence[Piece], names: Names, profile: Profile, tools: Tools) -> None:
        """Writes the descriptor, the manifest of it and of `lines`, and the manifest's signature."""
        room = self.descriptor.size - len(descriptor)
        text = descriptor + (b" " * (room - 1) + b"\n" if room > 0 else b"")
        self.descriptor.fill(text)
        listed = _manifest(names, profile, text, lines)
        self.manifest.fill(listed)
        if self.certificate and tools.signer:
            self.certificate.fill(tools.signer.sign(listed, names.manifest, profile.manifest.upper()))


def write(
    disks: Sequence[SealedDisk],
    plan: Plan,
    profile: Profile,
    target: Path,
    tools: Tools,
    earlier: Sequence[PackedStream] = (),
) -> tuple[PackedStream, ...]:
    """Writes the package to `target`, a file or a new folder, and says where its VMDKs lie.

    The same disks, plan and profile give the same bytes, but for the compression “turbo”. `earlier` are the VMDKs of
    another profile's package of the same disks and plan, which are copied if they serve this one.
    """
    names, icon = Names.of(plan, profile), _icon(plan, profile)
    beside = [Piece(names.icon, 0, len(icon), _digest(profile, icon))] if icon else []
    numbered = list(enumerate(disks, 1))
    streams: list[PackedStream] = []
    with _create(profile, target, plan.epoch) as archive:
        unknown = [_unknown(plan, profile, names.disk(number), one) for number, one in numbered]
        longest = _descriptor(plan, profile, [disk for disk, _ in unknown], icon)
        slots = _reserve(archive, longest, [*(piece for _, piece in unknown), *beside], names, profile, tools)
        for number, one in numbered:
            writer = FileWriter(archive, names.disk(number), form_of(plan), profile.manifest)
            before = earlier[number - 1] if earlier else None
            if before and before.serves(profile):
                extent = before.extent
                for piece in before.pieces:
                    writer.copy(before.file_of(piece), piece)
                pieces = writer.copied
            else:
                extent = compress(one, plan, profile.manifest, writer, tools, number)
                pieces = writer.finish(extent.digest if form_of(plan).plain else "")
            streams.append(PackedStream(target, pieces, extent, profile.disk.adapter_type, profile.manifest))
        if icon:
            archive.add(names.icon, icon)
        packed = [_packed(plan, names.disk(number), stream) for number, stream in enumerate(streams, 1)]
        written = [piece for stream in streams for piece in stream.pieces]
        slots.fill(_descriptor(plan, profile, packed, icon), [*written, *beside], names, profile, tools)
    return tuple(streams)


def _reserve(
    archive: ova.Archive | folder.Folder,
    longest: bytes,
    lines: Sequence[Piece],
    names: Names,
    profile: Profile,
    tools: Tools,
) -> _Slots:
    """In the order of DSP0243 5.3: descriptor, manifest, certificate."""
    descriptor = archive.reserve(names.descriptor, len(longest))
    listed = archive.reserve(names.manifest, len(_manifest(names, profile, b"", lines)))
    if tools.signer is None:
        return _Slots(descriptor, listed, None)
    room = tools.signer.size(names.manifest, profile.manifest.upper())
    return _Slots(descriptor, listed, archive.reserve(names.certificate, room))


def _unknown(plan: Plan, profile: Profile, name: str, disk: SealedDisk) -> tuple[PackedDisk, Piece]:
    """A disk that is not yet written: what takes the room that its sizes and its digest will."""
    form = form_of(plan)
    href = form.href(name)
    return PackedDisk(href, _ANY_SIZE, disk.capacity, _ANY_SIZE, form), Piece(href, 0, 0, _digest(profile, b""))


def _packed(plan: Plan, name: str, stream: PackedStream) -> PackedDisk:
    form, extent = form_of(plan), stream.extent
    return PackedDisk(form.href(name), size_of(stream.pieces), extent.capacity, extent.populated_size, form)


def form_of(plan: Plan) -> Form:
    """How the disks lie in every package of the plan."""
    return Form(plan.appliance.package.chunk, plan.appliance.package.gzip)


def _create(profile: Profile, target: Path, epoch: int) -> AbstractContextManager[ova.Archive | folder.Folder]:
    return folder.create(target) if profile.format == "ovf" else ova.create(target, mtime=epoch)


def compress(
    disk: SealedDisk, plan: Plan, algorithm: str, out: vmdk.Sink, tools: Tools, number: int = 1
) -> vmdk.Extent:
    """A disk as a VMDK. What it calls itself has no profile in it, so that it is the same for all of them."""
    compressor = compression.compressor(plan.compression)
    if not compressor.stable:
        tools.progress.note(f"packed by {compressor.program}: another run may give other bytes of the same disk")
    with open_reader(disk.path, disk.format, tools.work) as source:
        return vmdk.write(
            source,
            out,
            name=f"{plan.appliance.name}-{plan.appliance.version}-disk{number}.vmdk",
            cid=content_id(plan, source.capacity, number),
            packing=vmdk.Packing(compressor.compress, algorithm),
            on_bytes=lambda done: tools.progress.bytes(done, source.capacity),
        )


def content_id(plan: Plan, capacity: int, number: int = 1) -> int:
    """The VMDK's CID: any number but ffffffff, the same for the same disk of the same appliance."""
    seed = f"{plan.appliance.name}\n{plan.appliance.version}\n{capacity}" + (f"\n{number}" if number > 1 else "")
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") & 0xFFFF_FFFE


def _icon(plan: Plan, profile: Profile) -> bytes | None:
    """The PNG image, where the profile's packages have one."""
    path = plan.appliance.icon
    return path.read_bytes() if path and "icon" in profile.takes else None


def _descriptor(plan: Plan, profile: Profile, disks: Sequence[PackedDisk], icon: bytes | None) -> bytes:
    shown = None
    if icon:
        width, height = struct.unpack(">II", icon[16:24])  # of the chunk IHDR (PNG, 11.2.2)
        shown = PackedIcon(Names.of(plan, profile).icon, len(icon), width, height)
    told = plan.deployment.properties
    return ovf.dump(describe(plan.appliance, profile, plan.guest_os, disks, told, shown))


def _manifest(names: Names, profile: Profile, descriptor: bytes, lines: Sequence[Piece]) -> bytes:
    digests = [(names.descriptor, _digest(profile, descriptor)), *((one.name, one.digest) for one in lines)]
    return manifest.dump(digests, profile.manifest.upper())


def _digest(profile: Profile, octets: bytes) -> str:
    return hashlib.new(profile.manifest, octets, usedforsecurity=False).hexdigest()
