"""Servers that a test starts for itself, and that are gone when it ends, with all that they started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ovfbuild.vm.process import die_with_parent


@contextmanager
def running(
    argv: Sequence[str | Path], log: Path, environment: Mapping[str, str], patience: float = 20
) -> Iterator[subprocess.Popen[bytes]]:
    """A server until the block is done, in a session of its own; its words go to `log`, in whose folder it runs.

    `patience` is how many seconds it has to end when it is asked to, before it is killed.
    """
    with log.open("wb") as said:
        server = subprocess.Popen(
            argv,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - only prctl and _exit run there
        )
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(patience)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(patience)


def until_it_answers(port: int, name: str) -> None:
    """Waits until somebody listens at a port of loopback; `name` is the server's."""
    for _ in range(200):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} does not start")
