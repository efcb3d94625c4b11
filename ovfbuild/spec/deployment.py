"""What an appliance is told where it is deployed: its properties, their types, and what the first boot makes of them.

    [[properties]] ─┐
    agent's own    ─┴─ deployment ─▶ Deployment ─┬─▶ declaration   for the broker in the guest (guest/firstboot.py)
                                                 └─▶ properties    for the descriptor, and for `deploy-seed`

The guest checks every value again, with code of its own; a test holds the two to the same verdicts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from ovfbuild.spec import fields as f
from ovfbuild.spec.mistakes import in_toml, mistake, quoted, sentences, wrong_type
from ovfbuild.spec.table import Table

Kind = Literal["string", "int", "bool", "password", "ip", "hostname"]
Value = str | int | bool

CLOUD_INIT_KEYS = (
    *("instance-id", "hostname", "local-hostname", "public-keys", "user-data", "seedfrom", "password"),
    "network-config",
)
"""What cloud-init reads from an OVF environment (DataSourceOVF.py): every package has these already."""

LARGEST = 64 << 10
"""Bytes of one value; the guest takes no more."""

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_KEY = r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*"
_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LEAST_INT, _MOST_INT = -(2**31), 2**31 - 1
"""OVF's sint32."""


def _key(text: str, folder: object) -> str:
    if text in CLOUD_INIT_KEYS:
        raise ValueError(f"{quoted(text)} is cloud-init's own, and every package has it; choose another")
    return _key_in_class(text, folder)


def _key_in_class(text: str, folder: object) -> str:
    """A key with a class before it, so that it is nobody else's."""
    del folder
    if text.startswith("ovfbuild."):
        raise ValueError(f"{quoted(text)} is ovfbuild's own; choose another beginning")
    if not re.fullmatch(_KEY, text, re.ASCII) or len(text) > 128:
        raise ValueError(f'{quoted(text)} is not a key; use a-z, 0-9, "_", "-" and dots inside, such as "dm.host"')
    return text


def _default(value: Any) -> Value:
    if isinstance(value, str | int | bool):
        return value
    raise mistake(f"must be a string, an integer, true or false, not {in_toml(value)}")


Key = Annotated[str, f.text_field(_key), f.json_string(_KEY, maxLength=128)]
KeyInClass = Annotated[str, f.text_field(_key_in_class), f.json_string(_KEY, maxLength=128)]
Default = Annotated[Value, PlainValidator(_default), WithJsonSchema({"type": ["string", "integer", "boolean"]})]


class Property(Table):
    """A value that is given where the appliance is deployed."""

    key: Key = Field(examples=["dm.host"])
    """Its name: in OVF properties, in user-data, in templates."""
    label: f.Line = ""
    """What whoever deploys it reads beside the field; by default the key."""
    description: f.Line = ""
    """What more there is to say of it."""
    type: Kind = "string"
    """What a value must be."""
    default: Default | None = None
    """The value where none is given."""
    required: bool = False
    """Whether a machine without a value is told to be incomplete."""
    min: int | None = None
    """The least number; of a string or password, the fewest characters."""
    max: int | None = None
    """The greatest number; of a string or password, the most characters."""
    choices: tuple[f.Line, ...] = ()
    """The only strings that are taken."""
    category: f.Line = ""
    """The heading under which a form shows it."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        kind = table.get("type", "string")
        for key in ("min", "max"):
            if key in table and kind not in ("int", "string", "password"):
                yield key, "is for an int, a string or a password; leave it out"
        least, most = _whole(table.get("min")), _whole(table.get("max"))
        if least is not None and most is not None and least > most:
            yield "max", "is less than min; write the greater one here"
        if table.get("choices") and kind != "string":
            yield "choices", "are for a string; leave them out"
        choices = table.get("choices")
        if isinstance(choices, list | tuple) and any(isinstance(one, str) and '"' in one for one in choices):
            yield "choices", "have a quotation mark in one of them, which OVF's qualifiers can't hold; leave it out"
        if "default" in table and isinstance(table["default"], str | int | bool):
            said = _wrong_default(kind, table["default"], least, most, choices)
            if said:
                yield "default", said

    @property
    def secret(self) -> bool:
        """Whether a value of it must never be shown."""
        return self.type == "password"

    @property
    def baked(self) -> Value | None:
        """The default as the image has it: a bool is false until something else is said."""
        return False if self.type == "bool" and self.default is None else self.default

    def value_of(self, text: str) -> Value:
        """The value that a text stands for.

        ValueError, with a sentence that never has a password in it, where it is none.
        """
        return _value_of(self.type, text, self.min, self.max, self.choices)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _wrong_default(kind: object, value: Value, least: int | None, most: int | None, choices: object) -> str:
    """What is wrong with a default as TOML has it, in a sentence; "" where nothing is."""
    wanted: type = {"int": int, "bool": bool}.get(str(kind), str)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        names: dict[type, str] = {int: "an integer", bool: "true or false", str: "a string"}
        if kind == "password":
            return f"must be a string, not {in_toml(value)}"
        return wrong_type(names[wanted], value)
    given = [one for one in choices if isinstance(one, str)] if isinstance(choices, list | tuple) else []
    if value == "":
        return "" if kind in ("string", "password") else f'is empty, which is no {kind}; leave out "default"'
    try:
        _value_of(str(kind), str(value), least, most, given)
    except ValueError as error:
        return str(error)
    return ""


def _value_of(kind: str, text: str, least: int | None, most: int | None, choices: Iterable[str]) -> Value:
    shown = "the password" if kind == "password" else quoted(text)
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST:
        raise ValueError(f"is longer than {LARGEST} bytes; the first boot takes no more")
    if kind == "bool":
        if text.strip().lower() not in _BOOLEANS:
            raise ValueError(f"{shown} is neither true nor false; write one of them")
        return _BOOLEANS[text.strip().lower()]
    if kind == "int":
        number = _number(text.strip(), shown)
        _within(number, least, most, f"{number} is out of range", "")
        return number
    if kind == "ip":
        return _address(text.strip(), shown)
    if kind == "hostname":
        return _hostname(text.strip(), shown)
    # Line ends belong into keys and certificates; what a terminal would obey, into nothing.
    bad = r"[\x00-\x1f\x7f]" if kind == "password" else r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
    if re.search(bad, text) or re.search(r"[\ud800-\udfff]", text):
        raise ValueError(f"{shown} holds a control character; leave it out")
    if text:
        _within(len(text), least, most, f"{shown} has {len(text)} characters", " characters")
    allowed = tuple(choices)
    if allowed and text and text not in allowed:
        raise ValueError(f"{shown} is not a choice; write {' or '.join(map(quoted, allowed))}")
    return text


def _within(number: int, least: int | None, most: int | None, said: str, unit: str) -> None:
    if least is not None and number < least:
        raise ValueError(f"{said}; at least {least}{unit}")
    if most is not None and number > most:
        raise ValueError(f"{said}; at most {most}{unit}")


def _number(text: str, shown: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,10}", text, re.ASCII) or not _LEAST_INT <= int(text) <= _MOST_INT:
        raise ValueError(f"{shown} is not a whole number of 32 bits; write digits, such as 5672")
    return int(text)


def _address(text: str, shown: str) -> str:
    try:
        if "%" in text:
            raise ValueError
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f'{shown} is not an IP address; write one such as "192.0.2.1" or "2001:db8::1"') from None


def _hostname(text: str, shown: str) -> str:
    if len(text) > 253 or not re.fullmatch(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*", text, re.ASCII):
        raise ValueError(f"{shown} is not a host name; use letters, digits, '-' and dots, such as \"dm.example.org\"")
    return text


def from_descriptor(key: str, kind: str, password: bool, value: str | None, qualifiers: str | None) -> Property | None:
    """A property as a package's descriptor has it, without what a descriptor does not say; None for cloud-init's."""
    if key in CLOUD_INIT_KEYS:
        return None
    named: dict[str, Kind] = {"sint32": "int", "int": "int", "boolean": "bool"}
    table: dict[str, Any] = {"key": key, "type": "password" if password else named.get(kind, "string")}
    for name, bound in re.findall(r"\b(MinLen|MaxLen)\((\d{1,9})\)", qualifiers or ""):
        table["min" if name == "MinLen" else "max"] = int(bound)
    choices = re.fullmatch(r"ValueMap\{(.*)\}", qualifiers or "")
    if choices:
        table["choices"] = [choice for choice in re.findall(r'"([^"]*)"', choices[1]) if choice]
    try:
        bare = Property.model_validate(table)
        return Property.model_validate(table | ({"default": bare.value_of(value)} if value else {}))
    except ValueError:  # also pydantic's: somebody else's package
        return None


def ssh_keys(text: str) -> list[str]:
    """The public keys of a .pub or authorized_keys file. ValueError for what is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        return [TypeAdapter(f.SshKey).validate_python(line) for line in lines]
    except ValidationError as error:
        raise ValueError("; ".join(said for _, said in sentences(error))) from None


def host_name(text: str) -> str:
    """A host name. ValueError for what is none."""
    return _hostname(text, quoted(text))


def variable(key: str) -> str:
    """What identity.env calls a property: OVF_DM_HOST. The prefix keeps a key `path` from being $PATH."""
    return "OVF_" + re.sub(r"[^A-Za-z0-9]", "_", key).upper()


def clashes(tables: object) -> Iterable[tuple[str, str]]:
    """Properties of one key, or of keys that identity.env cannot tell apart."""
    seen: dict[str, str] = {}
    for table in tables if isinstance(tables, list | tuple) else ():
        key = table.get("key") if isinstance(table, Mapping) else None
        if not isinstance(key, str):
            continue
        before = seen.get(variable(key))
        if before == key:
            yield "properties", f"has {quoted(key)} twice; keep one"
        elif before is not None:
            yield "properties", f"has {quoted(before)} and {quoted(key)}, both ${variable(key)} for scripts; rename one"
        seen.setdefault(variable(key), key)


@dataclass(frozen=True)
class Deployment:
    """All that the first boot is about. Without properties there is no broker in the image."""

    properties: tuple[Property, ...] = ()
    drop_files: tuple[str, ...] = ()
    """Files that a deployment manager puts into the running machine; seen when they appear."""
    before: tuple[str, ...] = ()
    """Units that start only when the broker is done: what it configures."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By a property's key: other names under which a source may give it."""

    def declaration(self) -> dict[str, Any]:
        """What the guest's broker reads (guest/firstboot.py). A password's default is in it."""
        return {
            "properties": [
                {
                    **property_.model_dump(mode="json", include={"key", "type", "required", "min", "max"}),
                    "default": property_.baked,
                    "choices": list(property_.choices),
                    "aliases": list(self.aliases.get(property_.key, ())),
                }
                for property_ in self.properties
            ],
            "drop_files": list(self.drop_files),
        }

    def seal_orders(self) -> dict[str, Any] | None:
        """What the seal puts into the image for the first boot; None where there is nothing to be told."""
        return {"declaration": self.declaration(), "before": list(self.before)} if self.properties else None


def deployment(
    own: Iterable[Property],
    agents: Iterable[Property] = (),
    *,
    drop_files: Iterable[str] = (),
    before: Iterable[str] = (),
    aliases: Mapping[str, tuple[str, ...]] | None = None,
) -> Deployment:
    """An appliance's own properties and its agent's; of one key the appliance's own counts."""
    found = {property_.key: property_ for property_ in agents}
    found |= {property_.key: property_ for property_ in own}
    return Deployment(tuple(found.values()), tuple(drop_files), tuple(before), dict(aliases or {}))
