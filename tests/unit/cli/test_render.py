"""Results as text."""

from __future__ import annotations

import pytest

from ovfbuild.cli import render


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (None, "not said"),
        (0, "0 B"),
        (1023, "1023 B"),
        (2**20, "1 MiB"),
        (4 * 2**30, "4 GiB"),
        (296991232, "283.2 MiB"),
    ],
)
def test_sizes(octets: int | None, text: str) -> None:
    assert render.size(octets) == text


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (119, "119 s"), (600, "10 min"), (3 * 86400, "3 days")])
def test_ages(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_a_package_that_leaves_things_unsaid() -> None:
    """VirtualBox's own exports say no sizes; others no product."""
    facts = {
        "path": "x.ova",
        "size": 1,
        "system": {
            **dict.fromkeys(("name", "os", "os_id", "vmw_os_type", "family", "cpus", "firmware")),
            "memory": 0,
            "devices": [],
            "settings": {},
        },
        "further_systems": [],
        "further_products": [],
        "configurations": [],
        "annotation": None,
        "eulas": [],
        "manifest": None,
        "signature": None,
        "product": {},
        "networks": [],
        "disks": [
            {"file": None, "capacity": 1, "populated": None, "size": None, "compression": None, "controller": None}
        ],
        "properties": [],
        "members": [],
    }
    assert "empty: capacity 1 B, populated not said, file not said" in render.package(facts)
