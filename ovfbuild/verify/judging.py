"""Judges all of a package that was opened: manifest, certificate, descriptor, rules, disks.

No part hides another: what can't be read is a finding, and the next part is looked at all the same.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ovfbuild.errors import FileError
from ovfbuild.formats import certificate, manifest, ovf, vmdk_reader
from ovfbuild.formats.fault import Hostile
from ovfbuild.formats.ova import Member
from ovfbuild.progress import Progress
from ovfbuild.verify import rules
from ovfbuild.verify.package import UNCOMPRESSED, Package, StoredDisk
from ovfbuild.verify.verdict import Finding, Verdict

_PIECE = 1 << 20
_MOST_OF_A_RULE = 25
"""Findings: what comes after them tells nothing new."""
_OTHER_DIGESTS = {"SHA1": "manifest-sha1", "SHA512": "manifest-sha512"}


def judge(package: Package, progress: Progress) -> Verdict:
    """Everything that can be said of a package without booting it; the disks are read to their ends."""
    digests = _Digests(package, progress)
    sizes = {member.name: member.size for member in package.members}
    found: list[Iterable[Finding]] = [
        package.findings,
        _judge_manifest(package, digests),
        _judge_certificate(package),
    ]
    if package.envelopes:
        found += [
            _narrow(package),
            _in_descriptor(package, rules.judge(package.envelope, sizes, package.envelopes[1:])),
            _judge_disks(package),
        ]
    findings = tuple(_at_most(one for part in found for one in part))
    return Verdict(findings, ("archive", "manifest", "descriptor", "importers' rules", "disks"))


def _at_most(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Not more than 25 of a rule, each of them one line."""
    counted: Counter[str] = Counter()
    for finding in findings:
        counted[finding.rule] += 1
        if counted[finding.rule] <= _MOST_OF_A_RULE:
            yield finding.shown()


def _in_descriptor(package: Package, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings of the rules, with the descriptor's name where they have a line in it."""
    for finding in findings:
        yield replace(finding, member=package.name) if finding.line and not finding.member else finding


class _Digests:
    """The members' digests; each is read once for all the algorithms that the manifest names."""

    def __init__(self, package: Package, progress: Progress) -> None:
        self._package = package
        self._progress = progress

    def of_all(self, algorithms: Sequence[str]) -> dict[str, dict[str, str]]:
        """{member: {algorithm: hex}}; algorithms are as in a manifest."""
        members = self._package.members
        total, done = sum(member.size for member in members), 0
        found = {}
        for member in members:
            hashes = {name: hashlib.new(name.lower(), usedforsecurity=False) for name in algorithms}
            with self._package.window(member) as stream:
                while piece := stream.read(_PIECE):
                    for running in hashes.values():
                        running.update(piece)
                    done += len(piece)
                    self._progress.bytes(done, total)
            found[member.name] = {name: running.hexdigest() for name, running in hashes.items()}
        return found


def named(package: Package, end: str) -> Member | None:
    """The manifest or certificate: the one that is called as the descriptor, or else the first."""
    found = [member for member in package.members if member.name.endswith(end)]
    stem = package.name.removesuffix(".ovf")
    return next((member for member in found if member.name == stem + end), found[0] if found else None)


def text_of(package: Package, member: Member, largest: int) -> bytes:
    """A small member's content, and never more than one byte above `largest`."""
    with package.window(member) as stream:
        return stream.read(largest + 1)


def _judge_manifest(package: Package, digests: _Digests) -> Iterator[Finding]:
    member = named(package, ".mf")
    if member is None:
        yield Finding("manifest-missing", package.path.name, "there is no manifest: nothing shows damage")
        return
    reading = manifest.read(text_of(package, member, manifest.LARGEST))
    for fault in reading.faults:
        yield Finding(fault.rule, member.name, fault.text, member.name, fault.line)
    algorithms = sorted({line.algorithm for line in reading.lines})
    for algorithm in algorithms:
        if rule := _OTHER_DIGESTS.get(algorithm):
            yield Finding(rule, member.name, f"its digests are {algorithm}")
    yield from _compare(reading.lines, digests.of_all(algorithms) if algorithms else {}, member.name)
    listed = {line.name for line in reading.lines}
    for one in package.members:
        if one.name not in listed and not one.name.endswith((".mf", ".cert")):
            yield Finding("manifest-incomplete", one.name, "the manifest does not list it")


def _compare(lines: Iterable[manifest.Line], actual: Mapping[str, Mapping[str, str]], name: str) -> Iterator[Finding]:
    """What the manifest called `name` says, beside the members' digests."""
    for line in lines:
        if line.name.endswith((".mf", ".cert")):
            yield Finding("manifest-itself", name, f"it lists {line.name}")
        elif line.name not in actual:
            yield Finding("manifest-names-nothing", name, f"{line.name} is not in the package")
        elif actual[line.name][line.algorithm] != line.digest:
            text = f"the {line.algorithm} digest does not match: the file was changed after the manifest was made"
            yield Finding("manifest-digest", line.name, text)


def _judge_certificate(package: Package) -> Iterator[Finding]:
    """That the manifest is what was signed by whom the certificate names; whom to trust is the importer's affair."""
    member, of = named(package, ".cert"), named(package, ".mf")
    if member is None:
        return
    if of is None:
        yield Finding("certificate-alone", member.name, "there is no manifest that it could sign")
        return
    try:
        signature = certificate.read(text_of(package, member, certificate.LARGEST))
        if signature.name != of.name:
            raise FileError(f"no signature of {of.name} is in it")
        fits = signature.fits(text_of(package, of, manifest.LARGEST))
    except FileError as error:
        yield Finding("certificate-grammar", member.name, error.message)
        return
    if not fits:
        text = f"the signature is not that of {of.name}: one of the two was changed after it was signed"
        yield Finding("certificate-signature", member.name, text, member.name, signature.line)
    end = signature.certificate.not_valid_after_utc
    if datetime.now(UTC) > end:
        yield Finding("certificate-expired", member.name, f"the certificate expired on {end:%Y-%m-%d}")
    if signature.self_signed:
        text = f"{signature.certificate.subject.rfc4514_string()[:200]} vouches for itself"
        yield Finding("certificate-self-signed", member.name, text)


def _narrow(package: Package) -> Iterator[Finding]:
    """The first thing in which the descriptor is not what ovfbuild itself would write."""
    try:
        text, _ = ovf.as_utf8(package.descriptor)
        problems = ovf.validate(text)
    except FileError:
        return
    if problems:
        line = re.match(r"line (\d+): ", problems[0])
        text_of_it = problems[0][line.end() if line else 0 :][:200]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Finding("descriptor-narrow", package.name, text_of_it + more, package.name, int(line[1]) if line else 0)


def _judge_disks(package: Package) -> Iterator[Finding]:
    """Each file once, marker by marker; what the descriptor says of each disk beside what it is."""
    surveys: dict[str, vmdk_reader.Survey] = {}
    for packed in package.stored_disks:
        name, how = packed.file.href, packed.file.compression
        if name in surveys:
            yield from _beside(package, packed, surveys[name])
            continue
        if how != "gzip" and how not in UNCOMPRESSED:
            yield Finding("disk-unread", name, f"it is compressed with {how}")
            continue
        try:
            with package.open_disk(packed) as stream:
                seen = vmdk_reader.survey(stream, name)
        except Hostile:
            raise
        except FileError as error:
            yield Finding("disk-damaged", name, error.message.removeprefix(f"{name}: "))
            continue
        surveys[name] = seen
        for fault in seen.faults:
            yield Finding(fault.rule, name, fault.text)
        yield from _beside(package, packed, seen)


def _beside(package: Package, packed: StoredDisk, seen: vmdk_reader.Survey) -> Iterator[Finding]:
    """What the DiskSection says of a disk, beside what its file was found to be."""
    if seen.capacity is not None:
        name = packed.file.href
        told = rules.judge_disk(packed.disk, name, seen.capacity, seen.populated_size)
        yield from _in_descriptor(package, told)
