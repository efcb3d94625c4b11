"""`ovfbuild publish` to a real Glance behind a real Keystone, as users run it; each fault with its message."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from tests import openstack
from tests.faulty import Proxy, certificate, proxy
from tests.unit.formats.conftest import Pieces, noise, written
from tests.unit.publish.kit import ova_of_three
from tests.unit.verify.kit import good

pytestmark = [pytest.mark.openstack, pytest.mark.timeout(900)]
MIB = 1 << 20


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openstack.Cloud]:
    openstack.needed()
    with openstack.openstack(tmp_path_factory.mktemp("openstack") / "servers") as cloud:
        yield cloud


@pytest.fixture
def cloud(servers: openstack.Cloud) -> Iterator[openstack.Cloud]:
    yield servers
    servers.clear()


class User:
    """Somebody with a clouds.yaml, a targets.toml and packages, in a folder of his own."""

    def __init__(self, folder: Path, cloud: openstack.Cloud) -> None:
        self.folder = folder
        self.cloud = cloud
        (folder / "ovfbuild").mkdir()
        self.login(auth=cloud.auth())
        self.target()

    def login(self, **words: Any) -> None:
        """clouds.yaml, with the cloud `lab`."""
        table = {"clouds": {"lab": {"regions": ["one", "full", "gone"], "identity_api_version": 3, **words}}}
        (self.folder / "clouds.yaml").write_text(yaml.safe_dump(table))

    def through(self, proxy: Proxy) -> None:
        """Logs in as before, and finds Glance behind a proxy."""
        self.login(auth=self.cloud.auth(), image_endpoint_override=proxy.url)

    def target(self, **keys: object) -> None:
        """targets.toml, with the target `lab`."""
        table = {"name": "lab", "kind": "openstack", "cloud": "lab", "timeout": "60 s", "tries": 2, **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        for key, value in table.items():
            if isinstance(value, dict):
                lines += [f"[publish.{key}]", *(f"{inner} = {json.dumps(text)}" for inner, text in value.items())]
        (self.folder / "ovfbuild" / "targets.toml").write_text("\n".join(["[[publish]]", *lines, ""]))

    @property
    def environment(self) -> dict[str, str]:
        names = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        own = {"XDG_CONFIG_HOME": str(self.folder), "OS_CLIENT_CONFIG_FILE": str(self.folder / "clouds.yaml")}
        return {**names, **own, "XDG_CACHE_HOME": str(self.folder / "cache"), "PYTHONWARNINGS": "ignore"}

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "ovfbuild", *map(str, words)]
        return subprocess.Popen(
            argv,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """The exit code, stdout and stderr, in which there is no secret."""
        with self.start(*words) as child:
            out, said = child.communicate(timeout=500)
        secrets = {openstack.SECRET, openstack.SECRET.replace(" ", "%20"), "canary-9f31", "gAAAA"}
        assert not [secret for secret in secrets if secret in out + said], "no password, and no token of Keystone's"
        return child.returncode, out, said

    def publish(self, package: Path, *words: str) -> dict[str, Any]:
        """What came of it, which has to be good."""
        code, out, said = self.run("publish", package, "--to", "lab", "--json", *words)
        assert code == 0, said
        found: dict[str, Any] = json.loads(out)
        return {**found, "said": said}

    def killed(self, between: Proxy, package: Path, words: bytes, after: int, *more: str, nth: int = 1) -> None:
        """Publishes, and is killed at the nth request that begins so, after so many bytes of it."""
        reached, dead, seen = threading.Event(), threading.Event(), 0

        def wait(head: bytes) -> bytes | None:
            nonlocal seen
            seen += 1
            if seen < nth:
                return None
            reached.set()
            assert dead.wait(120)
            return b""

        between.when(words, after, wait, times=nth)
        with self.start("publish", package, "--to", "lab", *more) as child:
            assert reached.wait(120)
            child.kill()
            child.communicate()
            dead.set()

    def refused(self, package: Path, *words: str, left: int = 0, region: str = "one") -> str:
        """What is said when it must not succeed; so many images are there afterwards, all of them whole, and no file of
        any other."""
        code, out, said = self.run("publish", package, "--to", "lab", *words)
        assert (code, out) == (7, ""), said
        images = self.cloud.images(region)
        assert [image["status"] for image in images] == ["active"] * left, said
        until = time.monotonic() + 20  # Glance may still be at what broke off
        while (files := self.cloud.files(region)) != sorted(image["id"] for image in images):
            assert time.monotonic() < until, files
            time.sleep(0.1)
        return said


@pytest.fixture
def user(tmp_path: Path, cloud: openstack.Cloud) -> User:
    folder = tmp_path / "user"
    folder.mkdir()
    return User(folder, cloud)


def ova(path: Path, version: str = "1.0", size: int = 70000, seed: int = 1) -> Path:
    """A good OVA called `a`, whose disk has so many bytes that do not compress."""
    pieces = Pieces(16 * MIB, ((0, noise(30000)), (MIB, noise(size, seed))))
    grains = 1 + -(-size // 65536)
    parts = good().disk_with(lambda _: written(pieces)[1])
    said = f"<Product>p</Product><Version>{version}</Version>".encode()
    parts = parts.text_with(b"<Product>p</Product>", said).text_with(b'ovf:capacity="3"', b'ovf:capacity="16"')
    return parts.text_with(b'ovf:populatedSize="262144"', b'ovf:populatedSize="%d"' % (grains * 65536)).pack(path)


def disk_of(package: Path) -> str:
    """The only one of them."""
    (only,) = disks_of(package)
    return only


def disks_of(package: Path) -> list[str]:
    """The disks in a package, in qemu-img's words."""
    return [disk.inside(package, member.offset, member.size) for _, member in open_package(package).disks]


_NOVA = """
import json, sys
from nova import objects, utils
objects.register_all()
from nova.objects.image_meta import ImageMeta

def taken(image):
    image = utils.get_image_from_system_metadata(utils.get_system_metadata_from_image(image))
    meta = ImageMeta.from_dict(image)
    known = {key: str(getattr(meta.properties, key)) for key in meta.properties.fields if key in meta.properties}
    return {**known, "min_ram": meta.min_ram, "min_disk": meta.min_disk}

said = []
for image in json.loads(sys.argv[1]):
    try:
        said.append(taken(image))
    except ValueError as error:
        said.append({"refused": str(error)})
print(json.dumps(said))
"""


def nova_takes(*images: dict[str, Any]) -> list[dict[str, Any]]:
    """What Nova makes of images, as it keeps them with a machine. It refuses a wrong value, and forgets what it has no
    field for."""
    found: list[dict[str, Any]] = json.loads(openstack.python(_NOVA, json.dumps(images)))
    return found


_NOVA_STARTS = """
import json, sys
import nova.conf
from nova import block_device, context, objects
from nova.compute.api import API
from nova.image import glance
objects.register_all()
url, token, project, number, copied = sys.argv[1:]
nova.conf.CONF([], project="nova", default_config_files=[])
nova.conf.CONF.set_override("api_servers", [url], "glance")
asks = context.RequestContext("publisher", project, auth_token=token, is_admin=False, service_catalog=[])
api = API.__new__(API)  # its other parts want a Cinder, a Neutron and a database
api.image_api = glance.API()
image, flavor = api.image_api.get(asks, number), {"root_gb": 1, "ephemeral_gb": 0, "swap": 0}
words = ("source_type", "destination_type", "image_id", "volume_size", "boot_index", "delete_on_termination")

def disks(first, named, image):
    found = api._check_and_transform_bdm(asks, {"image_ref": named}, flavor, image, 1, 1, [first], False)
    api._validate_bdm(asks, {"image_ref": named}, flavor, found, {}, {})
    return [[getattr(one, word) for word in words] for one in found]

said = {}
for root, named in (("local", number), ("volume", "")):
    first = {"source_type": "image", "uuid": number, "destination_type": root, "boot_index": 0, "volume_size": 1}
    said[root] = disks(block_device.BlockDeviceDict.from_api(first, bool(named)), named, image)
first = {"source_type": "blank", "destination_type": "volume", "boot_index": 0, "volume_size": 1}
volume = block_device.get_image_metadata_from_volume({"size": 1, "volume_image_metadata": json.loads(copied)})
try:
    said["from"] = disks(block_device.BlockDeviceDict(first), "", volume)
except AttributeError as error:
    said["from"] = str(error)
print(json.dumps(said))
"""


def nova_starts(cloud: openstack.Cloud, image: dict[str, Any]) -> dict[str, Any]:
    """The disks that Nova gives a machine of an image, which it asks Glance for: source, destination, image, GiB, boot
    index, whether they go with it. By where `openstack server create` puts the first: `local`, `volume`; or, `from` a
    volume that Cinder made of the image before, with all its properties as texts."""
    copied = {key: text for key, text in image.items() if isinstance(text, str)}
    words = (cloud.glance["one"], cloud.token(), cloud.project, image["id"], json.dumps(copied))
    found: dict[str, Any] = json.loads(openstack.python(_NOVA_STARTS, *words))
    return found


_FIELDS = (
    "id",
    "name",
    "status",
    "size",
    "disk_format",
    "container_format",
    "checksum",
    "owner",
    "min_ram",
    "min_disk",
)


def nova_image(image: dict[str, Any]) -> dict[str, Any]:
    """An image as Nova's client for Glance hands it on: what is no field of its own is a property."""
    theirs = ("os_hidden", "os_hash_algo", "os_hash_value", "os_glance_")
    ours = ("hw_", "os_", "architecture", "hypervisor_", "vmware_")
    properties = {key: image[key] for key in image if key.startswith(ours) and not key.startswith(theirs)}
    return {**{key: image.get(key) for key in _FIELDS}, "properties": properties}


def test_twice_is_one_image_and_its_disk_comes_back(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    user.target(tags=["golden"], image_properties={"hw_rng_model": "virtio"})
    package = ova(tmp_path / "a.ova")
    first = user.publish(package)
    assert (first["outcome"], first["version"]) == ("published", "1.0")
    again = user.publish(package)
    assert (again["outcome"], again["ids"]) == ("present", first["ids"])
    (image,) = cloud.images()
    assert (image["id"], image["name"], image["status"]) == (first["ids"]["image"], "a-1.0", "active")
    assert (image["os_hidden"], image["visibility"], image["tags"]) == (False, "private", ["golden"])
    assert (image["min_ram"], image["min_disk"], image["disk_format"]) == (1024, 1, "qcow2")
    back = tmp_path / "back.qcow2"
    back.write_bytes(cloud.content(image["id"]))
    assert disk.compare(disk.described(back, "qcow2"), disk_of(package))
    assert not list((user.folder / "cache" / "ovfbuild").rglob("*.qcow2")), "the conversion is gone"

    known, wrong = nova_takes(nova_image(image), nova_image({**image, "hw_disk_bus": "lsilogic"}))
    expected = {"hw_disk_bus": "sata", "hw_vif_model": "e1000", "hw_machine_type": "q35", "hw_rng_model": "virtio"}
    expected |= {"hw_architecture": "x86_64", "hw_firmware_type": "bios", "os_type": "linux", "os_distro": "debian"}
    assert expected.items() <= known.items()
    told = nova_image(image)["properties"].keys() - {"architecture"}
    assert told <= known.keys(), "Nova has a field for each"
    assert not [key for key in image if key.startswith("vmware_")]
    assert "lsilogic" in wrong["refused"]


def test_a_vmdk_for_a_cloud_on_vmware_goes_as_it_is(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    user.target(disk_format="vmdk", upload="direct")
    package = ova(tmp_path / "a.ova")
    user.publish(package)
    (image,) = cloud.images()
    ((_, member),) = open_package(package).disks
    assert cloud.content(image["id"]) == package.read_bytes()[member.offset : member.offset + member.size]
    (known,) = nova_takes(nova_image(image))
    assert (image["hw_vif_model"], known["hw_vif_model"]) == ("VirtualE1000", "e1000"), "by VMware's name"
    assert (image["vmware_disktype"], image["vmware_adaptertype"]) == ("streamOptimized", "ide")
    assert "hw_disk_bus" not in image


def test_an_application_credential_and_what_targets_tells(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    number, secret = cloud.credential("ci")
    auth = {"auth_url": cloud.keystone, "application_credential_id": number, "application_credential_secret": secret}
    user.login(auth=auth, auth_type="v3applicationcredential")
    user.publish(ova(tmp_path / "a.ova"))
    code, out, said = user.run("targets", "lab", "--json")
    assert code == 0, said
    (told,) = json.loads(out)["targets"] if out.startswith("{") else json.loads(out)
    assert told["usable"] and "glance-direct" in "".join(told["notes"])
    assert len(cloud.images()) == 1, "the probe is gone"


def test_old_versions_are_hidden_or_removed(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    user.target(old="hide")
    first = user.publish(ova(tmp_path / "a.ova", "1.0"))["ids"]["image"]
    user.publish(ova(tmp_path / "b.ova", "1.1"), "--keep-old", "0")
    assert {image["name"]: image["os_hidden"] for image in cloud.images()} == {"a-1.0": True, "a-1.1": False}
    assert cloud.images(ovfbuild_version="1.0")[0]["id"] == first
    user.target(old="remove")
    user.publish(ova(tmp_path / "c.ova", "1.2"), "--keep-old", "0")
    assert {image["name"] for image in cloud.images()} == {"a-1.0", "a-1.2"}


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk"])
def test_a_hidden_version_is_brought_back(user: User, cloud: openstack.Cloud, tmp_path: Path, disk_format: str) -> None:
    user.target(old="hide", disk_format=disk_format)
    first = user.publish(ova_of_three(tmp_path / "a.ova"))["ids"]
    user.publish(ova(tmp_path / "b.ova", "1.1"), "--keep-old", "0")
    assert [image["name"] for image in cloud.images() if not image["os_hidden"]] == ["a-1.1"]
    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        said = user.run("publish", tmp_path / "a.ova", "--to", "lab", "--dry-run")[2]
        assert "would bring back a 1.0" in said
        again = user.publish(tmp_path / "a.ova")
        assert (again["outcome"], again["ids"]) == ("published", first)
        assert not [head for head in between.heads if head.startswith((b"PUT ", b"POST "))], "nothing was sent"
    user.login(auth=cloud.auth())
    user.publish(ova(tmp_path / "c.ova", "1.2"), "--keep-old", "1")
    seen = {image["name"]: image["id"] for image in cloud.images() if not image["os_hidden"]}
    assert seen.keys() == {"a-1.0", "a-1.2"}, "what was brought back is newer than what it took the place of"
    assert seen["a-1.0"] == first["image"] and len(cloud.images()) == 4


def test_another_content_of_a_version_replaces_it_when_asked(
    user: User, cloud: openstack.Cloud, tmp_path: Path
) -> None:
    first = user.publish(ova(tmp_path / "a.ova"))["ids"]["image"]
    other = ova(tmp_path / "b.ova", seed=2)
    assert first in user.refused(other, left=1)
    second = user.publish(other, "--replace")["ids"]["image"]
    assert [image["id"] for image in cloud.images()] == [second] != [first]


# --- several disks ---


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk"])
def test_several_disks_are_a_machine_for_nova(
    user: User, cloud: openstack.Cloud, tmp_path: Path, disk_format: str
) -> None:
    user.target(disk_format=disk_format, visibility="shared")
    package = ova_of_three(tmp_path / "a.ova")
    first = user.publish(package)
    assert list(first["ids"]) == ["image", "disk3"]
    assert "disk 2 is empty and needs no image" in first["said"]
    again = user.publish(package)
    assert (again["outcome"], again["ids"]) == ("present", first["ids"])
    images = {image["name"]: image for image in cloud.images()}
    boot, data = images["a-1.0"], images["a-1.0-disk3"]
    assert len(images) == 2 and {"image": boot["id"], "disk3": data["id"]} == first["ids"]
    for number, image, disk_in in zip("13", (boot, data), disks_of(package), strict=True):
        assert (image["ovfbuild_disk"], image["ovfbuild_disks"], image["visibility"]) == (number, "3", "shared")
        back = tmp_path / "back"
        back.write_bytes(cloud.content(image["id"]))
        assert disk.compare(disk.described(back, disk_format), disk_in)
    assert (boot["min_disk"], boot["min_ram"], data["min_disk"], data["min_ram"]) == (1, 1024, 2, 0)
    assert ("vmware_disktype" in data, "hw_vif_model" in data) == (disk_format == "vmdk", False)
    starts = nova_starts(cloud, boot)
    for root in ("local", "volume"):
        assert starts[root] == [
            ["image", root, boot["id"], 1, 0, False],
            ["blank", "volume", None, 2, -1, False],
            ["image", "volume", data["id"], 2, -1, False],
        ]
    # Which is why the target has a key against it, and the docs a line; without the properties it starts.
    assert starts["from"] == "'str' object has no attribute 'update'"
    bare = {key: text for key, text in boot.items() if key not in ("bdm_v2", "block_device_mapping")}
    assert nova_starts(cloud, bare)["from"] == [["blank", "volume", None, 1, 0, False]]


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk"])
def test_killed_between_two_disks(user: User, cloud: openstack.Cloud, tmp_path: Path, disk_format: str) -> None:
    """The first that is sent is not the one to boot from, and is whole when the run ends."""
    user.target(disk_format=disk_format, upload="direct", block_device_mapping=False)
    package = ova_of_three(tmp_path / "a.ova")
    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        user.killed(between, package, b"PUT ", 0, nth=2)
        boot, data = sorted(cloud.images(), key=lambda image: str(image["name"]))
        assert (boot["status"], data["status"]) == ("queued", "active")
        assert all(image["os_hidden"] and image["ovfbuild_state"] == "unfinished" for image in (boot, data))
        user.killed(between, package, b"PATCH ", 0, nth=2)
        boot, data = sorted(cloud.images(), key=lambda image: str(image["name"]))
        assert (boot["ovfbuild_state"], data["ovfbuild_state"]) == ("unfinished", "whole")
        assert "removing what an earlier upload" in user.publish(package)["said"]
    images = cloud.images()
    assert [image["ovfbuild_state"] for image in images] == ["whole"] * 2
    assert [image["name"] for image in images if not image["os_hidden"]] == ["a-1.0"], (
        "no machine starts from the other"
    )
    assert {boot["id"], data["id"]}.isdisjoint(image["id"] for image in images)


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk"])
def test_several_disks_are_replaced_and_retired_together(
    user: User, cloud: openstack.Cloud, tmp_path: Path, disk_format: str
) -> None:
    user.target(disk_format=disk_format)
    first = user.publish(ova_of_three(tmp_path / "a.ova"))
    second = user.publish(ova_of_three(tmp_path / "b.ova", seed=2), "--replace")
    assert {image["id"] for image in cloud.images()} == set(second["ids"].values())
    assert set(first["ids"].values()).isdisjoint(second["ids"].values())
    third = user.publish(ova_of_three(tmp_path / "c.ova", "1.1"), "--keep-old", "1")
    assert {image["id"] for image in cloud.images()} == {*second["ids"].values(), *third["ids"].values()}
    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        user.killed(between, tmp_path / "c.ova", b"DELETE ", 0, "--keep-old", "0", nth=2)
        assert {image["name"] for image in cloud.images()} == {"a-1.0-disk3", "a-1.1", "a-1.1-disk3"}
    user.login(auth=cloud.auth())
    user.target(old="hide", disk_format=disk_format)
    user.publish(tmp_path / "c.ova")
    assert {image["name"] for image in cloud.images()} == {"a-1.1", "a-1.1-disk3"}, "the next run removes the rest"
    user.publish(ova(tmp_path / "d.ova", "1.2"), "--keep-old", "0")
    seen = {image["name"]: image["os_hidden"] for image in cloud.images()}
    assert seen == {"a-1.1": True, "a-1.1-disk3": True, "a-1.2": False}
    user.publish(tmp_path / "c.ova", "--replace")
    names = sorted(image["name"] for image in cloud.images())
    assert names == ["a-1.1", "a-1.1", "a-1.1-disk3", "a-1.1-disk3", "a-1.2"], "it was asked for once more"
    assert sorted(image["name"] for image in cloud.images() if not image["os_hidden"]) == ["a-1.1", "a-1.2"]


# --- faults ---


def test_no_cloud_is_configured(user: User, tmp_path: Path) -> None:
    (user.folder / "clouds.yaml").unlink()
    (user.folder / "ovfbuild" / "targets.toml").write_text('[[publish]]\nname = "lab"\nkind = "openstack"\n')
    code, _, said = user.run("publish", ova(tmp_path / "a.ova"), "--to", "lab")
    assert code == 2 and "no cloud is configured" in said and "~/.config/openstack" in said


@pytest.mark.fault("server down")
@pytest.mark.parametrize("who", ["keystone", "glance", "glance of the catalogue"])
def test_nobody_is_there(user: User, cloud: openstack.Cloud, tmp_path: Path, who: str) -> None:
    if who == "keystone":
        user.login(auth={**cloud.auth(), "auth_url": f"{cloud.nobody}/v3"})
    elif who == "glance":
        user.login(auth=cloud.auth(), image_endpoint_override=cloud.nobody)
    else:
        user.target(region="gone")
    said = user.refused(ova(tmp_path / "a.ova"))
    assert "can't be reached" in said and "trying again" in said


@pytest.mark.fault("wrong password")
def test_a_wrong_password(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    user.login(auth={**cloud.auth(), "password": openstack.SECRET + "x"})
    assert "does not let us in" in user.refused(ova(tmp_path / "a.ova"))


@pytest.mark.fault("no permission")
def test_what_a_member_may_not_is_refused_before_it_is_sent(user: User, tmp_path: Path) -> None:
    user.target(visibility="public")
    said = user.refused(ova(tmp_path / "a.ova"))
    assert "403" in said and "visibility" in said


@pytest.mark.fault("quota")
@pytest.mark.parametrize(
    ("resource", "limit", "words"),
    [
        ("image_count_total", 0, ("413", "image_count_total")),
        ("image_size_total", 1, ("has 1 MB free",)),  # before a byte is sent
    ],
)
def test_a_quota(
    user: User, cloud: openstack.Cloud, tmp_path: Path, resource: str, limit: int, words: tuple[str, ...]
) -> None:
    user.target(region="full", upload="import")
    limited = cloud.limit(resource, limit)
    try:
        said = user.refused(ova(tmp_path / "a.ova", size=2 * MIB), region="full")
    finally:
        cloud.call("DELETE", limited)
    assert not [word for word in words if word not in said], said


@pytest.mark.fault("full disk")
@pytest.mark.parametrize(
    ("upload", "size", "words"),
    [
        ("direct", 8 * MIB, ("413", "media is full")),
        ("import", 8 * MIB, ("413", "media is full")),  # where it is staged
        ("import", 4 * MIB, ("made no image of it", "store may be full")),  # where it is stored
    ],
)
def test_a_full_disk(user: User, tmp_path: Path, upload: str, size: int, words: tuple[str, ...]) -> None:
    user.target(region="full", upload=upload)
    said = user.refused(ova(tmp_path / "a.ova", size=size), region="full")
    assert not [word for word in words if word not in said], said


@pytest.mark.fault("connection cut at half")
@pytest.mark.parametrize("upload", ["direct", "import"])
def test_a_connection_that_breaks_at_half(user: User, cloud: openstack.Cloud, tmp_path: Path, upload: str) -> None:
    user.target(upload=upload)
    package = ova(tmp_path / "a.ova", size=4 * MIB)
    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        between.when(b"PUT ", 2 * MIB)
        assert "trying again" in user.publish(package)["said"]
        (image,) = cloud.images()
        assert (image["status"], image["ovfbuild_state"]) == ("active", "whole")
        between.when(b"PUT ", 2 * MIB, times=9)
        assert "can't be reached" in user.refused(ova(tmp_path / "b.ova", "1.1", 4 * MIB), left=1)


@pytest.mark.fault("connection cut at half")
def test_several_disks_of_which_the_last_never_arrives(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    def cut(head: bytes) -> bytes | None:
        (length,) = re.findall(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return b"" if int(length) < MIB else None

    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        between.when(b"PUT ", 65536, cut, times=9)
        assert "can't be reached" in user.refused(ova_of_three(tmp_path / "a.ova"))
        assert len([head for head in between.heads if head.startswith(b"PUT ")]) == 4, "two disks, two tries"


@pytest.mark.fault("500 in the middle")
def test_a_server_that_fails_in_the_middle(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    sorry = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry"
    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        between.when(b"PUT ", MIB, lambda head: sorry)
        assert "trying again" in user.publish(ova(tmp_path / "a.ova", size=4 * MIB))["said"]
        for words, after in ((b"PUT ", 2 * MIB), (b"POST /v2/images ", 0), (b"PATCH ", 0)):
            between.when(words, after, lambda head: sorry, times=9)
            assert "500" in user.refused(ova(tmp_path / "b.ova", "1.1", 4 * MIB), left=1)
            between.faults.clear()


@pytest.mark.fault("token expired")
def test_a_token_that_is_taken_back(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    taken = []

    def take_back(head: bytes) -> None:
        (token,) = [
            line.partition(b":")[2].strip().decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"x-auth-token:")
        ]
        cloud.call("DELETE", f"{cloud.keystone}/auth/tokens", X_Subject_Token=token)
        taken.append(token)

    with proxy(cloud.glance["full"]) as between:
        user.through(between)
        between.when(b"PUT ", 0, take_back)
        said = user.publish(ova(tmp_path / "a.ova"))["said"]
        assert len(taken) == 1 and "the token is over" in said
        assert [image["ovfbuild_state"] for image in cloud.images("full")] == ["whole"]
        between.when(b"PUT ", 0, take_back, times=9)
        assert "the token is over (2 tries)" in user.refused(ova(tmp_path / "b.ova", "1.1"), left=1, region="full")


@pytest.mark.fault("token expired")
@pytest.mark.parametrize("upload", ["direct", "import"])
def test_tokens_that_live_for_less_than_the_upload(
    user: User, cloud: openstack.Cloud, tmp_path: Path, upload: str
) -> None:
    seconds = 6
    user.target(upload=upload)
    with openstack.short_lived(cloud, seconds) as keystone, proxy(cloud.glance["one"]) as between:
        user.login(auth={**cloud.auth(), "auth_url": keystone}, image_endpoint_override=between.url)
        between.when(b"PUT ", 2 * MIB, lambda head: time.sleep(seconds + 2))
        said = user.publish(ova(tmp_path / "a.ova", size=4 * MIB))["said"]
        tokens = {head.lower().partition(b"x-auth-token: ")[2].partition(b"\r\n")[0] for head in between.heads}
    assert len(tokens - {b""}) > 2 and "trying again" not in said
    assert [image["ovfbuild_state"] for image in cloud.images()] == ["whole"]


@pytest.mark.fault("slow server")
def test_a_server_that_says_nothing(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    user.target(timeout="5 s")
    over = threading.Event()

    def silence(head: bytes) -> bytes:
        over.wait(60)
        return b""

    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        between.when(b"PUT ", 2 * MIB, silence)
        assert "timed out" in user.publish(ova(tmp_path / "a.ova", size=4 * MIB))["said"]
        assert len(cloud.images()) == 1
        between.when(b"PUT ", 2 * MIB, silence, times=9)
        assert "timed out" in user.refused(ova(tmp_path / "b.ova", "1.1", 4 * MIB), left=1)
        over.set()


@pytest.mark.fault("certificate wrong")
def test_a_certificate_that_nobody_trusts(user: User, cloud: openstack.Cloud, tmp_path: Path) -> None:
    package, tls = ova(tmp_path / "a.ova"), certificate(tmp_path)
    with proxy(cloud.keystone, tls) as between:
        auth = {**cloud.auth(), "auth_url": f"{between.url}/v3"}
        user.login(auth=auth)
        assert "no certificate that is trusted here" in user.refused(package)
        with proxy(cloud.glance["one"], tls) as image:
            user.login(auth=cloud.auth(), image_endpoint_override=image.url)
            assert "no certificate that is trusted here" in user.refused(package)
        user.login(auth=auth, cacert=str(tls[0]))
        assert "believed" not in user.publish(package)["said"]
        user.login(auth=auth, verify=False)
        assert "any certificate is believed" in user.publish(package)["said"]


@pytest.mark.fault("image of that name there already")
@pytest.mark.parametrize("name", ["a-1.0", "a-1.0-disk3"])
def test_somebody_elses_image_of_that_name(user: User, cloud: openstack.Cloud, tmp_path: Path, name: str) -> None:
    body = {"name": name, "disk_format": "raw", "container_format": "bare"}
    theirs = cloud.call("POST", f"{cloud.glance['one']}/v2/images", body, token=cloud.token())["id"]
    url = f"{cloud.glance['one']}/v2/images/{theirs}/file"
    cloud.call("PUT", url, "theirs", token=cloud.token(), Content_Type="application/octet-stream")
    said = user.refused(ova_of_three(tmp_path / "a.ova"), left=1)
    assert name in said and theirs in said
    assert [image["id"] for image in cloud.images()] == [theirs]
    assert cloud.content(theirs) == b'"theirs"'


@pytest.mark.fault("process killed at half")
@pytest.mark.parametrize("upload", ["direct", "import"])
def test_killed_at_half(user: User, cloud: openstack.Cloud, tmp_path: Path, upload: str) -> None:
    user.target(upload=upload)
    package = ova(tmp_path / "a.ova", size=4 * MIB)
    with proxy(cloud.glance["one"]) as between:
        user.through(between)
        user.killed(between, package, b"PUT ", 2 * MIB)
        (left,) = cloud.images()
        assert left["os_hidden"] and left["ovfbuild_state"] == "unfinished"
        assert "removing what an earlier upload" in user.publish(package)["said"]
    (image,) = cloud.images()
    assert image["id"] != left["id"] and image["ovfbuild_state"] == "whole"
