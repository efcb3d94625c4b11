"""A real libvirtd with QEMU, of a user without rights; as root, whose would be the system's own, of nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POOL = "<pool type='dir'><name>default</name><target><path>{path}</path></target></pool>"
AS_ITS_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
"""What a command begins with that is to run as the daemon's user."""


@dataclass(frozen=True)
class Daemon:
    """A daemon that answers, with a pool `default`."""

    folder: Path
    process: subprocess.Popen[bytes]
    connection: Any

    @property
    def socket(self) -> Path:
        return self.folder / "run/libvirt/libvirt-sock"

    @property
    def pool(self) -> Path:
        return self.folder / "pool"

    def uri(self, at: Path | None = None) -> str:
        return f"qemu+unix:///session?socket={at or self.socket}"

    def limit(self, size: str) -> None:
        """The largest file, in bytes, that it may write from now on."""
        of = ["prlimit", f"--pid={self.process.pid}", f"--fsize={size}:unlimited"]
        subprocess.run([*AS_ITS_USER, *of], check=True)

    @property
    def volumes(self) -> list[Path]:
        return sorted(self.pool.iterdir())

    def clear(self) -> None:
        for machine in self.connection.listAllDomains(0):
            machine.undefine()
        for path in self.volumes:
            path.unlink()


@contextmanager
def libvirtd(config: str = "", environ: Mapping[str, str] | None = None, open_at: str = "") -> Iterator[Daemon]:
    """Runs a daemon until the block is done.

    Args:
        config: lines of its libvirtd.conf.
        environ: what its environment has besides.
        open_at: parameters of the URI by which it is opened here.
    """
    folder = Path(tempfile.mkdtemp(prefix="lv"))  # short: it has sockets
    for name in ("run", "home", "pool"):
        (folder / name).mkdir()
    (folder / "conf").write_text(config)
    env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{folder}/home"}
    env |= {"XDG_RUNTIME_DIR": f"{folder}/run", "XDG_CONFIG_HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/home"}
    if AS_ITS_USER:
        subprocess.run(["chown", "-R", "65534:65534", folder], check=True)
    argv = [*AS_ITS_USER, "libvirtd", "-f", str(folder / "conf")]
    with (folder / "log").open("wb") as log:
        # Signals as Python has them: SIGXFSZ ignored, so that a full disk is an error and no end.
        process = subprocess.Popen(argv, env={**env, **(environ or {})}, stdout=log, stderr=log, restore_signals=False)
    try:
        uri = f"qemu+unix:///session?socket={folder}/run/libvirt/libvirt-sock{open_at}"
        started = Daemon(folder, process, _connected(uri))
        started.connection.storagePoolDefineXML(POOL.format(path=started.pool)).create()
        yield started
        started.connection.close()
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def _connected(uri: str) -> Any:
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    for _ in range(300):
        with suppress(libvirt.libvirtError):
            return libvirt.open(uri)
        time.sleep(0.1)
    raise AssertionError("libvirtd does not start")
