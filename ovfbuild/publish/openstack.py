"""OpenStack: the disk as an image in Glance, with what Nova has to know of the machine.

An image is ours by its properties: `ovfbuild_name`, `ovfbuild_version`, `ovfbuild_sha256` (of the OVA) and
`ovfbuild_state`. It is made hidden and `unfinished`; the one request that makes it seen, once it was compared, makes it
`whole`. So an image that Glance takes for good because its client died can be told from one that is.

Of several disks each becomes an image. All but the one to boot from name that one (`ovfbuild_boot_image`), and it names
them (`ovfbuild_other_images`) in the request that makes it whole, which is the last of all: a version is whole when the
image to boot from is, and those are that it names. It alone is seen in lists, as no machine starts from the others.

A version that was hidden is whole and hidden. The same request as ever brings it back.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import openstack.config
from keystoneauth1.exceptions import ClientException
from openstack.config.cloud_region import CloudRegion
from openstack.connection import Connection
from openstack.exceptions import ConfigException

from ovfbuild.errors import PublishError, UsageError
from ovfbuild.publish import nova
from ovfbuild.publish.cloud import Cloud, Shipment, Standing, Stored, Surroundings
from ovfbuild.publish.glance import Glance, Image
from ovfbuild.publish.image_content import Content, Contents, PackedDisk, disks_of
from ovfbuild.publish.meter import Meter, Metered
from ovfbuild.spec.targets import OpenStackTarget
from ovfbuild.tries import TryAgain

_FIRST_LOOK, _LATER_LOOKS = 0.1, 5.0
"""Seconds between two looks at an import: the first, and those that a large one comes to."""
_IMPORT_LOCK = "os_glance_import_task"
_IMPORT_SECONDS = 4 * 3600.0
_SECRETS = ("password", "application_credential_secret", "token", "passcode")


@contextmanager
def connect(target: OpenStackTarget, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`."""
    logging.getLogger("keystoneauth").addHandler(logging.NullHandler())  # what it warns of comes as an error, too
    region = _region(target, around)
    if region.config.get("verify") is False:
        around.progress.warn(f"{target.name}: verify is false in clouds.yaml, so any certificate is believed")
    contents = Contents(target.disk_format, around)
    with Connection(config=region) as connection, closing(contents):
        yield _Images(target, around, Glance(connection, around.secrets, target.timeout), contents)


def _region(target: OpenStackTarget, around: Surroundings) -> CloudRegion:
    """What clouds.yaml, secure.yaml and the OS_ variables say; what is a secret in it is kept out of every text."""

    def ask(prompt: str | None = None) -> str:
        what = f"{(prompt or 'Password').rstrip(': ')} for target {target.name}"
        return around.secrets.ask(what, "add it to clouds.yaml")

    where = "clouds.yaml, in this folder, ~/.config/openstack or /etc/openstack"
    try:
        loader = openstack.config.OpenStackConfig(pw_func=ask, app_name="ovfbuild")
        if loader.get_cloud_names() == ["defaults"]:  # else it would ask for a password of nobody, nowhere
            raise ConfigException("no cloud is configured: no clouds.yaml is found, and OS_AUTH_URL is not set")
        region = loader.get_one(cloud=target.cloud, region_name=target.region, api_timeout=target.timeout)
    except (ConfigException, ClientException, OSError) as error:
        raise UsageError(f"target {target.name}: {error}", f"look at {where}") from None
    for key in _SECRETS:
        around.secrets.keep(str(region.config.get("auth", {}).get(key) or ""))
    return region


class _Images:
    """A project's images, as a `Cloud`."""

    def __init__(self, target: OpenStackTarget, around: Surroundings, glance: Glance, contents: Contents) -> None:
        self._target = target
        self._around = around
        self._glance = glance
        self._contents = contents
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
        images = self._glance.images(owner=project, ovfbuild_name=name)
        return list(_versions(images, self._target.disk_format))

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        if resume:  # hidden, with all its disks: of what broke off, Glance takes all anew
            self._refuse_strangers(f"{shipment.name}-{shipment.version}")
            return resume
        disks = disks_of(shipment.package)
        boot, *others = (disk for disk in disks if disk.member)
        for disk in (boot, *others):
            self._refuse_strangers(_named(shipment, disk, boot))
        meter.total = sum(disk.member.size for disk in disks if disk.member)
        first = self._create(shipment, disks, boot, boot, self._machine(shipment, boot))
        made = {"image": str(first["id"])}
        for disk in others:
            told = nova.data_disk(shipment.package.envelope, self._target.disk_format, disk.declared.disk_id)
            image = self._create(shipment, disks, disk, boot, {**told, "ovfbuild_boot_image": first["id"]})
            made[f"disk{disk.number}"] = image["id"]
            content = self._upload(shipment, disk, image["id"], meter)
            self._compare(self._active(image["id"]), disk, content)
        self._upload(shipment, boot, first["id"], meter)
        return replace(_version(first["id"], [first]), ids=made)

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        disks = disks_of(shipment.package)
        boot, *others = (disk for disk in disks if disk.member)
        if sent.retired:
            for disk in (boot, *others):
                number = sent.key if disk is boot else sent.ids[f"disk{disk.number}"]
                self._recognise(shipment, disk, self._active(number))
        else:
            self._compare(self._active(sent.key), boot, self._contents.of(shipment.package, boot))
        sight = {"visibility": self._target.visibility, "ovfbuild_state": "whole"}
        for disk in others:
            self._glance.change(sent.ids[f"disk{disk.number}"], **sight)
        again = {"ovfbuild_published": datetime.now(UTC).isoformat()} if sent.retired else {}
        told = self._company(disks, boot, sent.ids)
        image = self._glance.change(sent.key, **sight, **told, **again, os_hidden=False)
        return replace(_version(sent.key, [image]), whole=True, ids=sent.ids)

    def abandon(self, leftover: Stored) -> None:
        for number in leftover.ids.values():
            self._glance.delete(number)

    def retire(self, old: Stored) -> None:
        if self._target.old == "hide":
            self._glance.change(old.key, os_hidden=True)
        else:
            self.abandon(old)  # the one to boot from first: what is left then is a leftover

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

    def _machine(self, shipment: Shipment, boot: PackedDisk) -> Mapping[str, object]:
        """What Nova is told of the machine, by the image that it boots from."""
        machine = nova.machine(shipment.package.envelope, self._target.disk_format, boot.declared.disk_id)
        for note in machine.notes:
            self._around.progress.warn(note)
        return {**machine.properties, "min_ram": machine.min_ram}

    def _create(
        self,
        shipment: Shipment,
        disks: Sequence[PackedDisk],
        disk: PackedDisk,
        boot: PackedDisk,
        told: Mapping[str, object],
    ) -> Image:
        """An image without content. The visibility is tried, and taken back until the image is whole."""
        target = self._target
        which = {"ovfbuild_disk": str(disk.number), "ovfbuild_disks": str(len(disks))} if len(disks) > 1 else {}
        image = self._glance.create(
            {
                **told,
                **target.image_properties,
                **self._sight(),
                "name": _named(shipment, disk, boot),
                "disk_format": target.disk_format,
                "container_format": "bare",
                "min_disk": disk.gibibytes,
                "tags": list(target.tags),
                "ovfbuild_name": shipment.name,
                "ovfbuild_version": shipment.version,
                "ovfbuild_sha256": shipment.digest,
                "ovfbuild_state": "unfinished",
                **which,
            }
        )
        if target.visibility != "private":
            image = self._glance.change(image["id"], visibility="private")
        return image

    def _sight(self) -> dict[str, object]:
        return {"visibility": self._target.visibility, "os_hidden": True}

    def _upload(self, shipment: Shipment, disk: PackedDisk, number: str, meter: Meter) -> Content:
        """Sends a disk into an image; the cloud may be at it for some time afterwards."""
        assert disk.member is not None
        content = self._contents.of(shipment.package, disk)
        meter.total += content.size - disk.member.size
        meter.begin(meter.at)
        stage = self._imports()
        with content.opened() as stream:
            self._glance.send(number, Metered(stream, content.size, meter), content.size, stage=stage)
        if stage:
            self._glance.take_in(number)
        return content

    def _company(self, disks: Sequence[PackedDisk], boot: PackedDisk, ids: Mapping[str, str]) -> dict[str, str]:
        """What the image to boot from says of the machine's other disks; nothing where there are none."""
        others = [disk for disk in disks if disk is not boot]
        if not others:
            return {}
        images = " ".join(ids[f"disk{disk.number}"] for disk in others if disk.member)
        for disk in others:
            if disk.member is None:
                said = f"disk {disk.number} is empty and needs no image: each machine has a volume of its own for it"
                self._around.progress.note(f"{said}, {disk.gibibytes} GiB")
        volumes = [nova.Volume(ids.get(f"disk{disk.number}"), disk.gibibytes) for disk in others]
        told = nova.block_devices(volumes) if self._target.block_device_mapping else {}
        theirs = self._target.image_properties
        return {"ovfbuild_other_images": images, **{key: told[key] for key in told if key not in theirs}}

    def _active(self, number: str) -> Image:
        """The image once Glance has all of it, and writes to it no more.

        An import writes the image as it knew it for some time after it is active, over what others set meanwhile; the
        last that it does is to drop its lock (glance/async_/flows/api_image_import.py, since Victoria).
        """
        until, wait = time.monotonic() + _IMPORT_SECONDS, _FIRST_LOOK
        while time.monotonic() < until:
            image = self._glance.image(number)
            if image is None:
                raise TryAgain(f"{self._glance.host}: image {number} is gone")
            at_it = image["status"] in ("uploading", "importing", "saving") or _IMPORT_LOCK in image
            if image["status"] == "active" and not at_it:
                return image
            if image.get("os_glance_failed_import") or not at_it:
                why = self._glance.failures(number) or f"it is {image['status']}"
                what = f"{self._glance.host} took the disk and made no image of it: {why}"
                raise PublishError(what, "its store may be full; its administrator's log says more")
            self._around.progress.line(f"the cloud is at it: {image['status']}")
            time.sleep(wait)
            wait = min(wait * 1.5, _LATER_LOOKS)
        raise PublishError(f"{self._glance.host}: image {number} is not done after hours", "ask its administrator")

    def _compare(self, image: Image, disk: PackedDisk, content: Content) -> None:
        """Raises TryAgain unless what Glance hashed is what was read here."""
        algorithm, told = str(image.get("os_hash_algo")), image.get("os_hash_value")
        if image.get("disk_format") != self._target.disk_format:
            self._around.progress.warn(
                f"the cloud made {image.get('disk_format')} of the disk: its digest can't be compared, only its size"
            )
            size = image.get("virtual_size")
            if size not in (None, disk.capacity):
                raise TryAgain(f"{self._glance.host}: the disk has {size} bytes, not {disk.capacity}")
        elif image.get("size") != content.size:
            raise TryAgain(f"{self._glance.host}: {image.get('size')} of {content.size} bytes arrived")
        elif told and algorithm in hashlib.algorithms_available and told != content.digest(algorithm):
            raise TryAgain(f"{self._glance.host}: what arrived has another {algorithm} than what was sent")

    def _recognise(self, shipment: Shipment, disk: PackedDisk, image: Image) -> None:
        """Raises PublishError unless a hidden image has the disk.

        Its bytes were compared when they were sent, and Glance lets nobody change them since. A qcow2 that was made of
        the disk once more would not tell: another qemu-img writes other bytes.
        """
        if self._target.disk_format == "vmdk":
            self._compare(image, disk, self._contents.of(shipment.package, disk))
        elif image.get("virtual_size") not in (None, disk.capacity):
            what = f"{self._glance.host}: the hidden image {image['id']} has a disk of {image['virtual_size']} bytes"
            raise PublishError(f"{what}, not {disk.capacity}", "publish --replace sends the disk again")


def _named(shipment: Shipment, disk: PackedDisk, boot: PackedDisk) -> str:
    """What an image is called."""
    stem = f"{shipment.name}-{shipment.version}"
    return stem if disk is boot else f"{stem}-disk{disk.number}"


def _versions(images: Iterable[Image], disk_format: str) -> Iterator[Stored]:
    """What was uploaded together: an image to boot from with those that name it.

    What is hidden can be brought back where it is for the same kind of hypervisor.
    """
    together: dict[str, list[Image]] = {}
    for image in images:
        together.setdefault(str(image.get("ovfbuild_boot_image") or image["id"]), []).append(image)
    for boot, members in together.items():
        version = _version(boot, members)
        retired = version.whole and any(image["id"] == boot and image.get("os_hidden") for image in members)
        fits = all(image["status"] == "active" for image in members)
        fits = fits and all(("vmware_disktype" in image) == (disk_format == "vmdk") for image in members)
        yield replace(version, retired=retired, resumable=retired and fits)


def _version(boot: str, images: Sequence[Image]) -> Stored:
    """What an image to boot from and those that name it are together; `boot` is its id, which may be gone."""
    ordered = sorted(images, key=lambda image: (image["id"] != boot, str(image.get("ovfbuild_disk", "")).zfill(9)))
    first = ordered[0]
    made = max(str(first["created_at"]), str(first.get("ovfbuild_published", "")))
    whole = {image["id"] for image in images if _whole(image)}
    return Stored(
        name=str(first["ovfbuild_name"]),
        version=str(first.get("ovfbuild_version", "")),
        digest=str(first.get("ovfbuild_sha256", "")),
        whole=whole >= {boot, *str(first.get("ovfbuild_other_images", "")).split()},
        made=datetime.fromisoformat(made).timestamp(),
        ids={"image" if one["id"] == boot else f"disk{one.get('ovfbuild_disk')}": one["id"] for one in ordered},
        key=boot,
    )


def _whole(image: Image) -> bool:
    return image.get("ovfbuild_state") == "whole" and image["status"] in ("active", "deactivated")
