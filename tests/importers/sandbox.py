"""Programs of another Debian in namespaces of their own: no process that outlives them, and no network but loopback,
unless the host's is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovfbuild.errors import ProgramError
from ovfbuild.vm.process import find_program, run

WORK = "/w"
"""Where the working folder is inside."""
NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")
"""The host's files that a program with a network reads; `root` has to have files in their places."""


@dataclass(frozen=True)
class Sandbox:
    """`root` is read-only there, `work` is `/w`; /tmp and /run are empty at each start."""

    root: Path
    work: Path
    env: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    """The host's network, its names and the authorities that it trusts."""

    def run(self, *argv: str, shown: Mapping[str, Path] | None = None, timeout: float = 300) -> str:
        """What the program wrote on stdout; ProgramError if it failed, or was not done after `timeout` seconds.

        `shown` are files of the host by their paths there, below /tmp.
        """
        settings = {"HOME": "/tmp", "PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8", **self.env}
        where = ("--ro-bind", self.root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run")
        words = [word for key, value in settings.items() for word in ("--setenv", key, value)]
        shared = {name: Path(name) for name in NETWORK if Path(name).exists()} if self.network else {}
        files = [word for inside, path in {**shared, **(shown or {})}.items() for word in ("--ro-bind", path, inside)]
        own = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
        own += ["--share-net"] if self.network else []
        return run(
            ["bwrap", *own, *where, "--bind", self.work, WORK, "--chdir", WORK, *files, *words, *argv], timeout=timeout
        )


def check_host() -> None:
    """ProgramError where no sandbox can be had."""
    try:
        find_program("bwrap")
    except ProgramError:
        raise ProgramError("bwrap is not installed", "install it: apt install bubblewrap") from None
    try:
        run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], timeout=30)
    except ProgramError as error:
        hint = "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"
        raise ProgramError(f"this host forbids namespaces to this user:\n{error.message}", hint) from error
