"""`ovfbuild publish` to a vCenter: the simulator, over real SOAP and NFC on loopback, with what goes wrong there."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.cache import Cache
from ovfbuild.errors import PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish import clouds, heartbeat
from ovfbuild.publish.cloud import Surroundings
from ovfbuild.publish.credentials import Secrets
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Publisher
from ovfbuild.tries import Patience, TryAgain
from tests import faulty
from tests.importers import vsphere
from tests.importers.lab import PROPERTIES, QUICK, Lab, digest, disk_of, faults, laboratory, noisy, packed
from tests.unit.publish.kit import Heard

pytestmark = [pytest.mark.importers, pytest.mark.timeout(1800)]  # the first may have to install


@pytest.fixture
def lab(vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Lab]:
    with laboratory(vcsim, tmp_path, certificate) as running:
        running.table["cluster"] = "DC0_C0"
        yield running


def test_the_same_package_twice_is_one_machine(lab: Lab, ova: Path) -> None:
    first = lab.publish(ova)
    assert first.receipt.outcome == "published"
    assert [digest(one) for one in lab.sent] == [disk_of(ova)], "as it lies in the OVA"
    (config,) = (machines := lab.machines()).values()
    assert list(machines) == ["hello-1.0.0"]
    kept = {one.key: one.value for one in config.extraConfig}
    assert kept["ovfbuild.sha256"] == digest(ova)
    assert not config.template
    assert lab.publish(ova).receipt.outcome == "present"
    assert list(lab.machines()) == ["hello-1.0.0"]
    assert len(lab.sent) == 1, "nothing was sent again"


def test_a_template_with_a_network_a_property_and_a_folder(
    lab: Lab, disk: Path, tmp_path: Path, own_cache: Path
) -> None:
    vsphere.make_folder(lab.server, "templates")
    ova = packed(disk, tmp_path, properties=PROPERTIES, networks=[{"name": "somewhere"}])
    more: dict[str, Any] = {
        "template": True,
        "networks": {"somewhere": "DC0_DVPG0"},
        "property_mapping": {"greeting": "hi"},
    }
    lab.publish(ova, folder="templates", **more)
    config = lab.machines()["hello-1.0.0"]
    assert config.template
    assert {one.key: one.value for one in config.extraConfig}["greeting"] == "hi", "the simulator puts it there"
    (card,) = (
        one
        for one in config.hardware.device
        if "ethernet" in type(one).__name__.lower() or "mxnet" in type(one).__name__
    )
    assert "DistributedVirtualPort" in type(card.backing).__name__
    with pytest.raises(PublishError, match=r"somewhere.*there are \d"):
        lab.publish(ova, How(replace=True), networks={})
    with pytest.raises(PublishError, match="has no property 'other'"):
        lab.publish(ova, How(replace=True), **more | {"property_mapping": {"other": "1"}})
    with pytest.raises(PublishError, match="there is no 'nowhere'"):
        lab.publish(ova, folder="nowhere")
    assert lab.publish(ova, folder="templates", **more).receipt.outcome == "present"


def test_a_deployment_option(lab: Lab, disk: Path, tmp_path: Path, own_cache: Path) -> None:
    options = [
        {"id": "small", "label": "Small", "description": "for a few", "default": True},
        {"id": "large", "label": "Large", "description": "for many", "cpus": 8, "memory": "8 GiB"},
    ]
    ova = packed(disk, tmp_path, deployment_options=options)
    lab.publish(ova, deployment_option="large")
    assert lab.machines()["hello-1.0.0"].hardware.numCPU == 8


def test_another_content_of_a_version_takes_its_place_when_asked(
    lab: Lab, ova: Path, disk: Path, tmp_path: Path
) -> None:
    lab.publish(ova)
    other = packed(disk, tmp_path / "b", summary="another")
    with pytest.raises(PublishError, match="is there already with another content") as refused:
        lab.publish(other)
    assert refused.value.exit_code == 7
    assert len(lab.sent) == 1
    receipt = lab.publish(other, How(replace=True)).receipt
    assert [one.version for one in receipt.removed] == ["1.0.0"]
    (config,) = lab.machines().values()
    assert list(lab.machines()) == ["hello-1.0.0"]
    assert {one.key: one.value for one in config.extraConfig}["ovfbuild.sha256"] == digest(other)


def test_versions_stay_until_there_are_too_many(lab: Lab, ova: Path, disk: Path, tmp_path: Path) -> None:
    lab.publish(ova)
    lab.publish(packed(disk, tmp_path, "1.1.0"))
    assert sorted(lab.machines()) == ["hello-1.0.0", "hello-1.1.0"]
    lab.publish(packed(disk, tmp_path, "1.2.0"), How(keep_old=1))
    assert sorted(lab.machines()) == ["hello-1.1.0", "hello-1.2.0"]


@pytest.mark.fault("image of that name there already")
def test_a_machine_of_that_name_that_is_another_s_is_not_touched(lab: Lab, ova: Path) -> None:
    lab.publish(ova)
    vsphere.forget(lab.server, "hello-1.0.0")
    before = vsphere.machines(lab.server)["hello-1.0.0"].instanceUuid
    for how in (How(), How(replace=True)):
        with pytest.raises(PublishError, match="that ovfbuild did not put there"):
            lab.publish(ova, how)
    assert lab.machines()["hello-1.0.0"].instanceUuid == before
    assert len(lab.sent) == 1


def test_a_clone_is_its_owner_s(lab: Lab, ova: Path, disk: Path, tmp_path: Path) -> None:
    lab.publish(ova)
    vsphere.clone(lab.server, "hello-1.0.0", "mine")
    assert {one.key for one in lab.machines()["mine"].extraConfig} >= {"ovfbuild.sha256"}, "it has the marks, too"
    lab.publish(packed(disk, tmp_path, "1.1.0"), How(keep_old=0))
    assert sorted(lab.machines()) == ["hello-1.1.0", "mine"]


def test_a_dry_run_sends_nothing(lab: Lab, ova: Path) -> None:
    assert lab.publish(ova, How(dry_run=True)).receipt.outcome == "planned"
    assert lab.machines() == {}


def test_a_look_at_the_target(lab: Lab) -> None:
    publisher = Publisher(Silent(), environ={"SECRET": vsphere.PASSWORD}, patience=QUICK)
    tested = publisher.test(lab.target())
    assert tested.standing, tested.error
    assert "vCenter" in tested.standing.server
    assert tested.standing.room


@pytest.mark.fault("wrong password")
def test_a_wrong_password(lab: Lab, ova: Path) -> None:
    publisher = Publisher(Silent(), environ={"SECRET": "not the right one"}, patience=QUICK)
    with pytest.raises(PublishError, match=f"does not let {vsphere.USER} in") as refused:
        publisher.publish(ova, lab.target(), How(), proven=True)
    assert refused.value.exit_code == 7
    assert "not the right one" not in refused.value.message + refused.value.hint
    assert lab.machines() == {}


@pytest.mark.fault("token expired")
def test_a_session_that_the_server_ends(lab: Lab) -> None:
    environ = {"SECRET": vsphere.PASSWORD}
    around = Surroundings(environ, Secrets(environ), Silent(), Cache().workspace)
    with clouds.connect(lab.target(), around) as cloud:
        assert cloud.stored("hello") == []
        vsphere.end_sessions(lab.server)
        with pytest.raises(TryAgain, match="the session is over"):
            cloud.stored("hello")
        assert cloud.stored("hello") == [], "it has logged in again"


@pytest.mark.fault("certificate wrong")
def test_a_certificate_that_nobody_trusts(lab: Lab, ova: Path) -> None:
    with pytest.raises(PublishError, match="has no certificate that is trusted here"):
        lab.publish(ova, ca_file=None)
    assert lab.machines() == {}
    heard = Heard()
    lab.publish(ova, heard=heard, ca_file=None, insecure=True)
    assert "any certificate is believed" in heard.text
    assert vsphere.PASSWORD not in heard.text


@pytest.mark.fault("server down")
def test_a_server_that_is_down(lab: Lab, ova: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(PublishError, match=r"refused.* \(2 tries\)") as failed:
        lab.publish(ova, host=f"127.0.0.1:{port}")
    assert failed.value.exit_code == 7
    assert time.monotonic() - started < 10


def test_a_connection_that_is_cut_in_the_middle(
    vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    with laboratory(vcsim, tmp_path, certificate, *faults("POST /nfc/ cut 60000")) as lab:
        lab.table["cluster"] = "DC0_C0"
        heard = Heard()
        assert lab.publish(ova, heard=heard).receipt.outcome == "published"
        assert "trying again" in heard.text
        assert list(lab.machines()) == ["hello-1.0.0"], "nothing is left of the first try"
        assert digest(lab.sent[-1]) == disk_of(ova)


@pytest.mark.fault("connection cut at half")
def test_the_last_try_is_cleaned_away_too(
    vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    with laboratory(vcsim, tmp_path, certificate, *faults("POST /nfc/ cut 60000")) as lab:
        lab.table["cluster"] = "DC0_C0"
        publisher = Publisher(Silent(), environ={"SECRET": vsphere.PASSWORD}, patience=Patience(tries=1))
        with pytest.raises(PublishError, match=r"127\.0\.0\.1"):
            publisher.publish(ova, lab.target(), How(), proven=True)
        assert lab.machines() == {}


@pytest.mark.fault("process killed at half")
def test_a_run_that_is_killed_in_the_middle(
    vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path], ova: Path
) -> None:
    with laboratory(vcsim, tmp_path, certificate, *faults("POST /nfc/ stall 60000")) as lab:
        lab.table["cluster"] = "DC0_C0"
        argv, environ = lab.killed(ova, tmp_path)
        (left,) = lab.machines()
        assert ".unfinished-" in left, "it never looks whole"
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "hello-1.0.0" in done.stdout
        assert vsphere.PASSWORD not in done.stdout + done.stderr
        assert list(lab.machines()) == ["hello-1.0.0"]
        assert digest(lab.sent[-1]) == disk_of(ova)


Run = Callable[..., AbstractContextManager[Lab]]


@pytest.fixture
def run(vcsim: Path, tmp_path: Path, certificate: tuple[Path, Path]) -> Run:
    """A laboratory with options of the simulator."""

    @contextmanager
    def started(*options: str) -> Iterator[Lab]:
        with laboratory(vcsim, tmp_path, certificate, *options) as lab:
            lab.table["cluster"] = "DC0_C0"
            yield lab

    return started


@pytest.mark.fault("no permission")
@pytest.mark.parametrize("method", ["CreateImportSpec", "ImportVApp", "HttpNfcLeaseComplete", "Rename_Task"])
def test_a_privilege_that_is_missing(method: str, run: Run, ova: Path) -> None:
    with run("-refuse", f"{method} NoPermission VApp.Import") as lab:
        error = lab.fails(ova)
        assert error.message.endswith(f"{vsphere.USER} has not the privilege VApp.Import there")
        assert "docs/clouds/vsphere.md" in error.hint
        assert lab.machines() == {}


def test_a_look_at_the_target_says_which_privilege_is_missing(run: Run) -> None:
    with run("-missing", "Datastore.AllocateSpace") as lab:
        publisher = Publisher(Silent(), environ={"SECRET": vsphere.PASSWORD}, patience=QUICK)
        tested = publisher.test(lab.target())
        assert tested.standing is None
        assert "has not the privilege Datastore.AllocateSpace on LocalDS_0" in tested.error


@pytest.mark.fault("full disk")
@pytest.mark.parametrize("method", ["ImportVApp", "HttpNfcLeaseComplete"])
def test_a_datastore_that_is_full(method: str, run: Run, ova: Path) -> None:
    with run("-refuse", f"{method} NoDiskSpace LocalDS_0") as lab:
        error = lab.fails(ova)
        assert "NoDiskSpace" in error.message
        assert error.hint == "make room on the datastore"
        assert lab.machines() == {}


@pytest.mark.fault("full disk")
def test_a_datastore_that_is_full_in_the_middle(
    run: Run, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease says so when it is told of the progress."""
    ova = packed(noisy(tmp_path), tmp_path)
    monkeypatch.setattr(heartbeat, "_EVERY", 0.05)
    options = ("-refuse", "HttpNfcLeaseProgress NoDiskSpace LocalDS_0 1", *faults("POST /nfc/ slow 0"))
    with run(*options) as lab:
        assert lab.fails(ova).hint == "make room on the datastore"
        assert lab.machines() == {}


def test_a_datastore_with_too_little_room(run: Run, ova: Path) -> None:
    with run("-room", "100000") as lab:
        assert "has 0 MB free, and hello-1.0.0-vsphere.ova needs" in lab.fails(ova).message
        assert lab.machines() == {}


@pytest.mark.fault("500 in the middle", "slow server")
@pytest.mark.parametrize("what", ["500 60000", "503 0", "stall 60000"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_upload_that_breaks(what: str, times: int, run: Run, ova: Path) -> None:
    """Once, and as often as it is tried: then nothing is left of it."""
    with run(*faults(*[f"POST /nfc/ {what}"] * times)) as lab:
        lab.table["timeout"] = "4 s" if "stall" in what else "10 s"
        if times == 1:
            heard = Heard()
            lab.publish(ova, heard=heard)
            assert "trying again" in heard.text
            assert digest(lab.sent[-1]) == disk_of(ova)
        else:
            assert "(2 tries)" in lab.fails(ova).message
        assert list(lab.machines()) == ["hello-1.0.0"] * (times == 1)


def test_a_slow_server_is_waited_for(run: Run, ova: Path) -> None:
    with run(*faults("POST /nfc/ slow 0")) as lab:
        heard = Heard()
        lab.publish(ova, heard=heard)
        assert "trying again" not in heard.text


@pytest.mark.fault("token expired")
@pytest.mark.parametrize(
    "options", [faults("POST /nfc/ 401 60000"), ["-refuse", "HttpNfcLeaseComplete NotAuthenticated System.View 1"]]
)
def test_a_session_that_ends_in_the_middle(options: Sequence[str], run: Run, ova: Path) -> None:
    with run(*options) as lab:
        heard = Heard()
        lab.publish(ova, heard=heard)
        assert "trying again" in heard.text
        assert list(lab.machines()) == ["hello-1.0.0"]
        assert digest(lab.sent[-1]) == disk_of(ova)


def test_a_host_that_has_a_certificate_of_its_own(
    run: Run, ova: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """The vCenter vouches for it by its thumbprint; what shows another one is sent nothing."""
    pem, key = faulty.certificate(tmp_path)
    host = ("-host-cert", str(pem), "-host-key", str(key))
    with run(*host) as lab:
        lab.publish(ova)
        assert [digest(one) for one in lab.sent] == [disk_of(ova)]
    (tmp_path / "lab").rename(tmp_path / "first")
    with run(*host, "-thumbprint", ":".join(["A0"] * 20)) as lab:
        error = lab.fails(ova)
        assert "shows another certificate than the vCenter says" in error.message
        assert lab.sent == []
        assert lab.machines() == {}


def test_a_single_esxi(run: Run, ova: Path) -> None:
    """Its lease calls it `*`; it has neither templates nor content libraries."""
    with run("-esx") as lab:
        own = set(vsphere.machines(lab.server))
        del lab.table["cluster"]
        assert [lab.publish(ova).receipt.outcome for _ in range(2)] == ["published", "present"]
        assert set(vsphere.machines(lab.server)) == {*own, "hello-1.0.0"}
        assert [digest(one) for one in lab.sent] == [disk_of(ova)]
        assert "has no Automation API" in lab.fails(ova, library="appliances").message
        assert "a vCenter, 6.5 or newer" in lab.fails(ova, library="appliances").hint
        assert "is an ESXi, which has no templates" in lab.fails(ova, template=True).message
