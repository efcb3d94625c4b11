"""A real incusd, for publishing: its REST API on its Unix socket and, with TLS, on loopback; and its real client.

It keeps images, and nothing is started in it. A user who is not root runs it as the root of a user namespace. In that
it loses the host's network (incusd tries namespaces of networks at its start, and may not come back from there), and
only its socket can be reached.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ovfbuild.vm.process import die_with_parent
from tests.faults import free_port

_STATE = "/var/lib/incus"
_PATH = "/usr/sbin:/usr/bin"
_READY_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """One that answers. `folder` has its state; `port` on 127.0.0.1 is that of its API with TLS, where root runs it."""

    root: Path
    folder: Path
    port: int | None

    @property
    def socket(self) -> Path:
        return self.folder / "state" / "unix.socket"

    @property
    def certificate(self) -> Path:
        """The one (PEM) that it shows: its own, signed by itself, or that of its cluster."""
        state = self.folder / "state"
        return next(one for one in (state / "cluster.crt", state / "server.crt") if one.exists())

    @property
    def files(self) -> list[str]:
        """What lies in the folder of its images."""
        return sorted(one.name for one in (self.folder / "state" / "images").iterdir())

    def client(self, *words: str, text: str = "") -> str:
        """What the real `incus` says to a text, as the administrator; /w is `folder`."""
        done = self._run(*words, text=text)
        assert done.returncode == 0, (words, done.stdout[-1000:], done.stderr[-3000:])
        return done.stdout

    def refusal(self, *words: str) -> str:
        """What it says when it fails."""
        done = self._run(*words)
        assert done.returncode == 1, (words, done.stdout[-1000:], done.stderr[-3000:])
        return done.stderr

    def command(self, *words: str) -> list[str]:
        """The client as a command of this host."""
        return [*map(str, _sandbox(self.root, self.folder)), "--setenv", "INCUS_CONF", "/w/admin", "incus", *words]

    def _run(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), input=text, capture_output=True, text=True, timeout=120)

    def images(self, project: str = "default") -> list[dict[str, Any]]:
        """All images, as the client shows them."""
        found: list[dict[str, Any]] = json.loads(self.client("image", "list", "--project", project, "--format=json"))
        return found

    def clear(self, project: str = "default") -> None:
        """Removes every image."""
        for image in self.images(project):
            self.client("image", "delete", "--project", project, image["fingerprint"])

    def trust(self, name: str, certificate: Path, *words: str) -> None:
        """Lets a client in; `certificate` lies below `folder`."""
        path = f"/w/{certificate.relative_to(self.folder)}"
        self.client("config", "trust", "add-certificate", path, "--name", name, *words)

    def distrust(self, certificate: Path) -> None:
        """Forgets a client; that it is no more known is no mistake."""
        wanted = x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()
        if wanted in {
            one["fingerprint"] for one in json.loads(self.client("config", "trust", "list", "--format=json"))
        }:
            self.client("config", "trust", "remove", wanted)


def _sandbox(root: Path, folder: Path, images: Sequence[str | Path] = ()) -> list[str | Path]:
    """Its own files, the host's network, nobody else's processes."""
    user = () if os.geteuid() == 0 else ("--unshare-user", "--uid", "0", "--gid", "0")
    return [
        *("bwrap", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"),
        *("--bind", folder, "/w", "--bind", folder / "state", _STATE, *images, "--ro-bind", "/sys", "/sys"),
        *("--tmpfs", "/var/log", "--tmpfs", "/var/cache", *user),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session", "--clearenv"),
        *("--setenv", "PATH", _PATH, "--setenv", "HOME", "/tmp", "--setenv", "INCUS_DIR", _STATE),
        # It looks for news of other people's machines, and for time zones of images, on the network.
        *("--setenv", "HTTPS_PROXY", "http://127.0.0.1:9"),
    ]


@contextmanager
def server(root: Path, folder: Path, room: int | None = None) -> Iterator[Server]:
    """Runs one until the block ends; with `room`, its images lie on a file system of so many bytes."""
    made = Server(root, folder, free_port() if os.geteuid() == 0 else None)
    (folder / "state" / "images").mkdir(parents=True)
    small = ("--size", str(room), "--tmpfs", f"{_STATE}/images") if room else ()
    with (folder / "incusd.log").open("wb") as log:
        child = subprocess.Popen(
            [*_sandbox(root, folder, small), "/usr/libexec/incus/incusd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - only prctl and _exit run there
        )
        try:
            _wait(made, child, folder / "incusd.log")
            if made.port:
                made.client("config", "set", "core.https_address", f"127.0.0.1:{made.port}")
            yield made
        finally:
            child.kill()  # and with it, its namespace
            child.wait(20)


def _wait(made: Server, child: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _READY_SECONDS
    while not made.socket.exists():
        assert child.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < until, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)
    made.client("admin", "waitready", f"--timeout={_READY_SECONDS}")


def join(made: Server, member: Server) -> None:
    """Makes a server the second of a cluster."""
    made.client("cluster", "enable", "one")
    token = made.client("cluster", "add", "two").split()[-1]
    table = {"enabled": True, "server_address": f"127.0.0.1:{member.port}", "cluster_token": token}
    member.client("admin", "init", "--preseed", text=json.dumps({"cluster": table}))


def client_certificate(folder: Path, name: str = "publisher", seconds: float = 86400.0) -> tuple[Path, Path]:
    """A new client.crt and its client.key in a folder, as `incus remote generate-certificate` makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    key, who = ec.generate_private_key(ec.SECP384R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(seconds=seconds))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA384())
    )
    paths = folder / "client.crt", folder / "client.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return paths


def remote(folder: Path, name: str, made: Server, address: str | None = None, **words: str) -> None:
    """config.yml of a client, with that remote, and the server's certificate as `incus remote add` keeps it."""
    address = address or (f"https://127.0.0.1:{made.port}" if made.port else f"unix:{made.socket}")
    table = {"addr": address, "auth_type": "tls", "protocol": "incus", **words}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(json.dumps({"default-remote": name, "remotes": {name: table}}))
    (folder / "servercerts").mkdir(exist_ok=True)
    shutil.copy(made.certificate, folder / "servercerts" / f"{name}.crt")


if __name__ == "__main__":  # to look around: python -m tests.importers.incus ROOT FOLDER
    import signal
    import sys
    from contextlib import suppress

    with server(Path(sys.argv[1]), Path(sys.argv[2])) as shown:
        print(f"INCUS_SOCKET={shown.socket}, https://127.0.0.1:{shown.port}, pid {os.getpid()}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
