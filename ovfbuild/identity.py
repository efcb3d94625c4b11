"""Telling an appliance who it is: values checked against what it declares, and the ISO that carries them.

appliance.toml ─ plan ─────────────┐
OVA ─ descriptor's ProductSection ─┴─▶ Declared ─ values_of("key=value"…) ─▶ values ─▶ write ─▶ seed.iso
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ovfbuild.errors import FileError, UsageError
from ovfbuild.files import digest_of, published
from ovfbuild.formats import ovf_environment
from ovfbuild.spec import appliance as appliance_file
from ovfbuild.spec import plan
from ovfbuild.spec.cloud_config import with_properties
from ovfbuild.spec.deployment import Property, Value, from_descriptor, host_name, ssh_keys
from ovfbuild.spec.mistakes import closest
from ovfbuild.spec.products import environment_key
from ovfbuild.verify.package import Package, open_package
from ovfbuild.vm import seed

Format = Literal["nocloud", "ovf-env"]

_OTHER_WAYS = {
    "hostname": "--hostname NAME",
    "local-hostname": "--hostname NAME",
    "public-keys": "--ssh-key FILE",
    "user-data": "a seed of your own (docs/cloud-init.md)",
    "password": "--ssh-key FILE",
}


@dataclass(frozen=True)
class Declared:
    """What may be told to an appliance."""

    name: str
    properties: tuple[Property, ...]

    def missing(self, values: Mapping[str, Value]) -> list[str]:
        """The required ones that have no value. A package does not say which are."""
        return [one.key for one in self.properties if one.required and values.get(one.key, one.baked) in (None, "")]


@dataclass(frozen=True)
class Account:
    """What cloud-init is told beside the properties."""

    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()


def declared_by(source: Path) -> Declared:
    """What an appliance.toml (or its folder) or a package declares."""
    if source.suffix.lower() == ".ova":
        return declared_in(open_package(source))
    loaded = appliance_file.load(source)
    return Declared(loaded.name, plan.resolve(loaded, os.environ).deployment.properties)


def declared_in(package: Package) -> Declared:
    """What a package's ProductSections declare, by the keys that the properties have in the OVF environment."""
    system = package.envelope.virtual_system
    found = [
        from_descriptor(
            environment_key(product.class_, one.key, product.instance),
            one.type,
            one.password,
            one.value,
            one.qualifiers,
        )
        for product in system.products
        for one in product.properties
        if one.user_configurable
    ]
    return Declared(system.id, tuple(one for one in found if one is not None))


def values_of(declared: Declared, settings: Iterable[str]) -> dict[str, Value]:
    """The values of `key=value` texts.

    Raises:
        UsageError: all that is wrong with them, with what would be right; never with a password.
    """
    known = {one.key: one for one in declared.properties}
    values: dict[str, Value] = {}
    wrong: list[str] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            wrong.append(f"--set {key}: has no value; write --set {key}=VALUE")
        elif key not in known:
            wrong.append(f"--set {key}: {_unknown(key, declared)}")
        elif key in values:
            wrong.append(f"--set {key}: is there twice; keep one")
        else:
            try:
                values[key] = known[key].value_of(text)
            except ValueError as error:
                wrong.append(f"--set {key}: {error}")
    if wrong:
        raise UsageError("\n".join(wrong))
    return values


def _unknown(key: str, declared: Declared) -> str:
    if key in _OTHER_WAYS:
        return f"is cloud-init's own; use {_OTHER_WAYS[key]}"
    keys = [one.key for one in declared.properties]
    if not keys:
        return f"{declared.name} declares no properties; write [[properties]] into its appliance.toml"
    return f"{declared.name} has no such property{closest(key, keys) or '; known: ' + ', '.join(keys)}"


def account(hostname: str | None, key_file: Path | None) -> Account:
    """--hostname and --ssh-key, checked."""
    try:
        name = host_name(hostname) if hostname is not None else None
    except ValueError as error:
        raise UsageError(f"--hostname: {error}") from None
    if key_file is None:
        return Account(name)
    try:
        keys = ssh_keys(key_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{key_file}: {error.strerror}", "name a file such as ~/.ssh/id_ed25519.pub") from None
    except ValueError as error:
        raise UsageError(f"--ssh-key {key_file}: {error}") from None
    if not keys:
        raise UsageError(f"--ssh-key {key_file}: has no key in it", "name a file such as ~/.ssh/id_ed25519.pub")
    return Account(name, tuple(keys))


def write(target: Path, declared: Declared, values: Mapping[str, Value], who: Account, form: Format) -> None:
    """Writes the ISO that tells an appliance these values: the same bytes for the same values.

    The instance-id is made of them: another identity is another instance, to cloud-init as to the broker.
    """
    told: dict[str, Any] = {"values": dict(values), "hostname": who.hostname, "keys": list(who.ssh_keys)}
    instance = f"ovfbuild-{digest_of(told)[:16]}"
    files = _no_cloud(instance, values, who) if form == "nocloud" else _environment(declared, instance, values, who)
    label = "CIDATA" if form == "nocloud" else ovf_environment.LABEL
    secret = any(one.secret and one.key in values for one in declared.properties)
    with published(target) as partial:
        if secret:
            partial.touch(mode=0o600)
        seed.write(partial, files, label)


def _no_cloud(instance: str, values: Mapping[str, Value], who: Account) -> dict[str, bytes | Path]:
    config: dict[str, Any] = {"ssh_authorized_keys": list(who.ssh_keys)} if who.ssh_keys else {}
    name = f"local-hostname: {who.hostname}\n" if who.hostname else ""
    return {
        "meta-data": f"instance-id: {instance}\n{name}".encode(),
        "user-data": with_properties(config, values).encode(),
    }


def _environment(
    declared: Declared, instance: str, values: Mapping[str, Value], who: Account
) -> dict[str, bytes | Path]:
    if len(who.ssh_keys) > 1:
        raise UsageError("an OVF environment holds one SSH key only", "use --format nocloud, or a file with one key")
    properties = {"instance-id": instance}
    properties |= {"hostname": who.hostname} if who.hostname else {}
    properties |= {"public-keys": who.ssh_keys[0]} if who.ssh_keys else {}
    for key, value in values.items():
        properties[key] = str(value).lower() if isinstance(value, bool) else str(value)
    document = ovf_environment.dump(ovf_environment.Environment(declared.name, properties))
    return {ovf_environment.FILE_NAME: document}
