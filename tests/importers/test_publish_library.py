"""`ovfbuild publish` into a content library: the simulator's Automation API, over TLS on loopback, and its faults."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ovfbuild import pipeline, signing
from ovfbuild.cache import Cache
from ovfbuild.errors import PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish import clouds, heartbeat
from ovfbuild.publish import library as library_cloud
from ovfbuild.publish.cloud import Cloud, Surroundings
from ovfbuild.publish.credentials import Secrets
from ovfbuild.publish.delivery import How
from ovfbuild.publish.meter import Meter
from ovfbuild.publish.shipment import prepare
from ovfbuild.publishing import Publisher
from ovfbuild.spec import plan
from ovfbuild.tries import Patience, TryAgain
from ovfbuild.verify.package import open_package
from tests.faulty import certificate as certificate_of
from tests.importers import vsphere
from tests.importers.appliances import EXAMPLES, Case, in_vsphere
from tests.importers.lab import PROPERTIES, QUICK, Lab, digest, faults, laboratory, members_of, noisy, packed
from tests.unit.publish.kit import Heard

pytestmark = [pytest.mark.importers, pytest.mark.timeout(1800)]  # the first may have to install

UPLOAD = "PUT /rest/com/vmware/cis/data/.*vmdk"
"""Of the disk, which comes last."""
ITEM = "/rest/com/vmware/content/library/item"


@contextmanager
def library(
    vcsim: Path, folder: Path, certificate: tuple[Path, Path], *options: str
) -> Iterator[tuple[Lab, vsphere.Libraries]]:
    """A lab with a target of its library `appliances`, and what others see of that."""
    with (
        laboratory(vcsim, folder, certificate, *options) as lab,
        vsphere.Libraries(lab.server) as shelf,
    ):
        shelf.make("appliances")
        lab.table["library"] = "appliances"
        yield lab, shelf


Shelf = tuple[Lab, vsphere.Libraries]


@pytest.fixture
def both(vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Shelf]:
    with library(vcsim, tmp_path, certificate) as found:
        yield found


def kept(lab: Lab, item: dict[str, Any]) -> dict[str, str]:
    """By name, the SHA-256 of each file that the item was sent."""
    return {path.name: digest(path) for path in (lab.server.kept / item["id"]).iterdir()}


def nothing_is_left(shelf: vsphere.Libraries, *names: str) -> bool:
    """No item but those, and no update session."""
    return (sorted(shelf.items()), shelf.updates()) == (sorted(names), [])


def test_the_same_package_twice_is_one_item(both: Shelf, ova: Path) -> None:
    lab, shelf = both
    first = lab.publish(ova)
    assert first.receipt.outcome == "published"
    (item,) = shelf.items().values()
    assert (item["name"], item["type"]) == ("hello-1.0.0", "ovf")
    assert kept(lab, item) == members_of(ova), "as they lie in the OVA"
    assert shelf.files(item) == list(members_of(ova)), "in their order"
    said, line = item["description"].split("\n")
    assert said == "hello 1.0.0, whole"
    assert json.loads(line.removeprefix("ovfbuild: "))["sha256"] == digest(ova)
    assert first.lines[:2] == (item["id"], "hello-1.0.0")
    assert nothing_is_left(shelf, "hello-1.0.0")
    count = len(lab.sent)
    assert lab.publish(ova).receipt.outcome == "present"
    assert len(lab.sent) == count, "nothing was sent again"
    assert nothing_is_left(shelf, "hello-1.0.0")


def test_an_example_with_all_its_files(both: Shelf, disk: Path, tmp_path: Path, own_cache: Path) -> None:
    lab, shelf = both
    pem, key = certificate_of(tmp_path)
    case = Case("hello", EXAMPLES / "hello", "vsphere", {"disks": [{"size": "16 MiB"}]})
    resolved = plan.resolve(case.appliance, {}, profiles=("vsphere",))
    signer = signing.signer(resolved, signing.By(pem, key), None)
    options = pipeline.Options(out=tmp_path / "dist", boot=False, signer=signer)
    (ova,) = pipeline.pack(resolved, disk, options, Silent())
    lab.publish(ova)
    (item,) = shelf.items().values()
    assert kept(lab, item) == members_of(ova)
    ends = [Path(name).suffix for name in shelf.files(item)]
    assert ends == [".ovf", ".mf", ".cert", ".vmdk", ".vmdk"], "in the order of the OVA"


def test_a_machine_is_deployed_from_it(both: Shelf, disk: Path, tmp_path: Path, own_cache: Path) -> None:
    lab, shelf = both
    case = Case("hello", EXAMPLES / "hello", "vsphere:8.0", {"properties": PROPERTIES})
    resolved = plan.resolve(case.appliance, {}, profiles=(case.profile,))
    (ova,) = pipeline.pack(resolved, disk, pipeline.Options(out=tmp_path / "dist", boot=False), Silent())
    lab.publish(ova)
    (item,) = shelf.items().values()
    shelf.deploy(item, "web1", greeting="hi")
    config = lab.machines()["web1"]
    assert vsphere.machine_of(config) == in_vsphere(case)
    assert {one.key: one.value for one in config.extraConfig}["greeting"] == "hi", "the simulator puts it there"


@pytest.mark.parametrize("version", ["6.5", "8.0.3.0"])
def test_the_server_is_told_sizes_and_the_checksums_that_it_knows(
    version: str, vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    """In 6.5 there was no SHA-256: then a bit that was changed on the way shows when the item is compared."""
    options = ("-api", version, *faults(f"{UPLOAD} flip 70000"))
    with library(vcsim, tmp_path, certificate, *options) as (lab, shelf):
        heard = Heard()
        lab.publish(ova, heard=heard)
        assert ("the update session is ERROR" in heard.text) == (version != "6.5")
        assert ("arrived with another content" in heard.text) == (version == "6.5")
        (item,) = shelf.items().values()
        assert kept(lab, item) == members_of(ova)
        assert nothing_is_left(shelf, "hello-1.0.0")


def test_another_content_of_a_version_takes_its_place_when_asked(
    both: Shelf, ova: Path, disk: Path, tmp_path: Path
) -> None:
    lab, shelf = both
    lab.publish(ova)
    other = packed(disk, tmp_path / "b", summary="another")
    assert "is there already with another content" in lab.fails(other).message
    receipt = lab.publish(other, How(replace=True)).receipt
    assert [one.version for one in receipt.removed] == ["1.0.0"]
    (item,) = shelf.items().values()
    assert item["name"] == "hello-1.0.0"
    assert kept(lab, item) == members_of(other)


def test_versions_stay_until_there_are_too_many(both: Shelf, ova: Path, disk: Path, tmp_path: Path) -> None:
    lab, shelf = both
    lab.publish(ova)
    lab.publish(packed(disk, tmp_path, "1.1.0"))
    assert sorted(shelf.items()) == ["hello-1.0.0", "hello-1.1.0"]
    lab.publish(packed(disk, tmp_path, "1.2.0"), How(keep_old=1))
    assert nothing_is_left(shelf, "hello-1.1.0", "hello-1.2.0")


@pytest.mark.fault("image of that name there already")
def test_an_item_of_that_name_that_is_another_s_is_not_touched(both: Shelf, ova: Path) -> None:
    lab, shelf = both
    lab.publish(ova)
    shelf.change(shelf.items()["hello-1.0.0"], description="mine")
    for how in (How(), How(replace=True), How(keep_old=0)):
        assert "an item hello-1.0.0 that ovfbuild did not put there" in lab.fails(ova, how).message
    assert nothing_is_left(shelf, "hello-1.0.0")
    assert shelf.items()["hello-1.0.0"]["description"] == "mine"


def test_a_copy_is_its_owner_s(both: Shelf, ova: Path, disk: Path, tmp_path: Path) -> None:
    lab, shelf = both
    lab.publish(ova)
    first = shelf.items()["hello-1.0.0"]
    shelf.copy(first, shelf.make("others"), "mine")
    assert shelf.items()["mine"]["description"] == first["description"]
    shelf.copy(first, shelf.ask("GET", "/com/vmware/content/library")[0], "mine, too")
    shelf.copy(first, shelf.ask("GET", "/com/vmware/content/library")[1], "mine as well")
    lab.publish(packed(disk, tmp_path, "1.1.0"), How(keep_old=0))
    assert sorted(shelf.items()) == ["hello-1.1.0", "mine", "mine as well", "mine, too"]


def test_a_dry_run_sends_nothing(both: Shelf, ova: Path) -> None:
    lab, shelf = both
    assert lab.publish(ova, How(dry_run=True)).receipt.outcome == "planned"
    assert nothing_is_left(shelf)


def test_a_look_at_the_target(both: Shelf) -> None:
    lab, shelf = both
    publisher = Publisher(Silent(), environ={"SECRET": vsphere.PASSWORD}, patience=QUICK)
    tested = publisher.test(lab.target())
    assert tested.standing, tested.error
    assert tested.standing.server.endswith("library appliances")
    assert tested.standing.room
    assert nothing_is_left(shelf), "the item that it tried with is gone"


def test_a_library_that_is_not_to_be_had(both: Shelf, ova: Path) -> None:
    lab, shelf = both
    shelf.make("theirs", "subscribed")
    error = lab.fails(ova, library="nowhere")
    assert error.message == "library: there is no 'nowhere'"
    assert error.hint.endswith("there is: appliances, theirs")
    assert "theirs is subscribed to another one" in lab.fails(ova, library="theirs").message
    shelf.make("appliances")
    assert "is there twice" in lab.fails(ova).message


@pytest.mark.fault("wrong password")
def test_a_wrong_password(both: Shelf, ova: Path) -> None:
    lab, shelf = both
    publisher = Publisher(Silent(), environ={"SECRET": "not the right one"}, patience=QUICK)
    with pytest.raises(PublishError, match=f"does not let {vsphere.USER} in") as refused:
        publisher.publish(ova, lab.target(), How(), proven=True)
    assert refused.value.exit_code == 7
    assert "not the right one" not in refused.value.message + refused.value.hint
    assert nothing_is_left(shelf)


@pytest.mark.fault("no permission")
@pytest.mark.parametrize("where", [f"POST {ITEM}", f"POST {ITEM}/update-session", f"PATCH {ITEM}"])
def test_a_privilege_that_is_missing(
    where: str, vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    options = faults(f"{where} 403 0 unauthorized Not granted: ContentLibrary.AddLibraryItem")
    with library(vcsim, tmp_path, certificate, *options) as (lab, shelf):
        error = lab.fails(ova)
        assert "has not the privilege that this needs: Not granted: ContentLibrary.AddLibraryItem" in error.message
        assert "docs/clouds/vsphere.md" in error.hint
        assert nothing_is_left(shelf)


@pytest.mark.fault("full disk")
@pytest.mark.parametrize(
    "where", [f"{UPLOAD} 507 60000", f"POST {ITEM}/updatesession/file 400 0 {'unable_to_allocate_resource'}"]
)
def test_a_datastore_that_is_full(
    where: str, vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    with library(vcsim, tmp_path, certificate, *faults(where)) as (lab, shelf):
        error = lab.fails(ova)
        assert error.hint == "make room on the library's datastore"
        assert nothing_is_left(shelf)


def test_a_datastore_with_too_little_room(
    vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    with library(vcsim, tmp_path, certificate, "-room", "100000") as (lab, shelf):
        assert "library appliances has 0 MB free, and hello-1.0.0-vsphere.ova needs" in lab.fails(ova).message
        assert lab.sent == []
        assert nothing_is_left(shelf)


@pytest.mark.fault("server down")
def test_a_server_that_is_down(both: Shelf, ova: Path) -> None:
    lab, _ = both
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()
    error = lab.fails(ova, host=f"127.0.0.1:{port}")
    assert "refused" in error.message
    assert "(2 tries)" in error.message
    assert time.monotonic() - started < 10


@pytest.mark.fault("certificate wrong")
def test_a_certificate_that_nobody_trusts(both: Shelf, ova: Path) -> None:
    lab, shelf = both
    assert "has no certificate that is trusted here: self" in lab.fails(ova, ca_file=None).message
    assert nothing_is_left(shelf)
    heard = Heard()
    lab.publish(ova, heard=heard, ca_file=None, insecure=True)
    assert "any certificate is believed" in heard.text
    assert vsphere.PASSWORD not in heard.text


@pytest.mark.fault("token expired")
def test_a_session_that_the_server_ends(vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path) -> None:
    """In the middle of a file, and where its state is asked for."""
    options = faults(f"{UPLOAD} 401 60000", f"GET {ITEM}/update-session 401 0 unauthenticated")
    with library(vcsim, tmp_path, certificate, *options) as (lab, shelf):
        heard = Heard()
        publisher = Publisher(heard, environ={"SECRET": vsphere.PASSWORD}, patience=Patience(3, 0.1, 1))
        publisher.publish(ova, lab.target(), How(), proven=True)
        assert "the session is over; trying again" in heard.text
        assert nothing_is_left(shelf, "hello-1.0.0")
        assert kept(lab, shelf.items()["hello-1.0.0"]) == members_of(ova)


@contextmanager
def connected(lab: Lab) -> Iterator[Cloud]:
    environ = {"SECRET": vsphere.PASSWORD}
    around = Surroundings(environ, Secrets(environ), Silent(), Cache().workspace)
    with clouds.connect(lab.target(), around) as cloud:
        yield cloud


def test_it_logs_in_again(both: Shelf) -> None:
    lab, _ = both
    with connected(lab) as cloud:
        assert cloud.stored("hello") == []
        api: Any = cloud
        api._api._token = "one that is over"
        with pytest.raises(TryAgain, match="the session is over"):
            cloud.stored("hello")
        assert cloud.stored("hello") == []


@pytest.mark.fault("connection cut at half", "500 in the middle", "slow server")
@pytest.mark.parametrize("what", ["cut 60000", "500 60000", "503 0 service_unavailable", "stall 60000"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_upload_that_breaks(
    what: str, times: int, vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    """Once, and as often as it is tried: then nothing is left of it."""
    with library(vcsim, tmp_path, certificate, *faults(*[f"{UPLOAD} {what}"] * times)) as (lab, shelf):
        lab.table["timeout"] = "4 s" if "stall" in what else "10 s"
        if times == 1:
            heard = Heard()
            lab.publish(ova, heard=heard)
            assert "trying again" in heard.text
            assert kept(lab, shelf.items()["hello-1.0.0"]) == members_of(ova)
        else:
            assert "(2 tries)" in lab.fails(ova).message
        assert nothing_is_left(shelf, *["hello-1.0.0"] * (times == 1))


def test_a_slow_server_is_waited_for(vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path) -> None:
    with library(vcsim, tmp_path, certificate, *faults(*[f"{UPLOAD} slow 0"] * 3)) as (lab, shelf):
        heard = Heard()
        lab.publish(ova, heard=heard)
        assert "trying again" not in heard.text
        assert nothing_is_left(shelf, "hello-1.0.0")


def test_an_update_session_that_ends_meanwhile(
    vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept alive; a word that is lost is no harm, an end is."""
    ova = packed(noisy(tmp_path), tmp_path)
    monkeypatch.setattr(heartbeat, "_EVERY", 0.05)
    word = f"POST {ITEM}/update-session/id:.*keep-alive"
    options = faults(f"{UPLOAD} slow 0", f"{word} 503 0", f"{word} 404 0", f"{UPLOAD} slow 0", f"{word} 503 0")
    with library(vcsim, tmp_path, certificate, *options) as (lab, shelf):
        heard = Heard()
        lab.publish(ova, heard=heard)
        assert heard.text.count("what was there a moment ago is gone; trying again") == 1
        assert nothing_is_left(shelf, "hello-1.0.0")


@pytest.mark.parametrize(("what", "again"), [("late 0", False), ("503 0", True), ("cut 0", True)])
def test_an_answer_that_takes_its_time(
    what: str,
    again: bool,
    vcsim: Path,
    tmp_path: Path,
    certificate: tuple[Path, Path],
    ova: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that takes gigabytes in may be at it when nobody waits any longer; one that refused is not."""
    monkeypatch.setattr(library_cloud, "_ANSWER", 1)
    options = faults(f"POST {ITEM}/update-session/id:.*complete {what}")
    with library(vcsim, tmp_path, certificate, *options) as (lab, shelf):
        heard = Heard()
        lab.publish(ova, heard=heard, timeout="4 s")
        assert ("trying again" in heard.text) == again
        assert nothing_is_left(shelf, "hello-1.0.0")


@pytest.mark.fault("process killed at half")
def test_a_run_that_is_killed_in_the_middle(
    vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    options: Sequence[str] = faults(f"{UPLOAD} stall 60000")
    with library(vcsim, tmp_path, certificate, *options) as (lab, shelf):
        argv, environ = lab.killed(ova, tmp_path)
        (left,) = shelf.items()
        assert left.startswith("hello-1.0.0.unfinished-"), "it never looks whole"
        assert len(shelf.updates()) == 1
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert vsphere.PASSWORD not in done.stdout + done.stderr
        item = shelf.items()["hello-1.0.0"]
        assert item["id"] in done.stdout
        assert nothing_is_left(shelf, "hello-1.0.0"), "nor its update session"
        assert kept(lab, item) == members_of(ova)


def test_what_ends_between_two_steps_is_found(both: Shelf, ova: Path, disk: Path, tmp_path: Path) -> None:
    """All is sent, nothing is whole; then, the old one has given its name away already."""
    lab, shelf = both
    goods = prepare(open_package(ova), None, None, Silent())
    with connected(lab) as cloud:
        cloud.send(goods, None, Meter(Silent(), goods.size))
        (found,) = cloud.stored("hello")
        assert not found.whole
    lab.publish(ova)
    assert nothing_is_left(shelf, "hello-1.0.0")
    shelf.change(shelf.items()["hello-1.0.0"], name="hello-1.0.0.replaced-00000000")
    lab.publish(packed(disk, tmp_path / "b", summary="another"), How(replace=True))
    assert nothing_is_left(shelf, "hello-1.0.0")
