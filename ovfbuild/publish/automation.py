"""vSphere's Automation API in its form of vCenter 6.5 to 8 (`/rest`), over one login: JSON there, JSON back.

Its errors are those of com.vmware.vapi.std.errors, by kind in the answer's `type`; a proxy says a status.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ovfbuild.errors import PublishError
from ovfbuild.publish.credentials import Secrets
from ovfbuild.publish.meter import PIECE, Metered
from ovfbuild.publish.vim_session import VimSession, host_and_port, refused, untrusted
from ovfbuild.spec.targets import VSphereTarget
from ovfbuild.tries import TryAgain
from ovfbuild.vm.fetch import distrusted, reason

_SESSION = "/com/vmware/cis/session"
_BUSY = ("concurrent_change", "resource_busy", "resource_in_use", "resource_inaccessible", "service_unavailable")
"""Kinds of errors that pass, beside what is said with a status of 500 and more."""
_LARGEST = 16 << 20
"""Bytes of an answer."""


class Missing(Exception):
    """What a request names is not there (not_found, 404)."""


class Unanswered(TryAgain):
    """What was asked was not answered in time: it may be done all the same."""


def one(path: str, identifier: str) -> str:
    """The path of one of a kind: `/com/vmware/content/library/item` and its id."""
    return f"{path}/id:{quote(identifier, safe='')}"


class Automation:
    """Logs in when it is first used, and again when the server has forgotten it. Threads may share it."""

    def __init__(self, target: VSphereTarget, session: VimSession, secrets: Secrets) -> None:
        self._target = target
        self._session = session
        self._secrets = secrets
        self._known: urllib3.PoolManager | None = None
        self._token = ""
        host, port = host_and_port(target.host)
        self._base = f"https://{f'[{host}]' if ':' in host else host}:{port}/rest"

    def ask(self, method: str, path: str, body: object = None, timeout: float | None = None, **query: str) -> Any:
        """The answer's `value`. `action` of the query is the API's `~action`; `timeout`, in seconds, else the target's.

        Raises:
            Missing: not_found.
            TryAgain, PublishError: the server did not do it.
        """
        words = urlencode({"~action" if key == "action" else key: value for key, value in query.items()})
        url = f"{self._base}{path}{f'?{words}' if words else ''}"
        octets = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        return self._value(self._request(method, url, octets, headers | self._login(), timeout))

    def put(self, url: str, body: Metered) -> None:
        """Sends a file to where an update session wants it (upload_endpoint). Raises TryAgain, PublishError."""
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}
        self._value(self._request("PUT", url, iter(body), headers | self._login()))

    def close(self) -> None:
        """Logs out, if that is still possible."""
        with suppress(TryAgain, PublishError, Missing):
            if self._token:
                self.ask("DELETE", _SESSION)
        self._token = ""
        if self._known is not None:
            self._known.clear()

    def _login(self) -> dict[str, str]:
        """The header that says who asks."""
        if not self._token:
            password = self._session.password()
            known = base64.b64encode(f"{self._target.user}:{password}".encode()).decode()
            self._secrets.keep(known)
            headers = {"Authorization": f"Basic {known}", "vmware-use-header-authn": "true"}
            status, answer = self._request("POST", f"{self._base}{_SESSION}", None, headers)
            if status == 401:
                raise refused(self._target)
            if status == 404:
                raise PublishError(
                    f"{self._target.host} has no Automation API", "a content library needs a vCenter, 6.5 or newer"
                )
            self._token = self._secrets.keep(str(self._value((status, answer))))
        return {"vmware-api-session-id": self._token}

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | Iterator[bytes] | None,
        headers: dict[str, str],
        timeout: float | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of the answer, whatever it says."""
        with self._told():
            answer = self._pool.request(
                method,
                url,
                body=body,
                headers={"Accept": "application/json", **headers},
                timeout=urllib3.Timeout(connect=min(15, self._target.timeout), read=timeout or self._target.timeout),
                preload_content=False,
                redirect=False,
            )
            try:
                return answer.status, answer.read(_LARGEST)
            finally:
                answer.release_conn()

    @property
    def _pool(self) -> urllib3.PoolManager:
        if self._known is None:
            self._known = urllib3.PoolManager(
                maxsize=2, ssl_context=self._session.tls(), retries=False, blocksize=PIECE
            )
        return self._known

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the connection says, as TryAgain or PublishError."""
        try:
            yield
        except (HTTPError, OSError) as error:
            if distrusted(error):
                raise untrusted(self._target.host, reason(error)) from None
            kind = Unanswered if isinstance(error, ReadTimeoutError) else TryAgain
            raise kind(f"{self._target.host}: {reason(error)}") from None

    def _value(self, said: tuple[int, bytes]) -> Any:
        """What the server says, or its error."""
        status, octets = said
        try:
            answer = json.loads(octets) if octets.strip() else {}
        except ValueError:
            answer = {}
        told = answer if isinstance(answer, dict) else {}
        if 200 <= status < 300:
            return told.get("value")
        kind = str(told.get("type", "")).rpartition(".")[2]
        if status == 404 or kind == "not_found":
            raise Missing
        raise self._judged(status, kind, messages(told.get("value")))

    def _judged(self, status: int, kind: str, said: str) -> Exception:
        what = f"{self._target.host} says {status}{f' {kind}' if kind else ''}{f': {said}' if said else ''}"
        if status == 401 or kind == "unauthenticated":
            self._token = ""
            return TryAgain(f"{self._target.host}: the session is over")
        if status == 403 or kind == "unauthorized":
            why = f": {said}" if said else ""
            return PublishError(
                f"{self._target.host}: {self._target.user} has not the privilege that this needs{why}",
                "docs/clouds/vsphere.md lists the privileges that a target needs",
            )
        if status == 507 or kind == "unable_to_allocate_resource":
            return PublishError(what, "make room on the library's datastore")
        if status >= 500 or status in (408, 429) or kind in _BUSY:
            return TryAgain(what)
        return PublishError(what, "the server's own events say more")


def messages(value: Any) -> str:
    """The words of an error (`messages`), or of one LocalizableMessage."""
    table = value if isinstance(value, dict) else {}
    listed = [one for one in table.get("messages") or [table] if isinstance(one, dict)]
    return re.sub(r"\s+", " ", "; ".join(str(one["default_message"]) for one in listed if one.get("default_message")))
