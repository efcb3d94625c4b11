"""The stub of Roboconf's agent: the profile fits its archive, and a server of AMQP hears its heartbeat."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.guest import agent, templates, witness_signs
from ovfbuild.guest.steps import Guest
from ovfbuild.spec.agents import load_agent
from ovfbuild.spec.appliance import Appliance, from_table
from ovfbuild.spec.plan import Plan, resolve
from ovfbuild.spec.steps import FilesStep, UnpackStep
from tests.stub_roboconf import amqp, archive, java


class Server:
    """As much of an AMQP server as one client needs; remembers what was declared and published."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.login = b""
        self.said: list[tuple[str, ...]] = []
        self.messages: list[tuple[str, str, bytes]] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def wait(self, count: int, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while len(self.messages) < count:
            assert time.monotonic() < until, f"{len(self.messages)} of {count} messages came; heard: {self.said}"
            time.sleep(0.02)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._hear, args=(client.makefile("rwb"),), daemon=True).start()

    def _hear(self, stream: Any) -> None:
        assert stream.read(8) == b"AMQP\0\0\x09\x01"
        self._say(stream, 0, (10, 10), b"\0\x09" + bytes(4) + amqp.long(b"PLAIN") + amqp.long(b"en_US"))
        waiting: list[str] = []
        while head := stream.read(7):
            kind, channel, size = struct.unpack(">BHI", head)
            payload = stream.read(size)
            assert stream.read(1) == amqp.END
            if kind == amqp.BODY:
                self.messages.append((waiting[0], waiting[1], payload))
            if kind == amqp.METHOD:
                self._method(stream, channel, struct.unpack(">HH", payload[:4]), payload[4:], waiting)

    def _method(self, stream: Any, channel: int, numbers: tuple[int, ...], rest: bytes, waiting: list[str]) -> None:
        words = _shorts(rest[2:])
        answers = {(20, 10): (20, 11), (40, 10): (40, 11), (50, 10): (50, 11), (50, 20): (50, 21), (60, 20): (60, 21)}
        if numbers == (10, 11):
            self.login = rest
            self._say(stream, 0, (10, 30), struct.pack(">HIH", 10, 131072, 60))
        elif numbers == (10, 40):
            self._say(stream, 0, (10, 41), b"\0")
        elif numbers == (60, 40):
            waiting[:] = words[:2]
        elif numbers == (10, 50):
            self._say(stream, 0, (10, 51), b"")
        elif numbers in answers:
            kind = {(40, 10): "exchange", (50, 10): "queue", (50, 20): "bind"}.get(numbers[:2], "")
            if kind:
                self.said.append((kind, *words[: {"exchange": 2, "queue": 1, "bind": 3}[kind]]))
            if kind in ("exchange", "queue"):
                flags = rest[2 + sum(len(word) + 1 for word in words[: 2 if kind == "exchange" else 1])]
                self.said[-1] += (f"{flags:05b}",)
            self._say(stream, channel, answers[numbers], bytes(8) if numbers != (60, 20) else amqp.short("tag"))

    @staticmethod
    def _say(stream: Any, channel: int, numbers: tuple[int, int], arguments: bytes) -> None:
        stream.write(amqp.frame(amqp.METHOD, channel, amqp.method(numbers, arguments)))
        stream.flush()


def _shorts(octets: bytes) -> list[str]:
    """The short strings at the head of a method's arguments."""
    found = []
    while octets and octets[0] < len(octets):
        found.append(octets[1 : 1 + octets[0]].decode(errors="replace"))
        octets = octets[1 + octets[0] :]
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture(params=["0.6", "0.9.1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plan_of(version: str, folder: Path) -> Plan:
    archive.make(version, folder / "agent.tar.gz")
    table = {
        "name": "rb",
        "version": "1",
        "base": {"distribution": "debian:12"},
        "agent": {"profile": "roboconf", "version": version, "archive": "agent.tar.gz", "java_from": "own"},
    }
    appliance: Appliance = from_table(table, folder)
    return resolve(appliance, {})


def installed(plan: Plan, root: Path, seed: Path) -> None:
    """Carries out the plan's steps for the agent, and the seal's orders, into a folder."""
    guest = Guest(str(seed), lambda text: None)
    for blob in plan.payload:
        (seed / blob.name).parent.mkdir(parents=True, exist_ok=True)
        with blob.open() as source, (seed / blob.name).open("wb") as sink:
            shutil.copyfileobj(source, sink)
    for step in plan.steps:
        if isinstance(step, UnpackStep):
            # In a folder, the links of what lives elsewhere lead into the folder too.
            moves = [(name, str(root) + place) for name, place in step.moves]
            agent.unpack({**step.to_json(), "target": str(root) + step.target, "moves": moves}, guest)
        for entry in step.entries if isinstance(step, FilesStep) else ():
            target = Path(str(root) + entry.target)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(seed / entry.blob, target)
            target.chmod(int(entry.mode, 8))
    assert plan.agent
    agent.seal(plan.agent.seal, guest, str(root))


def configured(plan: Plan, root: Path, **said: str) -> None:
    """What the first boot's broker makes of these properties."""
    values: dict[str, Any] = {one.key: one.baked if one.baked is not None else "" for one in plan.deployment.properties}
    values |= {f"roboconf.{key.replace('_', '.')}": value for key, value in said.items()}
    values |= {"ovfbuild.address": "10.0.2.15", "ovfbuild.interface": ""}
    for _, template in templates.load_all(str(root), "/usr/lib/ovfbuild/templates.d"):
        assert isinstance(template, dict)
        text, bad = templates.render(template, values, {})
        assert not bad
        templates.write(str(root) + template["target"], text, int(template["mode"], 8), "root")


@pytest.fixture
def root(tmp_path: Path, version: str) -> Path:
    for name in ("root", "seed"):
        (tmp_path / name).mkdir()
    installed(plan_of(version, tmp_path), tmp_path / "root", tmp_path / "seed")
    return tmp_path / "root"


def test_the_profile_fits_the_archive(root: Path) -> None:
    etc = root / "etc/roboconf-agent"
    assert "sshHost = 127.0.0.1" in (etc / "org.apache.karaf.shell.cfg").read_text()
    assert "0.0.0.0" not in (etc / "org.apache.karaf.management.cfg").read_text()
    assert "karaf,_g_" not in (etc / "users.properties").read_text()
    assert os.access(root / "opt/roboconf-agent/bin/karaf", os.X_OK)
    assert (root / "opt/roboconf-agent/etc").is_symlink()
    assert (root / "var/log/roboconf-agent").is_dir()


@pytest.mark.parametrize("name", ["roboconf"])
def test_the_profile_fits_a_real_archive(name: str, tmp_path: Path) -> None:
    """OVFBUILD_ROBOCONF_TARBALL: where the agent's own archive lies, if it can be had."""
    real = os.environ.get("OVFBUILD_ROBOCONF_TARBALL")
    if not real:
        pytest.skip("OVFBUILD_ROBOCONF_TARBALL names no archive")
    with tarfile.open(real) as opened:
        names = {"/".join(member.name.split("/")[1:]) for member in opened}
    profile = load_agent(name).agent
    wanted = [edit.file for edit in profile.harden.edits if not (edit.optional or edit.create)]
    assert {path.replace("/etc/roboconf-agent/", "etc/") for path in wanted} <= names
    assert {"bin/karaf", "etc/net.roboconf.agent.configuration.cfg"} <= names


def test_the_heartbeat_is_heard(root: Path, version: str, server: Server, tmp_path: Path) -> None:
    plan = plan_of(version, tmp_path)
    host = f"127.0.0.1:{server.port}"
    configured(plan, root, application="my app", path="/vm1", messaging="rabbitmq", rabbitmq_host=host,
               rabbitmq_username="rb", rabbitmq_password="s p:c=ä\\")  # fmt: skip
    environment = {
        **os.environ,
        "KARAF_HOME": f"{root}/opt/roboconf-agent",
        "KARAF_ETC": f"{root}/etc/roboconf-agent",
        "KARAF_DATA": f"{root}/var/lib/roboconf-agent",
        "STUB_PERIOD": "0.2",
    }
    with subprocess.Popen([f"{root}/opt/roboconf-agent/bin/karaf", "daemon"], env=environment) as stub:
        try:
            server.wait(2)
        finally:
            stub.send_signal(signal.SIGTERM)
            stub.wait(10)
    server.wait(3)
    head = "default." if version == "0.9.1" else ""
    assert server.said == [
        ("exchange", f"{head}roboconf.dm", "topic", "00000"),
        ("exchange", f"{head}my app.agents", "topic", "00000"),
        ("exchange", f"{head}roboconf.inter-app", "topic", "00000"),
        ("queue", f"{head}my app.vm1", "01010"),
        ("bind", f"{head}my app.vm1", f"{head}my app.agents", "machine.vm1"),
    ]
    assert "\0rb\0s p:c=ä\\".encode() in server.login
    address = b"10.0.2.15" if version == "0.6" else b""
    for exchange, key, body in server.messages[:2]:
        assert (exchange, key) == (f"{head}roboconf.dm", "my app")
        assert body.startswith(b"\xac\xed\x00\x05sr")
        assert b"MsgNotifHeartbeat" in body
        assert body.count(b"\x00\x06my app") == 1
        assert address in body
    assert b"MsgNotifMachineDown" in server.messages[-1][2]
    log = (root / "var/log/roboconf-agent/roboconf.log").read_text()
    assert "established a new connection with RabbitMQ" in log
    assert f"Agent '{'[ default ] ' if head else ''}/vm1 @ my app' was launched." in log


def test_the_signs_of_life_are_the_stub_s_names(version: str, tmp_path: Path) -> None:
    plan = plan_of(version, tmp_path)
    assert plan.agent
    sign = next(sign for sign in plan.agent.alive if sign["kind"] == "amqp")
    values = {
        "roboconf.domain": "default",
        "roboconf.application": "app",
        "roboconf.path": "/vm1/web",
        "roboconf.messaging": "rabbitmq",
        **{f"roboconf.rabbitmq.{key}": "x" for key in ("host", "username", "password")},
        "ovfbuild.address": "192.0.2.1",
    }
    named = witness_signs.filled(sign, values, "")
    head = "default." if version == "0.9.1" else ""
    assert (named["exchange"], named["queue"]) == (f"{head}roboconf.dm", f"{head}app.vm1.web")
    assert list(named["text"]) == ["MsgNotifHeartbeat", "app", "/vm1/web", "192.0.2.1"]
    assert "skip" not in named


def test_a_server_that_is_not_there_is_tried_once(root: Path, tmp_path: Path, version: str) -> None:
    configured(plan_of(version, tmp_path), root, application="a", path="b", messaging="rabbitmq",
               rabbitmq_host="127.0.0.1:1")  # fmt: skip
    environment = {**os.environ, "KARAF_HOME": f"{root}/opt/roboconf-agent"}
    with subprocess.Popen([f"{root}/opt/roboconf-agent/bin/karaf", "daemon"], env=environment) as stub:
        log = root / "var/log/roboconf-agent/roboconf.log"
        until = time.monotonic() + 20
        while not (log.exists() and "was launched" in log.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        subprocess.run([f"{root}/opt/roboconf-agent/bin/stop"], env=environment, check=True)
        assert stub.wait(10) == 0
    assert log.read_text().count("**** WARNING **** Connection failed at 127.0.0.1:1") == 1


_JAVA = {
    "net/roboconf/messaging/api/messages/Message": "public abstract class Message implements java.io.Serializable "
    "{ private static final long serialVersionUID = -4397827141046520759L; }",
    "net/roboconf/messaging/api/messages/from_agent_to_dm/AbstractMsgNotif": "public abstract class AbstractMsgNotif "
    "extends net.roboconf.messaging.api.messages.Message { private static final long serialVersionUID = "
    "8098680203487017313L; String applicationName, scopedInstancePath; public String toString() { return "
    'applicationName + " " + scopedInstancePath; } }',
    "net/roboconf/messaging/api/messages/from_agent_to_dm/MsgNotifHeartbeat": "public class MsgNotifHeartbeat extends "
    "AbstractMsgNotif { private static final long serialVersionUID = -5112964737944073719L; String ipAddress; boolean "
    'modelRequired; public String toString() { return super.toString() + " " + ipAddress + " " + modelRequired; } }',
    "Read": "public class Read { public static void main(String[] a) throws Exception { System.out.println(new "
    "java.io.ObjectInputStream(System.in).readObject()); } }",
}


def test_java_reads_the_heartbeat(tmp_path: Path) -> None:
    if not (shutil.which("javac") and shutil.which("java")):
        pytest.skip("no Java here")
    for name, text in _JAVA.items():
        path = tmp_path / "src" / f"{name}.java"
        path.parent.mkdir(parents=True, exist_ok=True)
        package = ".".join(name.split("/")[:-1])
        path.write_text((f"package {package};\n" if package else "") + text)
    sources = [str(path) for path in (tmp_path / "src").rglob("*.java")]
    subprocess.run(["javac", "-d", str(tmp_path / "out"), *sources], check=True)
    said = subprocess.run(
        ["java", "-cp", str(tmp_path / "out"), "Read"],
        input=java.heartbeat("my app", "/vm1", "10.0.2.15"),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert said.stdout == b"my app /vm1 10.0.2.15 true\n"


def test_the_example_s_stand_in_is_this_one() -> None:
    """examples/roboconf/*.tar.gz is made by `python -m tests.stub_roboconf.archive 0.9.1 DIR`."""
    path = Path(__file__).parents[2] / "examples/roboconf/roboconf-stand-in-0.9.1.tar.gz"
    with tarfile.open(path) as packed:
        files = {member.name.partition("/")[2]: packed.extractfile(member) for member in packed}
        found = {name: content.read().decode() for name, content in files.items() if content}
    assert found == {name: text for name, (text, _) in archive.files("0.9.1").items()}
