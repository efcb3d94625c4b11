"""A web server that takes PUT (RFC 9110, 9.3.4) and DELETE: nginx or Apache with DAV, Artifactory, Nexus and the like.

A file that is PUT anew replaces the old one; folders are made by MKCOL (RFC 4918, 9.3) where the server asks for them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets as tokens
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ovfbuild import __version__
from ovfbuild.errors import FileError, PublishError
from ovfbuild.publish.catalogue import CatalogueCloud, Piece
from ovfbuild.publish.cloud import Cloud, Standing, Surroundings
from ovfbuild.publish.meter import PIECE, Meter, Metered
from ovfbuild.spec.targets import HttpTarget
from ovfbuild.tries import TryAgain
from ovfbuild.vm.fetch import distrusted, reason

_PASSING = (408, 425, 429)
_NO_ROOM = (413, 507)
_LARGEST = 64 << 20
"""Bytes of a catalogue; one of ten thousand versions has five million."""
_QUOTA = b"""<?xml version="1.0" encoding="utf-8"?>
<propfind xmlns="DAV:"><prop><quota-available-bytes/></prop></propfind>"""


@contextmanager
def connect(target: HttpTarget, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`."""
    if target.insecure:
        around.progress.warn(f"{target.name}: insecure = true, so any certificate is believed")
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    if target.url.startswith("http:") and (target.user or target.token_env or target.token_file):
        around.progress.warn(f"{target.name}: {target.url} is not encrypted: whoever is on the way reads the password")
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Adapter())
        yield CatalogueCloud(_Folder(target, around, session))


class _Adapter(HTTPAdapter):
    """Sends a MiB at a time, not 16 KiB."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, blocksize=PIECE, **more)


class _Folder:
    """A folder on the server, as a `catalogue.Store`."""

    resumes = False

    def __init__(self, target: HttpTarget, around: Surroundings, session: requests.Session) -> None:
        self._target = target
        self._around = around
        self._session = session
        self._base = target.url.rstrip("/")
        self._secret = ""
        self._made: set[str] = set()
        self._verify: bool | str = str(target.ca_file) if target.ca_file else True
        if target.insecure:
            self._verify = False

    def url(self, path: str) -> str:
        return f"{self._base}/{quote(path)}"

    def read(self, path: str) -> bytes | None:
        with self._ask("GET", path, missing_is_fine=True, headers={"Cache-Control": "no-cache"}) as answer:
            if answer.status_code in (404, 410):
                return None
            return self._body(answer, _LARGEST)

    def write(self, path: str, octets: bytes, media_type: str) -> None:
        """PUT; the folders above are made where the server misses them (RFC 4918, 9.7.1: 409; nginx: 500)."""
        headers, folder = {"Content-Type": media_type}, path.rpartition("/")[0]
        answer = self._raw("PUT", self.url(path), octets, headers)
        if answer.status_code in (404, 409, 500) and folder and folder not in self._made:
            answer.close()
            self._make_folders(folder)
            answer = self._raw("PUT", self.url(path), octets, headers)
        with answer:
            self._judge(answer, "PUT", path)

    def upload(self, piece: Piece, meter: Meter) -> None:
        with piece.source.open("rb") as stream:
            reader = Metered(stream, piece.size, meter)
            with self._raw("PUT", self.url(piece.path), reader, {"Content-Type": piece.media_type}) as answer:
                self._judge(answer, "PUT", piece.path)
        if reader.digest != piece.sha256:
            raise FileError(f"{piece.source} was changed while it was read", "let nothing write to it")

    def compare(self, piece: Piece) -> None:
        with self._ask("HEAD", piece.path, headers={"Want-Repr-Digest": "sha-256=1"}) as answer:
            size, told = answer.headers.get("Content-Length", ""), _told_digest(answer.headers)
        if size != str(piece.size):
            raise TryAgain(f"{self.url(piece.path)}: {size or 'nobody knows how many'} of {piece.size} bytes arrived")
        if not told and self._target.read_back:
            told = self._read_digest(piece.path)
        if told and told != piece.sha256:
            raise TryAgain(f"{self.url(piece.path)} arrived with the SHA-256 {told}, not {piece.sha256}")

    def remove(self, path: str) -> None:
        self._ask("DELETE", path, missing_is_fine=True).close()

    def remove_folder(self, path: str) -> None:
        self._made.discard(path)
        # Where folders are none of the server's, there is nothing to remove, and it may say so in any way.
        self._raw("DELETE", f"{self.url(path)}/", None, {"Depth": "infinity"}).close()

    def standing(self, *, write: bool) -> Standing:
        with self._ask("GET", "", missing_is_fine=True, refused_is_fine=True) as answer:
            server = f"{answer.headers.get('Server', 'a web server')} at {urlsplit(self._base).netloc}"
        room = self._room()
        notes = [] if room is not None else ["the server tells no free space (WebDAV's quota-available-bytes)"]
        if write:
            probe = f".ovfbuild-{tokens.token_hex(8)}"
            self.write(probe, b"ovfbuild asks whether it may write here\n", "text/plain")
            self._ask("DELETE", probe).close()
        return Standing(server, room, tuple(notes))

    def _room(self) -> int | None:
        """Free bytes (RFC 4331, 3), where the server knows WebDAV's properties."""
        with self._raw(
            "PROPFIND", f"{self._base}/", _QUOTA, {"Depth": "0", "Content-Type": "application/xml"}
        ) as answer:
            text = self._body(answer, 1 << 20) if answer.status_code == 207 else b""
        found = re.search(rb"<(?:[\w-]+:)?quota-available-bytes[^>]*>(\d+)<", text)
        return int(found[1]) if found else None

    # --- requests ---

    def _make_folders(self, folder: str) -> None:
        """What comes of it, the next PUT tells: a folder that is there is refused in many ways."""
        parts = folder.split("/")
        for count in range(1, len(parts) + 1):
            self._raw("MKCOL", f"{self.url('/'.join(parts[:count]))}/", None, {}).close()
        self._made.add(folder)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        missing_is_fine: bool = False,
        refused_is_fine: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        answer = self._raw(method, self.url(path), None, headers or {})
        fine = (404, 410) * missing_is_fine + (403, 405) * refused_is_fine
        if answer.status_code not in fine:
            self._judge(answer, method, path)
        return answer

    def _raw(self, method: str, url: str, body: Any, headers: Mapping[str, str]) -> requests.Response:
        """The answer, whatever it says. Raises TryAgain, PublishError."""
        own = {"User-Agent": f"ovfbuild/{__version__}", "Accept-Encoding": "identity", **headers}
        token, auth = self._login()
        if token:
            own["Authorization"] = f"Bearer {token}"
        try:
            return self._session.request(
                method,
                url,
                data=body,
                headers=own,
                auth=auth,
                stream=True,
                allow_redirects=method in ("GET", "HEAD"),
                verify=self._verify,
                timeout=(min(15, self._target.timeout), self._target.timeout),
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if distrusted(error):
                self._untrusted(error)
            raise TryAgain(f"{self._host} can't be reached: {reason(error)}") from None
        except (requests.RequestException, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise PublishError(f"{self._host}: {why}", "check url and ca_file of the target") from None

    def _login(self) -> tuple[str | None, Any]:
        """(bearer token, user and password); neither where ~/.netrc is asked, by requests."""
        target, secrets = self._target, self._around.secrets
        token = secrets.read(f"target {target.name}", target.token_env, target.token_file)
        self._secret = token or ""
        if token or not target.user:
            return token, _keep_authorization if token else self._from_netrc()
        password = secrets.read(f"target {target.name}", target.password_env, target.password_file)
        if password is None:
            instead = f"add password_file = or password_env = to target {target.name}"
            password = secrets.ask(f"Password of {target.user} at {self._host}", instead)
        secrets.keep(base64.b64encode(f"{target.user}:{password}".encode()).decode())
        return None, (target.user.encode(), password.encode())

    def _from_netrc(self) -> Any:
        """What ~/.netrc has for the server, which is a secret to be kept."""
        found = requests.utils.get_netrc_auth(self._base)
        if found:
            for one in (found[1], base64.b64encode(":".join(found).encode()).decode()):
                self._around.secrets.keep(one)
        return found

    @property
    def _host(self) -> str:
        return urlsplit(self._base).netloc

    def _untrusted(self, error: BaseException) -> NoReturn:
        raise PublishError(
            f"{self._host} has no certificate that is trusted here: {reason(error)}",
            "for a private authority, set ca_file of the target to its certificates",
        ) from None

    def _judge(self, answer: requests.Response, method: str, path: str) -> None:
        """Raises TryAgain or PublishError unless the answer says yes."""
        status = answer.status_code
        if 200 <= status < 300:
            return
        answer.close()
        what = f"{self.url(path)}: {method}: the server says {status} {answer.reason or ''}".rstrip()
        if status == 401 and self._renewed():
            raise TryAgain(f"{what}; the token was renewed meanwhile")
        if status in _PASSING or (status >= 500 and status not in (501, 505, *_NO_ROOM)):
            later = answer.headers.get("Retry-After", "")
            raise TryAgain(what, float(later) if later.isdecimal() else 0)
        raise PublishError(what, _hint(status, self._target))

    def _renewed(self) -> bool:
        """Whether the token is another one now than that which was just refused."""
        target = self._target
        if not target.token_file:
            return False
        return self._around.secrets.read(f"target {target.name}", None, target.token_file) != self._secret

    def _body(self, answer: requests.Response, most: int) -> bytes:
        octets = b""
        try:
            for chunk in answer.iter_content(1 << 16):
                octets += chunk
                if len(octets) > most:
                    raise PublishError(f"{self._host} sends more than a catalogue can be", "check url of the target")
        except requests.RequestException as error:
            raise TryAgain(f"{self._host}: {reason(error)}") from None
        return octets

    def _read_digest(self, path: str) -> str:
        running = hashlib.sha256()
        with self._ask("GET", path) as answer:
            try:
                for chunk in answer.iter_content(PIECE):
                    running.update(chunk)
            except requests.RequestException as error:
                raise TryAgain(f"{self._host}: {reason(error)}") from None
        return running.hexdigest()


def _keep_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An auth that changes nothing: without one requests would put what ~/.netrc has in the token's place."""
    return request


def _told_digest(headers: Mapping[str, str]) -> str:
    """The SHA-256 that the server tells, in hex: RFC 9530, RFC 3230, or as Artifactory and Nexus do; or ""."""
    for name, pattern in (("Repr-Digest", r"sha-256=:([^:]+):"), ("Digest", r"(?i:sha-256)=([A-Za-z0-9+/=]+)")):
        if found := re.search(pattern, headers.get(name, "")):
            return base64.b64decode(found[1]).hex()
    told = headers.get("X-Checksum-Sha256", "").lower()
    return told if re.fullmatch("[0-9a-f]{64}", told) else ""


def _hint(status: int, target: HttpTarget) -> str:
    if status in _NO_ROOM:
        return "make room there, or raise the server's largest size of a file"
    return {
        401: f"check user and password, or the token, of target {target.name}",
        403: f"give {target.user or 'the user of the token'} the right to write there",
        404: "check url of the target: the folder has to be there",
        405: "the server takes no such request there: let it allow PUT and DELETE",
        501: "the server takes no such request there: let it allow PUT and DELETE",
    }.get(status, "check url of the target")
