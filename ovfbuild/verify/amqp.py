"""Listens in RabbitMQ for a message of an agent's, as its server would.

pika is an extra, `pip install 'ovfbuild[amqp]'`: only agents that speak AMQP need it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from ovfbuild.errors import ProgramError
from ovfbuild.vm.hardware import HOST

PORT = 5672
_TURN = 2.0
"""Seconds of one `listen`."""


@dataclass(frozen=True)
class Server:
    """A RabbitMQ server, as this host reaches it."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)

    @classmethod
    def of(cls, server: str, username: str, password: str) -> Server:
        """Of `host` or `host:port` as the guest has it; the host's own address in QEMU's network is 127.0.0.1 here."""
        host, _, port = server.partition(":")
        return cls("127.0.0.1" if host == HOST else host, int(port or PORT), username, password)

    def __str__(self) -> str:
        return f"RabbitMQ at {self.host}:{self.port}"


@dataclass(frozen=True)
class Message:
    """A message that is waited for: its topic exchange, its routing key, and what its body holds."""

    exchange: str
    routing_key: str
    texts: tuple[str, ...] = ()


class Ear:
    """A queue of its own, bound to the exchange, open as long as the server is."""

    def __init__(self, server: Server, wanted: Message) -> None:
        self._server = server
        self._wanted = wanted
        self._connection: Any = None
        self._said = "no message yet"

    def listen(self, queue: str) -> str:
        """Waits a moment for the message; "" when it has come and `queue` has its consumer, else what is there.

        Raises:
            ProgramError: pika is not installed.
        """
        pika = _pika()
        errors = (pika.exceptions.AMQPError, OSError)
        try:
            if self._connection is None or self._connection.is_closed:
                self._open(pika)
            until = time.monotonic() + _TURN
            for _, _, body in self._channel.consume(self._queue, auto_ack=True, inactivity_timeout=_TURN):
                lacking = [text for text in self._wanted.texts if text.encode() not in (body or b"")]
                if body is not None and not lacking:
                    return self._consumed(pika, queue)
                if body is not None:
                    self._said = f"a message came to {self._wanted.exchange} without {', '.join(lacking)}"
                if time.monotonic() > until:
                    break
            self._channel.cancel()
        except errors as error:
            self._connection = None
            return f"{self._server}: {error or type(error).__name__}"
        return f"{self._server}: {self._said}"

    def _open(self, pika: Any) -> None:
        """The exchange is declared as its agent declares it (Roboconf: topic, not durable): the first one makes it."""
        credentials = pika.PlainCredentials(self._server.username, self._server.password)
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(self._server.host, self._server.port, credentials=credentials, socket_timeout=10)
        )
        self._channel = self._connection.channel()
        self._channel.exchange_declare(self._wanted.exchange, "topic")
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.queue_bind(self._queue, self._wanted.exchange, self._wanted.routing_key)

    def _consumed(self, pika: Any, queue: str) -> str:
        """Whether the agent's own queue is there, and somebody reads it."""
        try:
            found = self._connection.channel().queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return f"{self._server}: the heartbeat came, but there is no queue {queue}"
        count = int(found.method.consumer_count)
        self._connection.close()
        return "" if count else f"{self._server}: the heartbeat came, but nobody reads the queue {queue}"


def _pika() -> Any:
    try:
        import pika  # noqa: PLC0415 - an extra
        import pika.exceptions  # noqa: PLC0415
    except ImportError:
        raise ProgramError("the agent's heartbeat goes to RabbitMQ", "pip install 'ovfbuild[amqp]'") from None
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # it has its own words for a refused connection
    return pika
