"""Configuration files made of the properties: each value quoted for the file that it stands in, each file whole or not.

`firstboot` says what a template is. Nothing here evaluates a value: it is quoted, or refused.
"""

from __future__ import annotations

import glob
import grp
import json
import os
import pwd
import re
import secrets
from typing import Any, Mapping

PLACE = re.compile(r"\{\{ *([A-Za-z0-9_.-]+)(\??) *\}\}")
"""`{{key}}`; `{{key?}}` leaves out the whole line where the value is empty."""


class Refused(Exception):
    """A template that cannot be rendered, or a value that its format cannot hold; no value is in the sentence."""


def plain(value: Any) -> str:
    """A typed value as text: `true`, `5672`, and nothing for what has no value."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def raw(value: Any) -> str:
    """As it is, in one line: a line end would begin a line of the file that nobody wrote."""
    text = plain(value)
    if any(ord(letter) < 32 or ord(letter) in (127, 0x85, 0x2028, 0x2029) for letter in text):
        raise Refused("it has several lines, and the file takes one")
    return text


def java(value: Any) -> str:
    """What java.util.Properties.load reads back, whatever the charset that it reads with: ASCII alone."""
    text = re.sub(r"[\\\t\n\r\f]", lambda match: _JAVA[match[0]], plain(value))
    units = text.encode("utf-16-be")
    letters = [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
    text = "".join(chr(unit) if 32 <= unit < 127 else "\\u%04x" % unit for unit in letters)
    return re.sub(r"^[ =:#!]", r"\\\g<0>", text)


_JAVA = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}


def shell(value: Any) -> str:
    """A word in double quotes, which sh and systemd's EnvironmentFile= read alike.

    (systemd does not know sh's way out of single quotes: `'it'\\''s'`.)
    """
    return '"%s"' % re.sub(r'[\\"$`]', r"\\\g<0>", plain(value))


def as_json(value: Any) -> str:
    """A JSON value with its quotes, which YAML and TOML read too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


FORMATS = {"raw": raw, "properties": java, "shell": shell, "json": as_json}


def load_all(root: str, folder: str) -> list[tuple[str, dict[str, Any] | Refused]]:
    """(its file's name, the template or what is wrong with it) of each *.json in the folder, by name."""
    return [(os.path.basename(path), _load(path)) for path in sorted(glob.glob(root + folder + "/*.json"))]


def _load(path: str) -> dict[str, Any] | Refused:
    try:
        with open(path, encoding="utf-8") as stream:
            template: dict[str, Any] = json.load(stream)
        good = template["format"] in FORMATS and isinstance(template["text"], str)
    except (OSError, ValueError, LookupError, TypeError):
        return Refused("it is no template")
    return template if good else Refused("its format or text is wrong")


def keys_of(text: str) -> set[str]:
    return {match[1] for match in PLACE.finditer(text)}


def render(
    template: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """The file's text, and the keys whose value the format cannot hold: their defaults stand in it instead.

    Refused if the template names a property that nobody declared.
    """
    quote = FORMATS[template["format"]]
    unknown = keys_of(template["text"]) - set(values)
    if unknown:
        raise Refused("it names %s, which is not declared" % ", ".join(sorted(unknown)))
    bad: list[str] = []

    def put(match: re.Match[str]) -> str:
        try:
            return quote(values[match[1]])
        except Refused:
            bad.append(match[1])
            return plain(defaults.get(match[1]))

    def wanted(line: str) -> bool:
        return all(plain(values[match[1]]) for match in PLACE.finditer(line) if match[2])

    lines = template["text"].splitlines(keepends=True)
    return "".join(PLACE.sub(put, line) for line in lines if wanted(line)), bad


def write(path: str, text: str, mode: int, owner: str = "root") -> bool:
    """Puts a whole file in the place of another; whether it is another now, in content, mode or owner.

    It is made closed to all but root, so that nobody opens it before it has its mode.
    """
    uid, gid = _ids(owner)
    octets = text.encode("utf-8")
    if _is(path, octets, mode, uid, gid):
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = "%s/.%s.%s" % (os.path.dirname(path), os.path.basename(path), secrets.token_hex(6))
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as stream:
            stream.write(octets)
            if os.geteuid() == 0:
                os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(partial, path)
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)
    return True


def _ids(owner: str) -> tuple[int, int]:
    user, _, group = owner.partition(":")
    try:
        entry = pwd.getpwnam(user)
        return entry.pw_uid, grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except LookupError:
        raise Refused("there is no user or group %s" % owner) from None


def _is(path: str, octets: bytes, mode: int, uid: int, gid: int) -> bool:
    try:
        seen = os.lstat(path)
        if os.geteuid() == 0 and (seen.st_uid, seen.st_gid) != (uid, gid):
            return False
        if seen.st_mode != 0o100000 | mode or seen.st_size != len(octets):
            return False
        with open(path, "rb") as stream:
            return stream.read() == octets
    except OSError:
        return False
