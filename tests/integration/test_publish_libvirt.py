"""Packages on a real libvirtd with QEMU, local and by ssh: volumes that are the disks, a domain that validates."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import PublishError, UsageError
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Published, Publisher
from ovfbuild.tries import Patience
from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from tests import faults, filesystems
from tests.faults import Wire
from tests.libvirtd import AS_ITS_USER, Daemon, libvirtd
from tests.sshd import Sshd, sshd
from tests.unit.publish.kit import Heard, ova, target

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]
libvirt: Any = pytest.importorskip("libvirt")

PASSWORD, WRONG = "not-to-be-seen-0815", "wrong-not-to-be-seen"
QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02)


@pytest.fixture(scope="module")
def daemon(needs: Callable[..., None]) -> Iterator[Daemon]:
    needs("libvirtd", "virt-xml-validate", "qemu-system-x86_64", "setpriv")
    with libvirtd() as started:
        yield started


@dataclass
class Shop:
    daemon: Daemon
    folder: Path
    heard: Heard

    def publish(self, path: Path, how: How | None = None, name: str | None = None, **table: Any) -> Published:
        at = {"uri": self.daemon.uri(), "network": "user", **table}
        aim = target(self.folder, name="host", kind="libvirt", **at)
        return Publisher(self.heard, patience=QUICK).publish(path, aim, how or How(), name=name)

    def refused(self, path: Path, said: str, **table: Any) -> PublishError:
        """What it ends with: these words, exit code 7, and no secret in any text."""
        with pytest.raises(PublishError, match=said) as caught:
            self.publish(path, **table)
        error = caught.value
        assert error.exit_code == 7
        for text in (self.heard.text, str(error), error.hint, repr(caught.getrepr())):
            assert PASSWORD not in text and WRONG not in text
        return error

    def described(self, name: str) -> str:
        text: str = self.daemon.connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return text


@pytest.fixture
def shop(daemon: Daemon, tmp_path: Path, own_cache: Path) -> Iterator[Shop]:
    yield Shop(daemon, tmp_path, Heard())
    daemon.clear()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return ova(tmp_path / "a-1.0.ova")


def config(folder: Path, uri: str) -> None:
    """A target x of the user's own."""
    path = folder / "ovfbuild/targets.toml"
    path.parent.mkdir()
    path.write_text(f'[[publish]]\nname="x"\nkind="libvirt"\nnetwork="user"\nuri="{uri}"\n')


def same_disk(package: Path, volume: Path) -> bool:
    (_, member), *_ = open_package(package).disks
    return disk.compare(disk.inside(package, member.offset, member.size), disk.described(volume, "qcow2"))


def test_twice_is_once_and_the_disk_is_the_same(shop: Shop, package: Path, tmp_path: Path) -> None:
    first, second = shop.publish(package, read_back=True), shop.publish(package)
    assert (first.receipt.outcome, second.receipt.outcome) == ("published", "present")
    assert first.lines == second.lines and first.lines[0] == "a-1.0"
    (volume,) = shop.daemon.volumes
    assert first.lines[2] == str(volume) and same_disk(package, volume)
    text = shop.described("a-1.0")
    for part in ("<vcpu placement='static'>2<", ">1048576<", "bus='sata'", "device='cdrom'", "model type='e1000'"):
        assert part in text
    (tmp_path / "domain.xml").write_text(text)
    subprocess.run(["virt-xml-validate", tmp_path / "domain.xml", "domain"], check=True, capture_output=True)


def test_replaced_under_its_uuid_and_old_versions_go(shop: Shop, package: Path, tmp_path: Path) -> None:
    shop.publish(ova(tmp_path / "old.ova", "0.9"))
    first = shop.publish(package)
    again = shop.publish(package, How(replace=True))
    assert again.lines[:2] == first.lines[:2] and again.lines[2] != first.lines[2]
    assert len(shop.daemon.volumes) == 2
    shop.publish(package, How(keep_old=0))
    assert [path.name.split("@")[1] for path in shop.daemon.volumes] == ["1.0"]
    assert [one.name() for one in shop.daemon.connection.listAllDomains(0)] == ["a-1.0"]


@pytest.mark.fault("image of that name there already")
def test_a_domain_of_somebody_else_is_not_touched(shop: Shop, package: Path) -> None:
    mine = "<domain type='qemu'><name>a-1.0</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    shop.daemon.connection.defineXML(mine)
    shop.refused(package, r"a domain a-1\.0 is there that ovfbuild did not make")
    with pytest.raises(PublishError, match="did not make"):
        shop.publish(package, How(replace=True))
    assert shop.daemon.volumes == []
    assert shop.publish(package, name="b").lines[0] == "b-1.0"


@pytest.mark.fault("server down")
def test_refusals(shop: Shop, package: Path, tmp_path: Path) -> None:
    assert "pool-list" in shop.refused(package, "no storage pool with matching name 'none'", pool="none").hint
    assert "start libvirt" in shop.refused(package, "No such file", uri=shop.daemon.uri(tmp_path / "none")).hint


@pytest.mark.fault("no permission")
def test_a_pool_that_the_daemon_may_not_write_to(shop: Shop, package: Path) -> None:
    shop.daemon.pool.chmod(0o555)
    try:
        assert "write to the pool" in shop.refused(package, "Permission denied").hint
    finally:
        shop.daemon.pool.chmod(0o755)
    assert shop.daemon.volumes == [] and shop.daemon.connection.listAllDomains(0) == []


@pytest.mark.fault("wrong password")
def test_a_password_opens_and_is_never_seen(
    needs: Callable[..., None], package: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SASL, from auth.conf; where it has none, somebody would have to be asked."""
    needs("libvirtd", "saslpasswd2", "setpriv")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(package.parent))
    with libvirtd(password=PASSWORD) as daemon:
        shop = Shop(daemon, package.parent, Heard())
        wrong = f"{daemon.uri()}&authfile={daemon.auth_file(WRONG)}"
        refused = shop.refused(package, "authentication failed", uri=wrong)
        assert "auth.conf" in refused.hint and daemon.volumes == []
        with pytest.raises(UsageError, match="there is no terminal to ask for it"):
            shop.publish(package)
        told = shop.publish(package, uri=f"{daemon.uri()}&authfile={daemon.auth_file(PASSWORD)}")
        assert told.receipt.outcome == "published" and len(daemon.volumes) == 1


@pytest.mark.fault("full disk")
def test_a_full_disk(shop: Shop, package: Path) -> None:
    shop.daemon.limit("250000")
    try:
        assert shop.refused(package, "File too large").hint == "make room in the pool"
    finally:
        shop.daemon.limit("unlimited")
    assert shop.daemon.volumes == [] and shop.daemon.connection.listAllDomains(0) == []


@pytest.mark.fault("quota")
def test_a_pool_s_quota(needs: Callable[..., None], package: Path, tmp_path: Path, own_cache: Path) -> None:
    """Of its file system: libvirt's pools have none of their own."""
    needs("libvirtd", "mkfs.btrfs", "unshare", "setpriv")
    with libvirtd(lambda folder: filesystems.quota(folder, "6m")) as daemon:
        shop = Shop(daemon, tmp_path, Heard())
        refused = shop.refused(ova(tmp_path / "large.ova", more=12), "Disk quota exceeded")
        assert refused.hint == "make room in the pool"
        assert daemon.volumes == [] and daemon.connection.listAllDomains(0) == []
        shop.publish(package)
        assert len(daemon.volumes) == 1


@pytest.mark.fault("slow server")
@pytest.mark.parametrize("when", ["at first", "at half"])
def test_a_daemon_that_says_nothing(shop: Shop, package: Path, when: str) -> None:
    near = shop.daemon.folder / when.replace(" ", "-")
    line = Wire(shop.daemon.socket, near, 1 if when == "at first" else 150_000, 9, "stop")
    refused = shop.refused(package, r"\(3 tries\)", uri=shop.daemon.uri(near), timeout="1 s")
    left = shop.daemon.volumes
    assert line.happened.is_set() and (not left or "the next publish removes it" in refused.hint)
    shop.publish(package)
    assert len(shop.daemon.volumes) == 1


@pytest.mark.fault("connection cut at half")
@pytest.mark.parametrize("times", [1, 9])
def test_a_line_that_is_cut_at_half(shop: Shop, package: Path, times: int) -> None:
    near = shop.daemon.folder / f"cut{times}"
    Wire(shop.daemon.socket, near, 150_000, times, "cut")
    if times == 1:
        assert shop.publish(package, uri=shop.daemon.uri(near)).receipt.outcome == "published"
        (volume,) = shop.daemon.volumes
        assert same_disk(package, volume)
        return
    shop.refused(package, "3 tries", uri=shop.daemon.uri(near))
    assert shop.daemon.volumes == [], "the ways to clean up are short enough not to be cut"
    assert shop.daemon.connection.listAllDomains(0) == []


@pytest.mark.fault("process killed at half")
def test_killed_at_half_and_done_by_the_next(shop: Shop, package: Path, tmp_path: Path) -> None:
    near = shop.daemon.folder / "stop"
    line = Wire(shop.daemon.socket, near, 150_000, 1, "stop")
    config(tmp_path, shop.daemon.uri(near))
    argv = [sys.executable, "-m", "ovfbuild", "publish", str(package), "--to", "x"]
    with subprocess.Popen(argv, env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}) as running:
        assert line.happened.wait(100)
        running.send_signal(signal.SIGKILL)
    assert len(shop.daemon.volumes) == 1 and shop.daemon.connection.listAllDomains(0) == []
    shop.publish(package)
    assert "removing what an earlier upload of a 1.0 left" in shop.heard.text
    (volume,) = shop.daemon.volumes
    assert same_disk(package, volume)


# --- by ssh ---


@dataclass(frozen=True)
class Far:
    """The daemon, as it is reached by ssh."""

    sshd: Sshd

    def uri(self, port: int = 0, key: str = "key", more: str = "") -> str:
        at = f"{self.sshd.user}@127.0.0.1:{port or self.sshd.port}"
        return f"qemu+ssh://{at}/session?command={self.sshd.client}&keyfile={self.sshd.key(key)}{more}"

    def through(self, wire: Wire) -> str:
        """As it is reached by a wire, which has the server's name, so that its host key is known."""
        known = self.sshd.folder / "known_hosts"
        known.write_text(
            known.read_text() + known.read_text().splitlines()[0].replace(str(self.sshd.port), str(wire.port)) + "\n"
        )
        return self.uri(wire.port)


@pytest.fixture(scope="module")
def far(daemon: Daemon, needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """Whoever logs in becomes the daemon's user, whose session's socket virt-ssh-helper finds."""
    needs("sshd", "ssh", "nc", "virt-ssh-helper")
    becomes = f'env XDG_RUNTIME_DIR={daemon.folder}/run sh -c "$SSH_ORIGINAL_COMMAND"'
    with sshd(tmp_path_factory.mktemp("far") / "ssh", f"ForceCommand {' '.join(AS_ITS_USER)} {becomes}") as running:
        yield Far(running)


def ssh_of_ours() -> list[int]:
    """The ids of this process's own ssh, of which libvirt starts one a connection."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name == "ssh" and int(rest.split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def no_ssh_is_left() -> bool:
    """Whether all have ended, which those do soon whose connection was closed."""
    until = time.monotonic() + 20
    while ssh_of_ours():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("by", ["virt-ssh-helper", "nc"])
def test_by_ssh_twice_is_once_and_the_disk_is_the_same(shop: Shop, far: Far, package: Path, by: str) -> None:
    uri = far.uri(more=f"&socket={shop.daemon.socket}" if by == "nc" else "")
    first, second = shop.publish(package, uri=uri, read_back=True), shop.publish(package, uri=uri)
    assert (first.receipt.outcome, second.receipt.outcome) == ("published", "present")
    (volume,) = shop.daemon.volumes
    assert first.lines == second.lines and first.lines[2] == str(volume) and same_disk(package, volume)
    assert shop.publish(package, How(replace=True), uri=uri).receipt.outcome == "published"
    assert len(shop.daemon.volumes) == 1 and no_ssh_is_left()


REFUSED_BY_SSH = [
    ("wrong password", "another key", "Permission denied (publickey)", "check who may log in there: the key of ssh"),
    ("certificate wrong", "another host", "Host key verification failed", "let ssh know its key"),
    ("server down", "no sshd", "Connection refused", "check the network"),
    ("server down", "no libvirtd", "No such file or directory", "start libvirt there"),
    ("server down", "no nc", "not found", "netcat-openbsd"),
]


@pytest.mark.fault("wrong password", "certificate wrong", "server down")
@pytest.mark.parametrize(("_", "what", "said", "hint"), REFUSED_BY_SSH, ids=[case[1] for case in REFUSED_BY_SSH])
def test_what_ssh_refuses(shop: Shop, far: Far, package: Path, _: str, what: str, said: str, hint: str) -> None:
    uri = {
        "another key": far.uri(key="another"),
        "another host": far.uri().replace(str(far.sshd.client), str(far.sshd.client_that_knows_nobody())),
        "no sshd": far.uri(faults.free_port()),
        "no libvirtd": far.uri(more=f"&socket={shop.daemon.folder}/none"),
        "no nc": far.uri(more=f"&socket={shop.daemon.socket}&netcat={shop.daemon.folder}/none"),
    }[what]
    assert hint in shop.refused(package, re.escape(said), uri=uri).hint
    assert shop.daemon.volumes == [] and no_ssh_is_left()


def test_ssh_asks_nothing_on_a_terminal(shop: Shop, far: Far, package: Path, tmp_path: Path) -> None:
    """It would ask whether the unknown host is the right one, and wait."""
    uri = far.uri().replace(str(far.sshd.client), str(far.sshd.client_that_knows_nobody()))
    config(tmp_path, uri)
    pid, terminal = pty.fork()
    if pid == 0:
        argv = [sys.executable, "-m", "ovfbuild", "publish", str(package), "--to", "x"]
        os.execve(sys.executable, argv, {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)})
    said = b""
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:  # its end is an error
        while octets := stream.read(1 << 12):
            said += octets
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert b"Host key verification failed" in said and b"continue connecting" not in said


@pytest.mark.fault("connection cut at half")
@pytest.mark.parametrize("times", [1, 9])
def test_an_ssh_that_is_killed_at_half(shop: Shop, far: Far, package: Path, times: int) -> None:
    def kill() -> None:
        for pid in ssh_of_ours():
            os.kill(pid, signal.SIGKILL)

    wire = Wire(far.sshd.port, None, 150_000, times, kill)
    uri = far.through(wire)
    try:
        if times == 1:
            assert shop.publish(package, uri=uri).receipt.outcome == "published"
            (volume,) = shop.daemon.volumes
            assert same_disk(package, volume)
            return
        shop.refused(package, "3 tries", uri=uri)
    finally:
        wire.close()
    assert wire.happened.is_set() and no_ssh_is_left()
    assert shop.daemon.volumes == [] and shop.daemon.connection.listAllDomains(0) == []
