"""A profile's page, made of its data: what `ovfbuild profiles NAME` prints, and docs/profiles/NAME.md.

`python -m ovfbuild.spec.profile_page FOLDER` writes the pages of all profiles that ship; a test sees that they are up
to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ovfbuild.files import published
from ovfbuild.spec import catalogue
from ovfbuild.spec.profile import FEATURES, LEFT_OUT, Feature, Profile, load_profile, profile_names

_FEATURES: dict[Feature, str] = {
    "efi": '`firmware = "efi"`',
    "secure_boot": "`secure_boot`",
    "cores_per_socket": "`cores_per_socket`",
    "serial": "`serial`",
    "usb": "`usb`",
    "video_memory": "`video_memory`",
    "vmware": "`[vmware]`",
    "deployment_options": "`[[deployment_options]]`",
    "icon": "`icon`",
}


def page(profile: Profile) -> str:
    """The whole page, in Markdown."""
    parts = [f"# {profile.name}\n", f"{profile.title}: {profile.summary}."]
    parts.append(f'```toml\nprofiles = ["{profile.name}"]\n```')
    for title, lines in (
        ("Who imports it", [f"- {importer}" for importer in profile.importers]),
        ("The package", _package(profile)),
        ("The machine", _machine(profile)),
        ("What an appliance may ask for", _features(profile)),
    ):
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _package(profile: Profile) -> Iterator[str]:
    yield f"- file: `NAME-VERSION{profile.suffix}.{profile.format}`"
    if profile.glance:
        machine = f"for a machine of type `{profile.glance.machine_type}`"
        yield f"- image properties for Glance: `NAME-VERSION{profile.suffix}.glance.json`, {machine}"
    if not profile.packaged:
        yield "- what follows is said where an OVA is asked for instead (`--format ova`)"
    yield f"- manifest: {profile.manifest.upper()}"
    yield f"- hardware family: `{profile.virtual_system_type}`"
    for version, family in profile.versions.items():
        yield f"  - `{profile.name}:{version}` (`NAME-VERSION{profile.suffix}-{version}.ova`): `{family}`"
    ways = ", ".join(f"`{way}`" for way in profile.transport)
    yield f"- OVF properties reach the guest by: {ways or 'nothing; a seed in the CD-ROM drive tells it who it is'}"
    yield f"- VMware's elements (`vmw:`): {'written' if profile.vmware else 'none'}"
    if profile.virtualbox:
        yield f"- `vbox:Machine`: settings {profile.virtualbox.settings}, the same uuids for the same name and version"
    if profile.waives:
        yield f"- warnings that mean nothing here: {_codes(profile.waives)}"


def _machine(profile: Profile) -> Iterator[str]:
    disk, nic = profile.disk, profile.nic
    yield f"- disk: `{disk.controller}`, {catalogue.controller(disk.controller).title}"
    yield f"  - `[hardware] controller` may be {_codes(disk.controllers)}"
    if disk.most:
        yield f"  - at most {disk.most} disks"
    yield f"- network cards: `{nic.model}`, {catalogue.nic(nic.model).title}"
    yield f"  - `[[networks]] model` may be {_codes(nic.models)}"
    optional = "" if profile.cdrom.required else "; an importer may leave it out"
    drive = f"on {catalogue.controller(profile.cdrom.controller).title}{optional}" if profile.cdrom.present else "none"
    yield f"- CD-ROM drive: {drive}"


def _features(profile: Profile) -> Iterator[str]:
    yield f"Taken: {', '.join(_FEATURES[one] for one in FEATURES if one in profile.takes) or 'nothing'}."
    others = [one for one in FEATURES if one not in profile.takes]
    for said, words in (
        ("Refused before anything is built", [one for one in others if one not in LEFT_OUT]),
        ("Left out of this package", [one for one in others if one in LEFT_OUT]),
    ):
        if words:
            yield f"\n{said}: {', '.join(_FEATURES[one] for one in words)}."


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def write(folder: Path) -> None:
    """The pages of all profiles that ship, each NAME.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in profile_names():
        with published(folder / f"{name}.md") as partial:
            partial.write_text(page(load_profile(name)), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
