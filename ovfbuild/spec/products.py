"""What else a descriptor says of an appliance: [[products]], [[deployment_options]], [vmware]."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator

from ovfbuild.spec import fields as f
from ovfbuild.spec.deployment import KeyInClass, Property
from ovfbuild.spec.hardware import memory_fits
from ovfbuild.spec.mistakes import in_toml, mistake, quoted
from ovfbuild.spec.table import Table

_CLASS = r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*"
_WORD = r"[a-z0-9_-]{1,32}"
_SETTING = r"[A-Za-z0-9_]+(?:[.:-][A-Za-z0-9_]+)*"
_OUR_SETTINGS = {
    "firmware": '[hardware] firmware = "efi"',
    "bootOptions.efiSecureBootEnabled": "[hardware] secure_boot = true",
}


def environment_key(class_: str | None, key: str, instance: str | None) -> str:
    """A property's key in the OVF environment: `class.key.instance` (DSP0243 1.1.0, 9.5.1)."""
    return ".".join(filter(None, (class_, key, instance)))


class ProductProperty(Property):
    """A value of a product's, that is given where the appliance is deployed."""

    key: KeyInClass = Field(examples=["port"])
    """Its name; in the machine it stands between the product's class and its instance."""


class Product(Table):
    """Another product in the appliance, with properties of its own."""

    class_: str = Field(alias="class", examples=["com.example.db"])
    """What kind of product it is; the beginning of its properties' keys in the machine."""
    instance: str = ""
    """Which of several of one class; the end of those keys."""
    name: f.Line = Field(examples=["Database"])
    """Its name, for people."""
    vendor: f.Line = ""
    """Who makes it."""
    vendor_url: f.HttpUrl | None = None
    """Where to read about them."""
    version: f.Line = ""
    """Its short version."""
    full_version: f.Line = ""
    """Its whole version."""
    url: f.HttpUrl | None = None
    """Where to read more about it."""
    properties: tuple[ProductProperty, ...] = ()
    """Values that are given where the appliance is deployed."""

    @field_validator("class_")
    @classmethod
    def _class_fits(cls, text: str) -> str:
        if not re.fullmatch(_CLASS, text, re.ASCII) or len(text) > 64 or text.split(".", maxsplit=1)[0] == "ovfbuild":
            raise mistake(f'{quoted(text)} is not a class; use a-z, 0-9 and dots, such as "com.example.db"')
        return text

    @field_validator("instance")
    @classmethod
    def _instance_fits(cls, text: str) -> str:
        if text and not re.fullmatch(_WORD, text, re.ASCII):
            raise mistake(f'{quoted(text)} is not an instance; use a-z, 0-9, "_" and "-", such as "1"')
        return text

    @property
    def told(self) -> tuple[Property, ...]:
        """Its properties under the keys that they have in the machine."""
        return tuple(
            one.model_copy(update={"key": environment_key(self.class_, one.key, self.instance)})
            for one in self.properties
        )


def told_tables(products: object) -> list[dict[str, Any]]:
    """The tables of all products' properties as they were read, under the keys that they have in the machine."""
    found = []
    for product in products if isinstance(products, list | tuple) else ():
        inner = product.get("properties") if isinstance(product, Mapping) else None
        for one in inner if isinstance(inner, list | tuple) else ():
            if isinstance(one, Mapping) and isinstance(one.get("key"), str):
                key = environment_key(str(product.get("class")), one["key"], str(product.get("instance") or ""))
                found.append({"key": key})
    return found


def same_products(products: object) -> Iterable[tuple[str, str]]:
    """Two products of one class and instance have properties of one name."""
    seen = set()
    for product in products if isinstance(products, list | tuple) else ():
        who = (product.get("class"), product.get("instance", "")) if isinstance(product, Mapping) else None
        if who and who in seen:
            yield "products", f"has the class {quoted(str(who[0]))} twice; give each an instance of its own"
        seen.add(who)


class DeploymentOption(Table):
    """A size of the machine that is chosen where the appliance is deployed."""

    id: str = Field(examples=["large"])
    """Its name for programs, such as ovftool's --deploymentOption."""
    label: f.Line = Field(examples=["Large"])
    """Its name for people."""
    description: f.Line = Field(examples=["for more than 100 users"])
    """When to choose it."""
    cpus: int | None = Field(None, ge=1, le=128)
    """Virtual CPUs; by default those of [hardware]."""
    memory: f.Size | None = None
    """Memory; by default that of [hardware]."""
    default: bool = False
    """Whether it is chosen where nobody chooses."""

    @field_validator("id")
    @classmethod
    def _id_fits(cls, text: str) -> str:
        if not re.fullmatch(_WORD, text, re.ASCII):
            raise mistake(f'{quoted(text)} is not an id; use a-z, 0-9, "_" and "-", such as "large"')
        return text

    @field_validator("memory")
    @classmethod
    def _memory_fits(cls, size: int | None) -> int | None:
        return None if size is None else memory_fits(size)


def option_clashes(options: object, hardware: object) -> Iterable[tuple[str, str]]:
    """Options of which nobody knows which is meant, or whose CPUs make no whole sockets."""
    tables = [one for one in options if isinstance(one, Mapping)] if isinstance(options, list | tuple) else []
    ids = [one.get("id") for one in tables]
    for name in dict.fromkeys(str(one) for one in ids if ids.count(one) > 1):
        yield "deployment_options", f"has {quoted(name)} twice; keep one"
    if len([one for one in tables if one.get("default") is True]) > 1:
        yield "deployment_options", "has several defaults; keep one"
    cores = hardware.get("cores_per_socket") if isinstance(hardware, Mapping) else None
    for one in tables if isinstance(cores, int) and cores > 0 else ():
        if isinstance(one.get("cpus"), int) and one["cpus"] % cores:
            said = f"hardware.cores_per_socket, which is {cores}, does not divide {one['cpus']} CPUs"
            yield "deployment_options", f"{said}; write a multiple of it"


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int) and str(value).isprintable():
        return str(value)
    raise mistake(f"must be a string of one line, an integer, true or false, not {in_toml(value)}")


Setting = Annotated[str, PlainValidator(_setting), WithJsonSchema({"type": ["string", "integer", "boolean"]})]


class VMware(Table):
    """VMware's own settings, for profiles whose importers read them."""

    config: dict[str, Setting] = Field(default_factory=dict)
    """vmw:Config, such as cpuHotAddEnabled."""
    extra_config: dict[str, Setting] = Field(default_factory=dict)
    """vmw:ExtraConfig, lines of the machine's .vmx file; vCenter drops them unless it is told to take them."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        for name in ("config", "extra_config"):
            settings = table.get(name)
            for key in settings if isinstance(settings, Mapping) else ():
                if key in _OUR_SETTINGS:
                    yield name, f"has {quoted(key)}; write {_OUR_SETTINGS[key]}"
                elif not re.fullmatch(_SETTING, key, re.ASCII):
                    yield name, f"has {quoted(key)}, which is no key of VMware's; use letters, digits and dots"
