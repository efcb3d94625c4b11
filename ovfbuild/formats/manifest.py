"""A package's manifest (`.mf`): a digest for each of its files, one a line.

    SHA256(appliance.ovf)= 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Source: DSP0243 1.1.0 clause 5.1, narrowed to what all importers read: no space before the parenthesis,
exactly one after the equals sign (VMware answers anything else with “Invalid OVF checksum algorithm”:
HAOS #826 #1674 #3654, OpenCTI #1642), and no `SHA2-256`, OpenSSL 3's name for it (HAOS #3981).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ovfbuild.errors import FileError
from ovfbuild.formats import names
from ovfbuild.formats.fault import Fault

ALGORITHMS = {"SHA1": 40, "SHA256": 64, "SHA512": 128}
"""Hex digits of each algorithm's digests. SHA256 is read by all importers since 2016, SHA1 by older ones too."""
LARGEST = 1 << 20
"""Bytes: vCloud Director's limit."""

_LINE = re.compile(r"([A-Z0-9]+)\(([^()]+)\)= ([0-9A-Fa-f]+)")
_LOOSE = re.compile(r"\s*([\w-]+)\s*\((.*)\)\s*=\s*(\S*)\s*")
_FORM = "each line is “SHA256(name)= digest”: no space before “(”, one space after “=”"
_SPELLINGS = {"SHA2-256": "SHA256", "SHA-256": "SHA256", "SHA-1": "SHA1", "SHA2-512": "SHA512", "SHA-512": "SHA512"}
"""OpenSSL 3's and others' names of the algorithms."""


@dataclass(frozen=True)
class Line:
    """One file's digest, in lower-case hex; `algorithm` is a key of ALGORITHMS."""

    algorithm: str
    name: str
    digest: str


def dump(digests: Iterable[tuple[str, str]], algorithm: str = "SHA256") -> bytes:
    """The manifest for (name, digest in hex) in that order. FileError for a name that is not portable."""
    lines = []
    for name, digest in digests:
        if re.fullmatch(rf"[0-9a-f]{{{ALGORITHMS[algorithm]}}}", digest) is None:
            raise ValueError(f"no {algorithm} in lower-case hex: {digest!r}")
        lines.append(f"{algorithm}({names.portable(name)})= {digest}\n")
    return "".join(lines).encode("ascii")


@dataclass(frozen=True)
class Reading:
    """What a manifest says, as far as it could be read, and what is wrong with it."""

    lines: tuple[Line, ...]
    faults: tuple[Fault, ...]


def parse(octets: bytes) -> list[Line]:
    """The lines of a manifest.

    Raises FileError, with the number of the line, for whatever `read` finds.
    """
    reading = read(octets)
    for fault in reading.faults:
        where = f"manifest, line {fault.line}: " if fault.line else ""
        raise FileError(where + fault.text, fault.hint)
    return list(reading.lines)


def read(octets: bytes) -> Reading:
    """The lines of a manifest, and what an importer might not read in it.

    That is: another form or algorithm, a digest of the wrong length, a file named twice, no line end, nothing at
    all. Never raises; a line that can't be understood is left out.
    """
    if len(octets) > LARGEST:
        text = f"the manifest has {len(octets)} bytes"
        return Reading((), (Fault("manifest-large", text, hint="importers read 1 MiB of it at most"),))
    if not octets:
        return Reading((), (Fault("manifest-grammar", "the manifest is empty", hint=_FORM),))
    faults, lines = list(_judge_text(octets)), dict[str, Line]()
    for number, content in enumerate(octets.decode("utf-8", "replace").removesuffix("\n").split("\n"), 1):
        line, fault = _read_line(content.removesuffix("\r"), number)
        if fault:
            faults.append(fault)
        if line and line.name in lines:
            text = f"{line.name} is named twice"
            faults.append(Fault("manifest-twice", text, number, "name each file once"))
        elif line:
            lines[line.name] = line
    return Reading(tuple(lines.values()), tuple(faults))


def _judge_text(octets: bytes) -> Iterator[Fault]:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError as error:
        broken = octets.count(b"\n", 0, error.start) + 1
        yield Fault("manifest-grammar", "no UTF-8", broken, _FORM)
    if not octets.endswith(b"\n"):
        yield Fault("manifest-end", "no line end", octets.count(b"\n") + 1, "was it cut?")


def _read_line(content: str, number: int) -> tuple[Line | None, Fault | None]:
    """The digest in one line, if it can be told, and what is wrong with the line."""
    loose = _LOOSE.fullmatch(content)
    if loose is None:
        return None, Fault("manifest-grammar", f"no digest of a file: {content[:80]!r}", number, _FORM)
    name, digest = loose[2], loose[3].lower()
    algorithm = _SPELLINGS.get(loose[1].upper(), loose[1].upper())
    digits = ALGORITHMS.get(algorithm, 0)
    sound = bool(name) and re.fullmatch("[0-9a-f]+", digest) is not None and len(digest) == digits
    line = Line(algorithm, name, digest) if sound else None
    if loose[1] not in ALGORITHMS:
        text = f"unknown algorithm {loose[1]}"
        return line, Fault("manifest-algorithm", text, number, f"it can be {', '.join(ALGORITHMS)}")
    if _LINE.fullmatch(content) is None:
        text = f"spaces where importers expect none, or no digest: {content[:80]!r}"
        return line, Fault("manifest-spacing" if sound else "manifest-grammar", text, number, _FORM)
    if line is None:
        text = f"{len(digest)} digits instead of {algorithm}'s {digits}"
        return None, Fault("manifest-grammar", text, number, "was it cut?")
    return line, None
