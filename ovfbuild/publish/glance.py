"""OpenStack's image API (v2) as far as it is needed here, through openstacksdk's login and catalogue of services.

openstacksdk's own upload is not used: where a token is over it sends what is left of the stream as if that were all,
and it adds properties of its own (`owner_specified.*`). The API: https://docs.openstack.org/api-ref/image/v2/
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlencode, urlsplit

import requests
from keystoneauth1 import exceptions as login
from openstack.connection import Connection
from openstack.exceptions import SDKException

from ovfbuild.errors import PublishError
from ovfbuild.publish.credentials import Secrets
from ovfbuild.tries import TryAgain
from ovfbuild.vm.fetch import distrusted, reason

_T = TypeVar("_T")
Image = Mapping[str, Any]
"""An image as Glance shows it."""
_PATCH = "application/openstack-images-v2.1-json-patch"
_OCTETS = "application/octet-stream"
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_UNREACHED = re.compile(r"Unable to establish connection|timed out")
_CERTIFICATE = re.compile(r"(certificate verify failed: [^(\"']*)")


class Glance:
    """One region's image service. Every method may raise TryAgain, or PublishError where trying again is no use."""

    def __init__(self, connection: Connection, secrets: Secrets, timeout: float) -> None:
        self._connection = connection
        self._secrets = secrets
        self._timeout = (min(15.0, timeout), timeout)
        self.host = ""

    def enter(self) -> str:
        """Logs in, and finds Glance: the project's id."""
        project = self._asked(self._connection.session.get_project_id)
        endpoint = self._asked(self._endpoint)
        if not project:
            raise PublishError("the login is for no project", "give project_name in clouds.yaml: images belong to one")
        if not endpoint:
            raise PublishError("the cloud has no image service in this region", "check region of the target")
        self.host = urlsplit(endpoint).netloc
        return str(project)

    def _endpoint(self) -> str | None:
        """Where Glance is; the first look at `image` asks the catalogue and Glance itself."""
        try:
            found: str | None = self._connection.image.get_endpoint()
        except SDKException:
            self._knock()
            raise
        return found

    def _knock(self) -> None:
        """Raises why Glance can't be reached: openstacksdk only says that it found no version of it."""
        image = self._connection.config.get_session_client("image")
        if url := image.get_endpoint(skip_discovery=True):
            image.session.get(url, authenticated=False, raise_exc=False, connect_retries=0, timeout=self._timeout)

    def images(self, **filters: str) -> Iterator[Image]:
        """Those that match, the hidden and the unfinished too."""
        for hidden in ("false", "true"):
            query = {"limit": "200", "visibility": "all", "os_hidden": hidden, **filters}
            at = f"/images?{urlencode(query)}"
            while at:
                page = self._json("GET", at)
                yield from page["images"]
                at = str(page.get("next") or "").removeprefix("/v2")

    def image(self, number: str) -> Image | None:
        """One image; None where there is none any more."""
        answer = self._call("GET", f"/images/{number}", fine=(404,))
        found: Image | None = None if answer.status_code == 404 else answer.json()
        return found

    def create(self, body: Mapping[str, Any]) -> Image:
        """A new image without content."""
        made: Image = self._json("POST", "/images", json=body)
        return made

    def change(self, number: str, **values: object) -> Image:
        """Sets some fields of an image, all at once."""
        patch = [{"op": "add", "path": f"/{key}", "value": value} for key, value in values.items()]
        changed: Image = self._json("PATCH", f"/images/{number}", json=patch, headers={"Content-Type": _PATCH})
        return changed

    def delete(self, number: str) -> None:
        """Removes an image; that it is gone already is no mistake."""
        self._call("DELETE", f"/images/{number}", fine=(404,))

    def send(self, number: str, content: Any, size: int, *, stage: bool) -> None:
        """The content of an image, from a stream of that length.

        Once: the stream is read only once, so neither a token that is over nor a redirection is followed.
        """
        headers = {"Content-Type": _OCTETS, "X-OpenStack-Image-Size": str(size)}
        to = f"/images/{number}/{'stage' if stage else 'file'}"
        answer = self._call("PUT", to, data=content, headers=headers, allow_reauth=False, redirect=False, fine=(401,))
        if answer.status_code == 401:
            self._asked(self._connection.session.invalidate)
            raise TryAgain(f"{self.host}: the token is over")

    def take_in(self, number: str) -> None:
        """Lets the cloud import what was staged."""
        self._call("POST", f"/images/{number}/import", json={"method": {"name": "glance-direct"}})

    def import_methods(self) -> tuple[str, ...]:
        """What the interoperable import offers; nothing where there is none."""
        answer = self._call("GET", "/info/import", fine=(403, 404))
        return tuple(answer.json()["import-methods"]["value"]) if answer.status_code == 200 else ()

    def failures(self, number: str) -> str:
        """What the cloud says of imports that failed."""
        answer = self._call("GET", f"/images/{number}/tasks", fine=(403, 404))
        tasks = answer.json().get("tasks", ()) if answer.status_code == 200 else ()
        said = (task.get("message") for task in tasks if task.get("status") == "failure")
        return "; ".join(str(message) for message in said if message)

    def room(self) -> int | None:
        """Bytes that the project's quota leaves (API 2.13), where there is one."""
        answer = self._call("GET", "/info/usage", fine=(403, 404))
        total = answer.json().get("usage", {}).get("image_size_total") if answer.status_code == 200 else None
        if not total or total["limit"] < 0:
            return None
        return max(int(total["limit"]) - int(total["usage"]), 0) << 20

    # --- requests ---

    def _json(self, method: str, path: str, **more: Any) -> Any:
        return self._call(method, path, **more).json()

    def _call(self, method: str, path: str, fine: tuple[int, ...] = (), **more: Any) -> requests.Response:
        answer: requests.Response = self._asked(
            lambda: self._connection.image.request(
                path, method, raise_exc=False, log=False, timeout=self._timeout, connect_retries=0, **more
            )
        )
        if not 200 <= answer.status_code < 300 and answer.status_code not in fine:
            self._judge(answer, method)
        return answer

    def _asked(self, ask: Callable[[], _T]) -> _T:
        """What openstacksdk gives, its errors as ours."""
        try:
            return ask()
        except login.SSLError as error:
            if distrusted(error):
                self._untrusted(error)
            raise TryAgain(f"{self.host or 'the cloud'} can't be reached: {reason(error)}") from None
        except login.Unauthorized as error:
            raise PublishError(
                f"the cloud does not let us in: {_first_line(error)}", "check user, password and project in clouds.yaml"
            ) from None
        except (login.ConnectFailure, login.ConnectTimeout, login.UnknownConnectionError) as error:
            raise TryAgain(f"{self.host or 'the cloud'} can't be reached: {_first_line(error)}") from None
        except (login.ClientException, SDKException) as error:
            if _CERTIFICATE.search(str(error)):  # where the catalogue is looked for, errors are only told of
                self._untrusted(error)
            if getattr(error, "http_status", None) in _PASSING or _UNREACHED.search(str(error)):
                raise TryAgain(f"{self.host or 'the cloud'} can't be reached: {_first_line(error)}") from None
            hint = "check auth_url, region_name and the login in clouds.yaml"
            raise PublishError(f"the cloud: {_first_line(error)}", hint) from None

    def _untrusted(self, error: BaseException) -> NoReturn:
        found = _CERTIFICATE.search(str(error))
        raise PublishError(
            f"{self.host or 'the cloud'} has no certificate that is trusted here: "
            f"{found[1].strip() if found else _first_line(error)}",
            "for a private authority, set cacert in clouds.yaml to its certificates",
        ) from None

    def _judge(self, answer: requests.Response, method: str) -> NoReturn:
        status = answer.status_code
        what = f"{self.host}: {method} image: {status} {answer.reason or ''}".rstrip()
        said = _explanation(answer)
        what = f"{what}: {said}" if said else what
        if status in _PASSING:
            later = answer.headers.get("Retry-After", "")
            raise TryAgain(what, float(later) if later.isdecimal() else 0)
        raise PublishError(what, _HINTS.get(status, "the server's own log says more"))


_HINTS = {
    401: "check user, password and project in clouds.yaml",
    403: "the project lacks the right to do this: another visibility, or a role that may",
    404: "somebody else removed it meanwhile; publish again",
    409: "somebody else works on the same image, or it is in use",
    410: "somebody else removed it meanwhile; publish again",
    413: "make room: the project's quota or the cloud's store is full",
    415: "the cloud takes no such disk: check disk_format of the target",
}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:400]


def _explanation(answer: requests.Response) -> str:
    """What Glance says in its page of HTML, or as plain text, in one line."""
    body = answer.text[:4000]
    body = re.sub(r"(?s)<head>.*?</head>|<h1>.*?</h1>", " ", body)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())[:400]
