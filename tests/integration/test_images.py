"""Base images from a server, by the whole command: what is fetched, kept and refused."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.integration.test_make import SEALED, Shop

pytestmark = pytest.mark.qemu


class Server:
    """A web server on loopback: files, and how it shall misbehave."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str | None]] = []
        self.cut_first = 0
        """Bytes after which the first answer of all breaks off."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *words: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name, ranged = request.path.lstrip("/"), request.headers.get("Range")
        self.asked.append((name, ranged))
        content = self.files.get(name)
        if content is None:
            request.send_error(404)
            return
        start = int(ranged.removeprefix("bytes=").partition("-")[0]) if ranged else 0
        request.send_response(206 if ranged else 200)
        request.send_header("ETag", '"one"')
        if ranged:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        cut, self.cut_first = self.cut_first, 0
        request.wfile.write(content[start : cut or None])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def shop(tmp_path: Path, needs: Callable[..., None]) -> Shop:
    needs("qemu-system-x86_64", "qemu-img")
    return Shop(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    image = tiny.disk(tmp_path / "served.raw", *SEALED).read_bytes()
    digest = hashlib.sha256(image).hexdigest()
    server = Server({"tiny.raw": image, "SHA256SUMS": f"{digest}  tiny.raw\n".encode()})
    yield server
    server.close()


def appliance(shop: Shop, base: str) -> Path:
    path = shop.folder / "appliance.toml"
    path.write_text(f'name = "tiny"\nversion = "1.0.0"\n[base]\n{base}\n[hardware]\ndisk = "1 GiB"\n')
    return path


def test_a_broken_transfer_is_continued_and_the_image_kept(shop: Shop, server: Server) -> None:
    server.cut_first = 400_000
    base = f'image = "{server.address}/tiny.raw"\nchecksums = "{server.address}/SHA256SUMS"'
    server.files["SHA256SUMS"], sums = b"", server.files["SHA256SUMS"]
    done = shop.make(appliance(shop, base))
    assert done.returncode == 5, done.stderr
    assert "SHA256SUMS" in done.stderr
    server.files["SHA256SUMS"], server.cut_first = sums, 0
    server.asked.clear()
    digest = sums.decode().split()[0]
    server.cut_first = 400_000
    done = shop.make(appliance(shop, f'image = "{server.address}/tiny.raw"\nchecksum = "sha256:{digest}"'))
    assert done.returncode == 0, done.stderr
    assert server.asked == [("tiny.raw", None), ("tiny.raw", "bytes=400000-")]
    server.close()
    again = shop.make(
        appliance(shop, f'image = "{server.address}/tiny.raw"\nchecksum = "sha256:{digest}"'), "--no-cache"
    )
    assert again.returncode == 0, "the image is in the cache: " + again.stderr
    assert shop.left() == ["tiny-1.0.0.ova"]


def test_a_wrong_checksum(shop: Shop, server: Server) -> None:
    done = shop.make(appliance(shop, f'image = "{server.address}/tiny.raw"\nchecksum = "sha256:{"0" * 64}"'))
    assert done.returncode == 5
    assert "0" * 64 in done.stderr
    assert hashlib.sha256(server.files["tiny.raw"]).hexdigest() in done.stderr
    assert not list((shop.folder / "cache/ovfbuild").glob("downloads/*"))
    assert not [path for path in (shop.folder / "cache/ovfbuild/work").rglob("*") if path.is_file()]


def test_an_image_that_is_not_there(shop: Shop, server: Server) -> None:
    done = shop.make(appliance(shop, f'image = "{server.address}/none.raw"\nchecksum = "sha256:{"0" * 64}"'))
    assert done.returncode == 5
    assert "404" in done.stderr
    assert len(server.asked) == 1, "what is not there is not asked for again"


def test_an_image_without_a_checksum_is_refused_before_anything(shop: Shop, server: Server) -> None:
    done = shop.make(appliance(shop, f'image = "{server.address}/tiny.raw"'))
    assert done.returncode == 2
    assert "checksum" in done.stderr
    assert server.asked == []


def test_offline_without_the_image(shop: Shop, server: Server) -> None:
    base = f'image = "{server.address}/tiny.raw"\nchecksum = "sha256:{"0" * 64}"'
    done = shop.make(appliance(shop, base), "--offline")
    assert done.returncode == 5
    assert "offline" in done.stderr
    assert server.asked == []
