"""Packages in a real S3-compatible store (SeaweedFS): whole, once, continued, and nothing half-done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import PublishError, UsageError
from ovfbuild.publish import s3
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Published, Publisher
from ovfbuild.tries import Patience
from tests import faults, filesystems
from tests.faulty import certificate
from tests.seaweedfs import KEYS, SECRET, Store, seaweedfs
from tests.unit.publish.kit import Heard, ova, target

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]
boto3: Any = pytest.importorskip("boto3")

QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02)
PART = 5 << 20
"""Bytes: the least that S3 takes."""


@pytest.fixture(scope="module")
def store(needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    needs("openssl")
    root = tmp_path_factory.mktemp("store")
    with seaweedfs(root, tls=certificate(root)) as running:
        yield running


@dataclass
class Shop:
    store: Store
    folder: Path
    heard: Heard

    def publish(
        self, path: Path, how: How | None = None, prefix: str = "", name: str | None = None, **table: Any
    ) -> Published:
        at = {"endpoint": f"http://127.0.0.1:{self.store.port}", "bucket": "appliances", "prefix": prefix, **table}
        aim = target(self.folder, name="store", kind="s3", **at)
        return Publisher(self.heard, patience=QUICK).publish(path, aim, how or How())

    def refused(self, path: Path, said: str, how: How | None = None, prefix: str = "", **table: Any) -> PublishError:
        """What it ends with: these words, exit code 7, and no secret in any text."""
        with pytest.raises(PublishError, match=said) as caught:
            self.publish(path, how, prefix, **table)
        error = caught.value
        assert error.exit_code == 7
        for text in (self.heard.text, str(error), error.hint, repr(caught.getrepr())):
            assert not [secret for secret, _ in KEYS.values() if secret in text]
        return error


@pytest.fixture
def shop(store: Store, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "writer")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3, "_SMALLEST_PART", PART)
    return Shop(store, tmp_path, Heard())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three parts."""
    return ova(tmp_path_factory.mktemp("package") / "a-1.0.ova", more=11)


def test_twice_is_once_and_what_is_there_is_what_was_sent(shop: Shop, package: Path) -> None:
    first, second = shop.publish(package, prefix="twice"), shop.publish(package, prefix="twice")
    assert (first.receipt.outcome, second.receipt.outcome) == ("published", "present")
    key = f"twice/a/{shop.store.catalogue('twice')['versions'][0]['ova']}"
    assert shop.store.body(key) == package.read_bytes()
    assert shop.store.client.head_object(Bucket="appliances", Key=key)["ETag"].endswith('-3"')
    assert len(shop.store.keys("twice")) == 3 and shop.store.uploads("twice") == []
    assert first.lines[0] == f"http://127.0.0.1:{shop.store.port}/appliances/{key}"
    public = shop.publish(package, prefix="twice", public_url="https://files.example.org/x")
    assert public.lines[0] == f"https://files.example.org/x/{key.removeprefix('twice/')}"


def test_replaced_and_old_versions_go(shop: Shop, package: Path, tmp_path: Path) -> None:
    for version in ("0.1", "0.2", "1.0"):
        shop.publish(ova(tmp_path / "old.ova", version), prefix="old")
    shop.publish(package, How(replace=True), prefix="old")
    shop.publish(package, How(keep_old=1), prefix="old")
    catalogue = shop.store.catalogue("old")
    assert [one["version"] for one in catalogue["versions"]] == ["0.2", "1.0"]
    assert len(shop.store.keys("old")) == 5


def test_a_line_that_breaks_is_continued(shop: Shop, package: Path) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault(r"PUT .*partNumber=2", "cut", 2), faults.Fault(r"PUT .*partNumber=3", "503", 1)]
        shop.publish(package, prefix="cut", endpoint=f"http://127.0.0.1:{line.port}", parallel=1)
    parts = [one.partition("partNumber=")[2].partition("&")[0] for one in line.requests if "partNumber" in one]
    assert parts == ["1", "2", "2", "2", "3", "3"], "what arrived is not sent again"
    key = f"cut/a/{shop.store.catalogue('cut')['versions'][0]['ova']}"
    assert shop.store.body(key) == package.read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of eight parts."""
    return ova(tmp_path_factory.mktemp("large") / "a-1.0.ova", more=36)


def numbers(line: faults.Line) -> list[int]:
    """Of the parts that were sent."""
    return [int(one.partition("partNumber=")[2].partition("&")[0]) for one in line.requests if "partNumber" in one]


@pytest.mark.parametrize("lanes", [1, 4])
def test_so_many_parts_are_on_their_way_at_once(shop: Shop, large: Path, lanes: int) -> None:
    """Each waits on its way for the others: with fewer they would wait in vain."""
    meeting, lock, counts = threading.Barrier(lanes), threading.Lock(), [0, 0]

    def meet() -> None:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        meeting.wait(30)
        time.sleep(0.1)
        with lock:
            counts[0] -= 1

    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault("PUT .*partNumber", "pass", seen=meet)]
        prefix, endpoint = f"lanes{lanes}", f"http://127.0.0.1:{line.port}"
        shop.publish(large, prefix=prefix, endpoint=endpoint, parallel=lanes)
    assert sorted(numbers(line)) == [*range(1, 9)] and counts[1] == lanes
    key = f"{prefix}/a/{shop.store.catalogue(prefix)['versions'][0]['ova']}"
    assert shop.store.body(key) == large.read_bytes()


@pytest.mark.parametrize("does", ["cut", "400:ExpiredToken", "503"])
def test_a_part_that_fails_beside_others_is_the_only_one_sent_again(shop: Shop, large: Path, does: str) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault("PUT .*partNumber=3", does, 1)]
        shop.publish(large, How(replace=True), prefix="beside", endpoint=f"http://127.0.0.1:{line.port}")
    assert sorted(numbers(line)) == sorted([*range(1, 9), 3])
    assert len(shop.store.keys("beside")) == 3 and shop.store.uploads("beside") == []


def test_the_first_part_that_is_refused_ends_the_others(shop: Shop, large: Path) -> None:
    """Those that were on their way arrive before the upload is aborted: else they would stay."""
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault("PUT .*partNumber=[2-4]", "slow"), faults.Fault("PUT .*partNumber=1", "507")]
        shop.refused(large, "upload_part: 507", prefix="ended", endpoint=f"http://127.0.0.1:{line.port}")
    assert set(numbers(line)) <= {1, 2, 3, 4} and any(one.startswith("DELETE") for one in line.requests)
    assert shop.store.keys("ended") == [] and shop.store.uploads("ended") == []


PART_2, COMPLETE = "PUT .*partNumber=2", "POST .*uploadId"
PART_2_OF = re.compile(PART_2.encode())


@pytest.mark.fault("connection cut at half", "500 in the middle", "slow server")
@pytest.mark.parametrize(
    ("what", "does", "said"),
    [
        (PART_2, "cut", r"can't be reached: .*\(3 tries\)"),
        (PART_2, "silent", r"can't be reached: no answer in time \(3 tries\)"),
        (PART_2, "500", r"upload_part: .*\(3 tries\)"),
        (COMPLETE, "500", r"complete_multipart_upload: .*\(3 tries\)"),
        (COMPLETE, "403", "complete_multipart_upload: 403"),
    ],
    ids=["cut", "silent", "500", "500 at the end", "403 at the end"],
)
def test_what_does_not_pass_leaves_nothing(shop: Shop, package: Path, what: str, does: str, said: str) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault(what, does)]
        shop.refused(package, said, prefix="never", endpoint=f"http://127.0.0.1:{line.port}", timeout="0.5 s")
    assert shop.store.keys("never") == [] and shop.store.uploads("never") == []


@pytest.mark.fault("full disk")
def test_a_disk_that_is_full(shop: Shop, package: Path, tmp_path: Path, needs: Callable[..., None]) -> None:
    """The first part fits."""
    needs("unshare")
    (tmp_path / "store/data").mkdir(parents=True)
    with seaweedfs(tmp_path / "store", under=filesystems.full(tmp_path / "store/data", "8m")) as small:
        full = Shop(small, tmp_path, Heard())
        full.refused(package, r"upload_part: InternalError .*\(3 tries\)")
        assert small.keys("") == [] and small.uploads("") == []


@pytest.mark.fault("quota")
def test_a_bucket_s_quota(shop: Shop, package: Path) -> None:
    """SeaweedFS makes a bucket read-only that is over its quota; here while the second part is on its way."""
    store, bucket = shop.store, "tight"
    store.client.create_bucket(Bucket=bucket)
    store.client.put_object(Bucket=bucket, Key="theirs", Body=os.urandom(3 << 20))
    for _ in range(60):
        if re.search(rf"{bucket}\s+size:[1-9]", store.shell("s3.bucket.list")):
            break
        time.sleep(0.5)

    def enforce() -> None:
        said = store.shell(f"s3.bucket.quota -name={bucket} -op=set -sizeMB=1", "s3.bucket.quota.enforce -apply")
        assert "to read only" in said

    with faults.line(store.port) as line:
        line.faults = [faults.Fault(PART_2, "pass", 1, enforce)]
        endpoint = f"http://127.0.0.1:{line.port}"
        shop.refused(package, r"InternalError .*\(3 tries\)", bucket=bucket, endpoint=endpoint)
    assert store.keys("", bucket) == ["theirs"] and store.uploads("", bucket) == []


@pytest.mark.fault("image of that name there already")
def test_another_content_of_that_version_is_refused(shop: Shop, package: Path, tmp_path: Path) -> None:
    shop.publish(package, prefix="same")
    before = shop.store.keys("same")
    refused = shop.refused(
        ova(tmp_path / "other.ova", product="q"), "there already with another content", prefix="same"
    )
    assert "--replace" in refused.hint and shop.store.keys("same") == before and shop.store.uploads("same") == []


@pytest.mark.fault("process killed at half")
def test_killed_at_half_and_continued_by_the_next(shop: Shop, package: Path, tmp_path: Path) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault("PUT .*partNumber=2", "silent")]
        config = tmp_path / "ovfbuild" / "targets.toml"
        config.parent.mkdir()
        config.write_text(
            '[[publish]]\nname="x"\nkind="s3"\nbucket="appliances"\nprefix="killed"\n'
            f'endpoint="http://127.0.0.1:{line.port}"\nparallel=1\n'
        )
        small = f"from ovfbuild.publish import s3; s3._SMALLEST_PART = {PART}"
        argv = ["publish", str(package), "--to", "x"]
        code = f"{small}; import sys; sys.argv[1:] = {argv!r}; from ovfbuild.cli.main import main; main()"
        env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
        with subprocess.Popen([sys.executable, "-c", code], env=env) as running:
            while not any("partNumber=2" in one for one in line.requests):
                assert running.poll() is None
                time.sleep(0.05)
            running.send_signal(signal.SIGKILL)
    assert shop.store.catalogue("killed")["versions"] == []
    assert len(shop.store.uploads("killed")) == 1
    with faults.line(shop.store.port) as line:
        shop.publish(package, prefix="killed", endpoint=f"http://127.0.0.1:{line.port}", parallel=1)
    parts = [one.partition("partNumber=")[2].partition("&")[0] for one in line.requests if "partNumber" in one]
    assert parts == ["2", "3"]
    assert shop.store.uploads("killed") == [] and len(shop.store.keys("killed")) == 3
    key = f"killed/a/{shop.store.catalogue('killed')['versions'][0]['ova']}"
    assert shop.store.body(key) == package.read_bytes()


@pytest.mark.fault("server down", "wrong password", "no permission")
def test_refusals(shop: Shop, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "make the bucket" in shop.refused(package, "404", bucket="nowhere").hint
    endpoint = f"http://127.0.0.1:{faults.free_port()}"
    shop.refused(package, r"can't be reached: Connection refused \(3 tries\)", endpoint=endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    assert "check the credentials" in shop.refused(package, "403", prefix="wrong").hint
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["reader"][0])
    assert "s3:ListBucketMultipartUploads" in shop.refused(package, "AccessDenied", prefix="readonly").hint
    assert shop.store.keys("wrong") == shop.store.keys("readonly") == []
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="boto3 finds no credentials"):
        shop.publish(package)


@pytest.mark.fault("certificate wrong")
def test_a_certificate_of_nobody(shop: Shop, package: Path) -> None:
    url = f"https://127.0.0.1:{shop.store.tls}"
    said = "no certificate that is trusted here: self-signed certificate"
    assert "ca_file" in shop.refused(package, said, prefix="tls", endpoint=url).hint
    assert shop.store.keys("tls") == []
    trusted = shop.publish(package, prefix="tls", endpoint=url, ca_file=str(shop.store.root / "server.pem"))
    assert trusted.receipt.outcome == "published" and "insecure" not in shop.heard.text
    assert shop.publish(package, prefix="tls", endpoint=url, insecure=True).receipt.outcome == "present"
    assert "warning: store: insecure = true, so any certificate is believed" in shop.heard.text


def test_credentials_come_from_a_profile_and_are_never_seen(
    shop: Shop, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(f"[ci]\naws_access_key_id = writer\naws_secret_access_key = {SECRET}\n")
    shop.publish(package, prefix="profile", profile="ci")
    shop.refused(package, "nobody", prefix="profile", profile="nobody")


@pytest.mark.fault("token expired")
def test_a_token_that_is_over_is_asked_for_again(
    shop: Shop, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store says so in words of the line's; what was written into the profile meanwhile lets us in."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    def profile(key: str) -> None:
        (tmp_path / "credentials").write_text(
            f"[ci]\naws_access_key_id = {key}\naws_secret_access_key = {KEYS[key][0]}\n"
        )

    with faults.line(shop.store.port) as line:
        at: dict[str, Any] = {"profile": "ci", "endpoint": f"http://127.0.0.1:{line.port}"}
        profile("writer")
        line.faults = [faults.Fault(PART_2, "400:ExpiredToken")]
        shop.refused(package, r"ExpiredToken; .*\(3 tries\)", prefix="token", **at)
        assert shop.store.keys("token") == [] and shop.store.uploads("token") == []
        line.faults = [faults.Fault(PART_2, "400:ExpiredToken", 1, lambda: profile("renewed"))]
        assert shop.publish(package, prefix="token", **at).receipt.outcome == "published"
    assert "asking for credentials again" in shop.heard.text
    assert [head for head in line.heads if PART_2_OF.search(head) and b"Credential=renewed/" in head]
