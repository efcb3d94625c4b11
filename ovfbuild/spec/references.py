"""The types of values that refer to something: a file beside appliance.toml, a profile, a time zone.

Paths are taken from the folder of the appliance.toml, which is in the validation's context as
`{"folder": Path}`; so every path that leaves spec/ is absolute, and was seen to exist.
"""

from __future__ import annotations

import re
import struct
import zoneinfo
from pathlib import Path
from typing import Annotated

from ovfbuild.errors import UsageError
from ovfbuild.spec import cloud_config, guest_os, profile
from ovfbuild.spec.fields import HTTP, REQUIREMENT, json_string, text_field
from ovfbuild.spec.mistakes import closest, quoted

# --- files beside the appliance.toml -------------------------------------------------------------


def _existing(text: str, folder: Path) -> Path:
    if not text or "\0" in text:
        raise ValueError("is not a path; name a file")
    try:
        path = folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{quoted(text)} begins with the home of an unknown user; write the path") from None
    if not path.exists():
        near = closest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise ValueError(f"{quoted(text)} does not exist (looked for {path}){near}")
    return path


def _file(text: str, folder: Path) -> Path:
    path = _existing(text, folder)
    if not path.is_file():
        raise ValueError(f"{quoted(text)} is not a file; name a file")
    return path


def _text_file(text: str, folder: Path) -> Path:
    path = _file(text, folder)
    try:
        if not path.read_text(encoding="utf-8").strip():
            raise ValueError(f"{quoted(text)} is empty; write something in it, or leave out the key")
    except UnicodeDecodeError:
        raise ValueError(f"{quoted(text)} is not UTF-8 text; save it as UTF-8") from None
    return path


def _png(text: str, folder: Path) -> Path:
    path = _file(text, folder)
    octets = path.read_bytes()
    # The signature, then the chunk IHDR with width and height (PNG, 5.2 and 11.2.2).
    if not octets.startswith(b"\x89PNG\r\n\x1a\n") or octets[12:16] != b"IHDR" or len(octets) < 33:
        raise ValueError(f"{quoted(text)} is not a PNG image; save it as PNG")
    if not all(0 < pixels < 1 << 16 for pixels in struct.unpack(">II", octets[16:24])):
        raise ValueError(f"{quoted(text)} is too large; an icon has at most 65535 pixels a side")
    if len(octets) > _LARGEST_ICON:
        raise ValueError(f"{quoted(text)} has {len(octets)} bytes; an icon has at most {_LARGEST_ICON}")
    return path


def _user_data(text: str, folder: Path) -> Path:
    path = _text_file(text, folder)
    try:
        cloud_config.parse(path.read_text(encoding="utf-8"), path.name)
    except UsageError as error:
        raise ValueError(error.message) from None
    return path


def requirement_lines(text: str) -> list[str]:
    """The requirements of a requirements.txt, each in one line with its hashes.

    ValueError for what would make pip read more than this file: then its digest would not be all of it.
    """
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).strip()
        bare = re.sub(r" +--hash[= ]\S+", "", words).strip()
        if bare and not re.fullmatch(REQUIREMENT, bare, re.ASCII):
            raise ValueError(
                f"{quoted(bare)} is not a requirement by name; write name==version (what is pip's own, "
                "such as an index, stands in the host's pip.conf)"
            )
        if bare:
            lines.append(words)
    return lines


def _requirements(text: str, folder: Path) -> Path:
    path = _text_file(text, folder)
    try:
        if not requirement_lines(path.read_text(encoding="utf-8")):
            raise ValueError("it asks for nothing; write a requirement in it, or leave out the key")
    except ValueError as error:
        raise ValueError(f"{quoted(text)}: {error}") from None
    return path


def _image(text: str, folder: Path) -> Path | str:
    if "://" not in text:
        return _file(text, folder)
    if not re.fullmatch(HTTP, text):
        raise ValueError(f"{quoted(text)} can't be downloaded; use a path, https:// or http://")
    return text


_LARGEST_ICON = 1 << 20

AnyPath = Annotated[Path, text_field(_existing), json_string()]
"""A file or a folder that exists."""
FilePath = Annotated[Path, text_field(_file), json_string()]
PngFile = Annotated[Path, text_field(_png), json_string()]
TextFile = Annotated[Path, text_field(_text_file), json_string()]
RequirementsFile = Annotated[Path, text_field(_requirements), json_string()]
UserDataFile = Annotated[Path, text_field(_user_data), json_string()]
FileOrUrl = Annotated[Path | str, text_field(_image), json_string()]
"""A Path is a file that exists, a str is an http(s) URL."""

# --- names of things that ship -------------------------------------------------------------------


def _profile(text: str, folder: Path) -> str:
    name = str(_file(text, folder)) if profile.is_path(text) else text
    try:
        profile.load_profile(name)
    except UsageError as error:
        raise ValueError(error.message) from None
    return name


def _distribution(text: str, folder: Path) -> str:
    del folder
    known = guest_os.distributions()
    if text not in known:
        raise ValueError(f"{quoted(text)} can't be made here; write {' or '.join(known)}, or name an image")
    return text


def _guest_os(text: str, folder: Path) -> str:
    del folder
    if guest_os.find(text) is None:
        known = guest_os.names()
        near = closest(text, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown system {quoted(text)}{near}")
    return text


ProfileName = Annotated[str, text_field(_profile), json_string()]
Distribution = Annotated[str, text_field(_distribution), json_string()]
GuestOsName = Annotated[str, text_field(_guest_os), json_string()]


def _timezone(text: str, folder: Path) -> str:
    del folder
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        if known:  # a machine without tzdata can't judge
            near = closest(text, known) or '; write one such as "Etc/UTC" or "Europe/Paris"'
            raise ValueError(f"{quoted(text)} is not a time zone{near}") from None
    return text


Timezone = Annotated[str, text_field(_timezone), json_string()]
