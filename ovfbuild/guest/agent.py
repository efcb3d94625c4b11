"""What an agent needs in the guest: its packages without a start, its archive, its services, its seal.

The kinds of steps are those of `ovfbuild.spec.steps`; every function takes a `root`, so that it can be
tried in a folder.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from typing import Any, Callable, Iterator

from ovfbuild.guest.steps import Guest, StepFailed, install, update, write

POLICY = "/usr/sbin/policy-rc.d"
"""Asked by Debian's packages before they start a service (invoke-rc.d(8)); 101: don't."""


def install_packages(step: dict[str, Any], guest: Guest, root: str = "") -> None:
    """An agent's packages. What their scripts would start stays down: it would talk to its server from the build."""
    if step["repository"]:
        key = root + step["key_path"]
        os.makedirs(os.path.dirname(key), exist_ok=True)
        shutil.copyfile(guest.blob(step["key"]), key)
        os.chmod(key, 0o644)
        write(root + "/etc/apt/sources.list.d/agent.list", step["repository"] + "\n")
        update(guest)
    folder = tempfile.mkdtemp(prefix="ovfbuild-", dir="/var/tmp")
    ours = not os.path.lexists(root + POLICY)
    try:
        debs = []
        for number, blob in enumerate(step["debs"]):
            debs.append(os.path.join(folder, "%d.deb" % number))
            shutil.copyfile(guest.blob(blob), debs[-1])
        if ours:
            write(root + POLICY, "#!/bin/sh\nexit 101\n", 0o755)
        install([*step["packages"], *debs], guest)
    finally:
        if ours and os.path.exists(root + POLICY):
            os.unlink(root + POLICY)
        shutil.rmtree(folder)


def unpack(step: dict[str, Any], guest: Guest, root: str = "") -> None:
    """An archive into its folder, and what of it lives elsewhere to there."""
    target = root + step["target"]
    os.makedirs(target, exist_ok=True)
    path = guest.blob(step["blob"])
    try:
        if zipfile.is_zipfile(path):
            count = unpack_zip(path, target, step["strip"])
        else:
            count = unpack_tar(path, target, step["strip"])
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise StepFailed("the archive can't be read: %s" % error) from error
    if not count:
        raise StepFailed("the archive has nothing below %d folders: is `strip` right?" % step["strip"])
    guest.say("%d entries in %s" % (count, step["target"]))
    for name, place in step["moves"]:
        move(os.path.join(target, name), root + place, place)


def stripped(name: str, strip: int) -> str:
    """A name of an archive without its first folders; "" where nothing is left. None may leave the folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        raise StepFailed("the archive has %r in it, which is outside of it" % name)
    return "/".join(parts[strip:])


def unpack_tar(path: str, target: str, strip: int) -> int:
    """Modes and links as in the archive; everything is root's."""
    count = 0
    with tarfile.open(path) as archive:
        # What may be in it was looked at by `stripped`, and whoever wrote the checksum trusts the rest.
        if hasattr(tarfile, "fully_trusted_filter"):
            archive.extraction_filter = tarfile.fully_trusted_filter
        for member in archive:
            member.name = stripped(member.name, strip)
            if not member.name or not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                continue
            if member.islnk():
                member.linkname = stripped(member.linkname, strip)
            member.uid, member.gid = os.getuid(), os.getgid()
            member.uname = member.gname = ""
            if not inside(os.path.dirname(os.path.join(target, member.name)), target):
                raise StepFailed("the archive has %r in it, behind a link that leads out of it" % member.name)
            if member.issym() and os.path.lexists(os.path.join(target, member.name)):
                os.unlink(os.path.join(target, member.name))
            archive.extract(member, target)
            count += 1
    return count


def unpack_zip(path: str, target: str, strip: int) -> int:
    """Modes as in the archive, where it was made on a Unix."""
    count = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = stripped(member.filename, strip)
            if not name:
                continue
            place = os.path.join(target, name)
            if member.filename.endswith("/"):
                os.makedirs(place, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with archive.open(member) as source, open(place, "wb") as sink:
                shutil.copyfileobj(source, sink)
            os.chmod(place, (member.external_attr >> 16) & 0o777 or 0o644)
            count += 1
    return count


def inside(path: str, folder: str) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return real == top or real.startswith(top + os.sep)


def move(source: str, place: str, link: str) -> None:
    """A folder to another place, with a link in its own. What is there already stays."""
    if os.path.islink(source):
        return
    os.makedirs(source, exist_ok=True)
    os.makedirs(place, exist_ok=True)
    for name in os.listdir(source):
        if not os.path.lexists(os.path.join(place, name)):
            shutil.move(os.path.join(source, name), os.path.join(place, name))
    shutil.rmtree(source)
    os.symlink(link, source)


def set_up_services(step: dict[str, Any], guest: Guest) -> None:
    """The users that services run as, and what is started at boot."""
    for name in step["accounts"]:
        asked = subprocess.run(["id", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if asked.returncode:
            guest.run(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name])
    if step["java"]:
        check_java(step["java"], guest)
    for unit in step["enable"]:
        guest.run(["systemctl", "enable", unit])


def check_java(wanted: list[int], guest: Guest) -> None:
    """Fails where `java` is missing or of another major: an agent would die at its first start, silently."""
    try:
        asked = subprocess.run(["java", "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except OSError:
        raise StepFailed("the guest has no java on its PATH") from None
    said = asked.stdout.decode(errors="replace")
    major = java_major(said)
    if major is None or not wanted[0] <= major <= wanted[1]:
        raise StepFailed("the agent needs Java %d to %d; the guest's says: %s" % (wanted[0], wanted[1], said.strip()))
    guest.say("Java %d" % major)


def java_major(said: str) -> int | None:
    """8 of `openjdk version "1.8.0_392"`, 17 of `openjdk version "17.0.1"`."""
    match = re.search(r'version "(?:1\.)?([0-9]+)', said)
    return int(match.group(1)) if match else None


def seal(orders: dict[str, Any], guest: Guest, root: str = "") -> None:
    """Closes what an agent leaves open, and removes who it was in the build. `orders`: edits, commands, clean."""
    for edit in orders["edits"]:
        path = root + edit["file"]
        if edit["create"] and not os.path.exists(path):
            write(path, "")
        if os.path.exists(path) or not edit["optional"]:
            edit_lines(path, edit["set"], edit["remove"])
    for command in orders["commands"]:
        guest.run(["sh", "-euc", command])
    for pattern in orders["clean"]:
        for path in glob.glob(root + pattern):
            if os.path.islink(path) or os.path.isfile(path):
                os.unlink(path)
            elif os.path.isdir(path):
                shutil.rmtree(path)


def edit_lines(path: str, values: dict[str, str], remove: list[str]) -> None:
    """Sets `key = value` in a file of such lines, keeping its mode and owner; what it has not got is added."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except OSError as error:
        raise StepFailed("%s can't be hardened: %s" % (path, error.strerror)) from error
    kept = [line for line in lines if not any(re.match(pattern, line) for pattern in remove)]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in edited(kept, values)))


def edited(lines: list[str], values: dict[str, str]) -> Iterator[str]:
    missing = dict(values)
    for line in lines:
        key = re.split(r"\s*[=:]", line.strip(), maxsplit=1)[0]
        if key in values:
            if key in missing:
                yield "%s = %s" % (key, missing.pop(key))
        else:
            yield line
    for key, value in missing.items():
        yield "%s = %s" % (key, value)


STEPS: dict[str, Callable[[dict[str, Any], Guest], None]] = {
    "agent-packages": install_packages,
    "unpack": unpack,
    "services": set_up_services,
}
