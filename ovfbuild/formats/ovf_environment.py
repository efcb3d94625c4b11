"""The OVF environment: what a platform tells a guest of its properties (DSP0243 1.1.0 clause 11, DSP8027 1.1.0).

With the transport `iso` it is the file ovf-env.xml in the root folder of a CD-ROM (clause 11.2). Attributes have
their namespace, as the schema wants it: cloud-init reads no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree

from ovfbuild.errors import FileError
from ovfbuild.formats.ovf import tree

NAMESPACE = "http://schemas.dmtf.org/ovf/environment/1"
FILE_NAME = "ovf-env.xml"
LABEL = "OVF ENV"
"""A volume label by which cloud-init's ds-identify takes a CD-ROM for one without looking into it."""

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_ROOT = f'<Environment xmlns="{NAMESPACE}" xmlns:oe="{NAMESPACE}" xmlns:xsi="{_XSI}"/>'


@dataclass(frozen=True)
class Environment:
    """The environment of one virtual machine: the platform, and its properties by their keys."""

    id: str
    """The VirtualSystem's `ovf:id`."""
    properties: Mapping[str, str]
    kind: str = "ovfbuild"
    version: str = "1"
    vendor: str = "ovfbuild"
    locale: str = "en"


def dump(environment: Environment) -> bytes:
    """The document, indented, the same bytes for the same Environment.

    Raises FileError for a value that XML cannot hold, by its key.
    """
    root = etree.fromstring(_ROOT)
    root.set(f"{{{NAMESPACE}}}id", environment.id)
    platform = etree.SubElement(root, f"{{{NAMESPACE}}}PlatformSection")
    for name in ("kind", "version", "vendor", "locale"):
        etree.SubElement(platform, f"{{{NAMESPACE}}}{name.title()}").text = getattr(environment, name)
    section = etree.SubElement(root, f"{{{NAMESPACE}}}PropertySection")
    for key, value in environment.properties.items():
        element = etree.SubElement(section, f"{{{NAMESPACE}}}Property")
        try:
            element.set(f"{{{NAMESPACE}}}key", key)
            element.set(f"{{{NAMESPACE}}}value", value)
        except ValueError:
            raise FileError(f"the value of {key} can't stand in XML", "leave out its control characters") from None
    etree.indent(root, "  ")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + etree.tostring(root, encoding="UTF-8") + b"\n"


def parse(octets: bytes) -> Environment:
    """The environment in `octets`; of the properties those of this machine, not its neighbours'.

    Raises FileError for what is no XML (see `ovf.tree`) or no Environment.
    """
    root = tree(octets)
    if root.tag != f"{{{NAMESPACE}}}Environment":
        raise FileError(f"the root is {root.tag!s}", f"it must be Environment of the namespace {NAMESPACE}")
    found = {
        element.get(f"{{{NAMESPACE}}}key", ""): element.get(f"{{{NAMESPACE}}}value", "")
        for element in root.findall(f"{{{NAMESPACE}}}PropertySection/{{{NAMESPACE}}}Property")
    }
    said = {
        name: root.findtext(f"{{{NAMESPACE}}}PlatformSection/{{{NAMESPACE}}}{name.title()}") or ""
        for name in ("kind", "version", "vendor", "locale")
    }
    return Environment(root.get(f"{{{NAMESPACE}}}id", ""), found, **said)
