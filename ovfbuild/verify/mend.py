"""Writes a package anew, without what can be mended while its disks' content stays as it is.

    Package ─▶ what its disks are ─▶ descriptor, mended ─┐
                                 ─▶ each file, copied    ├─▶ OVA: GNU tar, in the order of DSP0243, SHA-256 manifest
                                    and hashed on the way┘

No grain is unpacked: of a VMDK only the end of its stream changes, which qemu-img leaves out or leaves bytes behind.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import FileError
from ovfbuild.formats import manifest, ova, vmdk_reader
from ovfbuild.formats.ovf_repair import DiskFacts, FileFacts, repaired
from ovfbuild.formats.vmdk_layout import SECTOR
from ovfbuild.verify.judging import named, text_of
from ovfbuild.verify.package import Package
from ovfbuild.verify.verdict import Finding, Verdict

_EPOCH = 315532800
"""1980-01-01: what is mended bears no time of its own."""
_PIECE = 1 << 20
_LONGEST_NAME = 99
_LONGEST_SUFFIX = 20
_ENDS = {"disk-no-end", "disk-tail"}
_DOUBTS = {"disk-tables", "disk-footer", "disk-truncated", "disk-damaged", "disk-format", "disk-header"}
"""With one of these it is not known what lies behind the end of the stream: it is left as it is."""


@dataclass(frozen=True)
class Mended:
    """What `fix` did: the findings that are gone, what was lost on the way, and what is found still."""

    done: tuple[Finding, ...]
    notes: tuple[str, ...]
    left: tuple[Finding, ...]


@dataclass(frozen=True)
class _Source:
    """A file on its way: `length` bytes of the member, then zeros up to `size`."""

    member: ova.Member
    name: str
    length: int
    size: int

    @property
    def is_member(self) -> bool:
        """Whether the file is as it was, name and all."""
        return self.name == self.member.name and self.length == self.size == self.member.size


def outcome(before: Verdict, after: Verdict, notes: tuple[str, ...]) -> Mended:
    """What is gone of what can be mended, and what is still there."""
    still = {(one.rule, one.place) for one in after.findings}
    done = tuple(one for one in before.findings if one.catalogued.mended and (one.rule, one.place) not in still)
    return Mended(done, notes, after.findings)


def write(package: Package, before: Verdict, target: Path) -> tuple[str, ...]:
    """Writes the package to `target`, mended; returns what could not be kept. `before` is what was found in it.

    Raises:
        FileError: the descriptor can't be read, or two files would bear one name.
    """
    names = _names(package)
    meant = _meant(package, names)
    disks = _disks(package, meant)
    surveys = {member.name: _survey(package, member) for member in disks.values()}
    sources = [_source(member, names[member.name], surveys.get(member.name)) for member in _files(package, meant)]
    facts = {one.member.name: FileFacts(one.name, one.size) for one in sources}
    text = repaired(
        package.descriptor,
        {href: facts[member.name] for href, member in meant.items()},
        {number: found for number, member in disks.items() if (found := _facts(surveys[member.name]))},
    )
    stem = names[package.name].removesuffix(".ovf")
    as_it_was = text == package.descriptor and all(one.is_member for one in sources) and _signed_right(package, before)
    with ova.create(target, mtime=_EPOCH) as archive:
        archive.add(f"{stem}.ovf", text)
        if as_it_was:
            for member in _signed(package):
                archive.add(member.name, text_of(package, member, manifest.LARGEST))
            _copy_all(package, sources, archive)
            return ()
        lines = [(f"{stem}.ovf", hashlib.sha256(text).hexdigest())]
        slot = archive.reserve(f"{stem}.mf", len(manifest.dump([*lines, *((one.name, "0" * 64) for one in sources)])))
        slot.fill(manifest.dump([*lines, *_copy_all(package, sources, archive)]))
    return tuple(_notes(package, before))


def _notes(package: Package, before: Verdict) -> Iterator[str]:
    if named(package, ".cert"):
        yield "the certificate signed the manifest as it was, and is left out: sign again"
    for one in before.findings:
        if one.rule == "manifest-digest":
            yield f"{one.place} was not what the manifest said, and is taken as it is: was it downloaded whole?"


def _signed(package: Package) -> list[ova.Member]:
    """The manifest and the certificate, as far as they are there."""
    return [member for member in (named(package, ".mf"), named(package, ".cert")) if member]


def _signed_right(package: Package, before: Verdict) -> bool:
    """Whether the manifest can stay as it is, and the signature with it."""
    wrong = any(one.catalogued.of == "manifest" or one.rule == "names-differ" for one in before.findings)
    return not wrong and named(package, ".mf") is not None


def _meant(package: Package, names: Mapping[str, str]) -> dict[str, ova.Member]:
    """By href, the file that it means: of that name, or one that is called so now. `tar cf a.ova a/*` makes those."""
    plain = _plain(package)
    found = {names[one.name]: one for one in plain} | {one.name: one for one in plain}
    hrefs = [file.href for file in package.envelope.files]
    return {href: one for href in hrefs if (one := found.get(href) or found.get(_portable(href)))}


def _disks(package: Package, meant: Mapping[str, ova.Member]) -> dict[str, ova.Member]:
    """By diskId, the file of each disk that has one."""
    section = package.envelope.disk_section
    hrefs = {file.id: file.href for file in package.envelope.files}
    disks = section.disks if section else ()
    return {disk.disk_id: one for disk in disks if (one := meant.get(hrefs.get(disk.file_ref or "", "")))}


def _files(package: Package, meant: Mapping[str, ova.Member]) -> list[ova.Member]:
    """The files in the order of References, then what it does not name."""
    order = {one.name: number for number, one in reversed(list(enumerate(meant.values())))}
    return sorted(_plain(package), key=lambda one: order.get(one.name, len(order)))


def _plain(package: Package) -> list[ova.Member]:
    """All but descriptor, manifest and certificate."""
    return [one for one in package.members if one.name != package.name and not one.name.endswith((".mf", ".cert"))]


def _names(package: Package) -> dict[str, str]:
    """Each file's name in the new package: bare, of portable letters.

    Raises FileError where two become one.
    """
    found = {one.name: _portable(one.name) for one in package.members}
    if len(set(found.values())) != len(found):
        raise FileError(f"{package.path.name}: two files differ only in their folder or in odd letters", "rename one")
    return found


def _portable(name: str) -> str:
    bare = re.sub(r"[^A-Za-z0-9._=+-]", "_", re.split(r"[/\\]", name)[-1])
    end = Path(bare).suffix[:_LONGEST_SUFFIX]
    return bare if len(bare) <= _LONGEST_NAME else bare[: _LONGEST_NAME - len(end)] + end


def _survey(package: Package, member: ova.Member) -> vmdk_reader.Survey:
    with package.window(member) as stream:
        return vmdk_reader.survey(stream, member.name)


def _facts(seen: vmdk_reader.Survey) -> DiskFacts | None:
    """What the descriptor should say of a disk; None where it could not be read."""
    if seen.capacity is None:
        return None
    faults = {fault.rule for fault in seen.faults}
    populated = seen.populated_size
    return DiskFacts(seen.capacity, populated, not faults & {"disk-subformat", "disk-format", "disk-header"})


def _source(member: ova.Member, name: str, seen: vmdk_reader.Survey | None) -> _Source:
    """How a file is copied: a VMDK up to its last grain or table, and then the one sector that ends a stream."""
    faults = {fault.rule for fault in seen.faults} if seen else set()
    if seen is None or seen.end is None or not faults & _ENDS or faults & _DOUBTS:
        return _Source(member, name, member.size, member.size)
    return _Source(member, name, min(seen.end, member.size), seen.end + SECTOR)


def _copy_all(package: Package, sources: Iterable[_Source], archive: ova.Archive) -> list[tuple[str, str]]:
    """Copies the files into the archive; (name, SHA-256) of each."""
    lines = []
    for one in sources:
        with archive.member(one.name) as out:
            lines.append((one.name, _copy(package, one, out)))
    return lines


def _copy(package: Package, one: _Source, out: ova.Content) -> str:
    """The SHA-256 of what was copied. Raises FileError when the file becomes shorter meanwhile."""
    running, left = hashlib.sha256(), one.length
    with package.window(one.member) as stream:
        while left:
            piece = stream.read(min(_PIECE, left))
            if not piece:
                raise FileError(f"{one.member.name} ended early", "was it changed while it was read?")
            running.update(piece)
            out.write(piece)
            left -= len(piece)
    rest = bytes(one.size - one.length)
    running.update(rest)
    out.write(rest)
    return running.hexdigest()
