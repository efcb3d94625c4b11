"""A heartbeat through a real RabbitMQ: the stand-in for Roboconf's agent sends it, and the ear of `verify` hears it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfbuild.verify import amqp
from tests import rabbitmq
from tests.stub_roboconf import archive

PASSWORD = "p w:'\"$x"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rabbitmq.Broker]:
    rabbitmq.needed()
    with rabbitmq.rabbitmq(tmp_path_factory.mktemp("mq") / "server", PASSWORD) as broker:
        yield broker


@contextmanager
def agent(folder: Path, version: str, port: int) -> Iterator[None]:
    """The stub, configured as the first-boot broker would, and running."""
    with tarfile.open(archive.make(version, folder / "agent.tar.gz")) as tar:
        tar.extractall(folder, filter="data")
    home = folder / f"roboconf-karaf-dist-agent-{version}"
    (home / "etc/net.roboconf.agent.configuration.cfg").write_text(
        "messaging-type = rabbitmq\ndomain = here\napplication-name = my app\nscoped-instance-path = /vm/web\n"
        "ip-address-of-the-agent = 192.0.2.7\n"
    )
    head = "net.roboconf.messaging.rabbitmq.server"
    (home / "etc/net.roboconf.messaging.rabbitmq.cfg").write_text(
        f"{head}.ip = 127.0.0.1\\:{port}\n{head}.username = roboconf\n{head}.password = {PASSWORD}\n"
    )
    argv = [sys.executable, "-m", "tests.stub_roboconf.agent", str(home), "daemon"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(home / "lib/stub"), "STUB_PERIOD": "1"}
    running = subprocess.Popen(argv, env=environment)
    try:
        yield
    finally:
        running.terminate()
        running.wait(20)


def listen(broker: rabbitmq.Broker, version: str, *texts: str, queue: str = "my app.vm.web") -> str:
    """What the ear says after it has listened for at most 20 s."""
    head = "" if version < "0.8" else "here."
    server = amqp.Server("127.0.0.1", broker.port, broker.user, broker.password)
    ear = amqp.Ear(server, amqp.Message(f"{head}roboconf.dm", "my app", ("MsgNotifHeartbeat", *texts)))
    said = "nothing"
    for _ in range(10):
        said = ear.listen(head + queue)
        if not said or texts == ("another",):
            break
    return said


@pytest.mark.parametrize("version", ["0.6", "0.9.1"])
def test_the_heartbeat_is_heard_by_what_it_says(broker: rabbitmq.Broker, tmp_path: Path, version: str) -> None:
    with agent(tmp_path, version, broker.port):
        assert listen(broker, version, "my app", "/vm/web", "192.0.2.7") == ""
        queues = broker.ctl("list_queues", "name", "durable", "auto_delete", "consumers")
        head = "" if version == "0.6" else "here."
        assert f"{head}my app.vm.web\ttrue\ttrue\t1" in queues
        assert "machine.vm.web" in broker.ctl("list_bindings", "routing_key")


def test_a_heartbeat_of_another_is_not_taken(broker: rabbitmq.Broker, tmp_path: Path) -> None:
    with agent(tmp_path, "0.9.1", broker.port):
        assert listen(broker, "0.9.1", "/vm/web") == ""
        assert "without another" in listen(broker, "0.9.1", "another")
        assert "there is no queue here.elsewhere" in listen(broker, "0.9.1", queue="elsewhere")
