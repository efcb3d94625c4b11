"""Names of files that every importer takes."""

from __future__ import annotations

import re

from ovfbuild.errors import FileError

# Proxmox's href pattern is the narrowest of all importers'; VirtualBox's manifest parser splits a
# line at its parentheses; a tar header of the ustar kind holds 100 bytes with the ending zero.
PORTABLE = re.compile(r"[A-Za-z0-9._=+-]{1,99}")


def portable(name: str) -> str:
    """`name` as it came, if every importer takes it as the name of a file in a package.

    Raises FileError otherwise. Source: Proxmox VE, PVE::GuestImport::OVF; POSIX.1-1988 ustar.
    """
    if PORTABLE.fullmatch(name) is None or name in (".", ".."):
        raise FileError(
            f"“{name}” is no portable file name",
            "use at most 99 letters, digits and . _ = + - (no folder, no space)",
        )
    return name
