"""How importers call the guest's operating system: descriptors/guest_os.toml as frozen models."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from ovfbuild.spec.table import Table

_FALLBACK = "linux"


class GuestOs(Table):
    """One operating system, under the names that the importers know it by."""

    cim: int
    """CIM_OperatingSystem.OsType, the `ovf:id` of the OperatingSystemSection."""
    vmw: dict[str, str]
    """`vmw:osType`, by the version of the virtual hardware from which on VMware knows the name."""
    virtualbox: str
    """OSType of a vbox:Machine."""
    description: str
    distro: str | None = None
    """`os_distro` of an image in Glance: libosinfo's short id."""
    user: str | None = None
    """The account to which cloud-init gives the deployment's SSH keys."""
    suite: str | None = None
    """The archive's name of the release, where ovfbuild can make the base itself; else None."""

    def vmware(self, hardware_version: int) -> str:
        """The newest `vmw:osType` that a vSphere of this hardware version knows; the oldest where none is so old."""
        known = sorted(int(version) for version in self.vmw)
        fit = [version for version in known if version <= hardware_version] or known[:1]
        return self.vmw[str(fit[-1])]


def find(name: str) -> GuestOs | None:
    """The entry of "debian:12", else that of its family "debian", else None."""
    table = _entries()
    return table.get(name) or table.get(name.partition(":")[0])


def guest_os(name: str | None) -> GuestOs:
    """The entry of a distribution; plain Linux where there is no name or no entry."""
    return (find(name) if name else None) or _entries()[_FALLBACK]


def names() -> tuple[str, ...]:
    """Every name of the table, sorted."""
    return tuple(sorted(_entries()))


def distributions() -> tuple[str, ...]:
    """The names that `[base] distribution` takes, sorted."""
    return tuple(name for name in names() if _entries()[name].suite)


@cache
def _entries() -> Mapping[str, GuestOs]:
    text = (resources.files("ovfbuild.descriptors") / "guest_os.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return MappingProxyType({name: GuestOs.model_validate(entry) for name, entry in table.items()})
