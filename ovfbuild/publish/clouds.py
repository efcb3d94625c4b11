"""Which module serves which kind of target: a line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from ovfbuild.publish import http, incus
from ovfbuild.publish.cloud import Cloud, Surroundings, missing
from ovfbuild.spec.targets import Target

Connect = Callable[[Any, Surroundings], AbstractContextManager[Cloud]]


def _extra(module: str, library: str, extra: str) -> Connect:
    """The `connect` of a module whose library is an extra: loaded when it is needed, which may take a second."""

    def connect(target: Any, around: Surroundings) -> AbstractContextManager[Cloud]:
        try:
            found = import_module(f"ovfbuild.publish.{module}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("ovfbuild"):
                raise
            raise missing(library, extra) from None
        connected: AbstractContextManager[Cloud] = found.connect(target, around)
        return connected

    return connect


CLOUDS: Mapping[str, Connect] = {
    "http": http.connect,
    "incus": incus.connect,
    "libvirt": _extra("libvirt", "libvirt-python", "libvirt"),
    "openstack": _extra("openstack", "openstacksdk", "openstack"),
    "s3": _extra("s3", "boto3", "s3"),
    "vsphere": _extra("vsphere", "pyvmomi", "vsphere"),
}


def connect(target: Target, around: Surroundings) -> AbstractContextManager[Cloud]:
    """The target, connected until the block ends.

    Raises:
        UsageError: a credential is named that is not there.
        ProgramError: its client library is not installed.
        PublishError: it can't be reached, or does not let us in.
    """
    return CLOUDS[target.kind](target, around)
