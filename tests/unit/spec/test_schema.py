from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from ovfbuild.spec import schema
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.table import Table

MAN = Path(__file__).parents[3] / "docs" / "man" / "appliance.toml.5"


def test_the_shipped_schema_is_up_to_date() -> None:
    shipped = (resources.files("ovfbuild.spec") / schema.FILE_NAME).read_text(encoding="utf-8")
    # As values: the order of keys is pydantic's, and not of every version's the same.
    assert json.loads(shipped) == schema.json_schema(), "write it anew: python -m ovfbuild.spec.schema"


def test_every_key_is_explained_to_editors() -> None:
    described = schema.json_schema()
    for table in (described, *described["definitions"].values()):
        assert table["description"]
        for name, field in table["properties"].items():
            assert field.get("description") or "$ref" in field, name


def test_the_schema_speaks_toml() -> None:
    text = schema.schema_text()
    assert "null" not in text
    assert '"title"' not in text.replace('"title": "appliance.toml"', "")
    described = schema.json_schema()
    memory = described["definitions"]["Hardware"]["properties"]["memory"]
    assert (memory["type"], memory["default"]) == ("string", "1 GiB")
    for size in ("1 GiB", "512MiB", "1.5 TB"):
        assert re.search(memory["pattern"], size)
    assert not re.search(memory["pattern"], "2048")
    assert described["required"] == ["name", "version", "base"]
    assert described["definitions"]["Base"]["oneOf"] == [
        {"required": ["distribution"]},
        {"required": ["image"]},
    ]
    assert described["additionalProperties"] is False


def test_references_lead_somewhere() -> None:
    described = schema.json_schema()
    targets = re.findall(r'"\$ref": "#/definitions/(\w+)"', json.dumps(described))
    assert set(targets) == set(described["definitions"])


def test_the_man_page_has_every_key() -> None:
    explained = set(re.findall(r'^\.BR ([a-z_]+) " \(', MAN.read_text(encoding="utf-8"), re.MULTILINE))
    tables = {"base", "hardware", "networks", "system", "users", "files", "scripts", "cloud_init", "build"}
    tables |= {"properties", "java", "python", "node", "agent", "alive", "extras", "settings", "publish"}
    tables |= {"products", "disks", "deployment_options", "vmware", "config", "extra_config", "sign"}
    assert _keys(Appliance) - tables == explained - tables


def _keys(model: Any) -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        for kind in _kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Table):
                found |= _keys(kind)
    return found


def _kinds(annotation: Any) -> list[Any]:
    """A type and all that it is made of."""
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(kind for one in inner for kind in _kinds(one))]
