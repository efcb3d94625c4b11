"""(Appliance, properties) → ProductSection…: what is in the appliance, and what it can be told where it is deployed.

The first is the appliance's own and has no class, since cloud-init reads its keys as they stand; each of [[products]]
has its class and instance, which the OVF environment puts around its keys (DSP0243 1.1.0, 9.5.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ovfbuild.formats.envelope import Icon, ProductSection, Property
from ovfbuild.spec import deployment
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.products import Product

_CLOUD_INIT = (
    ("instance-id", "Instance ID", "a new one makes cloud-init set the machine up again", "id-ovf"),
    ("hostname", "Host name", "the machine's name; empty leaves the appliance's own", ""),
    ("public-keys", "SSH public key", "may log in as the default user", ""),
    ("user-data", "User data", "cloud-init user-data, base64 or plain", ""),
    ("seedfrom", "Seed URL", "where cloud-init fetches user-data and meta-data from", ""),
    ("password", "Password", "of the default user; must be changed at the first login", ""),
)
"""What cloud-init's DataSourceOVF reads, by its own keys (no class: a class would change the keys)."""


def product_sections(
    appliance: Appliance, properties: Sequence[deployment.Property], icon: Icon | None
) -> Iterator[ProductSection]:
    """All of them; `properties` are those of the plan, the products' among them by their keys in the machine."""
    others = {one.key for product in appliance.products for one in product.told}
    yield _own(appliance, [one for one in properties if one.key not in others], icon)
    yield from map(_other, appliance.products)


def _own(appliance: Appliance, properties: Sequence[deployment.Property], icon: Icon | None) -> ProductSection:
    """The appliance, and the properties by which vSphere tells cloud-init who the machine is."""
    return ProductSection(
        product=appliance.summary or appliance.name,
        vendor=appliance.vendor or None,
        version=appliance.version,
        product_url=appliance.url,
        icon=icon,
        properties=(
            *(
                Property(
                    key,
                    value=default,
                    user_configurable=True,
                    password=key == "password",
                    label=label,
                    description=description,
                )
                for key, label, description, default in _CLOUD_INIT
            ),
            *map(_property, _by_category(properties)),
        ),
    )


def _other(product: Product) -> ProductSection:
    return ProductSection(
        product=product.name,
        vendor=product.vendor or None,
        version=product.version or None,
        full_version=product.full_version or None,
        product_url=product.url,
        vendor_url=product.vendor_url,
        properties=tuple(map(_property, _by_category(product.properties))),
        class_=product.class_,
        instance=product.instance or None,
    )


def _by_category(properties: Iterable[deployment.Property]) -> list[deployment.Property]:
    """Those without one first, then each category's together: a Category has no end but the next one's begin."""
    found: dict[str, list[deployment.Property]] = {"": []}
    for one in properties:
        found.setdefault(one.category, []).append(one)
    return [one for group in found.values() for one in group]


def _property(one: deployment.Property) -> Property:
    """A property of the appliance's own. Its key has no class before it, so the environment has it as it is here.

    The types are those of DSP0243's table (clause 9.5.1) that every importer reads. An address and a host name are
    strings: `ip` is VMware's own, and wants an address pool for it; the first boot checks them. An int without a
    default has no value at all, since "" is none of sint32. A password's default stays in the image: the
    descriptor is text that everybody reads, and an empty field leaves the default as it is.
    """
    value = "" if one.secret or one.baked is None else str(one.baked)
    number = one.type == "int"
    return Property(
        one.key,
        type={"int": "sint32", "bool": "boolean"}.get(one.type, "string"),
        value=None if number and not value else value.lower() if one.type == "bool" else value,
        user_configurable=True,
        password=one.secret,
        qualifiers=_qualifiers(one),
        category=one.category or None,
        label=one.label or one.key,
        description=" ".join(filter(None, (one.description, _range(one)))) or None,
    )


def _qualifiers(one: deployment.Property) -> str | None:
    """What a form can hold a string to, between commas: MinLen(1),MaxLen(8) or ValueMap{"a","b"}."""
    if one.choices:
        # An empty choice where nothing is chosen yet: a form without it would choose the first one by itself.
        choices = one.choices if one.default is not None or one.required else ("", *one.choices)
        return "ValueMap{" + ",".join(f'"{choice}"' for choice in choices) + "}"
    least, most = (None, None) if one.type == "int" else (one.min, one.max)
    if one.type in ("ip", "hostname"):
        most = 45 if one.type == "ip" else 253
    if not one.required and one.baked is None:
        least = None  # empty is an answer, too
    found = [f"MinLen({least})"] if least is not None else []
    found += [f"MaxLen({most})"] if most is not None else []
    return ",".join(found) or None


def _range(one: deployment.Property) -> str:
    """For people: of numbers, DSP0243 has no qualifier."""
    if one.type != "int" or (one.min is None and one.max is None):
        return ""
    if one.min is None or one.max is None:
        return f"(at most {one.max})" if one.min is None else f"(at least {one.min})"
    return f"({one.min} to {one.max})"
