"""Real appliances for tests: a folder that is built with the command, and packages that are run and visited."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ovfbuild.verify.boot import hardware
from ovfbuild.verify.package import open_package
from ovfbuild.vm import machine
from ovfbuild.vm.accelerator import TCG
from ovfbuild.vm.hardware import Hardware, ovmf
from ovfbuild.vm.machine import Cause, Decision, Ending, Limits
from ovfbuild.vm.outside import FileSystem, open_root
from tests.integration.test_machine import running

EXAMPLES = Path(__file__).parents[2] / "examples"
BOOT_SECONDS = 600.0
"""However busy the machine is: under TCG a Debian boots in 90 s on two idle cores."""


def command(*words: str | Path, timeout: float = 1400) -> subprocess.CompletedProcess[str]:
    """Runs ovfbuild as its users do, with its real cache."""
    argv = [sys.executable, "-m", "ovfbuild", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout)


def key_pair(folder: Path) -> tuple[Path, str]:
    """A new SSH key: the private file, and the public line."""
    private = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", private], check=True)
    return private, private.with_suffix(".pub").read_text().strip()


def copy_of_hello(folder: Path, public_key: str) -> Path:
    """examples/hello, with a key for its user admin."""
    shutil.copytree(EXAMPLES / "hello", folder)
    path = folder / "appliance.toml"
    text = path.read_text()
    assert 'name = "admin"\n' in text
    path.write_text(text.replace('name = "admin"\n', f'name = "admin"\nssh_keys = ["{public_key}"]\n'))
    with (folder / "configure.sh").open("a") as script:
        script.write(f"# {MARK}\n")
    return path


MARK = "canary-7c1e90d4b2f84e65"
"""In a script of the build's; nothing of that script may be on the disk that ships."""


@contextmanager
def disk_of(ova: Path, work: Path) -> Iterator[tuple[FileSystem, Path]]:
    """A package's disk, read from outside: its root file system, and the whole of it as a raw image."""
    work.mkdir()
    subprocess.run(["tar", "-xf", ova, "-C", work], check=True)
    vmdk, raw = next(work.glob("*.vmdk")), work / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", vmdk, raw], check=True)
    with open_root(raw, "raw", work) as root:
        assert root is not None
        yield root, raw


def holds(raw: Path, text: str) -> bool:
    """Whether any block of an image has these bytes; by grep, which knows nothing of file systems."""
    found = subprocess.run(["grep", "-q", "-a", "-F", "-e", text, raw], env={"LC_ALL": "C"}, timeout=600)
    assert found.returncode in (0, 1)
    return found.returncode == 0


@dataclass(frozen=True)
class Visit:
    """A running appliance, as its network sees it."""

    http: int
    ssh: int
    key: Path

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/", timeout=10) as answer:
            return str(answer.read().decode())

    def run(self, line: str, user: str = "admin") -> str:
        """What a command says over SSH; the host's key is taken as it comes."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=30"]
        argv = ["ssh", *(word for option in options for word in ("-o", option)), "-i", str(self.key)]
        argv += ["-p", str(self.ssh), f"{user}@127.0.0.1", line]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout.strip()

    def wait(self) -> None:
        """Until it has booted: it can be entered, and cloud-init is done. QEMU accepts connections before that."""
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                self.run("cloud-init status --wait > /dev/null; true")
                return
            except subprocess.SubprocessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(2)


class Quiet:
    def report(self, line: str) -> Decision:
        return Decision.GO_ON

    def console(self, line: str) -> None: ...


@contextmanager
def visiting(ova: Path, work: Path, key: Path, *, efi: bool = False) -> Iterator[Visit]:
    """Runs a package with no seed attached, waits until it has booted, and powers it off when the block is done."""
    spec, visit = deployed(ova, work, key, efi=efi)
    with running_machine(spec, work / "logs", visit):
        yield visit


def deployed(ova: Path, work: Path, key: Path, *, iso: Path | None = None, efi: bool = False) -> tuple[Hardware, Visit]:
    """The machine that a package declares, with a disk of its own in `work`, and the way into it."""
    work.mkdir()
    visit = Visit(free_port(), free_port(), key)
    spec = hardware(open_package(ova), TCG, work, iso, ((visit.http, 80), (visit.ssh, 22)))
    if efi:
        variables = work / "variables.fd"
        variables.write_bytes(ovmf()[1].read_bytes())
        spec = replace(spec, efi_variables=variables)
    return spec, visit


@contextmanager
def running_machine(spec: Hardware, logs: Path, visit: Visit) -> Iterator[None]:
    """Runs a machine, waits until it has booted, and powers it off when the block is done; its disk stays."""
    endings: list[Ending] = []
    limits = Limits(BOOT_SECONDS, BOOT_SECONDS)
    thread = threading.Thread(target=lambda: endings.append(machine.run(spec, limits, Quiet(), logs)))
    thread.start()
    try:
        visit.wait()
        yield
        visit.run("sudo systemd-run --quiet --on-active=1 systemctl poweroff")
        thread.join(120)
    finally:
        for pid in running(str(logs.parent)):
            os.kill(pid, signal.SIGKILL)
        thread.join(30)
    assert [ending.cause for ending in endings] == [Cause.POWERED_OFF]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
