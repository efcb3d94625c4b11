"""A RabbitMQ of a test's own: Debian's rabbitmq-server as an ordinary process, on loopback, with its own epmd."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pika
import pika.exceptions
import pytest

from tests.integration.guests import free_port
from tests.servers import running

HOME = Path("/usr/lib/rabbitmq/bin")
"""The scripts themselves: those on PATH insist on the user rabbitmq."""


_FIRST = "first"
"""The password until it is told the right one."""


@dataclass(frozen=True)
class Broker:
    """A server that answers, on 127.0.0.1."""

    port: int
    user: str
    password: str
    environment: dict[str, str]

    def ctl(self, *words: str) -> str:
        """What rabbitmqctl says."""
        argv = [str(HOME / "rabbitmqctl"), "--quiet", *words]
        return subprocess.run(
            argv, env=self.environment, check=True, capture_output=True, text=True, timeout=120
        ).stdout


def needed() -> None:
    """Skips a test on a laptop without a RabbitMQ, and fails it in CI."""
    if not (HOME / "rabbitmq-server").exists() or shutil.which("epmd") is None:
        pytest.fail("not installed: rabbitmq-server") if os.environ.get("CI") else pytest.skip("no rabbitmq-server")


@contextmanager
def rabbitmq(folder: Path, password: str = "roboconf") -> Iterator[Broker]:
    """Runs a server whose only user is roboconf, until the block is done."""
    folder.mkdir(parents=True)
    port, dist, epmd = free_port(), free_port(), free_port()
    environment = {
        **{name: os.environ[name] for name in ("PATH",)},
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"ovfbuild{port}@localhost",
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
    }
    (folder / "plugins").write_text("[].\n")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\ndefault_user = roboconf\ndefault_pass = {_FIRST}\n"
    )
    try:
        with running([HOME / "rabbitmq-server"], folder / "server.log", environment, 30) as server:
            broker = Broker(port, "roboconf", password, environment)
            _wait(broker, server, folder)
            broker.ctl("change_password", "roboconf", password)  # the file has no quotes for one
            yield broker
    finally:
        subprocess.run(["epmd", "-kill"], env=environment, check=False, capture_output=True, timeout=30)


def _wait(broker: Broker, server: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + 180
    credentials = pika.PlainCredentials(broker.user, _FIRST)
    while True:
        try:
            pika.BlockingConnection(
                pika.ConnectionParameters("127.0.0.1", broker.port, credentials=credentials)
            ).close()
            return
        except (pika.exceptions.AMQPError, OSError):
            said = (folder / "server.log").read_text(errors="replace")[-3000:]
            assert server.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)
