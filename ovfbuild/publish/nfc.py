"""The upload of a package's files under an HttpNfcLease (vSphere Web Services API: ImportVApp, HttpNfcLease).

A disk goes as it lies in the OVA, a streamOptimized VMDK. While a lease is not told of any progress for its
`leaseTimeout` (five minutes), the server ends it and removes what was sent.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ovfbuild.errors import FileError, PublishError
from ovfbuild.formats.ova import Member
from ovfbuild.publish.heartbeat import beating
from ovfbuild.publish.meter import PIECE, Meter, Metered
from ovfbuild.publish.vim_session import vmodl
from ovfbuild.tries import TryAgain
from ovfbuild.verify.package import Package


@dataclass(frozen=True)
class Errand:
    """A file that the server asks for: which, where to, and whether it is new there (no disk of the machine)."""

    member: Member
    url: str
    thumbprint: str
    """Of the certificate of the host that takes it, SHA-1 in hex, as the vCenter tells it; empty: none told."""
    create: bool


@dataclass(frozen=True)
class Sending:
    """How a host is connected to; `timeout` in seconds. `ask` raises what ended the lease, if anything did."""

    tls: Callable[[], ssl.SSLContext]
    timeout: float
    ask: Callable[[], None]


def errands(package: Package, items: Sequence[Any], lease: Any, host: str) -> list[Errand]:
    """What the import spec (OvfFileItem) and the lease (HttpNfcLeaseDeviceUrl) want.

    Args:
        host: `name:port` for URLs whose host is `*`: the one that we are connected to.
    """
    urls = {one.importKey: one for one in lease.info.deviceUrl}
    found = []
    for item in items:
        member = package.member(item.path)
        if member is None or item.compressionMethod or item.chunkSize:
            raise FileError(f"{item.path} is not in the package as a whole file", "pack it without pieces and gzip")
        url = urls[item.deviceId]
        print_ = (url.sslThumbprint or "").replace(":", "").lower()
        found.append(Errand(member, url.url.replace("*", host, 1), print_, bool(item.create)))
    return found


def send(package: Package, errand: Errand, digest: tuple[str, str] | None, meter: Meter, how: Sending) -> None:
    """POSTs a disk, or PUTs another file. `digest` is (algorithm, hex) of the package's manifest.

    Raises:
        FileError: the file is not what it was when it was judged.
        TryAgain, PublishError: the host did not take it.
    """
    running = hashlib.new(digest[0]) if digest else None
    with package.window(errand.member) as stream:
        body = Metered(stream, errand.member.size, meter)
        status, reason = _request(errand, _watched(body, running.update if running else None), how)
    if status == 401 or status >= 500:
        raise TryAgain(f"{errand.member.name}: the host says {status} {reason}")
    if not 200 <= status < 300:
        raise PublishError(f"{errand.member.name}: the host says {status} {reason}", "its own events say more")
    if running and digest and running.hexdigest() != digest[1].lower():
        raise FileError(
            f"{package.path}: {errand.member.name} was changed while it was read", "let nothing write to it"
        )


def _watched(body: Metered, update: Callable[[bytes], None] | None) -> Iterator[bytes]:
    for piece in body:
        if update:
            update(piece)
        yield piece


def _request(errand: Errand, body: Iterator[bytes], how: Sending) -> tuple[int, str]:
    parts = urlsplit(errand.url)
    tls = how.tls()
    if errand.thumbprint:
        # The vCenter, whose certificate was verified, vouches for this host's, which its own authority may have signed.
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=how.timeout, context=tls, blocksize=PIECE
    )
    headers = {"Content-Length": str(errand.member.size), "Content-Type": "application/x-vnd.vmware-streamVmdk"}
    if errand.create:
        headers |= {"Content-Type": "application/octet-stream", "Overwrite": "t"}
    try:
        connection.connect()
        _pin(connection, errand)
        connection.request(
            "PUT" if errand.create else "POST", parts._replace(scheme="", netloc="").geturl(), body, headers
        )
        answer = connection.getresponse()
        answer.read(1 << 16)
        how.ask()
        return answer.status, answer.reason
    except (OSError, http.client.HTTPException):
        how.ask()  # what ended the lease says more than a line that broke
        raise
    finally:
        connection.close()


def _pin(connection: http.client.HTTPSConnection, errand: Errand) -> None:
    if not errand.thumbprint:
        return
    assert isinstance(connection.sock, ssl.SSLSocket)
    shown = connection.sock.getpeercert(binary_form=True) or b""
    if hashlib.sha1(shown, usedforsecurity=False).hexdigest() != errand.thumbprint:
        host = urlsplit(errand.url).netloc
        raise PublishError(f"{host} shows another certificate than the vCenter says", "is somebody on the way?")


@contextmanager
def kept_alive(lease: Any, meter: Meter) -> Iterator[Callable[[], None]]:
    """Tells the lease how far the upload is, until the block ends; yields what raises the fault that ended it."""

    def say() -> None:
        lease.HttpNfcLeaseProgress(min(99, 100 * meter.at // max(meter.total, 1)))

    with beating(say, ends=(vmodl.MethodFault,), passes=(OSError, http.client.HTTPException)) as alive:

        def ask() -> None:
            alive()
            if lease.state == "error":
                raise lease.error

        yield ask


def abort(lease: Any) -> None:
    """Gives the lease up; the server then removes what was made for it."""
    with suppress(vmodl.MethodFault, OSError, http.client.HTTPException):
        lease.HttpNfcLeaseAbort()
