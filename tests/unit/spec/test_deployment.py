"""[[properties]]: what they may say, what a value must be, and what of them the image and the plan hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ovfbuild.files import digest_of
from ovfbuild.spec.appliance import Appliance
from ovfbuild.spec.deployment import Deployment, Property, deployment, from_descriptor, variable
from ovfbuild.spec.plan import Plan, disk_inputs, resolve

Find = Callable[..., list[str]]
Make = Callable[..., Appliance]

GOOD = """
[[properties]]
key = "dm.host"
label = "Deployment Manager"
description = "Where it is"
required = true
[[properties]]
key = "dm.password"
type = "password"
default = "s3cret"
[[properties]]
key = "dm.port"
type = "int"
default = 5672
min = 1
max = 65535
[[properties]]
key = "tls"
type = "bool"
"""


def test_properties_are_read(appliance: Make) -> None:
    host, password, port, tls = appliance(GOOD).properties
    assert (host.key, host.type, host.default, host.required) == ("dm.host", "string", None, True)
    assert password.secret
    assert (port.default, port.min, port.max) == (5672, 1, 65535)
    assert (tls.default, tls.baked) == (None, False)


NOT_A_KEY = """is not a key; use a-z, 0-9, "_", "-" and dots inside, such as "dm.host\""""


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("", 'key: is missing; for example key = "dm.host"'),
        ('key = "Dm"', f"key: 'Dm' {NOT_A_KEY}"),
        ('key = "a..b"', f"key: 'a..b' {NOT_A_KEY}"),
        ('key = "a."', f"key: 'a.' {NOT_A_KEY}"),
        ('key = "1a"', f"key: '1a' {NOT_A_KEY}"),
        ('key = "a\\nb"', f"key: 'a\\nb' {NOT_A_KEY}"),
        ('key = "hostname"', "key: 'hostname' is cloud-init's own, and every package has it; choose another"),
        ('key = "ovfbuild.x"', "key: 'ovfbuild.x' is ovfbuild's own; choose another beginning"),
        (
            'key = "a"\ntype = "integer"',
            "type: 'integer' is not a choice here; write 'string', 'int', 'bool', 'password', 'ip' or 'hostname'",
        ),
        (
            'key = "a"\ntype = "int"\ndefault = "5"',
            "default: must be an integer, not a string; leave out the quotes: 5",
        ),
        ('key = "a"\ndefault = 5', 'default: must be a string, not an integer; put it in quotes: "5"'),
        ('key = "a"\ntype = "int"\ndefault = true', "default: must be an integer, not a boolean"),
        ('key = "a"\ntype = "bool"\ndefault = "yes"', "default: must be true or false, not a string"),
        ('key = "a"\ndefault = [1]', "default: must be a string, an integer, true or false, not an array"),
        ('key = "a"\ntype = "int"\ndefault = 5\nmin = 6', "default: 5 is out of range; at least 6"),
        (
            'key = "a"\ntype = "ip"\ndefault = "x"',
            'default: \'x\' is not an IP address; write one such as "192.0.2.1" or "2001:db8::1"',
        ),
        ('key = "a"\ntype = "hostname"\ndefault = ""', 'default: is empty, which is no hostname; leave out "default"'),
        ('key = "a"\ntype = "password"\ndefault = 12345', "default: must be a string, not an integer"),
        (
            'key = "a"\ntype = "password"\nmin = 8\ndefault = "s3cret"',
            "default: the password has 6 characters; at least 8 characters",
        ),
        ('key = "a"\ntype = "ip"\nmin = 8', "min: is for an int, a string or a password; leave it out"),
        ('key = "a"\nmin = 8\nmax = 7', "max: is less than min; write the greater one here"),
        ('key = "a"\ntype = "int"\nchoices = ["1"]', "choices: are for a string; leave them out"),
        ('key = "a"\nchoices = ["x"]\ndefault = "y"', "default: 'y' is not a choice; write 'x'"),
        (
            'key = "a"\nchoices = [\'a"b\']',
            "choices: have a quotation mark in one of them, which OVF's qualifiers can't hold; leave it out",
        ),
        ('key = "a"\nlable = "x"', "lable: unknown key 'lable'; did you mean 'label'?"),
        ('key = "a"\n[[properties]]\nkey = "a"', "properties: has 'a' twice; keep one"),
        (
            'key = "a.b"\n[[properties]]\nkey = "a-b"',
            "properties: has 'a.b' and 'a-b', both $OVF_A_B for scripts; rename one",
        ),
    ],
)
def test_mistakes(mistakes: Find, lines: str, sentence: str) -> None:
    found = mistakes(f"[[properties]]\n{lines}\n")
    assert found == [sentence if sentence.startswith("properties: ") else f"properties[0].{sentence}"]
    assert "s3cret" not in str(found)


def plan_of(appliance: Appliance) -> Plan:
    return resolve(appliance, {})


def test_a_password_s_default_is_not_in_the_plan(appliance: Make) -> None:
    shown = json.dumps(plan_of(appliance(GOOD)).to_json())
    assert "s3cret" not in shown
    assert "dm.password" in shown


def test_the_image_has_what_decides_the_first_boot_and_no_more(appliance: Make) -> None:
    def key(tables: str) -> str:
        return digest_of(disk_inputs(plan_of(appliance(tables))))

    assert plan_of(appliance("")).deployment.seal_orders() is None
    assert key(GOOD) == key(GOOD.replace("Deployment Manager", "DM").replace("Where it is", "Look"))
    others = [GOOD.replace("5672", "5671"), GOOD.replace("s3cret", "other"), GOOD.replace("required = true", ""), ""]
    assert len({key(GOOD), *map(key, others)}) == 5
    orders = plan_of(appliance(GOOD)).deployment.seal_orders()
    assert orders is not None
    assert json.loads(json.dumps(orders)) == orders
    first, second = orders["declaration"]["properties"][:2]
    assert first == {
        **{"key": "dm.host", "type": "string", "required": True, "min": None, "max": None},
        **{"default": None, "choices": [], "aliases": []},
    }
    assert second["default"] == "s3cret"


def test_an_appliance_s_own_property_counts_before_its_agent_s() -> None:
    own, theirs = Property(key="a", label="own"), Property(key="a", label="theirs")
    told = deployment([own], [theirs, Property(key="b")], drop_files=["/tmp/x"], aliases={"b": ("c",)})
    assert [(one.key, one.label) for one in told.properties] == [("a", "own"), ("b", "")]
    assert told.declaration()["drop_files"] == ["/tmp/x"]
    assert told.declaration()["properties"][1]["aliases"] == ["c"]
    assert Deployment().seal_orders() is None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (("a", "string", False, "x", None), {"type": "string", "default": "x"}),
        (("a", "sint32", False, None, None), {"type": "int", "default": None}),
        (("a", "boolean", False, "true", None), {"type": "bool", "default": True}),
        (("a", "string", True, "", "MinLen(8),MaxLen(64)"), {"type": "password", "min": 8, "max": 64}),
        (("a", "string", False, "x", 'ValueMap{"x","y z"}'), {"choices": ("x", "y z")}),
        (("a", "real32", False, "1.5", None), {"type": "string", "default": "1.5"}),
    ],
)
def test_what_a_descriptor_says(said: Any, found: dict[str, Any]) -> None:
    read = from_descriptor(*said)
    assert read is not None
    assert {key: getattr(read, key) for key in found} == found


@pytest.mark.parametrize("said", [("hostname", "string", False, "", None), ("A B", "string", False, "", None)])
def test_what_is_not_ours_in_a_descriptor(said: Any) -> None:
    assert from_descriptor(*said) is None


def test_the_variable_of_a_key() -> None:
    assert variable("net.my-agent.host_1") == "OVF_NET_MY_AGENT_HOST_1"
