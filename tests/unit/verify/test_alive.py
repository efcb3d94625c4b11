"""An agent's signs of life, as they are seen from outside: with real servers where the guest's would be."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from ovfbuild.errors import VerificationError
from ovfbuild.verify import alive
from ovfbuild.verify.alive import Vigil


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "_PAUSE", 0.1)
    monkeypatch.setattr(alive, "_QUIET", 0.2)


class Machine:
    """A running machine whose ports are this host's."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.finished = False
        self.guest_agent, self.guest = socket.socketpair()

    def forward(self, port: int) -> int:
        return port

    def finish(self) -> None:
        self.finished = True


def seen(*signs: dict[str, Any], servers: bool = False, said: dict[int, str] | None = None) -> tuple[str, list[str]]:
    """(what failed, what was seen)"""
    machine, vigil = Machine(), Vigil(servers)
    vigil.begin({"title": "Greeter", "signs": [{"within": 0.2, **sign} for sign in signs]})
    for number, unseen in (said or {}).items():
        vigil.heard(number, unseen)
    vigil.run(machine)  # type: ignore[arg-type]
    assert machine.finished
    assert vigil.result is not None
    return vigil.result.failure, list(vigil.result.seen)


@contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A TCP server; each connection is given to `answer`, and then closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    answer(client)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_port_that_greets_or_waits_is_alive_and_one_that_hangs_up_is_not() -> None:
    with server(lambda client: client.sendall(b"hello")) as port:
        assert seen({"kind": "tcp", "port": port}) == ("", [f"TCP port {port}"])
    with server(lambda client: client.recv(1)) as port:
        assert seen({"kind": "tcp", "port": str(port)})[0] == ""
    # So a port looks that QEMU forwards and the guest refuses.
    with server(lambda client: None) as port:
        assert f"port {port} takes no connection" in seen({"kind": "tcp", "port": port})[0]


def test_a_port_can_be_asked() -> None:
    with server(lambda client: client.sendall(b"ZBXD\x011" if client.recv(99) == b"agent.ping\n" else b"?")) as port:
        assert seen({"kind": "tcp", "port": port, "send": "agent.ping\n", "text": ["ZBXD"]})[0] == ""
        assert "has no ZBXD" in seen({"kind": "tcp", "port": port, "send": "agent.pong\n", "text": ["ZBXD"]})[0]


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(b"node_load1 0.5")

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_page_has_to_be_there_and_to_say_what_it_should() -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        sign = {"kind": "http", "port": pages.server_port, "path": "/metrics"}
        assert seen({**sign, "text": ["node_load1"]})[0] == ""
        assert "the answer holds no node_load5" in seen({**sign, "text": ["node_load1", "node_load5"]})[0]
        assert "HTTP status 404" in seen({**sign, "path": "/"})[0]
        pages.shutdown()
    assert "no answer" in seen(sign)[0]


def test_what_the_guest_looks_for_is_believed_by_its_number() -> None:
    signs = [{"kind": "unit", "unit": "a.service"}, {"kind": "file", "path": "/b"}]
    assert seen(*signs, said={0: "", 1: ""}) == ("", ["unit a.service", "file /b"])
    failure, found = seen(*signs, said={0: "", 1: "/b is not there"})
    assert (failure, found) == ("file /b, within 0 s: /b is not there", ["unit a.service"])


def test_a_sign_that_is_none_here_is_passed_by_and_one_on_a_server_only_looked_for_when_asked() -> None:
    machine, vigil = Machine(), Vigil(servers=False)
    vigil.begin({"signs": [{"kind": "unit", "unit": "a", "skip": "not here"}, {"kind": "amqp", "queue": "q"}]})
    vigil.run(machine)  # type: ignore[arg-type]
    assert vigil.result is not None
    assert (vigil.result.seen, vigil.result.failure) == ((), "")
    assert vigil.result.skipped == (
        "unit a: not here",
        "heartbeat of queue q in RabbitMQ: `verify --boot` looks for it",
    )


def test_the_guest_agent_is_asked_by_its_channel() -> None:
    machine, vigil = Machine(), Vigil(servers=False)

    def agent() -> None:
        with machine.guest.makefile("rb") as orders:
            machine.guest.sendall(b'{"return": {}}\n')  # of an earlier time
            number = json.loads(orders.readline().lstrip(b"\xff"))["arguments"]["id"]
            assert json.loads(orders.readline())["execute"] == "guest-ping"
            machine.guest.sendall(b'\xff{"return": %d}\n{"return": {}}\n' % number)

    threading.Thread(target=agent, daemon=True).start()
    vigil.begin({"signs": [{"kind": "guest-agent", "within": 5}]})
    vigil.run(machine)  # type: ignore[arg-type]
    assert vigil.result is not None
    assert (vigil.result.failure, vigil.result.seen) == ("", ("answer to guest-ping",))


def test_nobody_is_waited_for_when_the_machine_is_over() -> None:
    machine, vigil = Machine(), Vigil(servers=False)
    machine.over.set()
    vigil.run(machine)  # type: ignore[arg-type]
    assert vigil.result is None


def test_a_broker_that_is_not_there_is_named_and_its_password_is_not() -> None:
    pytest.importorskip("pika")
    sign = {"kind": "amqp", "exchange": "e", "routing_key": "r", "queue": "q", "username": "u"}
    failure, _ = seen({**sign, "server": "10.0.2.2:1", "password": "geheim"}, servers=True)
    assert "RabbitMQ at 127.0.0.1:1: " in failure
    assert "geheim" not in failure


def test_what_goes_wrong_in_the_watch_is_not_lost_with_its_thread() -> None:
    machine, vigil = Machine(), Vigil(servers=False)
    vigil.begin({"signs": [{"kind": "http", "port": "hello", "path": "/"}]})
    vigil.run(machine)  # type: ignore[arg-type]
    assert machine.finished
    assert isinstance(vigil.error, VerificationError)
    assert "names 'hello' as a port" in vigil.error.message
