"""What a descriptor must say so that everybody takes it: each rule is a function that yields findings.

Here are References and disks; `machine` has the virtual system, `hardware` its items. What breaking a rule does, where,
and how that is known is data: descriptors/rules.toml, read by `catalogue`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ovfbuild.formats.envelope import STREAM_OPTIMIZED, Disk, Envelope, File
from ovfbuild.verify import hardware, machine
from ovfbuild.verify.verdict import Finding

_PORTABLE_UNITS = re.compile(r"byte\s*\*\s*2\^(\d{1,2})")
_UNITS = {"": 0, "byte": 0, "bytes": 0, "kilobytes": 10, "kb": 10, "megabytes": 20, "mb": 20, "gigabytes": 30, "gb": 30}
"""Powers of two of the words that DSP0004 1.0 and its readers had; no unit means bytes (DSP0243 9.1)."""
_SLACK = 1 << 20
_DISK = 17


def judge(envelope: Envelope, members: Mapping[str, int], also: Sequence[Envelope] = ()) -> Iterator[Finding]:
    """Every rule over the descriptor; `members` are the package's names and sizes in bytes, in its order.

    `also` are the package's other machines: one Envelope each, which shares all but the machine with the first.
    """
    systems = (envelope, *also)
    yield from _files(envelope, members)
    yield from _archive(envelope, list(members))
    yield from _disk_section(envelope, systems)
    for one in systems:
        for finding in (*machine.judge(one), *hardware.judge(one)):
            yield _but_virtualbox(finding) if one.virtual_system.machine else finding


def _but_virtualbox(finding: Finding) -> Finding:
    """VirtualBox reads nothing of the machine where there is a vbox:Machine, but that."""
    if finding.rule.startswith("vbox-"):
        return finding
    left = tuple(effect.importer for effect in finding.effects if effect.importer != "virtualbox")
    return replace(finding, only=left)


def judge_disk(declared: Disk, name: str, capacity: int, populated: int) -> Iterator[Finding]:
    """What the DiskSection says of a disk, beside what its VMDK is (bytes)."""
    unit, said = declared.capacity_allocation_units, size_of(declared)
    line = declared.line
    if unit is None or not _PORTABLE_UNITS.fullmatch(unit):
        only = ("proxmox", "cloudstack") if unit is None else ("proxmox",)
        text = f"ovf:capacityAllocationUnits is {unit!r}, not “byte * 2^N”"
        yield Finding("capacity-units", name, text, line=line, only=only)
    if said is not None and not capacity <= said < capacity + _SLACK:
        text = f"the descriptor says a capacity of {said} bytes, the VMDK has {capacity}"
        yield Finding("capacity-differs", name, text, line=line)
    if declared.populated_size is not None and declared.populated_size > capacity + 2**16:
        text = f"ovf:populatedSize is {declared.populated_size} bytes, more than the disk holds"
        yield Finding("populated-size", name, text, line=line)
    elif declared.populated_size is not None and declared.populated_size < populated:
        text = f"ovf:populatedSize is {declared.populated_size} bytes, the VMDK holds {populated}"
        yield Finding("populated-small", name, text, line=line)


def size_of(disk: Disk) -> int | None:
    """A declared capacity in bytes; None where its unit is no known one."""
    return octets_of(disk.capacity, disk.capacity_allocation_units)


def octets_of(quantity: int, unit: str | None) -> int | None:
    """That many of the unit, in bytes; None for a unit that is none."""
    if match := _PORTABLE_UNITS.fullmatch((unit or "").strip()):
        return quantity << int(match[1])
    power = _UNITS.get((unit or "").strip().lower())
    return None if power is None else quantity << power


def pieces_of(file: File, members: Mapping[str, int]) -> list[str]:
    """The names in the package that a File's content is in: one, or its pieces of `ovf:chunkSize` (DSP0243 7.1)."""
    if file.href in members or not file.chunk_size:
        return [file.href] if file.href in members else []
    return [name for name in sorted(members) if re.fullmatch(re.escape(file.href) + r"\.[0-9]{9}", name)]


def _gap(href: str, pieces: Sequence[str]) -> str:
    """The first of a file's pieces that is not there, where a later one is: they are numbered from 0 on."""
    due = (f"{href}.{number:09}" for number in range(len(pieces)))
    return next((name for name, piece in zip(due, pieces, strict=True) if name != piece), "")


def _files(envelope: Envelope, members: Mapping[str, int]) -> Iterator[Finding]:
    for id_, times in Counter(file.id for file in envelope.files).items():
        if times > 1:
            yield Finding("file-id", id_, f"{times} Files have this id", line=envelope.files[0].line)
    for file in envelope.files:
        pieces = pieces_of(file, members)
        size = sum(members[piece] for piece in pieces)
        if not pieces:
            yield Finding("file-missing", file.href, "References names it, the package has none", line=file.line)
        elif pieces != [file.href] and (gap := _gap(file.href, pieces)):
            yield Finding("file-missing", gap, "this piece of a file in pieces is not there", line=file.line)
        elif file.size is None:
            yield Finding("file-size-missing", file.href, f"no ovf:size, it has {size} bytes", line=file.line)
        elif file.size != size:
            text = f"ovf:size is {file.size}, the file has {size} bytes: uploads abort at their end"
            yield Finding("file-size", file.href, text, line=file.line)
        if file.compression and file.compression != "identity":
            text = f"it is compressed with {file.compression}"
            yield Finding("file-compressed", file.href, text, line=file.line)
        if file.chunk_size:
            yield Finding("file-chunked", file.href, f"it is in pieces of {file.chunk_size} bytes", line=file.line)


def _archive(envelope: Envelope, names: Sequence[str]) -> Iterator[Finding]:
    """The members' names and order; a folder has none, its files come in the order that is right."""
    listed = [file.href for file in envelope.files]
    order = [names.index(href) for href in listed if href in names]
    if order != sorted(order):
        yield Finding("archive-order", names[0], "the files do not stand in the order of References")
    descriptor = next((name for name in names if name.endswith(".ovf")), names[0])
    stem = descriptor.removesuffix(".ovf")
    ends = [name for name in names if name.endswith((".mf", ".cert"))]
    for name in ends:
        if name.rpartition(".")[0] != stem:
            yield Finding("names-differ", name, f"it must be called as the descriptor is, {stem}")
    if ends and names[1 : 1 + len(ends)] != ends and not (len(ends) > 1 and names[-len(ends) :] == ends):
        yield Finding("manifest-order", ends[0], "the manifest must be the second member")
    if [name.rpartition(".")[2] for name in ends] == ["mf", "cert"] and names.index(ends[1]) != names.index(
        ends[0]
    ) + 1:
        yield Finding("certificate-order", ends[1], "it must follow the manifest")
    for name in names:
        chunk_of = re.sub(r"\.[0-9]{9}$", "", name)
        if name not in (*listed, descriptor, *ends) and chunk_of not in listed:
            yield Finding("file-unlisted", name, "References does not name it")


def _disk_section(envelope: Envelope, systems: Sequence[Envelope]) -> Iterator[Finding]:
    disks = envelope.disk_section.disks if envelope.disk_section else ()
    files = {file.id for file in envelope.files}
    used = {
        match[1]
        for one in systems
        for item in one.virtual_system.hardware.items
        if item.resource_type == _DISK and (match := hardware.HOST_RESOURCE.fullmatch(item.host_resource or ""))
    }
    seen = Counter(disk.disk_id for disk in disks)
    for disk in disks:
        if disk.file_ref is not None and disk.file_ref not in files:
            text = f"fileRef {disk.file_ref!r} is no File of References"
            yield Finding("file-ref", disk.disk_id, text, line=disk.line)
        if not re.fullmatch(r"[A-Za-z0-9._~-]+", disk.disk_id) or seen[disk.disk_id] > 1:
            text = "a diskId of other characters" if seen[disk.disk_id] == 1 else "a diskId that is there twice"
            yield Finding("disk-id", disk.disk_id, text, line=disk.line)
        if disk.disk_id not in used:
            yield Finding("disk-unattached", disk.disk_id, "no item of the hardware uses it", line=disk.line)
        if disk.file_ref is not None and disk.format != STREAM_OPTIMIZED:
            yield Finding("disk-format-uri", disk.disk_id, f"ovf:format is {disk.format!r}", line=disk.line)
    if len(disks) > 1:
        yield Finding("disk-count", "DiskSection", f"{len(disks)} disks", line=disks[1].line)
