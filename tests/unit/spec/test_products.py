"""[[products]], [[deployment_options]], [vmware] and the icon: what is taken, and the keys in the machine."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec.appliance import Appliance, from_table
from ovfbuild.spec.plan import resolve

DB: dict[str, Any] = {"class": "com.example.db", "name": "Database", "properties": [{"key": "password"}]}
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 1, 1, 8, 0, 0, 0, 0) + bytes(4)


def appliance(tmp_path: Path, **table: Any) -> Appliance:
    base = {"name": "hello", "version": "1.0.0", "base": {"distribution": "debian:12"}}
    return from_table({**base, **table}, tmp_path)


def test_the_machine_knows_a_property_by_class_key_and_instance(tmp_path: Path) -> None:
    made = appliance(tmp_path, properties=[{"key": "own"}], products=[DB, {**DB, "instance": "2"}])
    keys = ["own", "com.example.db.password", "com.example.db.password.2"]
    assert [one.key for one in made.told] == keys
    plan = resolve(made, {})
    assert [one["key"] for one in plan.deployment.declaration()["properties"]] == keys
    assert plan.to_json()["appliance"]["products"][0]["class"] == "com.example.db"


def test_a_product_s_property_may_be_called_as_cloud_init_s_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cloud-init's own"):
        appliance(tmp_path, properties=[{"key": "password"}])
    assert appliance(tmp_path, products=[DB]).products[0].properties[0].key == "password"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"products": [{**DB, "class": "Db"}]}, "products[0].class: 'Db' is not a class; use a-z"),
        ({"products": [{**DB, "class": "ovfbuild.x"}]}, "products[0].class: 'ovfbuild.x' is not a class"),
        ({"products": [{**DB, "instance": "a.b"}]}, "products[0].instance: 'a.b' is not an instance"),
        ({"products": [{"name": "x"}]}, 'products[0].class: is missing; for example class = "com.example.db"'),
        ({"products": [DB, DB]}, "products: has the class 'com.example.db' twice; give each an instance"),
        (
            {"products": [DB], "properties": [{"key": "com.example.db.password"}]},
            "properties: has 'com.example.db.password' twice; keep one",
        ),
        ({"vmware": {"config": {"firmware": "efi"}}}, "vmware.config: has 'firmware'; write [hardware] firmware"),
        ({"vmware": {"extra_config": {"a b": 1}}}, "vmware.extra_config: has 'a b', which is no key of VMware's"),
        ({"vmware": {"config": {"a": 1.5}}}, "vmware.config.a: must be a string of one line, an integer, true or"),
        (
            {"deployment_options": [{"id": "a", "label": "A", "description": "a"}] * 2},
            "deployment_options: has 'a' twice; keep one",
        ),
        (
            {
                "hardware": {"cpus": 4, "cores_per_socket": 4},
                "deployment_options": [{"id": "a", "label": "A", "description": "a", "cpus": 6}],
            },
            "deployment_options: hardware.cores_per_socket, which is 4, does not divide 6 CPUs; write a multiple of it",
        ),
        ({"icon": "eula.txt"}, "icon: 'eula.txt' is not a PNG image; save it as PNG"),
    ],
)
def test_what_can_t_be(tmp_path: Path, table: dict[str, Any], said: str) -> None:
    (tmp_path / "eula.txt").write_text("no image")
    with pytest.raises(UsageError) as caught:
        appliance(tmp_path, **table)
    assert any(line.startswith(f"appliance.toml: {said}") for line in caught.value.message.split("\n")), str(
        caught.value
    )


def test_what_one_package_has_the_others_lack(tmp_path: Path) -> None:
    """Not refused, since the machine is the same without it; but someone must have it."""
    (tmp_path / "icon.png").write_bytes(PNG)
    option = {"id": "large", "label": "Large", "description": "for many", "cpus": 8}
    made = appliance(tmp_path, icon="icon.png", deployment_options=[option], vmware={"config": {"a": True}})
    resolve(made, {}, profiles=["portable", "vsphere", "vcloud"])
    with pytest.raises(UsageError) as caught:
        resolve(made, {}, profiles=["portable", "proxmox"])
    assert caught.value.message.split("\n") == [
        "appliance.toml: deployment_options: no package would have it; leave it out, or package for vsphere too",
        "appliance.toml: icon: no package would have it; leave it out, or package for vsphere or workstation too",
    ]
