"""cloud-config documents: the author's, checked, and merged under ours.

A merged document is the same bytes for the same two inputs: keys keep their order, ours first.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from ovfbuild.errors import UsageError

HEADER = "#cloud-config"

_FIGHTS = {
    "power_state": "the build powers the machine off by itself",
    "datasource": "the finished appliance looks everywhere",
    "datasource_list": "the finished appliance looks everywhere",
}
"""Keys of an author that would break the build, and why."""


def merge(ours: dict[str, Any], author: str | None, name: str = "user-data") -> str:
    """Our cloud-config with the author's under it, as text.

    Tables are merged key by key; lists are joined, the author's part first; of two scalars ours wins.
    `name` is what the author's file is called in a UsageError.
    """
    theirs = parse(author, name) if author is not None else {}
    return dump(_merged(ours, theirs, name, ""))


def dump(config: dict[str, Any]) -> str:
    """A cloud-config document."""
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10**6)
    return f"{HEADER}\n{text}"


def with_properties(config: dict[str, Any], values: Mapping[str, str | int | bool]) -> str:
    """A cloud-config that tells an appliance its properties, for the broker in the guest.

    Each value stands in double quotes, as JSON writes it: that YAML and the broker's small reader agree on.
    """
    lines = [f"    {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    document = dump(config) if config else f"{HEADER}\n"
    return document + ("ovfbuild:\n  properties:\n" + "".join(lines) if lines else "" if config else "{}\n")


def parse(text: str, name: str = "user-data") -> dict[str, Any]:
    """The author's cloud-config. UsageError, with the line, for what is not one."""
    first = text.split("\n", 1)[0].rstrip()
    if first != HEADER:
        raise UsageError(f"{name}:1: the first line is not {HEADER}; begin the file with it")
    try:
        config = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UsageError(f"{name}{place}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise UsageError(f"{name}: holds {_kind(config)}, where a cloud-config has keys and values")
    for key in config:
        if key in _FIGHTS:
            raise UsageError(f"{name}: {key} is not an author's to set: {_FIGHTS[key]}; leave it out")
    return config


def _merged(ours: Any, theirs: Any, name: str, path: str) -> Any:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        merged = {
            key: _merged(value, theirs[key], name, f"{path}.{key}" if path else str(key)) if key in theirs else value
            for key, value in ours.items()
        }
        return {**merged, **{key: value for key, value in theirs.items() if key not in ours}}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*theirs, *ours]
    if isinstance(ours, dict | list) and theirs is not None:
        raise UsageError(f"{name}: {path} is {_kind(theirs)}, where {_kind(ours)} belongs")
    return ours


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "a single value"


class _Dumper(yaml.SafeDumper):
    """No `&anchor` where one object appears twice, and list items indented under their key."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Texts of several lines as they are, after `|`."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML libraries keep the last, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
