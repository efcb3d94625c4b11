"""What [java], [python] and [node] bring along: fetched on the host, before a VM starts, for the seed to carry.

    Plan, BaseImage ─▶ vm.fetch, vm.archive ─▶ libraries/java/archive, libraries/node/archive
                    ─▶ vm.pip               ─▶ libraries/python/…
                    ─▶ vm.npm               ─▶ libraries/node/…

Each part is kept in the cache by the digest of what was asked for; the digest of what came is part of
the sealed disk's key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.bases import BaseImage
from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, UsageError
from ovfbuild.files import digest_of, sha256_of
from ovfbuild.progress import Progress, step
from ovfbuild.spec.languages import Java, Node, Python
from ovfbuild.spec.plan import JAVA_ARCHIVE, NODE_ARCHIVE, NODE_PACKAGES, PYTHON_WHEELS, Plan
from ovfbuild.spec.references import requirement_lines
from ovfbuild.vm import archive, npm, outside, pip
from ovfbuild.vm.debian import dump_packages
from ovfbuild.vm.fetch import fetch, parse_checksum

_LAYOUT = 1
"""Raised when the same wishes shall be fetched in another form."""
_STATUS, _LONGEST = "/var/lib/dpkg/status", 1 << 26


@dataclass(frozen=True)
class Source:
    """Where to fetch from, and how."""

    cache: Cache
    scratch: Path
    progress: Progress
    offline: bool
    again: bool

    def kept(self, what: str, wishes: object, produce: Callable[[Path], None]) -> Path:
        """The folder that `produce` filled for these wishes, now or once."""
        key = digest_of([_LAYOUT, what, wishes])
        if self.offline and (self.again or self.cache.find("libraries", key) is None):
            raise UsageError(
                f"with --offline, {what} can only come from the cache, which has none for this appliance",
                "build once with a network",
            )

        def make(folder: Path) -> None:
            with step(self.progress, f"fetch {what}"):
                produce(folder)

        return self.cache.obtain("libraries", key, what, make, again=self.again)[0].path


def library_files(plan: Plan, base: BaseImage, source: Source) -> Mapping[str, Path]:
    """What the steps of the languages install but for the distribution's packages, by its name on the seed.

    Raises:
        UsageError: a version can't be had, or not without a network.
        FileError: an archive is not what its checksum says, or has no such program.
        ProgramError: pip or npm is missing, or failed.
    """
    appliance = plan.appliance
    payload: dict[str, Path] = {}
    if appliance.java and appliance.java.archive:
        payload[JAVA_ARCHIVE] = _archive("java", appliance.java, source)
    if appliance.python:
        payload.update(_files(PYTHON_WHEELS, _wheels(appliance.python, base, source)))
    if appliance.node and appliance.node.archive:
        payload[NODE_ARCHIVE] = _archive("node", appliance.node, source)
    if appliance.node and appliance.node.packages:
        wanted = list(appliance.node.packages)
        folder = source.kept("npm packages", wanted, lambda f: npm.fetch_packages(wanted, f, source.progress))
        payload.update(_files(NODE_PACKAGES, folder))
    return payload


def _files(name: str, folder: Path) -> dict[str, Path]:
    """What a cache entry holds, but for the cache's own mark."""
    return {f"{name}/{path.name}": path for path in sorted(folder.iterdir()) if path.suffix in _CARRIED}


_CARRIED = (".whl", ".txt", ".tar", ".json")


def _wheels(python: Python, base: BaseImage, source: Source) -> Path:
    lines = list(python.packages)
    if python.requirements:
        lines += requirement_lines(python.requirements.read_text(encoding="utf-8"))
    guest = guest_python(base, source.scratch)
    wishes = [lines, guest.version, list(guest.glibc)]
    return source.kept("Python packages", wishes, lambda f: pip.fetch_wheels(lines, guest, f, source.progress))


def guest_python(base: BaseImage, scratch: Path) -> pip.GuestPython:
    """The Python that apt will install in the base: what dpkg has there, for cloud-init runs with it.

    Raises:
        UsageError: that can't be seen from outside.
    """
    listed = base.path.with_name("packages.txt")
    text = listed.read_text(encoding="utf-8") if listed.exists() else dump_packages(_dpkg_status(base, scratch))
    versions = dict(line.split(" ", 1) for line in text.splitlines())
    python = re.match(r"(?:\d+:)?(\d+\.\d+(?:\.\d+)?)", versions.get("python3", ""))
    glibc = re.match(r"(?:\d+:)?(\d+)\.(\d+)", versions.get("libc6", ""))
    if not python or not glibc:
        raise UsageError(
            f"python: {base.title} does not show which Python it has, and its packages must fit that",
            "take a base that is a Debian or its kin, with python3 in it and a root file system of ext4",
        )
    return pip.GuestPython(python[1], (int(glibc[1]), int(glibc[2])))


def _dpkg_status(base: BaseImage, scratch: Path) -> str:
    with outside.open_root(base.path, base.format, scratch) as root:
        if root is None or not root.exists(_STATUS):
            return ""
        return root.read(_STATUS, _LONGEST).decode(errors="replace")


def _archive(language: str, wanted: Java | Node, source: Source) -> Path:
    """The archive, which was looked into: it has the program, of the version that is wanted."""
    place = wanted.archive
    if isinstance(place, str):
        with step(source.progress, f"fetch {place.rpartition('/')[2]}"):
            path = fetch(place, wanted.checksum, None, source.cache, source.progress, offline=source.offline)
    else:
        assert place is not None
        path = place
        _compare(language, path, wanted.checksum)
    title = place.rpartition("/")[2] if isinstance(place, str) else place.name

    def look(folder: Path) -> None:
        (folder / "major.json").write_text(json.dumps(_major(language, path)), encoding="ascii")

    key = digest_of([_LAYOUT, language, sha256_of(path)])
    entry, _ = source.cache.obtain("libraries", key, f"what {title} is", look)
    major = json.loads((entry.path / "major.json").read_text(encoding="ascii"))
    if wanted.version and major and major != wanted.version:
        raise UsageError(
            f"{language}.archive: {title} has version {major}, not {wanted.version}",
            f"name another archive, or write version = {major}",
        )
    return path


def _major(language: str, path: Path) -> int | None:
    """The major version that an archive says it has; None where it doesn't say: the guest will see."""
    folder = archive.look_into(path, f"bin/{language}")
    if language == "java":
        return archive.java_major(archive.read_member(path, f"{folder}release"))
    return archive.node_major(archive.read_member(path, f"{folder}include/node/node_version.h"))


def _compare(language: str, path: Path, checksum: str | None) -> None:
    if checksum is None:
        return
    algorithm, digest = parse_checksum(checksum)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != digest:
        raise FileError(
            f"{path}: its {algorithm} is {found}, not {digest}",
            f"mend {language}.checksum, or get the archive again",
        )
