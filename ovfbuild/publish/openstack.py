"""OpenStack: the disk as an image in Glance, with what Nova has to know of the machine.

An image is ours by its properties: `ovfbuild_name`, `ovfbuild_version`, `ovfbuild_sha256` (of the OVA) and
`ovfbuild_state`. It is made hidden and `unfinished`; the one request that makes it seen, once it was compared, makes it
`whole`. So an image that Glance takes for good because its client died can be told from one that is.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import openstack.config
from keystoneauth1.exceptions import ClientException
from openstack.config.cloud_region import CloudRegion
from openstack.connection import Connection
from openstack.exceptions import ConfigException

from ovfbuild.errors import FileError, PublishError, UsageError
from ovfbuild.formats import ova
from ovfbuild.progress import step
from ovfbuild.publish import nova
from ovfbuild.publish.cloud import Cloud, Shipment, Standing, Stored, Surroundings
from ovfbuild.publish.glance import Glance, Image
from ovfbuild.publish.meter import PIECE, Meter, Metered
from ovfbuild.spec.targets import OpenStackTarget
from ovfbuild.tries import TryAgain
from ovfbuild.vm import disk
from ovfbuild.vm.extract import capacity as capacity_of
from ovfbuild.vm.extract import extract

_GIB = 2**30
_BETWEEN = 1.0
"""Seconds between two looks at an import."""
_IMPORT_SECONDS = 4 * 3600.0
_SECRETS = ("password", "application_credential_secret", "token", "passcode")


@contextmanager
def connect(target: OpenStackTarget, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`."""
    logging.getLogger("keystoneauth").addHandler(logging.NullHandler())  # what it warns of comes as an error, too
    region = _region(target, around)
    if region.config.get("verify") is False:
        around.progress.warn(f"{target.name}: verify is false in clouds.yaml, so any certificate is believed")
    with Connection(config=region) as connection, ExitStack() as stack:
        yield _Images(target, around, Glance(connection, around.secrets, target.timeout), stack)


def _region(target: OpenStackTarget, around: Surroundings) -> CloudRegion:
    """What clouds.yaml, secure.yaml and the OS_ variables say; what is a secret in it is kept out of every text."""

    def ask(prompt: str | None = None) -> str:
        what = f"{(prompt or 'Password').rstrip(': ')} for target {target.name}"
        return around.secrets.ask(what, "add it to clouds.yaml")

    try:
        loader = openstack.config.OpenStackConfig(pw_func=ask, app_name="ovfbuild")
        region = loader.get_one(cloud=target.cloud, region_name=target.region, api_timeout=target.timeout)
    except (ConfigException, ClientException, OSError) as error:
        where = "clouds.yaml, in this folder, ~/.config/openstack or /etc/openstack"
        raise UsageError(f"target {target.name}: {error}", f"look at {where}") from None
    for key in _SECRETS:
        around.secrets.keep(str(region.config.get("auth", {}).get(key) or ""))
    return region


@dataclass(frozen=True)
class _Content:
    """What an image gets: `size` bytes of a file, from `offset` on; `capacity` is the disk's own size."""

    path: Path
    offset: int
    size: int
    capacity: int

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        with ova.window(self.path, ova.Member(self.path.name, self.offset, self.size)) as stream:
            yield stream

    def digest(self, algorithm: str) -> str:
        running = hashlib.new(algorithm)
        with self.opened() as stream:
            while piece := stream.read(PIECE):
                running.update(piece)
        return running.hexdigest()


class _Images:
    """A project's images, as a `Cloud`."""

    def __init__(self, target: OpenStackTarget, around: Surroundings, glance: Glance, stack: ExitStack) -> None:
        self._target = target
        self._around = around
        self._glance = glance
        self._stack = stack
        self._contents: dict[str, _Content] = {}
        self._project = ""
        self._methods: tuple[str, ...] = ()

    def standing(self, *, write: bool) -> Standing:
        self._enter()
        methods = self._methods
        if write:
            probe = self._glance.create({"name": "ovfbuild asks whether it may", **self._sight()})
            self._glance.delete(probe["id"])
        notes = [f"its import knows {', '.join(methods)}" if methods else "it has no import"]
        room = self._glance.room()
        notes += ["the cloud tells no quota of images"] if room is None else []
        return Standing(f"Glance at {self._glance.host}, project {self._project}", room, tuple(notes))

    def stored(self, name: str) -> Sequence[Stored]:
        project = self._enter()
        found = list(self._glance.images(owner=project, ovfbuild_name=name))
        return [_stored(image) for image in found if not (_whole(image) and image.get("os_hidden"))]

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        del resume  # Glance starts anew
        name = f"{shipment.name}-{shipment.version}"
        self._refuse_strangers(name)
        content = self._content(shipment)
        image = self._create(shipment, name, content)
        meter.total = content.size
        meter.begin()
        stage = self._imports()
        with content.opened() as stream:
            self._glance.send(image["id"], Metered(stream, content.size, meter), content.size, stage=stage)
        if stage:
            self._glance.take_in(image["id"])
        return _stored(image)

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        image = self._active(sent.key)
        self._compare(image, self._content(shipment))
        sight = {"visibility": self._target.visibility, "os_hidden": False}
        return _stored(self._glance.change(sent.key, **sight, ovfbuild_state="whole"))

    def abandon(self, leftover: Stored) -> None:
        self._glance.delete(leftover.key)

    def retire(self, old: Stored) -> None:
        if self._target.old == "hide":
            self._glance.change(old.key, os_hidden=True)
        else:
            self._glance.delete(old.key)

    # --- steps ---

    def _enter(self) -> str:
        if not self._project:
            project = self._glance.enter()
            self._methods = self._glance.import_methods()
            self._project = project
        return self._project

    def _imports(self) -> bool:
        """Whether the cloud's own import takes it in."""
        offered = self._target.upload != "direct" and "glance-direct" in self._methods
        if self._target.upload == "import" and not offered:
            raise PublishError(f"{self._glance.host} offers no import of what is staged", 'set upload = "auto"')
        return offered

    def _refuse_strangers(self, name: str) -> None:
        """Two images of a name: nobody could start a machine by it."""
        for image in self._glance.images(owner=self._enter(), name=name):
            if "ovfbuild_name" not in image:
                raise PublishError(
                    f"{self._glance.host} has an image {name} that ovfbuild did not make ({image['id']})",
                    "remove or rename it, or give this one another --name",
                )

    def _create(self, shipment: Shipment, name: str, content: _Content) -> Image:
        """The image without content. The visibility is tried, and taken back until the image is whole."""
        target = self._target
        machine = nova.machine(shipment.package.envelope, target.disk_format)
        for note in machine.notes:
            self._around.progress.warn(note)
        image = self._glance.create(
            {
                **machine.properties,
                **target.image_properties,
                **self._sight(),
                "name": name,
                "disk_format": target.disk_format,
                "container_format": "bare",
                "min_disk": -(-content.capacity // _GIB),
                "min_ram": machine.min_ram,
                "tags": list(target.tags),
                "ovfbuild_name": shipment.name,
                "ovfbuild_version": shipment.version,
                "ovfbuild_sha256": shipment.digest,
                "ovfbuild_state": "unfinished",
            }
        )
        if target.visibility != "private":
            image = self._glance.change(image["id"], visibility="private")
        return image

    def _sight(self) -> dict[str, object]:
        return {"visibility": self._target.visibility, "os_hidden": True}

    def _content(self, shipment: Shipment) -> _Content:
        """What is to be sent: the VMDK as it lies in the OVA, or a qcow2 that is made of it once."""
        if shipment.digest not in self._contents:
            self._contents[shipment.digest] = self._made(shipment)
        return self._contents[shipment.digest]

    def _made(self, shipment: Shipment) -> _Content:
        package = shipment.package
        if len(package.disks) != 1:
            raise PublishError(
                f"{package.path.name} has {len(package.disks)} disks, and an image has one",
                "publish the others as images of their own, from appliances of one disk",
            )
        declared, member = package.disks[0]
        if "streamOptimized" not in (declared.format or ""):
            raise FileError(f"{member.name} is no streamOptimized VMDK", "ovfbuild fix makes one of it")
        inside = disk.inside(package.path, member.offset, member.size)
        capacity = capacity_of(inside)
        if self._target.disk_format == "vmdk":
            return _Content(package.path, member.offset, member.size, capacity)
        workspace = self._stack.enter_context(self._around.workspace())
        qcow2 = workspace / "disk.qcow2"
        with step(self._around.progress, "convert the disk to qcow2"):
            extract(inside, qcow2, "qcow2", self._around.progress)
        size = qcow2.stat().st_size
        self._around.progress.note(f"the disk as a qcow2 takes {size / 1e6:.0f} MB of {workspace} until it is sent")
        return _Content(qcow2, 0, size, capacity)

    def _active(self, number: str) -> Image:
        """The image once Glance has all of it."""
        until = time.monotonic() + _IMPORT_SECONDS
        while time.monotonic() < until:
            image = self._glance.image(number)
            if image is None:
                raise TryAgain(f"{self._glance.host}: image {number} is gone")
            if image["status"] == "active":
                return image
            failed = image.get("os_glance_failed_import")
            if failed or image["status"] not in ("uploading", "importing", "saving"):
                why = self._glance.failures(number) or f"it is {image['status']}"
                what = f"{self._glance.host} took the disk and made no image of it: {why}"
                raise PublishError(what, "its administrator's log says more")
            self._around.progress.line(f"the cloud is at it: {image['status']}")
            time.sleep(_BETWEEN)
        raise PublishError(f"{self._glance.host}: image {number} is not done after hours", "ask its administrator")

    def _compare(self, image: Image, content: _Content) -> None:
        """Raises TryAgain unless what Glance hashed is what was read here."""
        algorithm, told = str(image.get("os_hash_algo")), image.get("os_hash_value")
        if image.get("disk_format") != self._target.disk_format:
            self._around.progress.warn(
                f"the cloud made {image.get('disk_format')} of the disk: its digest can't be compared, only its size"
            )
            size = image.get("virtual_size")
            if size not in (None, content.capacity):
                raise TryAgain(f"{self._glance.host}: the disk has {size} bytes, not {content.capacity}")
        elif image.get("size") != content.size:
            raise TryAgain(f"{self._glance.host}: {image.get('size')} of {content.size} bytes arrived")
        elif told and algorithm in hashlib.algorithms_available and told != content.digest(algorithm):
            raise TryAgain(f"{self._glance.host}: what arrived has another {algorithm} than what was sent")


def _whole(image: Image) -> bool:
    return image.get("ovfbuild_state") == "whole" and image["status"] in ("active", "deactivated")


def _stored(image: Image) -> Stored:
    return Stored(
        name=str(image["ovfbuild_name"]),
        version=str(image.get("ovfbuild_version", "")),
        digest=str(image.get("ovfbuild_sha256", "")),
        whole=_whole(image),
        made=datetime.fromisoformat(image["created_at"]).timestamp(),
        ids={"image": image["id"]},
        key=image["id"],
    )
