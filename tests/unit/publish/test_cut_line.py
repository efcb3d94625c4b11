"""A line that is cut while TLS is spoken is tried again: requests, botocore and urllib3 call that an SSLError, too."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.cache import Cache
from ovfbuild.errors import PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish import clouds
from ovfbuild.publish.cloud import Surroundings
from ovfbuild.publish.credentials import Secrets
from ovfbuild.tries import TryAgain
from tests.faulty import certificate
from tests.unit.publish.kit import target

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path, needs: Callable[..., None]) -> Iterator[tuple[str, Path]]:
    """The URL of one that ends every connection in the middle of a body, and its certificate."""
    needs("openssl")
    pem, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(client, server_side=True) as talk:
                    for _ in range(20):
                        talk.recv(1 << 14)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", pem
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_it_is_no_matter_of_certificates(
    kind: str, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "s3":
        pytest.importorskip("boto3")
    url, pem = server
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of nobody")
    tables: dict[str, dict[str, Any]] = {"http": {"url": url}, "s3": {"bucket": "b", "endpoint": url, "region": "r"}}

    def write(**more: Any) -> None:
        around = Surroundings({}, Secrets({}), Silent(), Cache().workspace)
        with clouds.connect(target(tmp_path, name="t", kind=kind, **tables[kind], **more), around) as cloud:
            known: Any = cloud
            known._store.write("a/b", bytes(30 * MIB), "text/plain")

    with pytest.raises(TryAgain, match="can't be reached"):
        write(ca_file=str(pem))
    with pytest.raises(PublishError, match="has no certificate that is trusted here: self"):
        write()
