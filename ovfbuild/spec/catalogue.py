"""The words of [hardware] and [[networks]]: descriptors/hardware.toml as frozen models."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from ovfbuild.spec.table import Table

ControllerName = Literal["ahci", "lsilogic", "lsilogicsas", "pvscsi", "virtio-scsi", "nvme", "ide"]
NicName = Literal["e1000", "e1000e", "vmxnet3", "virtio", "pcnet"]


IDE, SCSI = 5, 6
"""CIM_ResourceAllocationSettingData.ResourceType."""


class Controller(Table):
    """A controller of disks or drives, in the words of CIM_ResourceAllocationSettingData."""

    title: str
    label: str
    """Its Description, and with a number its ElementName."""
    resource_type: Literal[5, 6, 20]
    """5 IDE, 6 parallel SCSI and SAS, 20 other storage (SATA, NVMe, virtio)."""
    resource_subtype: str = ""
    """Empty: the element is left out."""
    units: int
    """How many disks and drives hang on one."""
    virtualbox: str | None = None
    """StorageController/@type of a vbox:Machine; None where VirtualBox has none."""
    virtualbox_ports: int | None = None
    """Its @PortCount where VirtualBox takes one number only; None: as many as are used."""
    glance: dict[str, str] = Field(default_factory=dict)
    """OpenStack's image properties for it; empty where libvirt has none."""

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """(number of the controller, unit on it) of all that importers have room for: two of IDE, else one.

        Unit 7 of SCSI is the controller itself.
        """
        if self.resource_type == IDE:
            return tuple((bus, unit) for bus in (0, 1) for unit in range(self.units))
        units = (
            [unit for unit in range(self.units + 1) if unit != 7] if self.resource_type == SCSI else range(self.units)
        )
        return tuple((0, unit) for unit in units)


class Nic(Table):
    """A model of network cards."""

    title: str
    resource_subtype: str
    virtualbox: str | None = None
    """Adapter/@type of a vbox:Machine; None where VirtualBox has none."""
    glance: dict[str, str] = Field(default_factory=dict)
    """OpenStack's image properties for it."""


class _Catalogue(Table):
    controllers: dict[ControllerName, Controller]
    nics: dict[NicName, Nic]


def controller(name: ControllerName) -> Controller:
    """What a descriptor says of the controller that [hardware] calls `name`."""
    return _catalogue().controllers[name]


def nic(name: NicName) -> Nic:
    """What a descriptor says of the network card that [[networks]] calls `name`."""
    return _catalogue().nics[name]


@cache
def _catalogue() -> _Catalogue:
    text = (resources.files("ovfbuild.descriptors") / "hardware.toml").read_text(encoding="utf-8")
    return _Catalogue.model_validate(tomllib.loads(text))
