"""The JSON schema of appliance.toml, made of the models, for editors to complete and check with.

`python -m ovfbuild.spec.schema` writes appliance.schema.json anew; a test sees that it is up to date.
The schema is what an editor can know: files that exist, digests' lengths and mistakes between keys
are for `load`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ovfbuild.files import published
from ovfbuild.spec import guest_os, profile
from ovfbuild.spec.models import Appliance

FILE_NAME = "appliance.schema.json"

# Draft 7: what the TOML language servers understand.
_DIALECT = "http://json-schema.org/draft-07/schema#"
_ONE_OF = {"Base": ("distribution", "image"), "File": ("source", "content"), "Script": ("source", "run")}


def json_schema() -> dict[str, Any]:
    """The schema as a value."""
    schema: dict[str, Any] = _plain(Appliance.model_json_schema(ref_template="#/definitions/{model}"))
    tables = schema.pop("$defs")
    for name, keys in _ONE_OF.items():
        tables[name]["oneOf"] = [{"required": [key]} for key in keys]
    tables["Base"]["properties"]["distribution"]["enum"] = list(guest_os.distributions())
    tables["Base"]["properties"]["os"]["examples"] = list(guest_os.names())
    schema["properties"]["profiles"]["items"]["examples"] = list(profile.profile_names())
    for name, field in schema["properties"].items():
        if "$ref" in field:  # what stands beside a reference is not read: the table says it itself
            schema["properties"][name] = {"$ref": field["$ref"]}
    return {"$schema": _DIALECT, "title": "appliance.toml", **schema, "definitions": tables}


def schema_text() -> str:
    """The schema as it is shipped."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(node: Any, *, names: bool = False) -> Any:
    """Without what means nothing in TOML: null, and pydantic's titles. `names`: the keys are a user's."""
    if isinstance(node, list):
        return [_plain(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _plain(inner) for key, inner in node.items()}
    plain = {
        key: _plain(inner, names=key in ("properties", "$defs"))
        for key, inner in node.items()
        if key != "title" and inner is not None
    }
    # Older pydantics put a lone reference into allOf.
    choices = [choice for choice in plain.pop("anyOf", plain.pop("allOf", ())) if choice != {"type": "null"}]
    if len(choices) > 1:
        plain["anyOf"] = choices
    return {**(choices[0] if len(choices) == 1 else {}), **plain}


if __name__ == "__main__":
    with published(Path(str(resources.files("ovfbuild.spec"))) / FILE_NAME) as partial:
        partial.write_text(schema_text(), encoding="utf-8")
