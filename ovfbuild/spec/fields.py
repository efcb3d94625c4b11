"""The types of appliance.toml's values: what each accepts, and the sentence when it does not.

A type is a parser (a `str` of TOML in, the value out, ValueError when it is wrong), put in pydantic's
form by `_text`. The path types read the folder of the appliance.toml from the validation's context,
`{"folder": Path}`, so every path that leaves spec/ is absolute.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

from ovfbuild.spec import units
from ovfbuild.spec.mistakes import in_toml, mistake, quoted, wrong_type

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ACCOUNT = r"[a-z_][a-z0-9_-]{0,31}"
_CHECKSUM_DIGITS = {"sha256": 64, "sha512": 128}
_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def text_field(parse: Callable[[str, Path], object]) -> PlainValidator:
    """A validator that takes a TOML string; `parse(text, folder)` raises ValueError with our sentence."""

    def validate(value: Any, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            raise mistake(wrong_type("a string", value))
        folder = Path((info.context or {}).get("folder", "."))
        try:
            return parse(value, folder.absolute())
        except ValueError as error:
            raise mistake(str(error)) from None
        except OSError as error:
            raise mistake(f"{quoted(value)} can't be read: {error.strerror}") from None

    return PlainValidator(validate)


def _like(pattern: str, wanted: str) -> PlainValidator:
    """A validator for a string that matches `pattern` from its first character to its last."""
    compiled = re.compile(pattern, re.ASCII)

    def parse(text: str, folder: Path) -> str:
        del folder
        if not compiled.fullmatch(text):
            raise ValueError(f"{quoted(text)} is not {wanted}")
        return text

    return text_field(parse)


def json_string(pattern: str = "", **more: object) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", **more}
    if pattern:
        schema["pattern"] = f"^(?:{pattern})$"
    return WithJsonSchema(schema)


# --- units ---------------------------------------------------------------------------------------


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        # Who writes a small number thinks of MiB; of a large one, of bytes.
        meant = f"{value} MiB" if value < 1024**2 else units.format_size(value)
        raise mistake(f'{value} has no unit; write it as "{meant}"')
    if not isinstance(value, str):
        raise mistake(wrong_type('a size such as "4 GiB"', value))
    try:
        return units.parse_size(value)
    except ValueError as error:
        raise mistake(str(error)) from None


def _duration(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise mistake(f'{value} has no unit; write it as "{value} s" or "{value} min"')
    if not isinstance(value, str):
        raise mistake(wrong_type('a duration such as "30 min"', value))
    try:
        return units.parse_duration(value)
    except ValueError as error:
        raise mistake(str(error)) from None


Size = Annotated[int, PlainValidator(_size), WithJsonSchema({"type": "string", "pattern": units.SIZE_PATTERN})]
"""Bytes."""
Duration = Annotated[
    float, PlainValidator(_duration), WithJsonSchema({"type": "string", "pattern": units.DURATION_PATTERN})
]
"""Seconds."""

# --- names and lines -----------------------------------------------------------------------------

Name = Annotated[
    str,
    _like(_LABEL, "a DNS label; use a-z, 0-9 and '-' inside, at most 63, such as \"web-1\""),
    json_string(_LABEL),
]
Hostname = Annotated[
    str,
    _like(
        rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*",
        "a host name; use a-z, 0-9, '-' and dots, such as \"web-1.example.org\"",
    ),
    json_string(rf"{_LABEL}(?:\.{_LABEL})*"),
]
_VERSION = r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}"
Version = Annotated[
    str,
    _like(_VERSION, "a version that a file name can hold; use letters, digits and . + ~ _ -"),
    json_string(_VERSION),
]
Account = Annotated[
    str, _like(_ACCOUNT, "a user or group; use a-z, 0-9, '_' and '-', at most 32"), json_string(_ACCOUNT)
]
_SCRIPT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
ScriptName = Annotated[
    str, _like(_SCRIPT, "a name that a file can have; use letters, digits and . _ -"), json_string(_SCRIPT)
]
_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
_LOCALE = r"[A-Za-z]+(?:_[A-Z]{2})?(?:\.[A-Za-z0-9-]+)?(?:@[a-z]+)?"
Locale = Annotated[str, _like(_LOCALE, 'a locale; such as "C.UTF-8" or "de_DE.UTF-8"'), json_string(_LOCALE)]
_KEYBOARD = r"[a-z][a-z0-9_-]{1,31}"
Keyboard = Annotated[str, _like(_KEYBOARD, 'a keyboard layout; such as "us", "de" or "fr"'), json_string(_KEYBOARD)]
HTTP = r"https?://[^\s/?#]+[^\s]*"
HttpUrl = Annotated[str, _like(HTTP, "a URL; it begins with https:// or http://"), json_string(HTTP)]
_MIRROR = r"(?:https?|file)://[^\s]+"
Host = Annotated[
    str, _like(_HOST, 'a server\'s name or address; such as "vcenter.example.org", or with ":8443"'), json_string(_HOST)
]

Mirror = Annotated[
    str,
    _like(_MIRROR, "the URL of a mirror; it begins with https://, http:// or file://"),
    json_string(_MIRROR),
]
_SOURCE = r"deb(?:-src)? +(?:\[[^\]\n]*\] +)?[a-z+]+:[^\s]+ +[^\s]+[^\n]*"
AptSource = Annotated[
    str, _like(_SOURCE, 'a line of apt\'s sources; such as "deb URL bookworm main"'), json_string(_SOURCE)
]
_UNIT = r"(?:[A-Za-z0-9:_.\\@-]|\{\{ *agent\.[a-z_]+ *\}\})+\.(?:service|socket|timer|path)"
UnitName = Annotated[str, _like(_UNIT, 'a unit of systemd; such as "agent.service"'), json_string(_UNIT)]
_AGENT_VERSION = r"[0-9A-Za-z][0-9A-Za-z.+:~_-]{0,63}"
AgentVersion = Annotated[
    str, _like(_AGENT_VERSION, "a version; use letters, digits and . + : ~ _ -"), json_string(_AGENT_VERSION)
]
_COORDINATES = r"[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+:[^:\s]+(?::[a-z0-9.]+)?"
Coordinates = Annotated[
    str,
    _like(_COORDINATES, 'Maven coordinates; write "group:artifact:version:packaging"'),
    json_string(_COORDINATES),
]
_SETTING = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?"
SettingName = Annotated[
    str, _like(_SETTING, "a setting's name; use letters, digits and . _ -, at most 128"), json_string(_SETTING)
]
_MODE = r"0?[0-7]{3}|[1-7][0-7]{3}"
_OWNER = rf"(?:{_ACCOUNT}|[0-9]{{1,9}})(?::(?:{_ACCOUNT}|[0-9]{{1,9}}))?"
Owner = Annotated[
    str, _like(_OWNER, 'an owner; write "user" or "user:group", such as "www-data:adm"'), json_string(_OWNER)
]
_SHELL = r"/[A-Za-z0-9._/+-]+"
Shell = Annotated[str, _like(_SHELL, 'the path of a shell; such as "/bin/bash"'), json_string(_SHELL)]
_SUDO = r"[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*"
_LINE = r"[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]*"
Line = Annotated[str, _like(_LINE, "one line of text; leave out control characters and line ends"), json_string()]
_NETWORK = r"(?! )[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]{1,80}(?<! )"
NetworkName = Annotated[
    str,
    _like(_NETWORK, 'a name of a network; write one line of 1 to 80 characters, such as "VM Network"'),
    json_string(minLength=1, maxLength=80),
]
_PROSE = r"(?:[\t\n]|[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff])*"
Prose = Annotated[str, _like(_PROSE, "text; leave out control characters"), json_string()]
Body = Annotated[
    str, _like(r"(?s:.*\S.*)", "a content; it is empty, so put something between the quotes"), json_string()
]
Content = Annotated[str, _like(r"(?s:.*)", "text"), json_string()]


def _package(text: str, folder: Path) -> str:
    """dpkg's grammar (deb-version(7), Debian Policy 5.6.1 and 5.6.12): `name`, `name=version`."""
    del folder
    name, equals, version = text.partition("=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name, re.ASCII):
        meant = name.strip().lower()
        near = f'; did you mean "{meant}"?' if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", meant) else ""
        raise ValueError(
            f"{quoted(name)} is not the name of a package{near or '; use a-z, 0-9, + - . and at least two'}"
        )
    if equals and not re.fullmatch(r"(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*", version, re.ASCII):
        raise ValueError(
            f'{quoted(version)} is not a version of a package; write "name=version" '
            f'as apt shows it, such as "{name}=1.22.1-9"'
        )
    return text


Package = Annotated[str, text_field(_package), json_string(r"[a-z0-9][a-z0-9+.-]+(=.+)?")]

_PIP_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PIP_ONE = r"(?:===|==|~=|!=|<=|>=|<|>) *[A-Za-z0-9.*+!_-]+"
REQUIREMENT = rf"(?P<name>{_PIP_NAME}) *(?:\[[A-Za-z0-9._, -]+\])? *(?:{_PIP_ONE}(?: *, *{_PIP_ONE})*)? *(?:;[^\n]+)?"
"""A requirement of an index, PEP 508 without its URLs: what the host's pip is asked for."""
Requirement = Annotated[
    str,
    _like(REQUIREMENT, 'a requirement of pip; write "name" or "name==version", such as "requests==2.32.3"'),
    json_string(),
]
_NPM = r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*(?:@[A-Za-z0-9^~<>=*][A-Za-z0-9.^~<>=*| +-]*)?"
NpmPackage = Annotated[
    str,
    _like(_NPM, 'a package of npm; write "name" or "name@version", such as "pm2@5.4.2"'),
    json_string(),
]


def _mode(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        # Not with the number in it: TOML's 0o644 comes here as 420.
        raise mistake('must be a string, not an integer; write octal digits in quotes, such as "0644"')
    if not isinstance(value, str):
        raise mistake(wrong_type("a string", value))
    if not re.fullmatch(_MODE, value, re.ASCII):
        raise mistake(f'{quoted(value)} is not a mode; write octal digits such as "0644" or "0755"')
    return value.rjust(4, "0")


Mode = Annotated[str, PlainValidator(_mode), json_string(_MODE)]
"""Four octal digits: `0644`."""


def _target(text: str, folder: Path) -> str:
    del folder
    if not text.startswith("/"):
        raise ValueError(f'{quoted(text)} is not absolute; begin it with "/"')
    if not text.isprintable():
        raise ValueError(f"{quoted(text)} holds a control character; leave it out")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{quoted(text)} climbs with '..'; write where it ends")
    if parts and parts[0] in ("proc", "sys", "dev", "run"):
        raise ValueError(f"{quoted(text)} is made anew at every boot; choose a place outside /{parts[0]}")
    # A trailing slash is kept: it says that the target is a folder.
    return "/" + "/".join(parts) + ("/" if parts and text.endswith("/") else "")


Target = Annotated[str, text_field(_target), json_string(r"/.*")]
"""An absolute path in the guest, without `.`, `..` and double slashes."""


def _sudo(value: Any) -> bool | str:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(_SUDO, value):
        return value
    if isinstance(value, str):
        raise mistake(f'{quoted(value)} is not a rule of sudoers; write one line such as "ALL=(ALL) ALL"')
    raise mistake(f"must be true, false or a rule of sudoers, not {in_toml(value)}")


Sudo = Annotated[bool | str, PlainValidator(_sudo), WithJsonSchema({"type": ["boolean", "string"]})]

# --- secrets and keys ----------------------------------------------------------------------------


def _password_hash(value: Any) -> str:
    """crypt(5). The value never appears in a message: it may be the password itself."""
    make = "make its hash with: openssl passwd -6"
    if not isinstance(value, str):
        raise mistake(f"must be a string, not {in_toml(value)}; a plain password is not taken, {make}")
    if not re.fullmatch(r"\$(?:6|5|y|gy|7|2[aby])\$[!-9;-~]{20,}", value, re.ASCII):
        raise mistake(f"is not a password hash of crypt(5) ($6$…, $y$…); a plain password is not taken, {make}")
    return value


PasswordHash = Annotated[str, PlainValidator(_password_hash), json_string(r"\$(6|5|y|gy|7|2[aby])\$.+")]


def _ssh_key(text: str, folder: Path) -> str:
    """One line of authorized_keys without options; sshd(8). Its blob begins with its type (RFC 4253 6.6)."""
    del folder
    if "PRIVATE KEY" in text:
        raise ValueError("is a private key; give the public one, the line in the file that ends in .pub")
    words = text.split(maxsplit=2)
    wanted = 'give the line of a .pub file: "ssh-ed25519 AAAA… comment"'
    if len(words) < 2 or words[0] not in _KEY_TYPES or not text.isprintable():
        raise ValueError(f"{quoted(text)} is not an SSH public key; {wanted}")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{quoted(text)} is not a whole SSH public key; {wanted}") from None
    kind = words[0].encode()
    head = len(kind).to_bytes(4, "big") + kind
    if not blob.startswith(head) or len(blob) < len(head) + 32:
        raise ValueError(f"{quoted(text)} is not a whole SSH public key; {wanted}")
    return " ".join(words)


SshKey = Annotated[str, text_field(_ssh_key), json_string(r"(ssh|ecdsa|sk)-.+ AAAA.+")]


def _checksum(text: str, folder: Path) -> str:
    del folder
    kind, _, digits = text.partition(":")
    length = _CHECKSUM_DIGITS.get(kind.lower())
    if length is None:
        raise ValueError(f'{quoted(text)} names no digest; write "sha256:…" or "sha512:…"')
    if not re.fullmatch(r"[0-9a-fA-F]*", digits, re.ASCII):
        raise ValueError(f"{quoted(text)} is not hexadecimal; {kind.lower()} has {length} digits 0-9, a-f")
    if len(digits) != length:
        raise ValueError(f"{kind.lower()} has {length} digits, not {len(digits)}; copy the whole digest")
    return f"{kind.lower()}:{digits.lower()}"


Checksum = Annotated[str, text_field(_checksum), json_string("sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128}")]
"""`sha256:` or `sha512:` and lower-case hexadecimal digits."""
