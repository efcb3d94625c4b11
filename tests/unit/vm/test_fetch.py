"""fetch against a server on loopback that misbehaves as scripted."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, OvfbuildError, ProgramError, UsageError
from ovfbuild.progress import Silent
from ovfbuild.vm.fetch import Patience, fetch, parse_checksum, parse_checksums, shown

BODY = random.Random(1).randbytes(300_000)
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()
SHA512 = "sha512:" + hashlib.sha512(BODY).hexdigest()
QUICK = Patience(first_wait=0.001, longest_wait=0.01, connect=2, read=2)


@dataclass
class Answer:
    """What the server does with one request."""

    status: int = 200
    body: bytes = BODY
    ranges: bool = True
    etag: str = '"one"'
    modified: str = ""
    cut: int | None = None
    """Sends so many bytes and breaks off."""
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True
    stall: float = 0
    """Seconds of silence before the body."""


class Server:
    """Answers by script: the next of a path's list, and the last one for ever."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def url(self, path: str = "/disk.qcow2") -> str:
        return f"http://127.0.0.1:{self._http.server_port}{path}"

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        self.requests.append((to.path, dict(to.headers)))
        answers = self.script.get(to.path, [Answer(404)])
        a = answers.pop(0) if len(answers) > 1 else answers[0]
        body, status, headers = a.body, a.status, dict(a.headers)
        asked = to.headers.get("Range")
        same = to.headers.get("If-Range") in (None, a.etag, a.modified)
        if asked and a.ranges and same and status == 200:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(body):
                status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                status = 206
                headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
                body = body[first:]
        if a.etag:
            headers.setdefault("ETag", a.etag)
        if a.modified:
            headers.setdefault("Last-Modified", a.modified)
        if a.length:
            headers.setdefault("Content-Length", str(len(body)))
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name, value)
        to.end_headers()
        body = body if a.cut is None else body[: a.cut]
        self.sent.append(len(body))
        time.sleep(a.stall)
        to.wfile.write(body)
        to.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = Server()
    yield one
    one.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.counts: list[tuple[int, int | None]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def bytes(self, done: int, total: int | None) -> None:
        self.counts.append((done, total))


def get(server: Server, cache: Cache, checksum: str | None = SHA256, **more: Any) -> Path:
    options = {"checksums_url": None, "progress": Silent(), "patience": QUICK} | more
    return fetch(options.pop("url", server.url()), checksum, cache=cache, **options)


def partials(cache: Cache) -> list[Path]:
    return list((cache.root / "work").glob("download-*/disk"))


@pytest.mark.parametrize("checksum", [SHA256, SHA512])
def test_a_download_is_kept_by_its_digest(server: Server, cache: Cache, checksum: str) -> None:
    server.script["/disk.qcow2"] = [Answer()]
    notes = Notes()
    path = get(server, cache, checksum, progress=notes)
    assert path.read_bytes() == BODY
    assert path.is_relative_to(cache.root / "downloads" / checksum.partition(":")[2])
    assert notes.counts[-1] == (len(BODY), len(BODY))
    assert not list((cache.root / "work").iterdir())


def test_a_cached_one_needs_no_server(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer()]
    first = get(server, cache)
    server.close()
    assert get(server, cache) == first
    assert get(server, cache, offline=True) == first


def test_only_the_rest_is_asked_for_after_a_break(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=100_000), Answer()]
    assert get(server, cache).read_bytes() == BODY
    _, second = server.requests[1]
    assert second["Range"] == "bytes=100000-"
    assert second["If-Range"] == '"one"'
    assert server.sent == [100_000, 200_000]


def test_a_break_before_any_byte(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=0), Answer()]
    assert get(server, cache).read_bytes() == BODY
    assert "Range" not in server.requests[1][1]


def test_a_weak_etag_gives_way_to_the_date(server: Server, cache: Cache) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    server.script["/disk.qcow2"] = [
        Answer(cut=1000, etag='W/"x"', modified=date),
        Answer(etag='W/"x"', modified=date),
    ]
    assert get(server, cache).read_bytes() == BODY
    assert server.requests[1][1]["If-Range"] == date


def test_without_validators_a_range_is_asked_all_the_same(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=1000, etag=""), Answer(etag="")]
    assert get(server, cache).read_bytes() == BODY
    assert "If-Range" not in server.requests[1][1]
    assert server.sent == [1000, 299_000]


def test_a_run_continues_what_the_last_one_left(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=100_000), Answer(cut=0)]
    with pytest.raises(ProgramError, match="broke off after 100000 of 300000") as caught:
        get(server, cache)
    assert "are kept" in caught.value.hint
    assert len(server.requests) == QUICK.tries
    server.script["/disk.qcow2"] = [Answer()]
    notes = Notes()
    assert get(server, Cache(cache.root), progress=notes).read_bytes() == BODY
    assert server.requests[-1][1]["Range"] == "bytes=100000-"
    assert server.sent[-1] == 200_000
    assert "continuing" in notes.notes[0]
    assert not partials(cache)


def test_always_truncated_gives_up(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=10, ranges=False)]
    with pytest.raises(ProgramError, match="broke off after 10 of 300000"):
        get(server, cache)
    assert len(server.requests) == QUICK.tries


def test_tries_that_bring_something_are_not_counted(server: Server, cache: Cache) -> None:
    body = bytes(9 << 20)
    server.script["/disk.qcow2"] = [Answer(body=body, cut=1 << 20)]
    checksum = "sha256:" + hashlib.sha256(body).hexdigest()
    assert get(server, cache, checksum).stat().st_size == len(body)
    assert len(server.requests) == 9


def test_a_server_without_ranges_starts_over(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=100_000), Answer(ranges=False)]
    assert get(server, cache).read_bytes() == BODY
    assert server.sent == [100_000, len(BODY)]


def test_a_file_that_changed_starts_over(server: Server, cache: Cache) -> None:
    old = Answer(body=bytes(300_000), cut=5000, etag='"old"')
    server.script["/disk.qcow2"] = [old, Answer()]
    assert get(server, cache).read_bytes() == BODY
    assert server.sent == [5000, len(BODY)]


@pytest.mark.parametrize(
    "liar",
    [
        Answer(206, BODY[9:], headers={"Content-Range": "bytes 9-299999/300000"}),
        Answer(206, BODY[5000:], etag='"two"', headers={"Content-Range": "bytes 5000-299999/300000"}),
        Answer(206, BODY[5000:], headers={"Content-Range": "bytes 5000-299999/300001"}),
        Answer(206, BODY, headers={"Content-Range": "bytes 5000-299999/300000"}),
        Answer(416, b"", headers={"Content-Range": "bytes */4000"}),
        Answer(416, b""),
    ],
    ids=["begins elsewhere", "other etag", "other size", "too much", "shrunk", "bare 416"],
)
def test_a_part_that_does_not_fit_starts_over(server: Server, cache: Cache, liar: Answer) -> None:
    server.script["/disk.qcow2"] = [Answer(cut=5000), liar, Answer()]
    assert get(server, cache).read_bytes() == BODY
    assert "Range" not in server.requests[2][1]


def test_416_when_all_is_there(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(body=BODY + b"x", cut=300_000, etag=""), Answer(etag="")]
    assert get(server, cache).read_bytes() == BODY
    assert server.sent[-1] == 0


def test_a_wrong_checksum_leaves_nothing(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(body=b"something else")]
    with pytest.raises(FileError) as caught:
        get(server, cache)
    assert hashlib.sha256(b"something else").hexdigest() in caught.value.message
    assert SHA256.partition(":")[2] in caught.value.message
    assert not partials(cache)
    assert cache.entries() == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refusal_is_not_tried_again(server: Server, cache: Cache, status: int) -> None:
    server.script["/disk.qcow2"] = [Answer(status)]
    with pytest.raises(FileError, match=f"the server says {status}") as caught:
        get(server, cache)
    assert "check the URL" in caught.value.hint
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_trouble_is_tried_again(server: Server, cache: Cache, status: int) -> None:
    server.script["/disk.qcow2"] = [Answer(status, headers={"Retry-After": "3600"}), Answer(status), Answer()]
    assert get(server, cache).read_bytes() == BODY
    assert len(server.requests) == 3


def test_trouble_without_end(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(503)]
    with pytest.raises(ProgramError, match="the server says 503"):
        get(server, cache)
    assert len(server.requests) == QUICK.tries


def test_a_silent_server_is_left(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(stall=5)]
    with pytest.raises(ProgramError, match="no answer in time"):
        get(server, cache, patience=Patience(2, 0.001, 0.01, 0.2, 0.2))


def test_no_server_at_all(server: Server, cache: Cache) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://joe:hunter2@127.0.0.1:{taken.getsockname()[1]}/d?token=s3cret"
        with pytest.raises(ProgramError, match="Connection refused") as caught:
            get(server, cache, url=url)
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None


def test_a_redirect_is_followed(server: Server, cache: Cache) -> None:
    server.script["/latest"] = [Answer(302, b"", headers={"Location": "/disk.qcow2"})]
    server.script["/disk.qcow2"] = [Answer(cut=100_000), Answer()]
    assert get(server, cache, url=server.url("/latest")).read_bytes() == BODY
    assert server.sent[-1] == 200_000


def test_a_redirect_without_end(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(302, b"", headers={"Location": "/disk.qcow2"})]
    with pytest.raises(ProgramError, match="TooManyRedirects"):
        get(server, cache)


def test_octets_are_taken_as_they_are_stored(server: Server, cache: Cache) -> None:
    """A server that calls an .xz "encoded" must not have it decoded for us."""
    server.script["/disk.qcow2"] = [Answer(headers={"Content-Encoding": "gzip"})]
    assert get(server, cache).read_bytes() == BODY


@pytest.mark.parametrize(
    "text",
    [
        f"{'0' * 64}  other.qcow2\n{SHA256[7:]}  disk.qcow2\n",
        f"{SHA512[7:]} *./disk.qcow2\r\n",
        f"# disk.qcow2: 300000 bytes\nSHA256 (disk.qcow2) = {SHA256[7:].upper()}\n",
    ],
    ids=["coreutils", "binary", "BSD"],
)
def test_the_checksum_of_a_list(server: Server, cache: Cache, text: str) -> None:
    server.script["/SUMS"] = [Answer(500), Answer(body=text.encode())]
    server.script["/disk.qcow2"] = [Answer()]
    sums = server.url("/SUMS")
    path = get(server, cache, None, checksums_url=sums)
    assert path.read_bytes() == BODY
    server.close()
    assert get(server, cache, None, checksums_url=sums, offline=True) == path


def test_a_list_that_changed_counts(server: Server, cache: Cache) -> None:
    other = b"the next release"
    sums = server.url("/SUMS")
    lines = [f"{hashlib.sha256(body).hexdigest()}  disk.qcow2".encode() for body in (BODY, other)]
    server.script["/SUMS"] = [Answer(body=lines[0]), Answer(body=lines[1])]
    server.script["/disk.qcow2"] = [Answer(), Answer(body=other)]
    assert get(server, cache, None, checksums_url=sums).read_bytes() == BODY
    assert get(server, cache, None, checksums_url=sums).read_bytes() == other
    assert get(server, cache, None, checksums_url=sums, offline=True).read_bytes() == other


def test_a_list_without_the_file(server: Server, cache: Cache) -> None:
    server.script["/SUMS"] = [Answer(body=f"{SHA256[7:]}  xdisk.qcow2\n".encode())]
    with pytest.raises(FileError, match=r"has no SHA-256 or SHA-512 for disk\.qcow2"):
        get(server, cache, None, checksums_url=server.url("/SUMS"))


def test_offline_and_not_there(server: Server, cache: Cache) -> None:
    with pytest.raises(FileError, match=r"disk\.qcow2 is not in the cache, and this build is offline"):
        get(server, cache, offline=True)
    with pytest.raises(FileError, match=r"the checksum of .* is not in the cache"):
        get(server, cache, None, checksums_url=server.url("/SUMS"), offline=True)
    assert server.requests == []


@pytest.mark.parametrize(
    "call",
    [
        lambda c: fetch("ftp://x/y", SHA256, None, c, Silent()),
        lambda c: fetch("/etc/passwd", SHA256, None, c, Silent()),
        lambda c: fetch("http://[::1/y", SHA256, None, c, Silent()),
        lambda c: fetch("http://x/y", None, None, c, Silent()),
        lambda c: fetch("http://x/y", None, "file:///z", c, Silent()),
        lambda c: fetch("http://x/y", "md5:" + "0" * 32, None, c, Silent()),
        lambda c: fetch("http://x/y", "sha256:" + "0" * 63 + "g", None, c, Silent()),
        lambda c: fetch("http://x/y", "sha256:" + "0" * 128, None, c, Silent()),
    ],
)
def test_what_is_no_download(cache: Cache, call: Callable[[Cache], Path]) -> None:
    with pytest.raises(UsageError):
        call(cache)


def test_a_body_without_a_length(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(length=False)]
    assert get(server, cache).read_bytes() == BODY


def test_two_at_once_download_once(server: Server, cache: Cache) -> None:
    server.script["/disk.qcow2"] = [Answer(stall=0.2)]
    got: list[Path] = []
    pair = [threading.Thread(target=lambda: got.append(get(server, Cache(cache.root)))) for _ in range(2)]
    for one in pair:
        one.start()
    for one in pair:
        one.join()
    assert len(server.requests) == 1
    assert got[0] == got[1]


def test_a_message_has_no_password(server: Server, cache: Cache) -> None:
    assert shown("https://joe:pw@host:8443/a/b.img?sig=1#x") == "https://host:8443/a/b.img"
    server.script["/disk.qcow2?sig=s3cret"] = [Answer(403)]
    url = server.url("/disk.qcow2?sig=s3cret").replace("//", "//joe:hunter2@")
    with pytest.raises(OvfbuildError) as caught:
        get(server, cache, url=url)
    assert "hunter2" not in caught.value.message
    assert "s3cret" not in caught.value.message
    assert server.requests[0][1]["Authorization"].startswith("Basic ")


def test_checksums_in_text() -> None:
    assert parse_checksum(" SHA256:" + "A" * 64) == ("sha256", "a" * 64)
    both = f"SHA256 (d) = {'1' * 64}\nSHA512 (d) = {'2' * 128}\nMD5 (d) = {'3' * 32}\n"
    assert parse_checksums(both, "d") == ("sha512", "2" * 128)
    assert parse_checksums("\n#\n" + "3" * 32 + "  d\n", "d") is None
