"""Incus's REST API as far as it is needed here, over TLS with a client certificate or over its Unix socket.

requests does it: pylxd is LXD's, which another company keeps since Incus left it, and lets an image have no properties;
incus-sdk is an alpha. The API: https://linuxcontainers.org/incus/docs/main/rest-api-spec/
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from ovfbuild import __version__
from ovfbuild.errors import PublishError, UsageError
from ovfbuild.publish.credentials import Secrets
from ovfbuild.publish.meter import PIECE
from ovfbuild.spec.incus_remote import Remote
from ovfbuild.tries import TryAgain
from ovfbuild.vm.fetch import distrusted, reason

Image = Mapping[str, Any]
"""An image as Incus shows it."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_FULL = re.compile(r"no space left on device|quota", re.IGNORECASE)
"""What Incus answers by 500, or as the end of an operation, though another try would end the same."""
_AGAIN = re.compile(r"fingerprints don't match|same fingerprint already exists")
"""Ends of an operation that another try may mend: the image came differently, or was made by the try before."""
_OTHER = "Fingerprints did not match"
"""What urllib3 says of a certificate that is not the one."""
_OPERATION_SECONDS = 4 * 3600.0
_LONGEST_WAIT = 1.0
"""Seconds between two looks at an operation; it is forgotten five seconds after its end."""


class Incus:
    """A project of one server. Every method may raise TryAgain, or PublishError where trying again is no use."""

    def __init__(self, remote: Remote, session: requests.Session, project: str, timeout: float) -> None:
        self._remote = remote
        self._session = session
        self._timeout = (min(15.0, timeout), timeout)
        self.project = project
        self.host = urlsplit(remote.url).netloc or str(remote.socket)
        self._base = remote.url or "http://incus"

    def enter(self) -> Mapping[str, Any]:
        """What the server tells of itself. It answers strangers, too, so whether we are one is to be looked at."""
        server: Mapping[str, Any] = self._ask("GET", "")
        if server.get("auth") != "trusted":
            raise PublishError(
                f"{self.host} does not trust the client certificate",
                "incus config trust add NAME there gives a token, and incus remote add takes it here",
            )
        return server

    def disk_limit(self) -> tuple[int, int] | None:
        """The bytes that the project may take for disks and images, and takes; None without a limit that we may see."""
        found = self._ask("GET", f"/projects/{quote(self.project, safe='')}/state", fine=(403, 404)) or {}
        told = found.get("resources", {}).get("disk", {})
        disk = {key.lower(): value for key, value in told.items()}  # 6.0 writes Limit and Usage
        return (disk["limit"], disk["usage"]) if disk.get("limit", -1) >= 0 else None

    def pool_space(self, pool: str) -> Mapping[str, int]:
        """`total` and `used` bytes of a storage pool; empty where we may not see them."""
        found = self._ask("GET", f"/storage-pools/{quote(pool, safe='')}/resources", fine=(403, 404))
        return dict(found["space"]) if found else {}

    def images(self) -> list[Image]:
        """All of the project."""
        found: list[Image] = self._ask("GET", "/images", query={"recursion": "1"}) or []
        return found

    def image(self, fingerprint: str) -> Image | None:
        """One image; None where there is none any more."""
        found: Image | None = self._ask("GET", f"/images/{fingerprint}", fine=(404,))
        return found

    def upload(self, body: Any, boundary: str, headers: Mapping[str, str]) -> None:
        """A new image from a form of metadata and disk, which is read once; returns when Incus has it."""
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}", **headers}
        self._act("POST", "/images", data=body, headers=kind)

    def change(self, fingerprint: str, **values: object) -> None:
        """Sets some fields of an image; of its properties those that are named."""
        self._ask("PATCH", f"/images/{fingerprint}", json=values)

    def delete(self, fingerprint: str) -> None:
        """Removes an image with its aliases; that it is gone already is no mistake."""
        self._act("DELETE", f"/images/{fingerprint}", fine=(404,))

    def alias(self, name: str) -> str | None:
        """The fingerprint of the image that an alias stands for."""
        found = self._ask("GET", f"/images/aliases/{quote(name, safe='')}", fine=(404,))
        return str(found["target"]) if found else None

    def point(self, name: str, fingerprint: str) -> None:
        """Lets an alias stand for an image, in one step, be it there or not."""
        if self.alias(name) is None:
            self._ask("POST", "/images/aliases", json={"name": name, "target": fingerprint, "description": ""})
        else:
            self._ask("PUT", f"/images/aliases/{quote(name, safe='')}", json={"target": fingerprint, "description": ""})

    # --- requests ---

    def _act(self, method: str, path: str, fine: tuple[int, ...] = (), **more: Any) -> None:
        """A request that starts an operation, and its end."""
        answer = self._send(method, path, **more)
        if answer.status_code in fine:
            return
        started = str(self._content(answer, method, path).get("operation") or "")
        operation = started.partition("?")[0].removeprefix("/1.0")
        until, wait = time.monotonic() + _OPERATION_SECONDS, 0.05
        while time.monotonic() < until:
            # Not by /wait, which ends in an error of its own when it has waited for as long as it is told to.
            done = self._ask("GET", operation, fine=(404,))
            if done is None or done["status_code"] == 200:  # one that is done is forgotten after seconds
                return
            if done["status_code"] >= 400:
                self._refuse(f"{done.get('description') or method}: {done.get('err')}", 0)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise PublishError(f"{self.host} is not done after hours", "ask its administrator")

    def _ask(self, method: str, path: str, fine: tuple[int, ...] = (), **more: Any) -> Any:
        """The metadata of a synchronous answer; None of one that is `fine`."""
        answer = self._send(method, path, **more)
        return None if answer.status_code in fine else self._content(answer, method, path).get("metadata")

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> requests.Response:
        own = {"User-Agent": f"ovfbuild/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
        where = {**(query or {}), "project": self.project}
        try:
            return self._session.request(
                method,
                f"{self._base}/1.0{path}",
                params=where,
                headers=own,
                timeout=self._timeout,
                verify=self._session.verify,  # said anew, else REQUESTS_CA_BUNDLE takes its place
                allow_redirects=False,
                **more,
            )
        except requests.exceptions.SSLError as error:
            if distrusted(error) or _OTHER in str(error):
                self._untrusted(error)
            raise TryAgain(f"{self.host} can't be reached: {reason(error)}") from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if "Permission denied" in (why := reason(error)):
                hint = "be in the group incus-admin or incus, or name a remote"
                raise PublishError(f"{self.host}: {why}", hint) from None
            raise TryAgain(f"{self.host} can't be reached: {why}") from None
        except (requests.RequestException, OSError) as error:
            raise PublishError(f"{self.host}: {reason(error)}", "look at the remote: incus remote list") from None

    def _content(self, answer: requests.Response, method: str, path: str) -> Mapping[str, Any]:
        """The answer as JSON. Raises TryAgain or PublishError unless it says yes."""
        try:
            found = answer.json()
        except ValueError:
            found = None
        told: Mapping[str, Any] = found if isinstance(found, dict) else {}
        if not 200 <= answer.status_code < 300 or told.get("type") == "error":
            what = path.split("/")[1] if path else "server"
            status = int(told.get("error_code") or answer.status_code)
            self._refuse(f"{method} {what}: {status} {told.get('error') or answer.reason or ''}".rstrip(), status)
        if not told:
            raise PublishError(f"{self.host} is no Incus server", "look at the remote: incus remote list")
        return told

    def _refuse(self, said: str, status: int) -> NoReturn:
        what = f"{self.host}: {said}"
        if _FULL.search(said):
            raise PublishError(
                what, "make room there, for an upload twice its size for a while, or raise the project's limits"
            )
        if status in _PASSING or _AGAIN.search(said):
            raise TryAgain(what)
        raise PublishError(what, _HINTS.get(status, "the server's own log says more"))

    def _untrusted(self, error: BaseException) -> NoReturn:
        why = "it is not the one that the incus client knows" if _OTHER in str(error) else reason(error)
        raise PublishError(
            f"{self.host} has no certificate that is trusted here: {why}",
            f"if its certificate was renewed: incus remote remove {self._remote.name}, and add it anew",
        ) from None


_HINTS = {
    403: "a restricted certificate needs the project among its own: incus config trust edit, there",
    404: "check remote and project of the target",
    412: "somebody else works on the same image; publish again",
}


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("incus", blocksize=PIECE)
        self._path = path

    def _new_conn(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
            made.connect(str(self._path))
        except BaseException:
            made.close()
            raise
        return made


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("incus")
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        return _UnixConnection(self._path)


class _Unix(HTTPAdapter):
    """All requests to one socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = _UnixPool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()


class _Pinned(HTTPAdapter):
    """TLS to a server that has the one certificate which is known, whatever name and authority are in it."""

    def __init__(self, **tls: Any) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **{"blocksize": PIECE, **self._tls, **more})


@contextmanager
def opened(remote: Remote, project: str, timeout: float, secrets: Secrets) -> Iterator[Incus]:
    """A server, until the block ends.

    Raises:
        UsageError: a certificate of the client's can't be read.
    """
    with requests.Session() as session:
        session.trust_env = remote.socket is None  # no proxy to a socket
        session.auth = _nothing_else
        if remote.socket is not None:
            session.mount("http://incus", _Unix(remote.socket))
        else:
            session.mount("https://", _Pinned(**_tls(remote, session, secrets)))
        yield Incus(remote, session, project, timeout)


def _nothing_else(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An auth that changes nothing: without one requests would add what ~/.netrc has."""
    return request


def _tls(remote: Remote, session: requests.Session, secrets: Secrets) -> dict[str, Any]:
    """What the connections need beside the session's own, which gets our certificate."""
    tls: dict[str, Any] = {}
    if remote.login:
        certificate, key = remote.login
        session.cert = (str(certificate), str(key))
        with _usable(key, remote):
            if "ENCRYPTED" in key.read_text(encoding="ascii"):
                tls["key_password"] = secrets.ask(f"Password of {key}", "use a key without one")
            # Here, where it can be told what is wrong: later it would be a line that broke.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, tls.get("key_password"))
    if remote.certificate:
        with _usable(remote.certificate, remote):
            first, end, _ = remote.certificate.read_text(encoding="ascii").partition(ssl.PEM_FOOTER)
            der = ssl.PEM_cert_to_DER_cert(first.strip() + "\n" + end)
        tls["assert_fingerprint"] = hashlib.sha256(der).hexdigest()
        session.verify = False  # by an authority: it is compared as a whole
    return tls


@contextmanager
def _usable(file: Path, remote: Remote) -> Iterator[None]:
    """UsageError where that file of the incus client's turns out to be of no use."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else str(error)
        raise UsageError(f"{file} can't be used: {why}", f"incus remote add {remote.name} {remote.url}") from None
