"""The texts in which a place tells an appliance who it is, each read into {key: text}.

    java_properties   `k = v` lines, as java.util.Properties.store writes them (Roboconf's Deployment Manager)
    cloud_config      the top-level key `ovfbuild: {properties: {...}}` of a #cloud-config
    ovf_environment   ovf-env.xml, DSP0243 1.1.0 clause 11
    user_data         any of the first two, gzipped or not, in a MIME message or not, as cloud-init keeps it

The guest has no YAML of its own that could be relied on, and our part of a cloud-config needs little of it:
mappings in block or flow style, and single values, plain, quoted or as a block. What goes beyond that
(anchors, tags, lists) is refused, never guessed.
"""

from __future__ import annotations

import email
import re
import xml.parsers.expat
import zlib
from typing import Any

LARGEST = 4 << 20
"""Bytes of one source; a value's own limit is in `firstboot`."""

OVF_ENVIRONMENT = "http://schemas.dmtf.org/ovf/environment/1"

_NOT_OURS = ("#!", "#include", "#part-handler", "#cloud-boothook", "#cloud-config-", "#upstart-job", "<")


class NotUnderstood(Exception):
    """What a source says cannot be read; the sentence holds none of its values."""


def text_of(octets: bytes) -> str:
    """UTF-8, or else the Latin-1 that Java writes; a value is never changed to make it fit."""
    if len(octets) > LARGEST:
        raise NotUnderstood("it has %d bytes; %d are read at most" % (len(octets), LARGEST))
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


# --- Java properties -----------------------------------------------------------------------------

_JAVA_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def java_properties(text: str) -> dict[str, Any]:
    """java.util.Properties.load: comments, `=`, `:` or blanks between key and value, escapes, continued lines."""
    found: dict[str, Any] = {}
    waiting = ""
    for raw in re.split(r"\r\n|\n|\r", text):
        line = waiting + raw.lstrip(" \t\f")
        if not waiting and (not line or line[0] in "#!"):
            continue
        if (len(line) - len(line.rstrip("\\"))) % 2:  # an odd number of backslashes: it goes on
            waiting = line[:-1]
            continue
        waiting = ""
        _java_line(line, found)
    if waiting:
        _java_line(waiting, found)
    return found


def _java_line(line: str, found: dict[str, Any]) -> None:
    match = re.match(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
    if match and (match[1] or match[2]):
        found[_java_text(match[1])] = _java_text(match[2])


def _java_text(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        word = match[1]
        if len(word) == 5:
            return chr(int(word[1:], 16))
        return _JAVA_ESCAPES.get(word, word)

    text = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", plain, text, flags=re.DOTALL)
    # Java writes what is beyond U+FFFF as two surrogates.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


# --- the OVF environment -------------------------------------------------------------------------


def ovf_environment(octets: bytes) -> dict[str, Any]:
    """The properties of this machine: those of the PropertySection directly below the Environment.

    A document type is refused when it begins: no entity is ever declared, so none can be expanded or fetched.
    """
    if len(octets) > LARGEST:
        raise NotUnderstood("ovf-env.xml has %d bytes; %d are read at most" % (len(octets), LARGEST))
    found: dict[str, Any] = {}
    path: list[str] = []

    def refuse(*_: object) -> None:
        raise NotUnderstood("ovf-env.xml has a document type, which is never needed and refused")

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name.rpartition(" ")[2])
        ours = name.startswith(OVF_ENVIRONMENT + " ")
        if len(path) == 1 and (not ours or path != ["Environment"]):
            raise NotUnderstood("ovf-env.xml is no Environment of %s" % OVF_ENVIRONMENT)
        if ours and path == ["Environment", "PropertySection", "Property"]:
            key = attributes.get(OVF_ENVIRONMENT + " key")
            if key:
                found.setdefault(key, attributes.get(OVF_ENVIRONMENT + " value", ""))

    parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: path.pop()
    try:
        # guestinfo may end in NULs, which in UTF-16 are halves of letters.
        parser.Parse(octets if octets[:2] in (b"\xff\xfe", b"\xfe\xff") else octets.rstrip(b"\0 \r\n\t"), True)
    except xml.parsers.expat.ExpatError as error:
        raise NotUnderstood("ovf-env.xml is not XML: %s" % error) from error
    return found


# --- cloud-init's user-data ----------------------------------------------------------------------


def user_data(octets: bytes) -> dict[str, Any]:
    """What of ours is in user-data, whichever of its forms it has; nothing if it is somebody else's."""
    if octets[:2] == b"\x1f\x8b":
        octets = _gunzip(octets)
    text = text_of(octets)
    head = text.lstrip()[:20].lower()
    if head.startswith(("content-type:", "mime-version:", "from ")):
        return _mime(text)
    if _is_cloud_config(text):
        return cloud_config(text)
    return {} if head.startswith(_NOT_OURS) else java_properties(text)


def _gunzip(octets: bytes) -> bytes:
    try:
        opened = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(octets, LARGEST + 1)
    except zlib.error as error:
        raise NotUnderstood("it looks gzipped and is not: %s" % error) from error
    if len(opened) > LARGEST:
        raise NotUnderstood("unpacked it has more than %d bytes" % LARGEST)
    return opened


def _is_cloud_config(text: str) -> bool:
    lines = [line.strip() for line in text[:200].split("\n")[:2]]
    return lines[0] == "#cloud-config" or (lines[0].startswith("## template:") and lines[1:] == ["#cloud-config"])


def _mime(text: str) -> dict[str, Any]:
    """Of several parts a later one wins, as with cloud-init."""
    found: dict[str, Any] = {}
    for part in email.message_from_string(text).walk():
        payload = part.get_payload(decode=True)
        if not part.is_multipart() and isinstance(payload, bytes):
            inner = text_of(payload)
            if part.get_content_type() == "text/cloud-config" or _is_cloud_config(inner):
                found.update(cloud_config(inner))
    return found


def cloud_config(text: str) -> dict[str, Any]:
    """`ovfbuild: {properties: …}`; inner mappings are joined by dots, so that `dm: {host: x}` is `dm.host`."""
    document = re.sub(r"(?m)^(---|\.\.\.)([ \t].*)?$", "", text.lstrip("\ufeff")).replace("\r\n", "\n")
    bare = re.sub(r"(?m)^[ \t]*(#.*)?$", "", document).strip()
    top = _flow_all(bare) if bare.startswith("{") else _block(_ours(document.split("\n")), 0)
    section = top.get("ovfbuild")
    properties = section.get("properties") if isinstance(section, dict) else None
    return _flat(properties, "") if isinstance(properties, dict) else {}


def _flat(mapping: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            found.update(_flat(value, prefix + key + "."))
        else:
            found[prefix + key] = value
    return found


def _ours(lines: list[str]) -> list[str]:
    """The lines of the top-level key `ovfbuild`; the rest may be any YAML at all."""
    for number, line in enumerate(lines):
        if re.match(r"""(ovfbuild|"ovfbuild"|'ovfbuild')[ \t]*:([ \t]|$)""", line):
            end = number + 1
            while end < len(lines) and (lines[end][:1] in ("", " ", "\t") or lines[end].startswith("#")):
                end += 1
            return lines[number:end]
    return []


_KEY = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s\[\]{},#&*!|>'"%@`:-][^\s{},#:]*)[ \t]*:(?=[ \t]|$)""")


def _block(lines: list[str], indent: int) -> dict[str, Any]:
    """A mapping in block style: every line that is `indent` blanks in begins a key, deeper ones belong to it."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _KEY.match(line, indent)
        if _depth(line) != indent or match is None:
            raise NotUnderstood("the part `ovfbuild:` of the user-data has a line that is no key and value")
        inner = []
        while at < len(lines) and (not lines[at].strip() or _depth(lines[at]) > indent):
            inner.append(lines[at])
            at += 1
        found[_scalar(match[1])] = _value(line[match.end() :].strip(), inner)
    return found


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _value(first: str, inner: list[str]) -> Any:
    if first.startswith("#"):
        first = ""
    if re.match(r"[|>]", first):
        return _literal(first, inner)
    if first[:1] in ("{", '"', "'"):
        return _flow_all("\n".join([first, *inner]))
    if first:
        plain = [re.split(r"(?:^|[ \t])#", line)[0].strip() for line in [first, *inner]]
        return _scalar(" ".join(word for word in plain if word))
    below = [line for line in inner if line.strip() and not line.lstrip().startswith("#")]
    return _block(inner, _depth(below[0])) if below else None


def _literal(header: str, lines: list[str]) -> str:
    """`|` keeps line ends, `>` makes blanks of them; `-` and `+` say what becomes of the last ones."""
    match = re.match(r"([|>])([1-9]?)([+-]?)([1-9]?)[ \t]*(#.*)?$", header)
    full = [line for line in lines if line.strip()]
    if match is None or match[2] or match[4]:
        raise NotUnderstood("a block of text in the user-data has a header that is not read: write `|` or `>`")
    depth = _depth(full[0]) if full else 0
    body = "\n".join(line[depth:] for line in lines)
    end = len(body) - len(body.rstrip("\n"))
    body = body.rstrip("\n")
    if match[1] == ">":
        body = _folded(body)
    if match[3] == "-" or not body:
        return body
    return body + "\n" * (end + 1 if match[3] == "+" else 1)


def _folded(text: str) -> str:
    """Line ends inside a value: one is a blank, more are one less."""
    return re.sub(r"[ \t]*\n[ \t\n]*", lambda match: "\n" * (match[0].count("\n") - 1) or " ", text)


_SINGLE = re.compile(r"'((?:[^']|'')*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_YAML_ESCAPES = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_YAML_ESCAPES.update({"e": "\x1b", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029", "\t": "\t"})


def _scalar(text: str) -> Any:
    """A single value as text, whatever type YAML would give it: what it should be is declared."""
    if text[:1] == "'":
        return _folded(text[1:-1]).replace("''", "'")
    if text[:1] == '"':
        return _unescaped(text[1:-1])
    if text[:1] in ("&", "*", "!", "%", "@", "`", "[", "]", "}", ",") or text[:2] in ("- ", "? "):
        raise NotUnderstood("a value under `ovfbuild:` in the user-data is not a single value; put it in quotes")
    return None if text in ("", "~", "null", "Null", "NULL") else text


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        word = match[0]
        if word[0] != "\\":
            return _folded(word)
        if word[1] in "xuU":
            return chr(min(int(word[2:], 16), 0x10FFFF))
        return "" if word[1] == "\n" else _YAML_ESCAPES.get(word[1], word[1])

    pattern = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\n[ \t]*|.)|[ \t]*\n[ \t\n]*"
    joined = re.sub(pattern, plain, text, flags=re.DOTALL)
    # JSON, which is YAML, writes what is beyond U+FFFF as two surrogates.
    return joined.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _flow_all(text: str) -> Any:
    value, end = _flow(text, 0, 0)
    rest = text[end:].strip()
    if rest and not rest.startswith("#"):
        raise NotUnderstood("something follows a value under `ovfbuild:` in the user-data")
    return value


def _flow(text: str, at: int, depth: int) -> tuple[Any, int]:
    """A value in flow style that begins at `at`, and where it ends."""
    for pattern in (_SINGLE, _DOUBLE):
        match = pattern.match(text, at)
        if match:
            return _scalar(match[0]), match.end()
    if text[at : at + 1] != "{":
        match = re.compile(r"[^,{}\n\"']*").match(text, at)
        assert match is not None
        return _scalar(match[0].strip()), match.end()
    found: dict[str, Any] = {}
    at = _blanks(text, at + 1)
    while text[at : at + 1] != "}":
        match = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s,{}:"']+)\s*:\s*""").match(text, at)
        if match is None or depth > 8:
            raise NotUnderstood("a mapping under `ovfbuild:` in the user-data is not closed or not read")
        found[_scalar(match[1])], at = _flow(text, match.end(), depth + 1)
        at = _blanks(text, at)
        if text[at : at + 1] == ",":
            at = _blanks(text, at + 1)
        elif text[at : at + 1] != "}":
            raise NotUnderstood("a mapping under `ovfbuild:` in the user-data is not closed or not read")
    return found, at + 1


def _blanks(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at
