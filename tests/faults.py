"""Ways to a real server on loopback on which things go wrong: cut, refused, silent, in the middle of a body."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass
class Fault:
    """What happens to requests like `match` (`PUT /a/b`), when half of the body has passed, so many `times`.

    Args:
        does: "cut" the line, answer a number such as "503" or "400:CodeOfS3", be "silent", or "slow" from then on; or
            let it "pass", and then it happens before the server has heard anything of the request.
        seen: is called when it happens.
    """

    match: str
    does: str
    times: int = 1 << 30
    seen: Callable[[], None] | None = None


class Line:
    """The way to a server of HTTP: `port` is its near end."""

    def __init__(self, server_port: int) -> None:
        self._server = server_port
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.heads: list[bytes] = []
        self.over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError), near.makefile("rb") as stream:
            head = b"".join(iter(stream.readline, b"\r\n"))
            if not head:
                return
            asked = head.split(b" HTTP/")[0].decode()
            self.requests.append(asked)
            self.heads.append(head)
            fault = next((one for one in self.faults if one.times > 0 and re.search(one.match, asked)), None)
            length = int((re.search(rb"(?i)\r\ncontent-length: *(\d+)", head) or [b"", b"0"])[1])
            head = re.sub(rb"(?i)\r\n(connection|expect):[^\r]*", b"", head) + b"Connection: close\r\n\r\n"
            if fault and fault.does == "pass":
                _happens(fault)
                fault = None
            with socket.create_connection(("127.0.0.1", self._server)) as far:
                far.sendall(head)
                if fault:
                    _pass(stream, far, length // 2)
                    _happens(fault)
                    if not self._goes_on(fault, near):
                        return
                    length -= length // 2
                    if fault.does == "slow":
                        self._crawl(stream, far, length)
                        length = 0
                _pass(stream, far, length)
                while octets := far.recv(1 << 16):
                    near.sendall(octets)

    def _goes_on(self, fault: Fault, near: socket.socket) -> bool:
        if fault.does == "silent":
            self.over.wait(60)
        elif fault.does[0].isdecimal():
            status, _, code = fault.does.partition(":")
            body = f"<Error><Code>{code}</Code></Error>" if code else ""
            told = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
            near.sendall(told.encode())
            near.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while near.recv(1 << 16):  # else what is unread makes a reset of the answer
                    pass
        return fault.does == "slow"

    def _crawl(self, stream: BinaryIO, far: socket.socket, length: int) -> None:
        for _ in range(20):
            _pass(stream, far, min(length, 4096))
            length -= min(length, 4096)
            self.over.wait(0.05)
        _pass(stream, far, length)


def _happens(fault: Fault) -> None:
    fault.times -= 1
    if fault.seen:
        fault.seen()


def _pass(stream: BinaryIO, far: socket.socket, length: int) -> None:
    while length > 0 and (octets := stream.read(min(length, 1 << 16))):
        far.sendall(octets)
        length -= len(octets)


@contextmanager
def line(server_port: int) -> Iterator[Line]:
    """The way to a server on this port, until the block ends."""
    opened = Line(server_port)
    try:
        yield opened
    finally:
        opened.close()


class Wire:
    """A way to a server of any protocol, at a port of loopback or a socket's path; its near end is of the same kind.

    On the first `times` connections something happens once, after so many bytes from the client.

    Args:
        near: the path of its near end; None for a port.
        does: "cut" it, "stop" all that the client says, or what is called, after which all goes on.
    """

    def __init__(self, far: int | Path, near: Path | None, after: int, times: int, does: str | Callable[[], None]):
        self.happened = threading.Event()
        self._far, self._after, self._times, self._does = far, after, times, does
        self._socket = socket.socket(socket.AF_UNIX if near else socket.AF_INET)
        self._socket.bind(str(near) if near else ("127.0.0.1", 0))
        self._socket.listen()
        self.port = 0 if near else int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.socket(socket.AF_UNIX if isinstance(self._far, Path) else socket.AF_INET)
                far.connect(str(self._far) if isinstance(self._far, Path) else ("127.0.0.1", self._far))
                threading.Thread(target=self._pass, args=(near, far, self._times > 0), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()
                self._times -= 1

    def _pass(self, source: socket.socket, sink: socket.socket, faulty: bool) -> None:
        passed = 0
        with suppress(OSError):
            while octets := source.recv(1 << 15):
                sink.sendall(octets)
                passed += len(octets)
                if faulty and passed >= self._after:
                    self.happened.set()
                    if self._does == "stop":
                        return
                    if self._does == "cut":
                        break
                    faulty = False
                    if callable(self._does):
                        self._does()
            for one in (source, sink):
                one.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
