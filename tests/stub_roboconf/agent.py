"""Does what Roboconf's agent does at its start, in as many words: `agent.py KARAF_HOME daemon|server|stop`.

Its configuration, its log's lines, its one attempt to connect, and the names in RabbitMQ are those of the version that
the archive says it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
import time
import urllib.request
from pathlib import Path

from tests.stub_roboconf import amqp, java

PERIOD = float(os.environ.get("STUB_PERIOD", "60"))
"""Seconds between heartbeats."""
AGENT, RABBITMQ = "net.roboconf.agent.configuration.cfg", "net.roboconf.messaging.rabbitmq.cfg"
METADATA = os.environ.get("STUB_METADATA", "http://169.254.169.254/latest")


class Stop(Exception):
    """The service manager's SIGTERM."""


class Agent:
    """The agent of one Karaf."""

    def __init__(self, home: Path) -> None:
        self.etc = Path(os.environ.get("KARAF_ETC", home / "etc"))
        self.data = Path(os.environ.get("KARAF_DATA", home / "data"))
        text = (home / "lib/stub/version").read_text(encoding="ascii")
        self.version = tuple(int(part) for part in text.strip().split("."))
        (self.data / "log").mkdir(parents=True, exist_ok=True)

    def log(self, text: str, level: str = "INFO") -> None:
        """As pax-logging writes roboconf.log."""
        line = "%s | %-5.5s | %-32.32s | %s\n" % (time.strftime("%Y-%m-%d %H:%M:%S,000"), level, "Agent", text)
        for name in ("roboconf.log", "karaf.log"):
            with (self.data / "log" / name).open("a", encoding="utf-8") as stream:
                stream.write(line)

    def configuration(self, name: str) -> dict[str, str]:
        path = self.etc / name
        return java.properties(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def stamps(self) -> list[int]:
        paths = [self.etc / name for name in (AGENT, RABBITMQ)]
        return [path.stat().st_mtime_ns for path in paths if path.is_file()]

    def identity(self) -> dict[str, str]:
        """What the agent knows of itself: its configuration, or user data where that names a target."""
        said = self.configuration(AGENT)
        found = {
            "application": said.get("application-name", ""),
            "path": said.get("scoped-instance-path", ""),
            "domain": said.get("domain", "default") or "default",
            "messaging": said.get("messaging-type", ""),
            "address": said.get("ip-address-of-the-agent", ""),
            "interface": said.get("network-interface", "eth0"),
            **{f"rabbitmq.{key.rpartition('.')[2]}": value for key, value in self.configuration(RABBITMQ).items()},
        }
        target = said.get("parameters" if self.version >= (0, 9) else "target-id", "").lstrip("@")
        if target:
            found.update(_from_user_data(java.properties(self.user_data(target))))
        return found

    def user_data(self, target: str) -> str:
        """What a Deployment Manager left, where the target says."""
        if target in ("iaas-ec2", "iaas-openstack"):
            self.log("User data are being retrieved for AWS / Openstack...")
            return _get(METADATA + "/user-data")
        if target == "iaas-vmware":
            self.log("User data are being retrieved for VMWare...")
            dropped = Path(os.environ.get("STUB_DROPPED", "/tmp/roboconf.properties"))
            for _ in range(30):
                if dropped.is_file():
                    return dropped.read_text(encoding="utf-8")
                time.sleep(2)
            return ""
        self.log("User data are being retrieved from URL: %s" % target)
        return _get(target)

    def run(self) -> None:
        """Until SIGTERM; begins anew when its configuration changes."""
        while True:
            seen, who = self.stamps(), self.identity()
            self.log("Agent '%s' is about to be launched." % self.name(who))
            connection = self.connect(who) if who["messaging"] == "rabbitmq" else None
            self.log("Agent '%s' was launched." % self.name(who))
            try:
                self.beat(connection, who, seen)
            except Stop:
                self.leave(connection, who)
                raise
            except (OSError, amqp.Refused) as error:
                self.log("The connection was lost: %s" % error, "ERROR")
                time.sleep(2)

    def name(self, who: dict[str, str]) -> str:
        name = "%s @ %s" % (who["path"], who["application"])
        return "[ %s ] %s" % (who["domain"], name) if self.version >= (0, 8) else name

    def names(self, who: dict[str, str]) -> dict[str, str]:
        """The objects in RabbitMQ, by version."""
        path = who["path"].strip("/").replace("/", ".")
        head = "%s." % who["domain"] if self.version >= (0, 8) else ""
        return {
            "dm": head + "roboconf.dm",
            "inter-app": head + "roboconf.inter-app",
            "agents": "%s%s.agents" % (head, who["application"]),
            "queue": "%s%s.%s" % (head, who["application"], path),
            "key": "machine." + path,
        }

    def connect(self, who: dict[str, str]) -> amqp.Connection | None:
        """One attempt; what fails is logged, and that is all."""
        server = who.get("rabbitmq.ip", "localhost")
        host, _, port = server.partition(":")
        self.log("Agent '%s' is opening a connection to RabbitMQ." % self.name(who))
        try:
            user, password = who.get("rabbitmq.username", ""), who.get("rabbitmq.password", "")
            connection = amqp.Connection(host, int(port or 5672), user, password)
            names = self.names(who)
            for exchange in ("dm", "agents", "inter-app"):
                connection.declare_topic(names[exchange])
            connection.declare_queue(names["queue"])
            connection.bind(names["queue"], names["agents"], names["key"])
            connection.consume(names["queue"], "Roboconf - agent")
        except (OSError, ValueError, amqp.Refused) as error:
            self.log("**** WARNING **** Connection failed at %s: %s" % (server, error), "WARN")
            return None
        self.log("Agent '%s' established a new connection with RabbitMQ. Channel # 1" % self.name(who))
        self.log("The agent was successfully (re)configured.")
        return connection

    def beat(self, connection: amqp.Connection | None, who: dict[str, str], seen: list[int]) -> None:
        """The heartbeat at once, and then every minute, unless nobody knows whose it is."""
        last = 0.0
        while self.stamps() == seen:
            if connection and who["application"] and who["path"] and time.monotonic() - last >= PERIOD:
                body = java.heartbeat(who["application"], who["path"], self.address(who))
                connection.publish(self.names(who)["dm"], who["application"], body)
                last = time.monotonic()
            if connection:
                connection.pump(min(1.0, PERIOD))
            else:
                time.sleep(1)
        if connection:
            connection.close()

    def leave(self, connection: amqp.Connection | None, who: dict[str, str]) -> None:
        self.log("Agent '%s' is about to be stopped." % self.name(who))
        if connection and who["application"] and who["path"]:
            body = java.machine_down(who["application"], who["path"])
            connection.publish(self.names(who)["dm"], who["application"], body)
            connection.close()

    def address(self, who: dict[str, str]) -> str:
        """What the agent tells others: forced, or that of a network card, or of the host's name."""
        if who["address"]:
            return who["address"]
        card = who["interface"] if self.version >= (0, 8) else "eth0"
        try:
            host = socket.gethostbyname(socket.gethostname())
        except OSError:
            host = "127.0.0.1"
        if self.version >= (0, 8) or host.startswith("127.0"):
            return _address_of(card) or host
        return host


def _from_user_data(said: dict[str, str]) -> dict[str, str]:
    known = {
        "application.name": "application",
        "scoped.instance.path": "path",
        "domain": "domain",
        "net.roboconf.messaging.type": "messaging",
        "net.roboconf.messaging.rabbitmq.server.ip": "rabbitmq.ip",
        "net.roboconf.messaging.rabbitmq.server.username": "rabbitmq.username",
        "net.roboconf.messaging.rabbitmq.server.password": "rabbitmq.password",
    }
    return {known[key]: value for key, value in said.items() if key in known}


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode("utf-8"))
    except OSError:
        return ""


def _address_of(card: str) -> str:
    """The card's first IPv4 address (netdevice(7), SIOCGIFADDR)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", card.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def main(argv: list[str]) -> int:
    agent = Agent(Path(argv[0]))
    pid = agent.data / "stub.pid"
    if argv[1:2] == ["stop"]:
        if pid.is_file():
            os.kill(int(pid.read_text(encoding="ascii")), signal.SIGTERM)
        return 0

    def stop(*_: object) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    pid.write_text(str(os.getpid()), encoding="ascii")
    try:
        with contextlib.suppress(Stop):
            agent.run()
    finally:
        pid.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
