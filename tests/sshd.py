"""A real sshd on loopback for whoever runs the tests; keys and settings are its own, none of the user's ssh."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults import free_port
from tests.servers import until_it_answers

_PRIVSEP = Path("/run/sshd")
"""Where sshd of root insists on an empty folder (sshd(8)); its package's service makes it when it starts."""
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
{more}
"""
CLIENT = """#!/bin/sh
exec ssh -F {folder}/config "$@"
"""
CONFIG = """
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile /dev/null
IdentityAgent none
IdentitiesOnly yes
IdentityFile none
"""


@dataclass(frozen=True)
class Sshd:
    """A server that answers, and what its clients need."""

    folder: Path
    port: int
    user: str

    @property
    def client(self) -> Path:
        """An ssh that knows this server's host key, and has no key of the user's."""
        return self.folder / "ssh"

    def key(self, name: str = "key") -> Path:
        """A private key, made if it is not there; the server lets `key` in, and no other."""
        return _key(self.folder / name)

    def client_that_knows_nobody(self) -> Path:
        """The same, which never heard of this host."""
        folder = self.folder / "stranger"
        folder.mkdir(exist_ok=True)
        return _client(folder)


def _key(path: Path) -> Path:
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


def _client(folder: Path) -> Path:
    (folder / "config").write_text(CONFIG.format(folder=folder))
    path = folder / "ssh"
    path.write_text(CLIENT.format(folder=folder))
    path.chmod(0o755)
    return path


@contextmanager
def sshd(folder: Path, more: str = "") -> Iterator[Sshd]:
    """Runs a server until the block is done. `more` are further lines of its sshd_config(5)."""
    folder.mkdir()
    server = Sshd(folder, free_port(), getpass.getuser())
    host = _key(folder / "host").with_suffix(".pub").read_text()
    server.key()
    _client(folder)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {host}")
    (folder / "sshd_config").write_text(SERVER.format(port=server.port, folder=folder, more=more))
    if os.getuid() == 0:
        _PRIVSEP.mkdir(mode=0o755, exist_ok=True)  # and left there: another run's server may need it
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") or "sshd"
    with (folder / "log").open("wb") as log:
        # Its path has to be absolute: it starts itself again for each connection.
        running = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stdout=log, stderr=log)
    try:
        until_it_answers(server.port, "sshd")
        yield server
    finally:
        running.terminate()
        running.wait(30)
