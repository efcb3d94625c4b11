"""A real libvirtd with QEMU, of a user without rights; as root, whose would be the system's own, of nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POOL = "<pool type='dir'><name>default</name><target><path>{path}</path></target></pool>"
USER = "ci@here"
AUTH = """
[credentials-ours]
authname={user}
password={password}
[auth-libvirt-localhost]
credentials=ours
"""
AS_ITS_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
"""What a command begins with that is to run as the daemon's user."""


@dataclass(frozen=True)
class Daemon:
    """A daemon that answers, with a pool `default`."""

    folder: Path
    pool: Path
    """Where the volumes are seen."""
    process: subprocess.Popen[bytes]
    connection: Any

    @property
    def socket(self) -> Path:
        return self.folder / "run/libvirt/libvirt-sock"

    def uri(self, at: Path | None = None) -> str:
        return f"qemu+unix:///session?socket={at or self.socket}"

    def auth_file(self, password: str) -> Path:
        """An auth.conf with a password of USER (libvirt.org, Client authentication)."""
        path = self.folder / "auth.conf"
        path.write_text(AUTH.format(user=USER, password=password))
        return path

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
def libvirtd(room: Callable[[Path], list[str]] | None = None, password: str = "") -> Iterator[Daemon]:
    """Runs a daemon until the block is done.

    Args:
        room: gives the command for which the folder of the pool is another file system.
        password: what USER has to say (SASL); without it everybody is let in.
    """
    folder = Path(tempfile.mkdtemp(prefix="lv"))  # short: it has sockets
    for name in ("run", "home", "pool"):
        (folder / name).mkdir()
    (folder / "conf").write_text('auth_unix_rw = "sasl"\n' if password else "")
    if password:
        (folder / "libvirt.conf").write_text(f"mech_list: scram-sha-256\nsasldb_path: {folder}/users\n")
        name, _, realm = USER.partition("@")
        argv = ["saslpasswd2", "-p", "-c", "-a", "libvirt", "-f", f"{folder}/users", "-u", realm, name]
        subprocess.run(argv, input=password, text=True, check=True)
    env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{folder}/home"}
    env |= {"XDG_RUNTIME_DIR": f"{folder}/run", "XDG_CONFIG_HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/home"}
    env["SASL_CONF_PATH"] = str(folder)
    if AS_ITS_USER:
        subprocess.run(["chown", "-R", "65534:65534", folder], check=True)
    argv = [*(room(folder / "pool") if room else ()), *AS_ITS_USER, "libvirtd", "-f", f"{folder}/conf"]
    with (folder / "log").open("wb") as log:
        # Signals as Python has them: SIGXFSZ ignored, so that a full disk is an error and no end.
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, restore_signals=False)
    try:
        seen = Path(f"/proc/{process.pid}/root") if room else Path("/")
        uri = f"qemu+unix:///session?socket={folder}/run/libvirt/libvirt-sock"
        started = Daemon(folder, seen / f"{folder}/pool".lstrip("/"), process, _connected(uri, password))
        started.connection.storagePoolDefineXML(POOL.format(path=folder / "pool")).create()
        yield started
        started.connection.close()
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def _connected(uri: str, password: str) -> Any:
    import libvirt

    def answer(asked: list[list[Any]], _: object) -> int:
        for one in asked:
            one[4] = USER if one[0] == libvirt.VIR_CRED_AUTHNAME else password
        return 0

    libvirt.registerErrorHandler(lambda *_: None, None)
    for _ in range(300):
        with suppress(libvirt.libvirtError):
            return libvirt.openAuth(uri, [[libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE], answer, None], 0)
        time.sleep(0.1)
    raise AssertionError("libvirtd does not start")
