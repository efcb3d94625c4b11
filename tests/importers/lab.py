"""A simulator of vCenter with a target of it, packages for it, runs that are killed: for the tests of publishing."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovfbuild import pipeline
from ovfbuild.errors import PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Published, Publisher
from ovfbuild.spec import plan
from ovfbuild.spec.appliance import from_table
from ovfbuild.spec.targets import Target, Targets
from ovfbuild.tries import Patience
from tests.importers import vsphere
from tests.unit.publish.kit import Heard

QUICK = Patience(tries=2, first_wait=0.1, longest_wait=1)
PROPERTIES = [{"key": "greeting", "type": "string", "default": "hello"}]


@dataclass(frozen=True)
class Lab:
    """A simulator, and a target of it."""

    server: vsphere.Simulator
    table: dict[str, Any]

    def publish(self, ova: Path, how: How | None = None, heard: Heard | None = None, **more: Any) -> Published:
        publisher = Publisher(heard or Silent(), environ={"SECRET": vsphere.PASSWORD}, patience=QUICK)
        return publisher.publish(ova, self.target(**more), how or How(), proven=True)

    def fails(self, ova: Path, how: How | None = None, **more: Any) -> PublishError:
        """What the user is told, in which no secret is."""
        heard = Heard()
        try:
            self.publish(ova, how, heard, **more)
        except PublishError as error:
            assert error.exit_code == 7
            assert vsphere.PASSWORD not in f"{heard.text}{error.message}{error.hint}"
            return error
        raise AssertionError("it went well")

    def target(self, **more: Any) -> Target:
        (found,) = Targets.model_validate({"publish": [self.table | more]}, context={"folder": Path("/")}).publish
        return found

    def machines(self) -> dict[str, Any]:
        """By name, the config of each that is not of the simulator's own."""
        return {name: one for name, one in vsphere.machines(self.server).items() if not name.startswith("DC0_")}

    @property
    def sent(self) -> list[Path]:
        return sorted(self.server.kept.glob("*/*"), key=lambda one: one.stat().st_mtime)

    def killed(self, ova: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
        """`ovfbuild publish`, killed when the server stalls: its command and environment, to be run again."""
        config = folder / "config" / "ovfbuild"
        config.mkdir(parents=True)
        lines = (f'{key} = "{value}"' for key, value in self.table.items())
        (config / "targets.toml").write_text("\n".join(["[[publish]]", *lines]) + "\n")
        environ = os.environ | {"XDG_CONFIG_HOME": str(folder / "config"), "SECRET": vsphere.PASSWORD}
        argv = [sys.executable, "-m", "ovfbuild", "publish", str(ova), "--to", "lab"]
        with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
            deadline = time.monotonic() + 60
            while "stalled" not in self.server.log.read_text() and time.monotonic() < deadline:
                time.sleep(0.1)
            run.send_signal(signal.SIGKILL)
        return argv, environ


@contextmanager
def laboratory(vcsim: Path, folder: Path, certificate: tuple[Path, Path], *options: str) -> Iterator[Lab]:
    crt, key = certificate
    with vsphere.simulator(vcsim, folder / "lab", ["-cert", str(crt), "-key", str(key), *options]) as server:
        table = {"name": "lab", "kind": "vsphere", "host": f"{server.host}:{server.port}", "user": vsphere.USER}
        table |= {"password_env": "SECRET", "ca_file": str(crt), "timeout": "10 s"}
        yield Lab(server, table)


def faults(*texts: str) -> Sequence[str]:
    """Options of the simulator, a fault each (tests/importers/vcsim/faults.go)."""
    return [word for text in texts for word in ("-fault", text)]


def packed(disk: Path, folder: Path, version: str = "1.0.0", **changes: Any) -> Path:
    table: dict[str, Any] = {"name": "hello", "version": version, "base": {"image": str(disk)}, **changes}
    resolved = plan.resolve(from_table(table, folder), {}, profiles=("vsphere",))
    (ova,) = pipeline.pack(resolved, disk, pipeline.Options(out=folder / "dist", boot=False), Silent())
    return ova


def noisy(folder: Path) -> Path:
    """A disk of which 1.5 MiB are packed: a simulator that is slow takes more than two seconds for it."""
    disk = folder / "noisy.raw"
    with disk.open("wb") as stream:
        stream.write(random.Random(1).randbytes(3 << 19))
        stream.truncate(20 << 20)
    return disk


def members_of(ova: Path) -> dict[str, str]:
    """By name, the SHA-256 of each file in it, in its order."""
    found = {}
    with tarfile.open(ova) as archive:
        for one in archive.getmembers():
            stream = archive.extractfile(one)
            assert stream is not None
            found[one.name] = hashlib.sha256(stream.read()).hexdigest()
    return found


def disk_of(ova: Path) -> str:
    """The SHA-256 of the disk's file in it."""
    (found,) = (digest for name, digest in members_of(ova).items() if name.endswith(".vmdk"))
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
