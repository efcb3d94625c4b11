"""A package's manifest (`.mf`): a digest for each of its files, one a line.

    SHA256(appliance.ovf)= 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Source: DSP0243 1.1.0 clause 5.1, narrowed to what all importers read: no space before the parenthesis,
exactly one after the equals sign (VMware answers anything else with “Invalid OVF checksum algorithm”:
HAOS #826 #1674 #3654, OpenCTI #1642), and no `SHA2-256`, OpenSSL 3's name for it (HAOS #3981).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ovfbuild.errors import FileError
from ovfbuild.formats import names

ALGORITHMS = {"SHA1": 40, "SHA256": 64, "SHA512": 128}
"""Hex digits of each algorithm's digests. Written is SHA256 alone: all importers since 2016 read it."""
LARGEST = 1 << 20
"""Bytes: vCloud Director's limit."""

_LINE = re.compile(r"([A-Z0-9]+)\(([^()]+)\)= ([0-9A-Fa-f]+)")
_LOOSE = re.compile(r"\s*([\w-]+)\s*\(.*\)\s*=\s*\S*\s*")
_FORM = "each line is “SHA256(name)= digest”: no space before “(”, one space after “=”"


@dataclass(frozen=True)
class Line:
    """One file's digest, in lower-case hex; `algorithm` is a key of ALGORITHMS."""

    algorithm: str
    name: str
    digest: str


def dump(digests: Iterable[tuple[str, str]]) -> bytes:
    """The manifest for (name, SHA-256 in hex) in that order. FileError for a name that is not portable."""
    lines = []
    for name, digest in digests:
        if re.fullmatch("[0-9a-f]{64}", digest) is None:
            raise ValueError(f"no SHA-256 in lower-case hex: {digest!r}")
        lines.append(f"SHA256({names.portable(name)})= {digest}\n")
    return "".join(lines).encode("ascii")


def parse(octets: bytes) -> list[Line]:
    """The lines of a manifest.

    Raises FileError, with the number of the line, for what an importer might not read: another form or
    algorithm, a digest of the wrong length, a file named twice, no line end, nothing at all.
    """
    if len(octets) > LARGEST:
        raise FileError(f"the manifest has {len(octets)} bytes", "importers read 1 MiB of it at most")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        broken = octets.count(b"\n", 0, error.start) + 1
        raise FileError(f"manifest, line {broken}: no UTF-8", _FORM) from error
    if not text:
        raise FileError("the manifest is empty", _FORM)
    if not text.endswith("\n"):
        raise FileError(f"manifest, line {text.count(chr(10)) + 1}: no line end", "was it cut?")
    lines: list[Line] = []
    seen: set[str] = set()
    for number, content in enumerate(text[:-1].split("\n"), 1):
        line = _parse_line(content.removesuffix("\r"), number)
        if line.name in seen:
            raise FileError(f"manifest, line {number}: {line.name} is named twice", "name each file once")
        seen.add(line.name)
        lines.append(line)
    return lines


def _parse_line(content: str, number: int) -> Line:
    where = f"manifest, line {number}"
    match = _LINE.fullmatch(content)
    algorithm = match[1] if match else (loose[1] if (loose := _LOOSE.fullmatch(content)) else None)
    if algorithm is None:
        raise FileError(f"{where}: no digest of a file: {content[:80]!r}", _FORM)
    if algorithm not in ALGORITHMS:
        raise FileError(f"{where}: unknown algorithm {algorithm}", f"it can be {', '.join(ALGORITHMS)}")
    if match is None:
        raise FileError(f"{where}: spaces where importers expect none, or no digest: {content[:80]!r}", _FORM)
    digits = ALGORITHMS[algorithm]
    if len(match[3]) != digits:
        raise FileError(f"{where}: {len(match[3])} digits instead of {algorithm}'s {digits}", "was it cut?")
    return Line(algorithm, match[2], match[3].lower())
