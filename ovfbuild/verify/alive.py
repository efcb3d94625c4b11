"""Looks for an agent's signs of life from outside the machine that it lives in.

The guest says which signs there are (guest/witness_signs.py) and looks for those that only it can see; the others are
looked for here, in a thread beside the running machine: a port, an answer over HTTP, QEMU's guest agent, a message in
RabbitMQ.
"""

from __future__ import annotations

import http.client
import json
import queue
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ovfbuild.errors import VerificationError
from ovfbuild.verify import amqp
from ovfbuild.vm.machine import Running

WITHIN = 120.0
"""Seconds for a sign whose profile states no time."""
_PAUSE = 1.0
"""Seconds between two looks."""
_QUIET = 2.0
"""Seconds for which a TCP connection stays open: QEMU takes one for a port that the guest then refuses."""


@dataclass(frozen=True)
class Sign:
    """A sign of life, with the properties of this deployment filled in. `facts`: the fields of `spec.agent.Alive`."""

    kind: str
    facts: Mapping[str, Any]

    @property
    def within(self) -> float:
        """Seconds after the appliance came up."""
        return float(self.facts.get("within") or WITHIN)

    @property
    def skip(self) -> str:
        """Why it is none in this deployment; "" where it is one."""
        return str(self.facts.get("skip") or "")

    @property
    def texts(self) -> list[str]:
        """What an answer or a message has to hold."""
        return list(self.facts.get("text") or ())

    def __str__(self) -> str:
        facts = self.facts
        return {
            "unit": f"unit {facts.get('unit')}",
            "tcp": f"TCP port {facts.get('port')}",
            "http": f"HTTP port {facts.get('port')}, {facts.get('path')}",
            "amqp": f"heartbeat of queue {facts.get('queue')} in RabbitMQ",
            "file": f"file {facts.get('path')}",
            "journal": f"journal of {facts.get('unit')}",
            "guest-agent": "answer to guest-ping",
        }.get(self.kind, self.kind)


@dataclass(frozen=True)
class Seen:
    """What was seen of an agent: signs, those that are none in this deployment (with the reason), what failed."""

    title: str
    seen: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failure: str = ""


class Vigil:
    """A watch for one agent's signs, told by the guest's words (`begin`, `heard`), run beside its machine."""

    def __init__(self, servers: bool) -> None:
        """`servers`: whether to look for signs on servers outside of the guest too."""
        self._servers = servers
        self._signs: queue.Queue[tuple[str, Sequence[Sign]]] = queue.Queue()
        self._said: dict[int, str] = {}
        """By a sign's number, what the guest said of it: "" where it was seen."""
        self.result: Seen | None = None
        self.error: Exception | None = None
        """What went wrong in the watch itself, for the thread that runs the machine."""

    def begin(self, agent: Mapping[str, Any]) -> None:
        """The guest has come up, and has this agent."""
        signs = [Sign(str(facts.get("kind")), facts) for facts in agent.get("signs") or ()]
        self._signs.put((str(agent.get("title") or "its agent"), signs))

    def heard(self, number: object, unseen: object) -> None:
        """The guest has looked for the sign of this number."""
        if isinstance(number, int):
            self._said[number] = str(unseen)

    def run(self, running: Running) -> None:
        """Until all signs were seen, or one was not in its time; then the machine is ended."""
        while not running.over.is_set():
            with suppress(queue.Empty):
                title, signs = self._signs.get(timeout=0.5)
                try:
                    self.result = self._look(title, signs, running)
                except Exception as error:
                    self.error = error
                running.finish()
                return

    def _look(self, title: str, signs: Sequence[Sign], running: Running) -> Seen:
        began = time.monotonic()
        seen: list[str] = []
        skipped: list[str] = []
        for number, sign in enumerate(signs):
            why = sign.skip or ("" if self._servers or sign.kind != "amqp" else "`verify --boot` looks for it")
            if why:
                skipped += [] if any(one.startswith(f"{sign}: ") for one in skipped) else [f"{sign}: {why}"]
                continue
            said = self._await(number, sign, began, running)
            if said:
                return Seen(title, tuple(seen), tuple(skipped), f"{sign}, within {sign.within:.0f} s: {said}")
            seen.append(str(sign))
        return Seen(title, tuple(seen), tuple(skipped))

    def _await(self, number: int, sign: Sign, began: float, running: Running) -> str:
        """ "" when the sign was seen, else what was there instead when its time was over."""
        opened = _LOOKS.get(sign.kind)
        look = opened(sign, running) if opened else lambda: self._said.get(number, "the guest has not said")
        # The guest's clock is another: what it looks for, it says itself to be over.
        deadline = began + sign.within + (0.0 if opened else 60.0)
        said = look()
        while said and time.monotonic() < deadline and not running.over.wait(_PAUSE):
            if not opened and number in self._said:
                return self._said[number]  # it has looked for as long as it may
            said = look()
        return said


Look = Callable[[], str]
""" "" when the sign is there, else what is there instead."""


def _port(sign: Sign) -> int:
    text = str(sign.facts["port"])
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise VerificationError(
            f"the agent's sign of life names {text!r} as a port", "mend the port of [[agent.alive]]"
        )
    return int(text)


def _tcp(sign: Sign, running: Running) -> Look:
    port = running.forward(_port(sign))

    def look() -> str:
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(str(sign.facts.get("send") or "").encode())
                answer = _heard(connection, sign.texts)
        except OSError as error:
            return f"no connection to port {sign.facts['port']}: {error}"
        if answer is None:
            return f"port {sign.facts['port']} takes no connection"
        lacking = [text for text in sign.texts if text.encode() not in answer]
        return f"its answer, {answer[:80]!r}, has no {', '.join(lacking)}" if lacking else ""

    return look


def _heard(connection: socket.socket, texts: Sequence[str]) -> bytes | None:
    """What a server says; None if it closed the connection without a word, b"" if it waits for one."""
    answer = b""
    connection.settimeout(10.0 if texts else _QUIET)
    with suppress(TimeoutError):
        while piece := connection.recv(4096):
            answer += piece
            if all(text.encode() in answer for text in texts):
                return answer
        return answer or None
    return answer


def _http(sign: Sign, running: Running) -> Look:
    port = running.forward(_port(sign))

    def look() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", str(sign.facts["path"]), headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(4 << 20).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {error or type(error).__name__}"
        finally:
            connection.close()
        if answer.status != 200:
            return f"HTTP status {answer.status}"
        lacking = [text for text in sign.texts if text not in body]
        return f"the answer holds no {', '.join(lacking)}" if lacking else ""

    return look


def _guest_agent(sign: Sign, running: Running) -> Look:
    del sign
    channel = running.guest_agent

    def look() -> str:
        """`guest-sync-delimited` first, since the channel may hold what an earlier look was answered with."""
        number = secrets.randbelow(2**31)
        orders: tuple[dict[str, object], ...] = (
            {"execute": "guest-sync-delimited", "arguments": {"id": number}},
            {"execute": "guest-ping"},
        )
        channel.settimeout(5.0)
        answer = b""
        try:
            channel.sendall(b"\xff" + b"".join(json.dumps(order).encode() + b"\n" for order in orders))
            while answer.rpartition(b"\xff")[2].count(b"\n") < len(orders):
                piece = channel.recv(4096)
                if not piece:
                    return "its channel is closed"
                answer += piece
        except TimeoutError:
            return "no answer on its channel, org.qemu.guest_agent.0"
        except OSError as error:
            return f"its channel: {error}"
        synced, pinged = (json.loads(line) for line in answer.rpartition(b"\xff")[2].splitlines()[:2])
        good = synced.get("return") == number and pinged.get("return") == {}
        return "" if good else f"it answered {synced} and {pinged}"

    return look


def _amqp(sign: Sign, running: Running) -> Look:
    del running
    facts = sign.facts
    server = amqp.Server.of(str(facts["server"]), str(facts["username"]), str(facts["password"]))
    wanted = amqp.Message(str(facts["exchange"]), str(facts["routing_key"]), tuple(sign.texts))
    heard = amqp.Ear(server, wanted)
    return lambda: heard.listen(str(facts["queue"]))


_LOOKS: Mapping[str, Callable[[Sign, Running], Look]] = {
    "tcp": _tcp,
    "http": _http,
    "guest-agent": _guest_agent,
    "amqp": _amqp,
}
"""Of the signs that are seen from outside."""
