"""Downloads of base images: known by their digest, continued where they broke off, kept in the cache.

A download goes to `download-KEY/` in the cache's `work` folder, named by its URL and digest, so that the next try and
the next run both continue it (RFC 9110, clauses 13.1.5 If-Range and 14 Range Requests). Only what
has the right digest becomes an entry of the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from ovfbuild import tries
from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, ProgramError, UsageError
from ovfbuild.files import digest_of, published
from ovfbuild.progress import Progress
from ovfbuild.tries import TryAgain, patiently

_T = TypeVar("_T")
_CHUNK = 1 << 18
_LARGEST_LIST = 8 << 20
"""Bytes; Ubuntu's longest SHA256SUMS has a few thousand."""
_BY_LENGTH = {64: "sha256", 128: "sha512"}
_COREUTILS = re.compile(r"([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](.+)")
_BSD = re.compile(r"SHA(?:256|512) ?\((.+)\) ?= ?([0-9a-fA-F]+)")
_PASSING = (408, 425, 429)
"""4xx that may be another answer later (RFC 9110, 8470, 6585); so may every 5xx."""


@dataclass(frozen=True)
class Patience(tries.Patience):
    """How often and how long to try a download. Times are seconds."""

    connect: float = 15.0
    read: float = 60.0
    """Between one octet and the next."""


_PATIENT = Patience()


@dataclass(frozen=True)
class _Line:
    """What a server is spoken to with."""

    session: requests.Session
    progress: Progress
    patience: Patience


@dataclass(frozen=True)
class _Checksum:
    algorithm: str
    digest: str


def fetch(
    url: str,
    checksum: str | None,
    checksums_url: str | None,
    cache: Cache,
    progress: Progress,
    *,
    offline: bool = False,
    patience: Patience = _PATIENT,
) -> Path:
    """The file behind a URL, with the digest that it must have.

    Args:
        checksum: `sha256:HEX` or `sha512:HEX`; one that is in the cache is taken without any network.
        checksums_url: a SHA256SUMS or SHA512SUMS to find it in, by the URL's base name.
        offline: take it from the cache or not at all; the digest of a list is then the last one seen.

    Raises:
        UsageError: no URL of http(s), or no checksum.
        FileError: not what its checksum says, not on the server, not in the cache while offline.
        ProgramError: the server can't be reached or keeps failing; what came so far is kept.
    """
    _require_http(url)
    with requests.Session() as session:
        line = _Line(session, progress, patience)
        wanted = _wanted(line, url, checksum, checksums_url, cache, offline)
        found = cache.find("downloads", wanted.digest)
        if found is None:
            if offline:
                raise FileError(
                    f"{shown(url)} is not in the cache, and this build is offline",
                    "build once with a network: then it stays in the cache",
                )

            def make(folder: Path) -> None:
                _download(line, url, wanted, cache, folder / "disk")

            found, _ = cache.obtain("downloads", wanted.digest, shown(url), make)
        return found.path / "disk"


def shown(url: str) -> str:
    """A URL as it may stand in a message: without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def parse_checksum(text: str) -> tuple[str, str]:
    """("sha256", hex) of "sha256:HEX"; the same for sha512.

    Raises:
        UsageError: it is neither.
    """
    algorithm, _, digest = text.strip().lower().partition(":")
    if _BY_LENGTH.get(len(digest)) != algorithm or not re.fullmatch("[0-9a-f]+", digest):
        raise UsageError(f"{text!r} is no checksum", "write sha256: and 64 hex digits, or sha512: and 128")
    return algorithm, digest


def parse_checksums(text: str, name: str) -> tuple[str, str] | None:
    """(algorithm, hex) that a list of checksums gives for a file, the strongest; None when it gives none.

    Two forms are read: `HEX  NAME` of coreutils, `*` and `./` before the name allowed, and
    `SHA256 (NAME) = HEX` of the BSDs and Fedora. Which digest it is, its length says.
    """
    found: list[str] = []
    for line in text.splitlines():
        if match := _COREUTILS.fullmatch(line.rstrip()):
            digest, file = match.groups()
        elif match := _BSD.fullmatch(line.strip()):
            file, digest = match.groups()
        else:
            continue
        if file.removeprefix("./") == name and len(digest) in _BY_LENGTH:
            found.append(digest.lower())
    if not found:
        return None
    best = max(found, key=len)
    return _BY_LENGTH[len(best)], best


def _require_http(url: str) -> None:
    hint = "a URL starts with https:// or http:// and a server's name"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"a URL is wrong: {error}", hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{shown(url)} can't be downloaded", hint)


def _wanted(
    line: _Line, url: str, checksum: str | None, checksums_url: str | None, cache: Cache, offline: bool
) -> _Checksum:
    """The digest that the file must have: the one given, or that of the list, which is remembered."""
    if checksum is not None:
        return _Checksum(*parse_checksum(checksum))
    if checksums_url is None:
        raise UsageError(f"{shown(url)} has no checksum", "give its sha256 or the URL of its SHA256SUMS")
    _require_http(checksums_url)
    key = digest_of([url, checksums_url])
    known = cache.find("checksums", key)
    remembered = (known.path / "checksum").read_text(encoding="ascii") if known else None
    if offline:
        if remembered is None:
            raise FileError(
                f"the checksum of {shown(url)} is not in the cache, and this build is offline",
                "build once with a network, or write the checksum itself",
            )
        return _Checksum(*parse_checksum(remembered))
    text = _patiently(line, checksums_url, lambda: _read_list(line, checksums_url))
    name = _base_name(url)
    found = parse_checksums(text, name)
    if found is None:
        raise FileError(f"{shown(checksums_url)} has no SHA-256 or SHA-512 for {name}", "check both URLs")
    said = ":".join(found)
    if said != remembered:
        cache.obtain("checksums", key, shown(checksums_url), lambda f: _remember(f, said), again=True)
    return _Checksum(*found)


def _remember(folder: Path, said: str) -> None:
    (folder / "checksum").write_text(said, encoding="ascii")


def _base_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _read_list(line: _Line, url: str) -> str:
    """The text of a list of checksums. Raises TryAgain, FileError, ProgramError."""
    octets = b""
    with _get(line, url, {}) as answer:
        _judge(answer, url)
        try:
            for chunk in answer.raw.stream(_CHUNK, decode_content=True):
                octets += chunk
                if len(octets) > _LARGEST_LIST:
                    raise FileError(f"{shown(url)} is too long for a list of checksums", "check the URL")
        except HTTPError as error:
            raise TryAgain(f"broke off: {reason(error)}") from None
    return octets.decode("utf-8", errors="replace")


def _patiently(line: _Line, url: str, attempt: Callable[[], _T], arrived: Callable[[], int] = int) -> _T:
    """What `attempt` returns, again while it raises TryAgain; `arrived` tells the bytes so far."""

    def give_up(last: TryAgain, _: int) -> NoReturn:
        came = arrived()
        kept = f"; the {came / 1e6:.0f} MB that came are kept, the next run continues" if came else ""
        # `from None`: the library's own errors hold the whole URL, a password in it included.
        raise ProgramError(f"{shown(url)} can't be downloaded: {last}", f"check the network{kept}") from None

    return patiently(attempt, line.patience, line.progress, give_up, arrived, f"{urlsplit(url).hostname}: ")


def _get(line: _Line, url: str, headers: dict[str, str]) -> requests.Response:
    """The server's answer, its body not read yet. Proxies and certificates are the environment's."""
    try:
        return line.session.get(
            url,
            # What is asked for is the file's own octets, not a compressed form that Range would count in.
            headers={"Accept-Encoding": "identity", "User-Agent": "ovfbuild", **headers},
            stream=True,
            timeout=(line.patience.connect, line.patience.read),
        )
    except requests.exceptions.SSLError as error:
        if not distrusted(error):
            raise TryAgain(f"can't be reached: {reason(error)}") from None
        raise ProgramError(
            f"{shown(url)} has no certificate that is trusted here: {reason(error)}",
            "for a private authority, set REQUESTS_CA_BUNDLE to its certificates",
        ) from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise TryAgain(f"can't be reached: {reason(error)}") from None
    except requests.RequestException as error:
        raise ProgramError(f"{shown(url)} can't be downloaded: {type(error).__name__}", "check the URL") from None


def reason(error: BaseException) -> str:
    """The operating system's words inside one of the library's errors, which themselves quote whole URLs."""
    for inner in _inside(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return inner.verify_message
        if isinstance(inner, TimeoutError | requests.Timeout):
            return "no answer in time"
        if isinstance(inner, OSError) and not isinstance(inner, requests.RequestException) and inner.strerror:
            return inner.strerror
    return "the connection broke off"


def distrusted(error: BaseException) -> bool:
    """Whether an SSLError is about a certificate: a line that is cut while TLS is spoken ends in one, too."""
    return any(isinstance(inner, ssl.SSLCertVerificationError) for inner in _inside(error))


def _inside(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it was made of."""
    seen = [error]
    for inner in seen:
        yield inner
        inside = (*inner.args, getattr(inner, "reason", None), inner.__cause__, inner.__context__)
        seen.extend(one for one in inside if isinstance(one, BaseException) and one not in seen)


def _judge(answer: requests.Response, url: str) -> None:
    """Raises unless the answer has the whole file or the part that was asked for."""
    status = answer.status_code
    if status in (200, 206):
        return
    if status >= 500 or status in _PASSING:
        later = answer.headers.get("Retry-After", "")
        raise TryAgain(f"the server says {status}", float(later) if later.isdecimal() else 0)
    hint = "check the URL" if status in (404, 410) else "check the URL, and user and password if it needs any"
    raise FileError(f"{shown(url)} can't be downloaded: the server says {status}", hint)


@dataclass(frozen=True)
class _Version:
    """Which content it was that the server began to send."""

    etag: str = ""
    modified: str = ""
    size: int | None = None
    """Bytes of the whole file, if it was said."""

    @classmethod
    def of(cls, answer: requests.Response) -> _Version:
        length = answer.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        if answer.status_code == 206:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = int(total) if total.isdecimal() else None
        return cls(answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""), size)

    def differs(self, other: _Version) -> bool:
        """Whether anything that both know is not the same."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(a != b for a, b in pairs if a not in ("", None) and b not in ("", None))


class _Partial:
    """What came of a download, in a folder that outlives the run: hashed, and of which version it is."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        self.path = folder / "disk"
        self._about = folder / "version.json"
        self._algorithm = algorithm
        self._stream = self.path.open("a+b", buffering=0)
        self._stream.seek(0)
        self._hash = hashlib.file_digest(self._stream, algorithm)
        self.size = self._stream.tell()
        try:
            self.version = _Version(**json.loads(self._about.read_bytes()))
        except (OSError, ValueError, TypeError):
            self.version = _Version()

    def close(self) -> None:
        self._stream.close()

    def discard(self) -> None:
        """Leaves nothing to continue from."""
        self.path.unlink()
        self._about.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @property
    def whole(self) -> bool:
        return self.size > 0 and self.size == self.version.size

    def restart(self, version: _Version) -> None:
        """Forgets everything that came: what comes now is of `version`."""
        self._stream.truncate(0)
        self._hash, self.size, self.version = hashlib.new(self._algorithm), 0, version
        with published(self._about) as target:
            target.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def append(self, octets: bytes) -> None:
        try:
            view = memoryview(octets)
            while view:
                view = view[self._stream.write(view) :]
        except OSError as error:
            raise FileError(
                f"{self.path} can't be written: {error.strerror}", "free some space, or set XDG_CACHE_HOME"
            ) from error
        self._hash.update(octets)
        self.size += len(octets)

    def condition(self) -> dict[str, str]:
        """The headers that ask for the rest, and for all of it when it is no longer the same file.

        A weak ETag doesn't promise the same octets, so If-Range can't have one (RFC 9110, clause 13.1.5).
        """
        if not self.size:
            return {}
        strong = "" if self.version.etag.startswith("W/") else self.version.etag
        validator = strong or self.version.modified
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": validator} if validator else {})


def _download(line: _Line, url: str, wanted: _Checksum, cache: Cache, target: Path) -> None:
    """Writes `target`, which has the wanted digest."""
    with cache.resumable(f"download-{digest_of([url, wanted.digest])[:32]}") as folder:
        partial = _Partial(folder, wanted.algorithm)
        try:
            if partial.size and not partial.whole:
                line.progress.note(f"continuing the download of {shown(url)} at {partial.size / 1e6:.0f} MB")
            _patiently(line, url, lambda: _continue(line, url, partial), lambda: partial.size)
        finally:
            partial.close()
        if partial.digest != wanted.digest:
            partial.discard()
            raise FileError(
                f"{shown(url)} has the {wanted.algorithm} {partial.digest}, not {wanted.digest}",
                "check the checksum: the file on the server may be a newer one",
            )
        partial.path.chmod(0o444)  # a backing file that changes would break every disk above it
        partial.path.rename(target)


def _continue(line: _Line, url: str, partial: _Partial) -> None:
    """One try to bring what is missing. Raises TryAgain, FileError, ProgramError."""
    if partial.whole:
        return
    condition = partial.condition()
    with _get(line, url, condition) as answer:
        version = _Version.of(answer)
        if condition and answer.status_code == 416:
            # "bytes */SIZE": all of it is there already, or it is another file.
            if answer.headers.get("Content-Range", "") == f"bytes */{partial.size}":
                return
            partial.restart(_Version())
            raise TryAgain("the server has not so many bytes as came already")
        _judge(answer, url)
        if condition and answer.status_code == 206:
            begins = answer.headers.get("Content-Range", "").startswith(f"bytes {partial.size}-")
            if not begins or version.differs(partial.version):
                partial.restart(_Version())
                raise TryAgain("the file on the server changed meanwhile")
        else:
            partial.restart(version)
        _receive(answer, partial, version.size, line.progress)


def _receive(answer: requests.Response, partial: _Partial, total: int | None, progress: Progress) -> None:
    """Appends the answer's body. Raises TryAgain when it is shorter or longer than was said."""
    begun, before, said, broke = time.monotonic(), partial.size, 0.0, ""
    try:
        for chunk in answer.raw.stream(_CHUNK, decode_content=False):
            partial.append(chunk)
            progress.bytes(partial.size, total)
            now = time.monotonic()
            if now - said >= 1:
                said = now
                progress.line(f"{(partial.size - before) / 1e6 / max(now - begun, 0.001):.1f} MB/s")
    except HTTPError as error:
        broke = reason(error)
    if broke or (total is not None and partial.size < total):
        raise TryAgain(f"{broke or 'the connection broke off'} after {partial.size} of {total or '?'} bytes")
    if total is not None and partial.size > total:
        partial.restart(_Version())
        raise TryAgain("the server sent more than it said")
