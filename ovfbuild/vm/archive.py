"""Archives of Java and Node.js, looked into on the host before a VM starts: tar, with or without compression."""

from __future__ import annotations

import re
from pathlib import Path

from ovfbuild.errors import FileError, ProgramError
from ovfbuild.vm.process import run


def look_into(archive: Path, program: str) -> str:
    """The folder in an archive that a program such as `bin/java` lies under: `jdk-17.0.9+9/`, or "".

    Raises:
        FileError: it is no archive, or has no such program.
    """
    try:
        names = run(["tar", "--list", "--file", archive]).splitlines()
    except ProgramError as error:
        raise FileError(f"{archive} is no tar archive:\n{error.message}", "name a .tar.gz or .tar.xz") from error
    tops = [match[1] for name in names if (match := re.fullmatch(rf"((?:\./)?(?:[^/]+/)?){re.escape(program)}", name))]
    if not tops:
        raise FileError(f"{archive} has no {program} in it", f"name an archive for Linux, with {program} in its folder")
    return tops[0]


def read_member(archive: Path, name: str) -> str:
    """The text of a file in an archive, "" if there is none."""
    try:
        return run(["tar", "--extract", "--to-stdout", "--file", archive, name])
    except ProgramError:
        return ""


def java_major(release: str) -> int | None:
    """17 of a `release` file with JAVA_VERSION="17.0.9"; 8 of "1.8.0_392"."""
    match = re.search(r'(?m)^JAVA_VERSION="?(?:1\.)?(\d+)', release)
    return int(match[1]) if match else None


def node_major(version_header: str) -> int | None:
    """18 of include/node/node_version.h."""
    match = re.search(r"(?m)^#define NODE_MAJOR_VERSION (\d+)", version_header)
    return int(match[1]) if match else None
