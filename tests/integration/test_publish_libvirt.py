"""Packages on a real libvirtd with QEMU, unprivileged: volumes that are the disks, a domain that validates."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import PublishError
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Published, Publisher
from ovfbuild.tries import Patience
from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from tests.unit.publish.kit import Heard, ova, target

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]
libvirt: Any = pytest.importorskip("libvirt")

QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02)
POOL = "<pool type='dir'><name>default</name><target><path>{path}</path></target></pool>"


@dataclass(frozen=True)
class Daemon:
    folder: Path
    process: subprocess.Popen[bytes]
    connection: Any

    @property
    def socket(self) -> Path:
        return self.folder / "run/libvirt/libvirt-sock"

    def uri(self, at: Path | None = None) -> str:
        return f"qemu+unix:///session?socket={at or self.socket}"

    def limit(self, size: str) -> None:
        """The largest file, in bytes, that it may write from now on."""
        of = ["prlimit", f"--pid={self.process.pid}", f"--fsize={size}:unlimited"]
        subprocess.run([*_as_its_user(), *of], check=True)

    @property
    def volumes(self) -> list[Path]:
        return sorted((self.folder / "pool").iterdir())


@pytest.fixture(scope="module")
def daemon(needs: Callable[..., None]) -> Iterator[Daemon]:
    """libvirtd of a user: as root it would be the system's own, so it is started as nobody there."""
    needs("libvirtd", "virt-xml-validate", "qemu-system-x86_64", "setpriv")
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="lv"))  # short: it has sockets
    for name in ("run", "home", "pool"):
        (folder / name).mkdir()
    env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{folder}/home"}
    env |= {"XDG_RUNTIME_DIR": f"{folder}/run", "XDG_CONFIG_HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/home"}
    if os.getuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", folder], check=True)
    with (folder / "log").open("wb") as log:
        # Signals as Python has them: SIGXFSZ ignored, so that a full disk (below) is an error and no end.
        process = subprocess.Popen(
            [*_as_its_user(), "libvirtd"], env=env, stdout=log, stderr=log, restore_signals=False
        )
    started = Daemon(folder, process, _connected(f"qemu+unix:///session?socket={folder}/run/libvirt/libvirt-sock"))
    started.connection.storagePoolDefineXML(POOL.format(path=folder / "pool")).create()
    yield started
    started.connection.close()
    process.terminate()
    process.wait(30)
    shutil.rmtree(folder)


def _as_its_user() -> list[str]:
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []


def _connected(uri: str) -> Any:
    libvirt.registerErrorHandler(lambda *_: None, None)
    for _ in range(300):
        with suppress(libvirt.libvirtError):
            return libvirt.open(uri)
        time.sleep(0.1)
    raise AssertionError("libvirtd does not start")


@dataclass
class Shop:
    daemon: Daemon
    folder: Path
    heard: Heard

    def publish(self, path: Path, how: How | None = None, name: str | None = None, **table: Any) -> Published:
        at = {"uri": self.daemon.uri(), "network": "user", **table}
        aim = target(self.folder, name="host", kind="libvirt", **at)
        return Publisher(self.heard, patience=QUICK).publish(path, aim, how or How(), name=name)

    def described(self, name: str) -> str:
        text: str = self.daemon.connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return text


@pytest.fixture
def shop(daemon: Daemon, tmp_path: Path, own_cache: Path) -> Iterator[Shop]:
    yield Shop(daemon, tmp_path, Heard())
    for machine in daemon.connection.listAllDomains(0):
        machine.undefine()
    for path in (daemon.folder / "pool").iterdir():
        path.unlink()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return ova(tmp_path / "a-1.0.ova")


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
    with pytest.raises(PublishError, match=r"a domain a-1\.0 is there that ovfbuild did not make"):
        shop.publish(package, How(replace=True))
    assert shop.daemon.volumes == []
    assert shop.publish(package, name="b").lines[0] == "b-1.0"


@pytest.mark.fault("server down")
def test_refusals(shop: Shop, package: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="no storage pool with matching name 'none'") as caught:
        shop.publish(package, pool="none")
    assert "pool-list" in caught.value.hint and caught.value.exit_code == 7
    with pytest.raises(PublishError, match="No such file") as caught:
        shop.publish(package, uri=shop.daemon.uri(tmp_path / "none"))
    assert "start libvirt" in caught.value.hint


@pytest.mark.fault("full disk")
def test_a_full_disk(shop: Shop, package: Path) -> None:
    shop.daemon.limit("250000")
    try:
        with pytest.raises(PublishError, match="File too large") as caught:
            shop.publish(package)
    finally:
        shop.daemon.limit("unlimited")
    assert caught.value.hint == "make room in the pool"
    assert shop.daemon.volumes == [] and shop.daemon.connection.listAllDomains(0) == []


@pytest.mark.fault("slow server")
@pytest.mark.parametrize("when", ["at first", "at half"])
def test_a_daemon_that_says_nothing(shop: Shop, package: Path, when: str) -> None:
    near = shop.daemon.folder / when.replace(" ", "-")
    line = Line(near, shop.daemon.socket, 1 if when == "at first" else 150_000, 9, "stop")
    with pytest.raises(PublishError, match=r"\(3 tries\)") as caught:
        shop.publish(package, uri=shop.daemon.uri(near), timeout="1 s")
    assert line.stopped.is_set() and caught.value.exit_code == 7
    left = shop.daemon.volumes
    assert not left or "the next publish removes it" in caught.value.hint
    shop.publish(package)
    assert len(shop.daemon.volumes) == 1


class Line:
    """A way to the daemon that stops, or is cut, after so many bytes from the client, so many times."""

    def __init__(self, near: Path, far: Path, after: int, times: int, does: str) -> None:
        self.stopped = threading.Event()
        self._far, self._after, self._times, self._does = far, after, times, does
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(near))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._far))
                threading.Thread(target=self._pass, args=(near, far, self._times > 0), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()
                self._times -= 1

    def _pass(self, source: socket.socket, sink: socket.socket, faulty: bool) -> None:
        passed = 0
        with suppress(OSError):
            while octets := source.recv(1 << 15):
                sink.sendall(octets)
                passed += len(octets)
                if faulty and passed >= self._after:
                    self.stopped.set()
                    if self._does == "stop":
                        return
                    break
            for one in (source, sink):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.fault("connection cut at half")
@pytest.mark.parametrize("times", [1, 9])
def test_a_line_that_is_cut_at_half(shop: Shop, package: Path, times: int) -> None:
    near = shop.daemon.folder / f"cut{times}"
    Line(near, shop.daemon.socket, 150_000, times, "cut")
    if times == 1:
        assert shop.publish(package, uri=shop.daemon.uri(near)).receipt.outcome == "published"
        (volume,) = shop.daemon.volumes
        assert same_disk(package, volume)
        return
    with pytest.raises(PublishError, match="3 tries"):
        shop.publish(package, uri=shop.daemon.uri(near))
    assert shop.daemon.volumes == [], "the ways to clean up are short enough not to be cut"
    assert shop.daemon.connection.listAllDomains(0) == []


@pytest.mark.fault("process killed at half")
def test_killed_at_half_and_done_by_the_next(shop: Shop, package: Path, tmp_path: Path) -> None:
    near = shop.daemon.folder / "stop"
    line = Line(near, shop.daemon.socket, 150_000, 1, "stop")
    config = tmp_path / "ovfbuild/targets.toml"
    config.parent.mkdir()
    config.write_text(f'[[publish]]\nname="x"\nkind="libvirt"\nnetwork="user"\nuri="{shop.daemon.uri(near)}"\n')
    argv = [sys.executable, "-m", "ovfbuild", "publish", str(package), "--to", "x"]
    with subprocess.Popen(argv, env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}) as running:
        assert line.stopped.wait(100)
        running.send_signal(signal.SIGKILL)
    assert len(shop.daemon.volumes) == 1 and shop.daemon.connection.listAllDomains(0) == []
    shop.publish(package)
    assert "removing what an earlier upload of a 1.0 left" in shop.heard.text
    (volume,) = shop.daemon.volumes
    assert same_disk(package, volume)
