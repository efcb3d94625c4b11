"""Opens a package that was written, by whoever, and judges all of it: archive, manifest, descriptor, disks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import FileError
from ovfbuild.formats import manifest, ova, ovf, ovf_reader, vmdk_reader
from ovfbuild.formats.envelope import Disk, Envelope
from ovfbuild.progress import Progress
from ovfbuild.verify import rules
from ovfbuild.verify.verdict import Finding, Verdict

_LARGEST_TEXT = 12 << 20
"""Bytes: vCloud Director's limit for a descriptor; a manifest is far below."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Package:
    """An OVA as it lies there: its members by name, its descriptor as bytes and as a model."""

    path: Path
    members: tuple[ova.Member, ...]
    descriptor: bytes
    envelope: Envelope

    def member(self, name: str) -> ova.Member | None:
        return next((member for member in self.members if member.name == name), None)

    @property
    def disks(self) -> tuple[tuple[Disk, ova.Member], ...]:
        """The DiskSection's disks that lie in a member, with it, in their order; an empty disk has none."""
        hrefs = {file.id: file.href for file in self.envelope.files}
        section = self.envelope.disk_section
        return tuple(
            (disk, member)
            for disk in (section.disks if section else ())
            if (member := self.member(hrefs.get(disk.file_ref or "", "")))
        )


def open_package(path: Path) -> Package:
    """Reads the archive's table and the descriptor, no disk.

    Raises:
        FileError: there is no such file, it is no OVA, or its descriptor can't be read.
    """
    if not path.is_file():
        raise FileError(f"{path}: there is no such file", "name an .ova file")
    members = tuple(ova.members(path))
    descriptor = _read_text(path, members[0])
    return Package(path, members, descriptor, ovf_reader.parse(descriptor))


def judge(package: Package, progress: Progress) -> Verdict:
    """Everything that can be said of a package without booting it."""
    digests = dict(_hash_members(package, progress))
    findings = [
        *_judge_manifest(package, digests),
        *_judge_schema(package),
        *rules.judge(package.envelope, {member.name: member.size for member in package.members}),
        *_judge_disks(package),
    ]
    return Verdict(tuple(findings), ("archive", "manifest", "descriptor", "importers' rules", "disks"))


def _read_text(path: Path, member: ova.Member) -> bytes:
    if member.size > _LARGEST_TEXT:
        raise FileError(f"{path}: {member.name} has {member.size} bytes", "no descriptor or manifest is so large")
    with ova.window(path, member) as stream:
        return stream.read()


def _hash_members(package: Package, progress: Progress) -> Iterator[tuple[str, Mapping[str, str]]]:
    total, done = sum(member.size for member in package.members), 0
    for member in package.members:
        hashes = {name: hashlib.new(name, usedforsecurity=False) for name in _algorithms(package)}
        with ova.window(package.path, member) as stream:
            while piece := stream.read(_PIECE):
                for running in hashes.values():
                    running.update(piece)
                done += len(piece)
                progress.bytes(done, total)
        yield member.name, {name: running.hexdigest() for name, running in hashes.items()}


def _algorithms(package: Package) -> set[str]:
    try:
        return {line.algorithm.lower() for line in _manifest_lines(package)} or {"sha256"}
    except FileError:
        return {"sha256"}


def _manifest_lines(package: Package) -> list[manifest.Line]:
    found = [member for member in package.members if member.name.endswith(".mf")]
    return manifest.parse(_read_text(package.path, found[0])) if found else []


def _judge_manifest(package: Package, digests: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    names = [member.name for member in package.members if member.name.endswith(".mf")]
    if not names:
        yield Finding("warning", "manifest-missing", package.path.name, "there is no manifest: nothing shows damage")
        return
    try:
        lines = _manifest_lines(package)
    except FileError as error:
        yield Finding("error", "manifest-grammar", names[0], error.message, ("VMware", "VirtualBox"))
        return
    for line in lines:
        if line.name not in digests:
            yield Finding("error", "manifest-names-nothing", names[0], f"{line.name} is not in the package")
        elif digests[line.name].get(line.algorithm.lower()) != line.digest.lower():
            text = f"the {line.algorithm} digest does not match: the file was changed after the manifest was made"
            yield Finding("error", "manifest-digest", line.name, text, ("every importer that checks",))
    listed = {line.name for line in lines}
    for member in package.members:
        if member.name not in listed and not member.name.endswith((".mf", ".cert")):
            yield Finding("error", "manifest-incomplete", member.name, "the manifest does not list it", ("VirtualBox",))


def _judge_schema(package: Package) -> Iterator[Finding]:
    for problem in ovf.validate(package.descriptor):
        yield Finding("error", "descriptor-schema", package.members[0].name, problem)


def _judge_disks(package: Package) -> Iterator[Finding]:
    """Each disk, marker by marker; what the descriptor says of it beside what it is."""
    for declared, member in package.disks:
        with ova.window(package.path, member) as stream:
            try:
                walk = vmdk_reader.walk(stream, member.name)
            except FileError as error:
                yield Finding("error", "disk-damaged", member.name, error.message, ("VMware", "VirtualBox"))
                continue
        for oddity in walk.findings:
            yield Finding("warning", "disk-odd", member.name, oddity)
        yield from rules.judge_disk(declared, member.name, walk.capacity, walk.populated_size)
