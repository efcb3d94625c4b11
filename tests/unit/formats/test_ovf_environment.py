"""The OVF environment: written and read back, and as cloud-init's own reader sees it."""

from __future__ import annotations

import xml.dom.minidom
from typing import Any

import pytest

from ovfbuild.errors import FileError
from ovfbuild.formats import ovf_environment
from ovfbuild.formats.ovf_environment import Environment

PROPERTIES = {"hostname": "web1", "a.b": "<\"'&>\n\t é😀 ", "empty": ""}


def test_what_is_written_is_read() -> None:
    environment = Environment("vm", PROPERTIES)
    octets = ovf_environment.dump(environment)
    assert ovf_environment.parse(octets) == environment
    assert octets == ovf_environment.dump(environment)


def test_cloud_init_finds_its_attributes() -> None:
    """As DataSourceOVF.get_properties does: by namespace and local name, below the first PropertySection."""
    document = xml.dom.minidom.parseString(ovf_environment.dump(Environment("vm", PROPERTIES)))
    root: Any = document.documentElement
    assert root.localName == "Environment"
    (section,) = [n for n in root.childNodes if n.localName == "PropertySection"]
    ns = ovf_environment.NAMESPACE
    found = {
        node.getAttributeNS(ns, "key"): node.getAttributeNS(ns, "value")
        for node in section.childNodes
        if node.localName == "Property"
    }
    assert found == PROPERTIES


def test_what_xml_cannot_hold_is_refused_by_its_key() -> None:
    with pytest.raises(FileError, match="the value of a can't stand in XML"):
        ovf_environment.dump(Environment("vm", {"a": "\0secret"}))


@pytest.mark.parametrize("text", [b"<a/>", b"", b"<!DOCTYPE x><Environment/>", b"<Environment/>"])
def test_what_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(FileError):
        ovf_environment.parse(text)
