"""File systems with little room, for a server of a test's own: each in a mount namespace that ends with the server.

What a server has there is seen from outside under `/proc/ID/root`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_FULL = 'mount -t tmpfs -o size="$2" none "$1"; shift 2; exec "$@"'
_QUOTA = (
    'truncate -s 128M "$1.image"; mkfs.btrfs -q "$1.image"; mount -o loop "$1.image" "$1"; rm "$1.image"; '
    'btrfs -q quota enable "$1"; btrfs -q qgroup limit "$2" "$1"; chmod 777 "$1"; shift 2; exec "$@"'
)


def full(folder: Path, size: str) -> list[str]:
    """What a command begins with for which a folder, which is there, has no more room than `4m`."""
    apart = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    return _mounted(["unshare", *apart, "--mount", "sh", "-ec", _FULL, "sh", str(folder), size])


def quota(folder: Path, size: str) -> list[str]:
    """The same with a quota (Btrfs's, of that subvolume), where only root may mount."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a Btrfs")
    return _mounted(["unshare", "--mount", "sh", "-ec", _QUOTA, "sh", str(folder), size])


def _mounted(command: list[str]) -> list[str]:
    """The command, if it does here what it should."""
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    return command
