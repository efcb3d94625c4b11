"""As much of AMQP 0-9-1 as the agent's messaging uses: one connection, one channel, no confirmation.

Frames and methods are numbered as in the protocol's specification (amqp0-9-1.xml).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
_TABLE = struct.pack(">I", 0)


class Refused(Exception):
    """The server closed the connection or the channel, or said something else than it should."""


def short(text: str) -> bytes:
    octets = text.encode("utf-8")
    return bytes([len(octets)]) + octets


def long(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + END


def method(numbers: tuple[int, int], arguments: bytes) -> bytes:
    return struct.pack(">HH", *numbers) + arguments


class Connection:
    """A connection that is open, with its channel 1."""

    def __init__(self, host: str, port: int, user: str, password: str, timeout: float = 5.0) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._buffer = b""
        self._socket.sendall(b"AMQP\0\0\x09\x01")
        self._expect((10, 10))  # connection.start
        login = ("\0%s\0%s" % (user, password)).encode()
        self._send(0, (10, 11), _TABLE + short("PLAIN") + long(login) + short("en_US"))
        tune = self._expect((10, 30))
        channels, size, _ = struct.unpack(">HIH", tune[:8])
        self.heartbeat = 20
        self._send(0, (10, 31), struct.pack(">HIH", channels, size, self.heartbeat))
        self._send(0, (10, 40), short("/") + short("") + b"\0")
        self._expect((10, 41))
        self._call((20, 10), short(""), (20, 11))

    def declare_topic(self, exchange: str) -> None:
        """Not durable, as exchangeDeclare(name, "topic") makes it."""
        self._call((40, 10), b"\0\0" + short(exchange) + short("topic") + b"\0" + _TABLE, (40, 11))

    def declare_queue(self, queue: str) -> None:
        """Durable, not exclusive, gone with its last consumer."""
        self._call((50, 10), b"\0\0" + short(queue) + bytes([0b01010]) + _TABLE, (50, 11))

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._call((50, 20), b"\0\0" + short(queue) + short(exchange) + short(key) + b"\0" + _TABLE, (50, 21))

    def consume(self, queue: str, tag: str) -> None:
        """Without acknowledgement; what comes is read by `pump` and dropped."""
        self._call((60, 20), b"\0\0" + short(queue) + short(tag) + bytes([0b0010]) + _TABLE, (60, 21))

    def publish(self, exchange: str, key: str, body: bytes) -> None:
        """`mandatory`, as the agent sends what a Deployment Manager shall hear."""
        arguments = b"\0\0" + short(exchange) + short(key) + b"\1"
        header = struct.pack(">HHQH", 60, 0, len(body), 0)
        self._socket.sendall(
            frame(METHOD, 1, method((60, 40), arguments)) + frame(HEADER, 1, header) + frame(BODY, 1, body)
        )

    def pump(self, seconds: float) -> None:
        """Reads and drops what comes for so long, and keeps the connection up."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(socket.timeout):
                self._read(max(0.01, min(until - time.monotonic(), self.heartbeat / 4)))
            self._socket.sendall(frame(HEARTBEAT, 0, b""))

    def close(self) -> None:
        try:
            self._send(0, (10, 50), struct.pack(">H", 200) + short("bye") + struct.pack(">HH", 0, 0))
            self._expect((10, 51))
        except (OSError, Refused):
            pass
        self._socket.close()

    def _call(self, numbers: tuple[int, int], arguments: bytes, answer: tuple[int, int]) -> bytes:
        self._send(1, numbers, arguments)
        return self._expect(answer)

    def _send(self, channel: int, numbers: tuple[int, int], arguments: bytes) -> None:
        self._socket.sendall(frame(METHOD, channel, method(numbers, arguments)))

    def _expect(self, numbers: tuple[int, int]) -> bytes:
        while True:
            kind, payload = self._read(5.0)
            if kind != METHOD:
                continue
            found = struct.unpack(">HH", payload[:4])
            if found == numbers:
                return payload[4:]
            if found[0] in (10, 20, 40, 50):
                raise Refused("the server said %s, not %s: %r" % (found, numbers, payload[4:]))

    def _read(self, timeout: float) -> tuple[int, bytes]:
        """The next frame's kind and payload."""
        self._socket.settimeout(timeout)
        while True:
            if len(self._buffer) >= 7:
                kind, _, size = struct.unpack(">BHI", self._buffer[:7])
                if len(self._buffer) >= size + 8:
                    payload, self._buffer = self._buffer[7 : 7 + size], self._buffer[8 + size :]
                    return kind, payload
            octets = self._socket.recv(65536)
            if not octets:
                raise Refused("the server hung up")
            self._buffer += octets
