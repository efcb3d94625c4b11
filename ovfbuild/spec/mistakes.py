"""What is wrong in appliance.toml, in sentences of ours: "what is wrong; what would be right".

Nothing of pydantic's own wording, and none of Python's type names, reaches a user.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

KIND = "mistake"
"""The type of a pydantic error that holds a sentence of ours."""


def mistake(sentence: str) -> PydanticCustomError:
    """What a validator raises: "what is wrong; what would be right"."""
    # The sentence is an argument, not the template: a user's braces are not placeholders.
    return PydanticCustomError(KIND, "{sentence}", {"sentence": sentence})


def sentences(error: ValidationError) -> Iterator[tuple[str, str]]:
    """(key path, sentence) of every mistake of a Table: `("system.users[0].name", "…")`."""
    for detail in error.errors(include_url=False):
        yield key_path(detail["loc"]), str(detail.get("ctx", {}).get("sentence", _UNKNOWN_KIND))


def key_path(loc: Iterable[int | str]) -> str:
    """`("networks", 0, "name")` → `networks[0].name`; keys that TOML quotes are quoted."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            bare = part.isascii() and part.replace("-", "").replace("_", "").isalnum()
            path += ("." if path else "") + (part if bare else json.dumps(part, ensure_ascii=False))
    return path


def closest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'memory'?`, or nothing where nothing is near. Case does not count."""
    names = {name.lower(): name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(word.lower(), sorted(names), n=1, cutoff=0.6)
    return f"; did you mean '{names[near[0]]}'?" if near else ""


def quoted(text: str) -> str:
    """A value as it is shown in a sentence: in one line, and not too long."""
    shown = text if len(text) <= 60 else text[:57] + "…"
    return f"'{shown}'" if shown.isprintable() else repr(shown)


def in_toml(value: object) -> str:
    """The type of a value in the words of TOML's specification, with its article."""
    for kind, words in _TOML_TYPES:
        if isinstance(value, kind):
            return words
    return "a date or time"


def wrong_type(wanted: str, value: object) -> str:
    """`must be a string, not an integer; put it in quotes: "2"`."""
    sentence = f"must be {wanted}, not {in_toml(value)}"
    if wanted == "a string" and isinstance(value, int | float):
        return f'{sentence}; put it in quotes: "{str(value).lower()}"'
    if wanted == "an integer" and isinstance(value, str) and value.strip().isdigit():
        return f"{sentence}; leave out the quotes: {value.strip()}"
    if wanted == "an array" and isinstance(value, dict):
        return f"{sentence}; a table of a list is written with two brackets: [[…]]"
    if wanted == "an array":
        return f"{sentence}; put it in brackets: [ … ]"
    return sentence


def sentence(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    """Our sentence for one error of a table whose fields are `known`."""
    kind = detail["type"]
    if kind == KIND:  # of an inner table, or of a validator of ours
        return str(detail["ctx"]["sentence"])
    if kind in _WANTED:
        return wrong_type(_WANTED[kind], detail["input"])
    say = _SAY.get(kind)
    return say(detail, known) if say else _UNKNOWN_KIND


_UNKNOWN_KIND = "is not what belongs here; see appliance.toml(5)"

_TOML_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),  # before int: Python's True is an int, TOML's true is not
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (list, "an array"),
    (tuple, "an array"),
    (dict, "a table"),
)

_WANTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "model_type": "a table",
    "dict_type": "a table",
}


def _unknown_key(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    key = str(detail["loc"][-1])
    return f"unknown key {quoted(key)}{closest(key, known) or '; known here: ' + ', '.join(known)}"


def _missing(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    """With the field's own example of what would be right."""
    key = str(detail["loc"][-1])
    examples = known[key].examples
    right = f"for example {key} = {json.dumps(examples[0])}" if examples else f"write a [{key}] table"
    return f"is missing; {right}"


def _choice(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    del known
    value, choices = detail["input"], detail["ctx"]["expected"]
    shown = quoted(value) if isinstance(value, str) else in_toml(value)
    return f"{shown} is not a choice here; write {choices}"


def _range(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    del known
    context: dict[str, Any] = detail["ctx"]
    bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
    return f"{detail['input']} is out of range; write {bound}"


_SAY: dict[str, Callable[[ErrorDetails, Mapping[str, FieldInfo]], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "literal_error": _choice,
    "greater_than_equal": _range,
    "less_than_equal": _range,
}
