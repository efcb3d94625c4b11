"""A TCP proxy on loopback that does to a server's connections what networks and servers do at their worst."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_PIECE = 1 << 16


@dataclass
class Fault:
    """What happens to a connection whose first bytes match, `times` often: after `after` bytes of the client's.

    `act` gets the request's head; what it returns is said to the client in the server's place, "" breaks the connection
    off, None lets it go on.
    """

    matches: Callable[[bytes], bool]
    after: int
    act: Callable[[bytes], bytes | None]
    times: int = 1


@dataclass
class Proxy:
    """A proxy that runs. `requests` are the heads of all requests that came first on their connections."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    def when(
        self, words: bytes, after: int, act: Callable[[bytes], bytes | None] = lambda head: b"", times: int = 1
    ) -> None:
        """A fault of the requests whose line begins with these words."""
        self.faults.append(Fault(lambda head: head.startswith(words), after, act, times))


def certificate(folder: Path) -> tuple[Path, Path]:
    """A new self-signed certificate for 127.0.0.1, and its key."""
    pem, key = folder / "server.pem", folder / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", pem),
        ],
        check=True,
        capture_output=True,
    )
    return pem, key


@contextmanager
def proxy(upstream: str, tls: tuple[Path, Path] | None = None) -> Iterator[Proxy]:
    """A proxy before the server at that URL, or at `unix:PATH`, until the block is done; one request a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    if context and tls:
        context.load_cert_chain(*tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Proxy(f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                args = (made, client, upstream, context)
                threading.Thread(target=_serve, args=args, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)


def _serve(made: Proxy, client: socket.socket, upstream: str, context: ssl.SSLContext | None) -> None:
    with suppress(OSError), client:
        talk = context.wrap_socket(client, server_side=True) if context else client
        head = talk.recv(_PIECE)
        while head and b"\r\n\r\n" not in head:
            head += talk.recv(_PIECE)
        made.heads.append(head)
        fault = next((one for one in made.faults if one.times and one.matches(head)), None)
        if fault:
            fault.times -= 1
            if fault.after == 0:  # before the server hears of it
                if (said := fault.act(head)) is not None:
                    talk.sendall(said)
                    talk.settimeout(1)
                    while said and talk.recv(_PIECE):  # else what is unread makes a reset of the answer
                        pass
                    return
                fault = None
        with _reach(upstream) as server:
            # The next request on this connection would come past us unseen.
            line, rest = head.split(b"\r\n", 1)
            kept = [one for one in rest.split(b"\r\n") if not one.lower().startswith(b"connection:")]
            server.sendall(b"\r\n".join([line, b"Connection: close", *kept]))
            back = threading.Thread(target=_answer, args=(server, talk), daemon=True)
            if fault is None:
                back.start()
            if _forward(talk, server, head, fault) and fault is not None:
                back.start()
            if back.ident:
                back.join(300)


def _reach(upstream: str) -> socket.socket:
    where = urlsplit(upstream)
    if where.scheme != "unix":
        return socket.create_connection((str(where.hostname), int(where.port or 0)))
    made = socket.socket(socket.AF_UNIX)
    made.connect(where.path)
    return made


def _forward(talk: socket.socket, server: socket.socket, head: bytes, fault: Fault | None) -> bool:
    """Sends what the client says; False when the fault has ended it."""
    sent, wanted = 0, _length(head) - len(head.split(b"\r\n\r\n", 1)[1])
    while True:
        if fault and sent >= fault.after:
            said = fault.act(head)
            if said is not None:
                with suppress(OSError):
                    talk.sendall(said)
                if not said:
                    talk.shutdown(socket.SHUT_RDWR)
                else:
                    time.sleep(0.5)
                return False
            fault = None
        if wanted <= 0:
            return True
        piece = talk.recv(min(_PIECE, wanted))
        if not piece:
            server.shutdown(socket.SHUT_RDWR)
            return True
        server.sendall(piece)
        sent, wanted = sent + len(piece), wanted - len(piece)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n\r\n", 1)[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _answer(server: socket.socket, talk: socket.socket) -> None:
    with suppress(OSError):
        while piece := server.recv(_PIECE):
            talk.sendall(piece)
        talk.shutdown(socket.SHUT_RDWR)
