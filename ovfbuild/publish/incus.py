"""Incus: the disk as the image of a virtual machine, with what an image can say of one.

An image is ours by its properties: `ovfbuild.name`, `ovfbuild.version`, `ovfbuild.sha256` (of the OVA) and
`ovfbuild.state`. Incus makes one when it has all of it, and only if its fingerprint is the one that was announced: what
an upload that broke has sent is never seen. The image is `unfinished` until the aliases NAME/VERSION and NAME, which is
that of the last one, stand for it; the request that makes it public, if it is to be, then makes it `whole`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from urllib.parse import urlencode

from ovfbuild.errors import PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish import incus_image
from ovfbuild.publish.cloud import Cloud, Shipment, Standing, Stored, Surroundings
from ovfbuild.publish.image_content import Contents, PackedDisk, disks_of
from ovfbuild.publish.incus_api import Image, Incus, opened
from ovfbuild.publish.meter import Meter, Metered
from ovfbuild.spec import incus_remote
from ovfbuild.spec.targets import IncusTarget
from ovfbuild.tries import TryAgain
from ovfbuild.vm.blocks import open_reader
from ovfbuild.vm.disk import inside
from ovfbuild.vm.esp import has_esp
from ovfbuild.vm.extract import is_empty

_PROBE = "ovfbuild asks whether it may"


@contextmanager
def connect(target: IncusTarget, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`."""
    remote = incus_remote.find(target.remote, around.environ)
    project = target.project or remote.project
    contents = Contents("qcow2", around)
    with opened(remote, project, target.timeout, around.secrets) as incus, closing(contents):
        yield _Images(target, around, remote.name, incus, contents)


class _Images:
    """A project's images, as a `Cloud`."""

    def __init__(
        self, target: IncusTarget, around: Surroundings, remote: str, incus: Incus, contents: Contents
    ) -> None:
        self._target = target
        self._around = around
        self._remote = remote
        self._incus = incus
        self._contents = contents
        self._forms: dict[str, incus_image.Form] = {}

    def standing(self, *, write: bool) -> Standing:
        server = self._incus.enter()
        self._incus.images()
        if write:
            self._prove()
        environment = server.get("environment", {})
        room = self._room(str(server.get("config", {}).get("storage.images_volume") or ""))
        notes = [] if room is not None else ["the server tells no room for images: the project has no limits.disk"]
        if "qemu" not in str(environment.get("driver", "qemu")):
            notes.append("it keeps images of virtual machines, and starts none: QEMU or KVM is missing there")
        called = f"Incus {environment.get('server_version', '')} at {self._incus.host}, project {self._incus.project}"
        return Standing(called, room, tuple(notes))

    def stored(self, name: str) -> Sequence[Stored]:
        self._incus.enter()
        found = (one for one in self._incus.images() if one["properties"].get("ovfbuild.name") == name)
        return [_stored(one) for one in found if not one.get("cached")]

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        for alias in _aliases(shipment.name, shipment.version):
            self._refuse_strangers(alias)
        if resume:  # all of it is there: Incus has compared it with its fingerprint
            return resume
        form = self._form(shipment)
        meter.total = form.size
        meter.begin()
        self._upload(form, {"ovfbuild.state": "unfinished", **_ours(shipment)}, meter)
        image = self._there(form.fingerprint)
        if (image["size"], image["type"]) != (form.image_size, "virtual-machine"):
            what = f"an image of type {image['type']} with {image['size']} bytes"
            raise PublishError(f"{self._incus.host} made {what} of {form.image_size}", "ask its administrator")
        return _stored(image)

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        self._there(sent.key)
        for alias in _aliases(shipment.name, shipment.version):
            self._refuse_strangers(alias)
            self._incus.point(alias, sent.key)
        self._incus.change(sent.key, public=self._target.public, properties={"ovfbuild.state": "whole"})
        return _stored(self._there(sent.key))

    def abandon(self, leftover: Stored) -> None:
        self._remove(leftover)

    def retire(self, old: Stored) -> None:
        self._remove(old)

    # --- steps ---

    def _prove(self) -> None:
        """Makes an image of nothing, and removes it."""
        with self._around.workspace() as folder:
            nothing = folder / "nothing.qcow2"
            nothing.write_bytes(secrets.token_bytes(16))
            form = incus_image.form({"description": _PROBE}, int(time.time()), nothing)
            self._upload(form, {}, Meter(Silent(), form.size))
        self._incus.delete(form.fingerprint)

    def _remove(self, image: Stored) -> None:
        """Removes an image, and with it its aliases, which stand for the newest of those that are left then."""
        self._incus.delete(image.key)
        left = sorted((one for one in self.stored(image.name) if one.whole), key=lambda one: one.made)
        for alias, version in zip(_aliases(image.name, image.version), (image.version, None), strict=True):
            newest = [one.key for one in left if version in (None, one.version)][-1:]
            if newest and self._incus.alias(alias) is None:
                self._incus.point(alias, newest[0])

    def _room(self, images_volume: str) -> int | None:
        """Free bytes, as far as a limit of the project or a volume for images tells them."""
        limit = self._incus.disk_limit()
        found = [limit[0] - limit[1]] if limit else []
        if pool := images_volume.partition("/")[0]:
            space = self._incus.pool_space(pool)
            found += [space["total"] - space.get("used", 0)] if space.get("total") else []
        return max(min(found), 0) if found else None

    def _upload(self, form: incus_image.Form, properties: Mapping[str, str], meter: Meter) -> None:
        """Sends an image. The properties are none of its metadata: what others make of an export is none of ours."""
        headers = {"X-Incus-fingerprint": form.fingerprint, "X-Incus-public": "false"}
        headers |= {"X-Incus-properties": urlencode(properties)} if properties else {}
        with form.opened() as stream:
            self._incus.upload(Metered(stream, form.size, meter), form.boundary, headers)

    def _there(self, fingerprint: str) -> Image:
        image = self._incus.image(fingerprint)
        if image is None:
            raise TryAgain(f"{self._incus.host}: image {fingerprint[:12]} is gone")
        return image

    def _refuse_strangers(self, alias: str) -> None:
        """An alias is taken away from none but our own images of that name."""
        fingerprint = self._incus.alias(alias)
        image = self._incus.image(fingerprint) if fingerprint else None
        if image is not None and image["properties"].get("ovfbuild.name") != alias.partition("/")[0]:
            raise PublishError(
                f"{self._incus.host} has an image {alias} that ovfbuild did not make ({image['fingerprint'][:12]})",
                "remove or rename that alias, or give this one another --name",
            )

    def _form(self, shipment: Shipment) -> incus_image.Form:
        """The image to be sent; its disk is converted once."""
        if shipment.digest not in self._forms:
            self._forms[shipment.digest] = self._made(shipment)
        return self._forms[shipment.digest]

    def _made(self, shipment: Shipment) -> incus_image.Form:
        disk = self._boot_disk(shipment)
        qcow2 = self._contents.of(shipment.package, disk).path
        envelope = shipment.package.envelope
        with open_reader(qcow2, "qcow2", qcow2.parent) as reader:
            csm = not (envelope.virtual_system.efi or has_esp(reader))
        if csm:
            self._around.progress.warn("the disk has no EFI system partition, and Incus needs security.csm=true for it")
        image = f"{self._remote}:{_aliases(shipment.name, shipment.version)[0]}"
        command = incus_image.launch(envelope, disk, image, shipment.name, csm=csm)
        self._around.progress.note(f"to start it as its descriptor has it: {command}")
        told = incus_image.properties(envelope, disk, shipment.name, shipment.version)
        return incus_image.form(told | self._target.image_properties, int(time.time()), qcow2)

    def _boot_disk(self, shipment: Shipment) -> PackedDisk:
        """The disk that becomes the image. Raises PublishError where others have a content, too."""
        disks = disks_of(shipment.package)
        boot = next(disk for disk in disks if disk.member)
        others = [disk for disk in disks if disk is not boot]
        for disk in others:
            if disk.member and not is_empty(inside(shipment.path, disk.member.offset, disk.member.size)):
                raise PublishError(
                    f"disk {disk.number} of {shipment.path.name} has a content, and an image of Incus's has one disk",
                    "publish it as an image of its own, from an appliance of one disk",
                )
        for disk in others:
            volume = f"{shipment.name}-disk{disk.number}"
            made = f"incus storage volume create POOL {volume} --type=block size={disk.gibibytes}GiB"
            self._around.progress.note(f"disk {disk.number} is empty; each machine needs a volume: {made}")
        return boot


def _ours(shipment: Shipment) -> dict[str, str]:
    words = {"name": shipment.name, "version": shipment.version, "sha256": shipment.digest}
    return {f"ovfbuild.{key}": word for key, word in words.items()}


def _aliases(name: str, version: str) -> tuple[str, str]:
    """What an image is found by: its version's, and that of the name, which is the newest one's."""
    return f"{name}/{version}", name


def _stored(image: Image) -> Stored:
    told = image["properties"]
    name, version = str(told["ovfbuild.name"]), str(told.get("ovfbuild.version", ""))
    whole, alias = told.get("ovfbuild.state") == "whole", _aliases(name, version)[0]
    known = {"alias": alias} if alias in (one["name"] for one in image["aliases"]) else {}
    return Stored(
        name=name,
        version=version,
        digest=str(told.get("ovfbuild.sha256", "")),
        whole=whole,
        made=datetime.fromisoformat(image["uploaded_at"]).timestamp(),
        ids={**known, "fingerprint": image["fingerprint"]},
        key=image["fingerprint"],
        resumable=not whole,
    )
