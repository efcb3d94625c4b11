"""(Appliance, Profile) → Machine: the hardware that a package declares, and what its importers can't take.

What the appliance asks for goes before what the profile says, and is refused where the profile does not take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ovfbuild.spec.catalogue import Controller, ControllerName, Nic, NicName, controller, nic
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.profile import LEFT_OUT, Feature, Profile, load_profile, profile_names, takers


@dataclass(frozen=True)
class Adapter:
    """A network card, and the network that it is connected to."""

    network: str
    name: NicName

    @property
    def nic(self) -> Nic:
        return nic(self.name)


@dataclass(frozen=True)
class Place:
    """Where a disk or a drive hangs: on which of the controllers of a kind, and on which of its units."""

    name: ControllerName
    bus: int
    unit: int

    @property
    def controller(self) -> Controller:
        return controller(self.name)


@dataclass(frozen=True)
class Machine:
    """What is the profile's where the appliance does not say."""

    disk_controller: ControllerName
    disks: tuple[Place, ...]
    """The one that it boots from, and [[disks]]."""
    drive: Place | None
    """The CD-ROM drive."""
    adapters: tuple[Adapter, ...]
    transport: tuple[str, ...]

    @property
    def controller(self) -> Controller:
        """What a descriptor says of the disk's controller."""
        return controller(self.disk_controller)


def machine(appliance: Appliance, profile: Profile) -> Machine:
    """The machine of a package. Without a CD-ROM drive the OVF environment does not come on an ISO."""
    asked = appliance.hardware
    cdrom = profile.cdrom.present if asked.cdrom is None else asked.cdrom
    kind, drives = asked.controller or profile.disk.controller, profile.cdrom.controller
    places = [Place(kind, bus, unit) for bus, unit in controller(kind).places]
    drive = None
    if cdrom:
        drive = places.pop(1) if drives == kind else Place(drives, *controller(drives).places[0])
    return Machine(
        disk_controller=kind,
        disks=tuple(places[: profile.disk.most][: 1 + len(appliance.disks)]),
        drive=drive,
        adapters=tuple(Adapter(one.name, one.model or profile.nic.model) for one in appliance.networks),
        transport=tuple(way for way in profile.transport if cdrom or way != "iso"),
    )


def refusals(appliance: Appliance, profile: Profile) -> Iterator[str]:
    """`key: what the profile can't take; what would work`, for each thing that it can't."""
    asked = appliance.hardware
    if asked.controller and asked.controller not in profile.disk.controllers:
        yield _refused("hardware.controller", asked.controller, profile, lambda one: one.disk.controllers)
    made = machine(appliance, profile)
    if len(made.disks) <= len(appliance.disks):
        yield (
            f"disks: {made.controller.title} of profile {profile.name} has room for {len(made.disks)} disks, the first "
            "of which it boots from; leave some out, or choose another hardware.controller"
        )
    for index, network in enumerate(appliance.networks):
        if network.model and network.model not in profile.nic.models:
            yield _refused(f"networks[{index}].model", network.model, profile, lambda one: one.nic.models)
    for key, feature in _features(appliance):
        if feature not in profile.takes and feature not in LEFT_OUT:
            known = " or ".join(takers(feature)) or "no profile that ships"
            yield f"{key}: profile {profile.name} can't take it; leave it out, or package for {known}"


def unheard(appliance: Appliance, profiles: Sequence[Profile]) -> Iterator[str]:
    """The same for what a package may lack, and all of them would."""
    for key, feature in _features(appliance):
        if feature in LEFT_OUT and not any(feature in profile.takes for profile in profiles):
            yield f"{key}: no package would have it; leave it out, or package for {' or '.join(takers(feature))} too"


def _features(appliance: Appliance) -> Iterator[tuple[str, Feature]]:
    """What an appliance asks for that not every importer takes, with its key."""
    hardware = appliance.hardware
    asked: tuple[tuple[str, Feature, object], ...] = (
        ("hardware.firmware", "efi", hardware.firmware == "efi"),
        ("hardware.secure_boot", "secure_boot", hardware.secure_boot),
        ("hardware.cores_per_socket", "cores_per_socket", hardware.cores_per_socket),
        ("hardware.serial", "serial", hardware.serial),
        ("hardware.usb", "usb", hardware.usb),
        ("hardware.video_memory", "video_memory", hardware.video_memory),
        ("vmware", "vmware", appliance.vmware.config or appliance.vmware.extra_config),
        ("deployment_options", "deployment_options", appliance.deployment_options),
        ("icon", "icon", appliance.icon),
    )
    yield from ((key, feature) for key, feature, there in asked if there)


def _refused(key: str, word: str, profile: Profile, known: Callable[[Profile], Sequence[str]]) -> str:
    choices = " or ".join(f'"{one}"' for one in known(profile))
    others = [name for name in profile_names() if word in known(load_profile(name))]
    instead = f", or package for {' or '.join(others)}" if others else ""
    return f"{key}: profile {profile.name} has no '{word}'; write {choices}{instead}"
