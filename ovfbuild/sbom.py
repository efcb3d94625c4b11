"""What is installed on a finished disk, read from outside, as a CycloneDX bill of materials (ECMA-424).

    SealedDisk ─ vm.outside ─▶ dpkg's status, dist-info, package.json, release ─▶ components ─▶ NAME-VERSION.cdx.json

The disk is believed, and no list of what was asked for. Components are kept beside the sealed disk; the
document around them has the appliance's name and the plan's time, so the same disk gives the same bytes.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ovfbuild import __version__
from ovfbuild.files import digest_of, published
from ovfbuild.spec.plan import Plan
from ovfbuild.vm.outside import DirEntry, FileSystem, open_root

SUFFIX = ".cdx.json"
SPECIFICATION = "1.5"

_STATUS = "/var/lib/dpkg/status"
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_PLACES = ("/opt", "/srv", "/usr/local", "/usr/lib/python3", "/home", "/root", "/var/lib", "/var/opt")
"""Where what no package of the distribution brought may lie."""
_NOT_BELOW = ("/var/lib/dpkg/", "/var/lib/apt/")
_PYTHON = re.compile(r".*\.(?:dist|egg)-info/(?:METADATA|PKG-INFO)")
_NODE = re.compile(r".*/node_modules/(?:@[^/]+/)?[^/@.][^/]*/package\.json")
_LARGEST = 1 << 22
_NAMESPACE = uuid.UUID("7c1f0b7e-6f0e-5d3b-9d0a-0f6f2f1f6a55")

Component = dict[str, Any]
"""As CycloneDX has it, JSON as it stands."""


def components_of(disk: Path, image_format: str, scratch: Path) -> list[Component] | None:
    """What is installed on a disk; None where it has no ext4 file system to be read."""
    with open_root(disk, image_format, scratch) as root:
        return None if root is None else list(_merged(_read(root)))


def document(plan: Plan, components: list[Component]) -> dict[str, Any]:
    """The bill of materials of an appliance."""
    appliance = plan.appliance
    reference = f"{appliance.name}@{appliance.version}"
    identity = digest_of([reference, components])
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": uuid.uuid5(_NAMESPACE, identity).urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(plan.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "ovfbuild", "version": __version__}]},
            "component": {
                "type": "operating-system",
                "bom-ref": reference,
                "name": appliance.name,
                "version": appliance.version,
                **({"description": appliance.summary} if appliance.summary else {}),
            },
        },
        "components": components,
    }


def write(path: Path, value: object) -> None:
    """JSON, whole or not at all."""
    with published(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> list[Component]:
    """The components that `write` kept beside a sealed disk."""
    found: list[Component] = json.loads(path.read_text(encoding="utf-8"))
    return found


def beside(package: Path) -> Path:
    """Where the bill of a package lies: hello-1.0.0.cdx.json beside hello-1.0.0.ova."""
    return package.with_name(package.name.removesuffix(package.suffix) + SUFFIX)


def summary(package: Path) -> dict[str, Any] | None:
    """What the bill beside a package says, for `inspect`; None where there is none."""
    path = beside(package)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["components"]
        listed = [{key: one[key] for key in ("name", "version", "purl") if key in one} for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return {"path": str(path), "counts": {}, "components": [], "error": "it is no bill of materials of CycloneDX"}
    counts = Counter(_kind(one.get("purl", "")) for one in listed)
    return {"path": str(path), "counts": dict(sorted(counts.items())), "components": listed}


def _kind(purl: str) -> str:
    return re.split(r"[:/]", purl)[1] if purl.startswith("pkg:") else "other"


def _merged(found: Iterable[Component]) -> Iterator[Component]:
    """Each once, in the order of their names; what lies in several places has them all."""
    by_reference: dict[str, Component] = {}
    for one in found:
        first = by_reference.setdefault(one["bom-ref"], one)
        if first is not one and "evidence" in one:
            first["evidence"]["occurrences"] += one["evidence"]["occurrences"]
    for reference in sorted(by_reference):
        yield by_reference[reference]


def _read(root: FileSystem) -> Iterator[Component]:
    release = _os_release(root)
    if release.get("ID"):
        yield _operating_system(release)
    status = _text(root, _STATUS)
    yield from _dpkg(status, release)
    files = {path: entry for place in _PLACES for path, entry in root.walk(place) if _wanted(path, entry)}
    packaged = _packaged(root) if any(path.startswith("/usr/lib/") for path in files) else set()
    contents = root.read_all({path: entry for path, entry in files.items() if path not in packaged})
    for path, octets in sorted(contents.items()):
        yield from _described(path, octets.decode("utf-8", errors="replace"))


def _wanted(path: str, entry: DirEntry) -> bool:
    if entry.type != "file" or entry.size > _LARGEST or path.startswith(_NOT_BELOW) or not path.isprintable():
        return False
    return entry.name == "release" or bool(_PYTHON.fullmatch(path) or _NODE.fullmatch(path))


def _packaged(root: FileSystem) -> set[str]:
    """Every file that a package of the distribution brought."""
    folder = "/var/lib/dpkg/info"
    if not root.exists(folder):
        return set()
    lists = {f"{folder}/{e.name}": e for e in root.listing(folder) if e.name.endswith(".list") and e.type == "file"}
    return {line for octets in root.read_all(lists).values() for line in octets.decode(errors="replace").splitlines()}


def _described(path: str, text: str) -> Iterator[Component]:
    if _NODE.fullmatch(path):
        yield from _node(path, text)
    elif _PYTHON.fullmatch(path):
        yield from _python(path, text)
    else:
        yield from _java(path, text)


def _operating_system(release: Mapping[str, str]) -> Component:
    version = release.get("VERSION_ID", release.get("VERSION_CODENAME", ""))
    name = release["ID"]
    return {
        "type": "operating-system",
        "bom-ref": f"os:{name}@{version}",
        "name": name,
        **({"version": version} if version else {}),
        **({"description": release["PRETTY_NAME"]} if release.get("PRETTY_NAME") else {}),
    }


def _dpkg(status: str, release: Mapping[str, str]) -> Iterator[Component]:
    system = release.get("ID", "debian")
    version = release.get("VERSION_ID", release.get("VERSION_CODENAME", ""))
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        source, _, source_version = fields.get("Source", "").partition(" ")
        source_version = source_version.strip("()")
        upstream = f"{source}@{source_version}" if source_version else source
        qualifiers = {"arch": fields["Architecture"], "distro": f"{system}-{version}" if version else system}
        if upstream:
            qualifiers["upstream"] = upstream
        properties = {"ovfbuild:dpkg:arch": fields["Architecture"], "ovfbuild:dpkg:source": upstream}
        yield {
            **_component(f"pkg:deb/{system}", fields["Package"], fields["Version"], qualifiers),
            "properties": [{"name": key, "value": value} for key, value in properties.items() if value],
        }


def _python(path: str, text: str) -> Iterator[Component]:
    fields = HeaderParser().parsestr(text)
    name, version = fields.get("Name"), fields.get("Version")
    if name and version:
        found = _component("pkg:pypi", re.sub(r"[-_.]+", "-", name).lower(), version, {}, path)
        yield {**found, "name": name}


def _node(path: str, text: str) -> Iterator[Component]:
    try:
        said = json.loads(text)
    except ValueError:
        return
    if isinstance(said, dict) and isinstance(said.get("name"), str) and isinstance(said.get("version"), str):
        scope, _, name = said["name"].rpartition("/")
        kind = f"pkg:npm/{quote(scope, safe='')}" if scope else "pkg:npm"
        yield {**_component(kind, name, said["version"], {}, path), "name": said["name"]}


def _java(path: str, text: str) -> Iterator[Component]:
    """A Java's `release` file: KEY="value" a line."""
    fields = dict(re.findall(r'(?m)^([A-Z_]+)="?([^"\n]*)"?$', text))
    version = fields.get("JAVA_RUNTIME_VERSION") or fields.get("JAVA_VERSION")
    if version:
        maker = fields.get("IMPLEMENTOR")
        found = _component("pkg:generic", "openjdk", version, {}, path)
        yield {**found, "type": "platform", **({"publisher": maker} if maker else {})}


def _component(kind: str, name: str, version: str, qualifiers: Mapping[str, str], path: str = "") -> Component:
    """With its package URL (purl-spec: `kind/name@version?qualifiers`)."""
    ends = "&".join(f"{key}={_escaped(value)}" for key, value in sorted(qualifiers.items()))
    purl = f"{kind}/{_escaped(name)}@{_escaped(version)}" + (f"?{ends}" if ends else "")
    found: Component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if path:
        found["evidence"] = {"occurrences": [{"location": path}]}
    return found


def _escaped(text: str) -> str:
    return quote(text, safe=":~")


def _text(root: FileSystem, path: str) -> str:
    return root.read(path, 1 << 26).decode("utf-8", errors="replace") if root.exists(path) else ""


def _os_release(root: FileSystem) -> dict[str, str]:
    for path in _OS_RELEASE:
        entry = root.entry(path)
        if entry and entry.type == "file":
            lines = root.read(path, 1 << 16).decode("utf-8", errors="replace")
            return dict(re.findall(r"""(?m)^([A-Z_]+)=["']?([^"'\n]*)["']?$""", lines))
    return {}
