"""Results as text for people: what a package holds, what was found, what the cache has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovfbuild.cache import Entry
from ovfbuild.publishing import Tested
from ovfbuild.spec import agent_page
from ovfbuild.spec.agent import Agent
from ovfbuild.spec.profile import Profile
from ovfbuild.verify.verdict import Verdict


def age(seconds: float) -> str:
    """`3 days`, `5 h`, `2 min`: the largest unit that fits."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def cache(entries: Sequence[Entry]) -> str:
    """One line an entry."""
    now = time.time()
    rows = [
        f"{entry.kind:12} {entry.digest[:12]} {size(entry.size):>10} {age(now - entry.made):>8}  {entry.about}"
        for entry in entries
    ]
    return "".join(f"{row}\n" for row in rows)


def agents(known: Sequence[Agent]) -> str:
    """One line an agent: its name, its versions, what it is, where it comes from, where a test has seen it alive."""
    rows = [
        f"{one.name:26}{agent_page.versions(one):14}{one.title}; {agent_page.origin(one.source)}; "
        f"{agent_page.tested(one)}"
        for one in known
    ]
    return "".join(f"{row}\n" for row in rows)


def profiles(known: Sequence[Profile]) -> str:
    """One line a profile: its name, and what it is for."""
    return "".join(f"{one.name:14}{one.title}: {one.summary}\n" for one in known)


def targets(tested: Sequence[Tested], files: Sequence[Path]) -> str:
    """Some lines a target: how it stands, or why it can't be used."""
    if not tested:
        return f"no target is named in {' or '.join(map(str, files))}\n"
    rows = []
    for one in tested:
        head = f"{one.target.name:14}{one.target.kind:12}"
        if one.standing is None:
            rows.append(f"{head}can't be used: {one.error}")
        else:
            room = "" if one.standing.room is None else f", {size(one.standing.room)} free"
            rows.append(f"{head}good: {one.standing.server}{room}")
        notes = one.standing.notes if one.standing else (one.hint,) * bool(one.hint)
        rows += [f"{'':26}{note}" for note in notes]
    return "".join(f"{row}\n" for row in rows)


def verdict(ova: Path, said: Verdict) -> str:
    """The findings, then one line."""
    lines = [f"{finding.level}: {finding}" for finding in said.findings]
    return "\n".join([*lines, f"{ova}: good ({', '.join(said.checked)})"])


def size(octets: int | None) -> str:
    """`4 GiB`, `283.2 MiB`: a size for reading, not for writing down."""
    if octets is None:
        return "not said"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if octets >= scale:
            return f"{octets / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{octets} B"


def _software(sbom: dict[str, Any] | None) -> list[str]:
    """What is installed, where its bill of materials lies beside the OVA."""
    if sbom is None:
        return []
    where = Path(sbom["path"]).name
    if "error" in sbom:
        return [f"  software   {where}: {sbom['error']}"]
    lines = [f"  software   {', '.join(f'{count} {kind}' for kind, count in sbom['counts'].items())} ({where})"]
    languages = [one for one in sbom["components"] if not one.get("purl", "pkg:deb/").startswith("pkg:deb/")]
    return lines + [f"  library    {one.get('purl', one['name']).removeprefix('pkg:')}" for one in languages]


def _signer(signature: dict[str, Any] | None) -> list[str]:
    """Who signed it; nothing where nobody did."""
    if signature is None:
        return []
    if "error" in signature:
        return [f"  signer     unknown: {signature['error']}"]
    fits = "the signature fits" if signature["fits"] else "THE SIGNATURE DOES NOT FIT"
    return [f"  signer     {signature['signer']}, until {signature['valid_until'][:10]}; {fits}"]


def package(facts: dict[str, Any]) -> str:
    """An OVA, section by section; nothing of what it says of itself can steer the terminal."""
    lines = [f"{facts['path']}  {size(facts['size'])}"]
    for number, system in enumerate([facts["system"], *facts["further_systems"]]):
        lines += _machine(system) if number else [*_machine(system)[:1], *_about(facts), *_machine(system)[1:]]
    lines += [f"  network    {network}" for network in facts["networks"]]
    lines += [_disk(disk) for disk in facts["disks"]]
    lines += [
        f"  choice     {one['id']}: {one['label']}{' (default)' * one['default']}" for one in facts["configurations"]
    ]
    lines += [_property(one) for one in facts["properties"]]
    lines += _text("annotation", facts["annotation"])
    lines += [line for eula in facts["eulas"] for line in _text("licence", eula)]
    lines += _software(facts.get("sbom"))
    lines += _papers(facts)
    lines += [f"  member     {member['name']}  {size(member['size'])}" for member in facts["members"]]
    return "\n".join("".join(one if one.isprintable() else "�" for one in line) for line in lines)


def _machine(system: dict[str, Any]) -> list[str]:
    return [
        f"  name       {system['name']}",
        f"  guest OS   {system['os']} (CIM {system['os_id']}, {system['vmw_os_type'] or 'no vmw:osType'})",
        f"  hardware   {system['cpus']} CPUs, {size(system['memory'])}, {system['firmware']}",
        f"  family     {system['family']}",
        *(f"  device     {device}" for device in system["devices"]),
        *(f"  setting    {key} = {value}" for key, value in system["settings"].items()),
    ]


def _about(facts: dict[str, Any]) -> list[str]:
    """The products, and who makes them."""
    lines = []
    for one in [facts["product"], *facts["further_products"]]:
        named = " ".join(filter(None, (one.get("name"), one.get("version"))))
        lines += [f"  product    {named}", f"  vendor     {one.get('vendor') or '-'}"]
    return lines


def _disk(disk: dict[str, Any]) -> str:
    where = f", on {disk['controller']}" if disk["controller"] else ""
    how = f", {disk['compression']}" if disk["compression"] else ""
    return (
        f"  disk       {disk['file'] or 'empty'}: capacity {size(disk['capacity'])}, "
        f"populated {size(disk['populated'])}, file {size(disk['size'])}{how}{where}"
    )


def _property(one: dict[str, Any]) -> str:
    value = "(a password)" if one["password"] and one["value"] else repr(one["value"])
    return f"  property   {one['key']} ({one['type']}) = {value}"


def _text(what: str, said: str | None) -> list[str]:
    """A text of several lines, one below the other."""
    lines = [line.rstrip() for line in (said or "").strip().splitlines()]
    return [f"  {what if number == 0 else '':10} {line}" for number, line in enumerate(lines)]


def _papers(facts: dict[str, Any]) -> list[str]:
    """The manifest, and who signed it."""
    manifest = facts["manifest"]
    lines = ["  manifest   none"]
    if manifest:
        lines = [f"  manifest   {manifest['file']}: {', '.join(manifest['algorithms'])} of {manifest['files']} files"]
    return lines + _signer(facts["signature"])
