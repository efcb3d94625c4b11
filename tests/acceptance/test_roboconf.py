"""examples/roboconf, deployed in six ways: its heartbeat comes to a real RabbitMQ from whom it should be.

With a stand-in for the agent (tests/stub_roboconf); with the agent itself where OVFBUILD_ROBOCONF_TARBALL names its
archive, of version 0.9.1.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ovfbuild.verify import amqp
from ovfbuild.vm.hardware import Disk, file_node
from ovfbuild.vm.leftovers import find_leftovers
from tests import rabbitmq
from tests.acceptance.metadata import serving
from tests.integration import guests

pytestmark = pytest.mark.acceptance

PASSWORD = "it's $(touch /PWNED)"
FACTS = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; test -e /PWNED && echo PWNED; true"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rabbitmq.Broker]:
    rabbitmq.needed()
    with rabbitmq.rabbitmq(tmp_path_factory.mktemp("mq") / "server", PASSWORD) as broker:
        yield broker


@dataclass(frozen=True)
class Image:
    folder: Path
    key: Path
    public: str

    @property
    def ova(self) -> Path:
        return self.folder / "dist/roboconf-stand-in-0.9.1.ova"

    def make(self, name: str, settings: str = "") -> Path:
        """Builds the example, with the archive that can be had here, and a user whom the test can be."""
        folder = self.folder.parent / name
        shutil.copytree(guests.EXAMPLES / "roboconf", folder)
        toml = folder / "stand-in.toml"
        text = toml.read_text()
        if given := os.environ.get("OVFBUILD_ROBOCONF_TARBALL"):
            text = replaced(text, "archive", f'archive = "{given}"')
            text = replaced(text, "checksum", f'checksum = "sha256:{digest(Path(given))}"')
        text = replaced(text, "messaging", f'messaging = "rabbitmq"\n{settings}')
        user = f'[[system.users]]\nname = "admin"\nsudo = true\nssh_keys = ["{self.public}"]\n'
        script = f'[[scripts]]\nname = "mark"\nrun = "true # {guests.MARK}"\n'
        toml.write_text(f"{text}\n{user}{script}")
        done = guests.command("make", toml, "-o", folder / "dist", "--no-boot")
        assert done.returncode == 0, done.stderr[-5000:]
        return folder / "dist/roboconf-stand-in-0.9.1.ova"


def replaced(text: str, key: str, lines: str) -> str:
    """The text with other lines in the place of a key's."""
    before, found, after = text.partition(f"\n{key} = ")
    assert found, key
    return f"{before}\n{lines}{after[after.index(chr(10)) :]}"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, needs: Callable[..., None]) -> Image:
    """One OVA for all of the deployments but the last."""
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "ssh", "ssh-keygen")
    folder = tmp_path_factory.mktemp("roboconf")
    image = Image(folder / "plain", *guests.key_pair(folder))
    image.make("plain")
    return image


def words(broker: rabbitmq.Broker, application: str) -> list[str]:
    """Who the machine is, as the agent's properties."""
    values = {
        "application": application,
        "path": "/vm1/web",
        "messaging": "rabbitmq",
        "rabbitmq.host": f"10.0.2.2:{broker.port}",
        "rabbitmq.username": broker.user,
        "rabbitmq.password": broker.password,
    }
    return [word for key, value in values.items() for word in ("--set", f"roboconf.{key}={value}")]


def properties(broker: rabbitmq.Broker, application: str, host: str) -> str:
    """The same, as a Deployment Manager writes it (java.util.Properties.store)."""
    return (
        f"#\n#Tue Feb 23 10:00:00 UTC 2016\napplication.name={application}\nscoped.instance.path=/vm1/web\n"
        f"domain=default\nnet.roboconf.messaging.type=rabbitmq\n"
        f"net.roboconf.messaging.rabbitmq.server.ip={host}\\:{broker.port}\n"
        f"net.roboconf.messaging.rabbitmq.server.username={broker.user}\n"
        f"net.roboconf.messaging.rabbitmq.server.password={broker.password}\n"
    )


class Listening:
    """An ear at the broker from the machine's start on, in a thread."""

    def __init__(self, broker: rabbitmq.Broker, application: str, address: str) -> None:
        texts = ("MsgNotifHeartbeat", application, "/vm1/web", address)
        server = amqp.Server("127.0.0.1", broker.port, broker.user, broker.password)
        ear = amqp.Ear(server, amqp.Message("default.roboconf.dm", application, texts))
        self._over = threading.Event()
        self.said = "nobody has listened"

        def listen() -> None:
            while self.said and not self._over.is_set():
                self.said = ear.listen(f"default.{application}.vm1.web")

        self._thread = threading.Thread(target=listen)
        self._thread.start()

    def heard(self, seconds: float = 180) -> str:
        """ "" once the heartbeat has come, and the agent's queue is read; else what came instead."""
        until = time.monotonic() + seconds
        while self.said and time.monotonic() < until:
            time.sleep(0.5)
        self._over.set()
        self._thread.join()
        return self.said


@pytest.mark.parametrize("deliver", ["ovf-env", "nocloud"])
def test_verify_sees_the_heartbeat(image: Image, broker: rabbitmq.Broker, deliver: str) -> None:
    done = guests.command("verify", image.ova, "--boot", "--deliver", deliver, *words(broker, f"by {deliver}"))
    assert done.returncode == 0, done.stderr[-5000:]
    sign = f"Roboconf agent was seen alive: heartbeat of queue default.by {deliver}.vm1.web in RabbitMQ"
    assert sign in done.stderr
    assert ", boot, identity, agent)" in done.stdout
    assert PASSWORD not in done.stderr + done.stdout


def test_verify_fails_where_no_heartbeat_comes(image: Image, broker: rabbitmq.Broker) -> None:
    wrong = [word.replace(PASSWORD, "wrong") for word in words(broker, "wrong")]
    done = guests.command("verify", image.ova, "--boot", *wrong)
    assert done.returncode == 6, done.stderr[-5000:]
    assert "the appliance booted, but Roboconf agent was not seen alive: heartbeat of queue" in done.stderr


def test_metadata_service(image: Image, broker: rabbitmq.Broker, tmp_path: Path, fakes: Path) -> None:
    """As EC2 has it: IMDSv2, found by the DMI's words; user-data as a Deployment Manager sends them."""
    text = properties(broker, "by ec2", "169.254.169.2")
    with serving(text, image.public) as port:
        fake_qemu(fakes, port)
        spec, visit = guests.deployed(image.ova, tmp_path / "ec2", image.key)
        listening = Listening(broker, "by ec2", "169.254.169.15")
        with guests.running_machine(spec, tmp_path / "ec2/logs", visit):
            assert listening.heard() == ""
            assert "PWNED" not in visit.run(FACTS)
            assert visit.run("cloud-id") == "aws"


def test_config_drive(image: Image, broker: rabbitmq.Broker, tmp_path: Path, needs: Callable[..., None]) -> None:
    """As OpenStack attaches it where config_drive_format is vfat; user-data as a Deployment Manager sends them."""
    needs("mkfs.vfat", "mcopy")
    drive = config_drive(tmp_path, properties(broker, "by config drive", "10.0.2.2"), image.public)
    spec, visit = guests.deployed(image.ova, tmp_path / "openstack", image.key)
    spec = replace(spec, disks=(*spec.disks, Disk(file_node(drive, "raw", read_only=True), "virtio")))
    listening = Listening(broker, "by config drive", "10.0.2.15")
    with guests.running_machine(spec, tmp_path / "openstack/logs", visit):
        assert listening.heard() == ""
        assert "PWNED" not in visit.run(FACTS)
        assert visit.run("hostname") == "as-nova-says"
        assert visit.run("cloud-id") in {"configdrive", "openstack"}


def config_drive(folder: Path, user_data: str, public_key: str) -> Path:
    """An image with the file system config-2, of what Nova writes there."""
    latest = folder / "config/openstack/latest"
    latest.mkdir(parents=True)
    meta = {
        "uuid": "83679162-1378-4288-a2d4-70e13ec132aa",
        "hostname": "as-nova-says",
        "name": "as-nova-says",
        "public_keys": {"test": public_key},
    }
    (latest / "meta_data.json").write_text(json.dumps(meta))
    (latest / "user_data").write_text(user_data)
    drive = folder / "config.img"
    drive.write_bytes(bytes(8 << 20))
    subprocess.run(["mkfs.vfat", "-n", "CONFIG-2", drive], check=True, capture_output=True)
    subprocess.run(["mcopy", "-s", "-i", drive, folder / "config/openstack", "::"], check=True)
    return drive


def test_identity_is_remembered_and_two_clones_differ(image: Image, broker: rabbitmq.Broker, tmp_path: Path) -> None:
    """By /tmp/roboconf.properties, as on vSphere, and by the ISO of deploy-seed; both are gone at the second boot."""
    facts = {}
    for name in ("dropped", "seeded"):
        application = f"clone {name}"
        iso = seed(image, broker, application, tmp_path / "seed.iso") if name == "seeded" else None
        spec, visit = guests.deployed(image.ova, tmp_path / name, image.key, iso=iso)
        listening = Listening(broker, application, "10.0.2.15")
        with guests.running_machine(spec, tmp_path / name / "first", visit):
            if name == "dropped":
                text = properties(broker, application, "10.0.2.2")
                visit.run(f"sudo tee /tmp/roboconf.properties > /dev/null << 'END'\n{text}END\n")
            assert listening.heard() == ""
            facts[name] = visit.run(FACTS).splitlines()
        without = replace(spec, disks=tuple(disk for disk in spec.disks if not disk.cdrom))
        listening = Listening(broker, application, "10.0.2.15")
        with guests.running_machine(without, tmp_path / name / "second", visit):
            assert listening.heard() == ""
            assert visit.run("ls /tmp/roboconf.properties 2> /dev/null || echo gone") == "gone"
            assert visit.run(FACTS).splitlines() == facts[name]
    assert len({fact for each in facts.values() for fact in each}) == 4, "two machine-ids, two host keys"


def seed(image: Image, broker: rabbitmq.Broker, application: str, target: Path) -> Path:
    done = guests.command("deploy-seed", image.ova, *words(broker, application), "-o", target)
    assert done.returncode == 0, done.stderr
    return target


def test_baked_defaults(image: Image, broker: rabbitmq.Broker, tmp_path: Path) -> None:
    """What [agent.settings] says holds where nobody says anything."""
    settings = (
        f'application = "baked"\npath = "/vm1/web"\nrabbitmq.host = "10.0.2.2:{broker.port}"\n'
        f'rabbitmq.username = "{broker.user}"\nrabbitmq.password = "{broker.password}"\n'
    )
    ova = image.make("baked", settings)
    done = guests.command("verify", ova, "--boot")
    assert done.returncode == 0, done.stderr[-5000:]
    assert "seen alive: heartbeat of queue default.baked.vm1.web in RabbitMQ" in done.stderr


def test_the_sealed_disk_is_nobody_s(image: Image, tmp_path: Path) -> None:
    """From outside: no way in that everybody knows, no key, no cache, no identity, nothing of the build."""
    with guests.disk_of(image.ova, tmp_path / "disk") as (root, raw):
        assert find_leftovers(root) == []
        etc = "/etc/roboconf-agent"
        users = root.read(f"{etc}/users.properties", 9999).decode()
        assert not [line for line in users.splitlines() if line.replace(" ", "").startswith("karaf=")]
        assert b"sshHost = 127.0.0.1" in root.read(f"{etc}/org.apache.karaf.shell.cfg", 9999)
        for path in (f"{etc}/host.key", "/var/lib/roboconf-agent/cache", "/opt/roboconf-agent/lock"):
            assert not root.exists(path), path
        assert [entry.name for entry in root.listing("/var/log/roboconf-agent")] == []
        assert not [path for path, _ in root.walk("/var/lib/ovfbuild")]
        assert [text for text in (str(image.folder), guests.MARK) if guests.holds(raw, text)] == []


KARAF = """
[[agent.alive]]
kind = "file"
path = "/var/log/roboconf-agent/karaf.log"
within = "5 min"
[[agent.alive]]
kind = "file"
path = "/var/lib/roboconf-agent/cache/bundle0"
within = "5 min"
"""


def test_the_karaf_that_the_agent_is_made_of(tmp_path: Path, needs: Callable[..., None]) -> None:
    """Apache Karaf 4.0.9 itself, by Maven: it lives in the agent's layout, by its unit, with Java 8, closed."""
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs", "mvn")
    shutil.copytree(guests.EXAMPLES / "roboconf", tmp_path / "karaf")
    toml = tmp_path / "karaf/appliance.toml"
    text = replaced(toml.read_text(), "maven", 'maven = "org.apache.karaf:apache-karaf:4.0.9:tar.gz"')
    toml.write_text(text + KARAF)
    done = guests.command("make", toml, "-o", tmp_path / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    signs = "unit roboconf-agent.service; file /var/log/roboconf-agent/karaf.log; file /var/lib/roboconf-agent/cache"
    assert f"Roboconf agent was seen alive: {signs}" in done.stderr
    with guests.disk_of(tmp_path / "dist/roboconf-agent-0.9.1.ova", tmp_path / "disk") as (root, _):
        users = root.read("/etc/roboconf-agent/users.properties", 9999).decode()
        assert not [line for line in users.splitlines() if line.replace(" ", "").startswith("karaf=")]
        shell = root.read("/etc/roboconf-agent/org.apache.karaf.shell.cfg", 99999)
        assert b"sshHost = 127.0.0.1" in shell
        assert b"sshHost = 0.0.0.0" not in shell


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the head of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def fake_qemu(folder: Path, port: int) -> None:
    """A QEMU whose guest is on EC2: by its DMI, and by a metadata service at 169.254.169.254, which is on `port`."""
    real = shutil.which("qemu-system-x86_64", path=os.environ["PATH"].partition(":")[2])
    relay = folder / "relay"
    relay.write_text(f"#!{sys.executable}\n{RELAY}")
    script = folder / "qemu-system-x86_64"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"there = 'user,id=net0,net=169.254.169.0/24,guestfwd=tcp:169.254.169.254:80-cmd:{relay} {port}'\n"
        "argv = [word.replace('user,id=net0', there) for word in sys.argv]\n"
        f"os.execv({real!r}, argv + ['-smbios', 'type=1,manufacturer=Amazon EC2,product=t3.small,'\n"
        "    'uuid=ec2e1916-9099-7caf-fd21-012345abcdef,serial=ec2e1916-9099-7caf-fd21-012345abcdef'])\n"
    )
    for path in (relay, script):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


RELAY = """\
import os, socket, sys, threading
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def up():
    while piece := os.read(0, 65536):
        server.sendall(piece)
    server.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while piece := server.recv(65536):
    os.write(1, piece)
"""
