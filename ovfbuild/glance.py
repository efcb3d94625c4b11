"""(Appliance, Profile, GuestOs) → GlanceImage: what OpenStack is told of a disk that lies in Glance by itself.

A disk image has no descriptor, so the machine stands in image properties, which Nova reads when it starts one: Glance's
"Useful image properties", with the values of Nova's `nova/objects/fields.py`. Those of the driver for vSphere
(`vmware_*`) are never among them: they would bind the image to it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ovfbuild.errors import UsageError
from ovfbuild.spec.guest_os import GuestOs
from ovfbuild.spec.machine import machine
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.profile import Profile

_MIB, _GIB = 2**20, 2**30
_AGENT = "qemu-guest-agent"


@dataclass(frozen=True)
class GlanceImage:
    """An image as Glance's API v2 creates one, but for its bytes."""

    name: str
    disk_format: str
    min_disk: int
    """GiB that a flavor's root disk must have."""
    min_ram: int
    """MiB that a flavor must have."""
    properties: Mapping[str, str]
    """Image properties, as `openstack image create --property KEY=VALUE` takes them; sorted."""
    container_format: str = "bare"

    def to_json(self) -> dict[str, str | int]:
        """The body of `POST /v2/images`: Glance has the properties beside its own fields."""
        return {
            "name": self.name,
            "disk_format": self.disk_format,
            "container_format": self.container_format,
            "min_disk": self.min_disk,
            "min_ram": self.min_ram,
            **self.properties,
        }

    def dump(self) -> str:
        """The same as a text, a property a line."""
        return json.dumps(self.to_json(), indent=2) + "\n"


def image(
    appliance: Appliance,
    profile: Profile,
    guest_os: GuestOs,
    *,
    capacity: int,
    disk_format: str = "qcow2",
    installed: Collection[str] = (),
) -> GlanceImage:
    """The image of a boot disk of `capacity` bytes on which the packages `installed` were seen.

    Raises:
        UsageError: the machine has a device that OpenStack has no word for.
    """
    properties = dict(_properties(appliance, profile, guest_os, {*installed, *_asked(appliance)}))
    return GlanceImage(
        name=f"{appliance.name}-{appliance.version}",
        disk_format=disk_format,
        min_disk=-(-capacity // _GIB),
        min_ram=appliance.hardware.memory // _MIB,
        properties=dict(sorted(properties.items())),
    )


def _asked(appliance: Appliance) -> Iterator[str]:
    """The distribution's packages that the appliance names, without their versions."""
    yield from (word.partition("=")[0] for word in appliance.system.packages)


def _properties(
    appliance: Appliance, profile: Profile, guest_os: GuestOs, packages: Collection[str]
) -> Iterator[tuple[str, str]]:
    asked = appliance.hardware
    yield "architecture", "x86_64"
    yield "hw_firmware_type", "uefi" if asked.firmware == "efi" else "bios"
    if profile.glance:
        yield "hw_machine_type", profile.glance.machine_type
    if asked.secure_boot:
        yield "os_secure_boot", "required"
    if asked.cores_per_socket:
        yield "hw_cpu_cores", str(asked.cores_per_socket)
    yield from _devices(appliance, profile)
    if _AGENT in packages:
        yield "hw_qemu_guest_agent", "yes"
    yield "os_type", "linux"
    yield from _system(appliance, guest_os)


def _devices(appliance: Appliance, profile: Profile) -> Iterator[tuple[str, str]]:
    """The disk's controller, and the first network card's model: Nova gives all of them the same one."""
    made = machine(appliance, profile)
    for key, title, words in (
        ("hardware.controller", made.controller.title, made.controller.glance),
        *(("networks[0].model", one.nic.title, one.nic.glance) for one in made.adapters[:1]),
    ):
        if not words:
            raise UsageError(f"{key}: OpenStack has no {title}", "leave it out: the profile openstack has a good one")
        yield from words.items()


def _system(appliance: Appliance, guest_os: GuestOs) -> Iterator[tuple[str, str]]:
    """The distribution in libosinfo's words, as far as it is known."""
    version = (appliance.base.guest_os or "").partition(":")[2]
    if guest_os.distro:
        yield "os_distro", guest_os.distro
    if guest_os.distro and version:
        yield "os_version", version
    if guest_os.user:
        yield "os_admin_user", guest_os.user
