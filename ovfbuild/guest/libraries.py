"""The steps "java", "python" and "node": from the distribution's packages, and from what the seed carries.

Nothing is fetched here but by apt. What the seed carries was fetched and verified on the host; each step
ends by seeing that what was asked for is what runs.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import tarfile
from typing import Any, Callable

from ovfbuild.guest.steps import Guest, StepFailed, environment, install, write

COMMANDS = "/usr/local/bin"


def install_java(step: dict[str, Any], guest: Guest) -> None:
    """A runtime whose `java` is the system's, and JAVA_HOME for shells, sessions and services."""
    if step["package"]:
        install([step["package"]], guest)
        home = debian_java(step["version"])
        choose_alternative("java", home, guest)
    else:
        home = step["path"]
        unpack(guest.blob(step["archive"]), home, strip=True)
        for name in ("java", "keytool"):
            if os.path.exists("%s/bin/%s" % (home, name)):
                link_command(name, "%s/bin/%s" % (home, name))
    check_java(step["version"], guest)
    set_java_home(home)


def debian_java(version: int, root: str = "") -> str:
    """Where Debian's package put it: /usr/lib/jvm/java-17-openjdk-amd64."""
    homes = sorted(glob.glob("%s/usr/lib/jvm/java-%d-openjdk-*" % (root, version)))
    if not homes:
        raise StepFailed("the package of Java %d put nothing into /usr/lib/jvm" % version)
    return homes[0][len(root) :]


def choose_alternative(name: str, home: str, guest: Guest) -> None:
    """Makes a program of this home the system's, whatever else is installed."""
    listed = said_by(["update-alternatives", "--list", name]).split()
    ours = [path for path in listed if path.startswith(home + "/")]
    if not ours:
        raise StepFailed("update-alternatives knows no %s in %s" % (name, home))
    guest.run(["update-alternatives", "--set", name, ours[0]])


def check_java(version: int | None, guest: Guest) -> None:
    said = said_by(["java", "-version"])
    guest.say(said.splitlines()[0] if said else "java says nothing")
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if not match or (version and int(match.group(1)) != version):
        wanted = "Java %d" % version if version else "a Java"
        raise StepFailed("%s was wanted, and java -version says: %s" % (wanted, said.strip() or "nothing"))


def set_java_home(home: str, root: str = "") -> None:
    """For login shells, for users' services and for the system's (systemd-system.conf(5))."""
    write(root + "/etc/profile.d/ovfbuild-java.sh", "# Written by ovfbuild.\nexport JAVA_HOME=%s\n" % home)
    write(root + "/etc/environment.d/50-ovfbuild-java.conf", "JAVA_HOME=%s\n" % home)
    write(
        root + "/etc/systemd/system.conf.d/50-ovfbuild-java.conf",
        "# Written by ovfbuild.\n[Manager]\nDefaultEnvironment=JAVA_HOME=%s\n" % home,
    )


def install_python(step: dict[str, Any], guest: Guest) -> None:
    """A virtual environment, and in it the wheels of the seed, by their digests, from no index."""
    install(["python3", "python3-venv"], guest)
    make_venv(step["path"], guest.blob(step["wheels"]), guest)


def make_venv(path: str, wheels: str, guest: Guest, python: str = "python3") -> None:
    if os.path.isdir(path) and os.listdir(path):
        raise StepFailed("%s is there already, and not empty; name another path" % path)
    guest.run([python, "-m", "venv", path])
    pip = [path + "/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    lock = os.path.join(wheels, "lock.txt")
    alone = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    guest.run(
        [
            *(*pip, "install", "--no-index", "--no-deps", "--require-hashes", "--no-cache-dir"),
            *("--find-links", wheels, "--requirement", lock),
        ],
        env=alone,
    )
    guest.run([*pip, "check"], env=alone)
    listed = said_by([*pip, "list", "--format=json"], alone, errors=subprocess.DEVNULL)
    has = {one["name"]: one["version"] for one in json.loads(listed)}
    installed = {plain_name(name): version for name, version in has.items()}
    with open(lock, encoding="ascii") as stream:
        wanted = [line.split()[0].split("==") for line in stream if line.strip()]
    for name, version in wanted:
        found = installed.get(plain_name(name), "not installed")
        if plain_version(found) != plain_version(version):
            raise StepFailed("%s %s was wanted, and it is %s" % (name, version, found))
    guest.say("%d packages in %s" % (len(wanted), path))


def plain_name(name: str) -> str:
    """PEP 503's one form of a name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plain_version(version: str) -> list[str]:
    """The parts of a version, without what does not tell two apart: `2024.01-1` and `2024.1.1`."""
    return [part.lstrip("0") or "0" for part in re.split(r"[-_.+]", version.lower())]


def install_node(step: dict[str, Any], guest: Guest) -> None:
    """Node.js, then a tree of packages, and the commands of those that were asked for."""
    path = step["path"]
    if step["package"]:
        install([step["package"]], guest)
    else:
        unpack(guest.blob(step["archive"]), path, strip=True)
        for name in sorted(os.listdir(path + "/bin")):
            link_command(name, "%s/bin/%s" % (path, name))
    said = said_by(["node", "--version"]).strip()
    guest.say("node %s" % said)
    match = re.match(r"v(\d+)\.", said)
    if not match or (step["version"] and int(match.group(1)) != step["version"]):
        raise StepFailed(
            "Node.js %s was wanted, and node --version says: %s" % (step["version"] or "", said or "nothing")
        )
    if step["packages"]:
        put_node_packages(guest.blob(step["packages"]), path + "/lib", guest)


def put_node_packages(carried: str, target: str, guest: Guest, commands: str = COMMANDS) -> None:
    """The tree under `target`/node_modules; every package in it is seen to be of the version it should be."""
    unpack(os.path.join(carried, "packages.tar"), target)
    with open(os.path.join(carried, "lock.json"), encoding="utf-8") as stream:
        lock = json.load(stream)
    for package in lock["packages"]:
        with open(os.path.join(target, package["path"], "package.json"), encoding="utf-8") as stream:
            found = json.load(stream).get("version")
        if found != package["version"]:
            raise StepFailed("%s %s was wanted, and it is %s" % (package["name"], package["version"], found))
    for command, file in sorted(lock["commands"].items()):
        program = os.path.join(target, file)
        os.chmod(program, 0o755)
        link_command(command, program, commands)
    guest.say("%d packages in %s/node_modules" % (len(lock["packages"]), target))


def link_command(name: str, program: str, folder: str = COMMANDS) -> None:
    """A link in /usr/local/bin; over nothing that is there."""
    os.makedirs(folder, exist_ok=True)
    link = os.path.join(folder, name)
    if os.path.islink(link) and os.readlink(link) == program:
        return
    if os.path.lexists(link):
        raise StepFailed("%s is there already, and should become a link to %s" % (link, program))
    os.symlink(program, link)


def unpack(archive: str, target: str, strip: bool = False) -> None:
    """Unpacks an archive for root, into a folder and nowhere else; `strip` leaves out its one top folder.

    The same in every Python: what leaves the folder, devices, and files that are there already are refused.
    """
    os.makedirs(target, exist_ok=True)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        top = common_folder([member.name for member in members]) if strip else ""
        for member in members:
            name = inside(member.name)[len(top) :].strip("/")
            if name:
                unpack_one(tar, member, name, top, target)


def unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, top: str, target: str) -> None:
    path = os.path.join(target, name)
    base = os.path.realpath(target)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not (os.path.realpath(os.path.dirname(path)) + "/").startswith(base + "/"):
        raise StepFailed("the archive's %s would leave %s" % (member.name, target))
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)
        return
    if os.path.lexists(path):
        raise StepFailed("%s is there already" % path)
    if member.issym():
        end = os.path.realpath(os.path.join(os.path.dirname(path), member.linkname))
        if not end.startswith(base + "/"):
            raise StepFailed("the archive's %s points out of %s" % (member.name, target))
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(os.path.join(target, inside(member.linkname)[len(top) :].strip("/")), path, follow_symlinks=False)
    elif member.isfile():
        content = tar.extractfile(member)
        assert content is not None
        with open(path, "wb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
        os.chmod(path, 0o755 if member.mode & 0o100 else 0o644)
    else:
        raise StepFailed("the archive's %s is neither file, folder nor link" % member.name)


def inside(name: str) -> str:
    """A member's name in its one form; refused if it is absolute or climbs."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise StepFailed("the archive's %s would leave its folder" % name)
    return "/".join(parts)


def common_folder(names: list[str]) -> str:
    """`jdk-17.0.9+9` where everything lies in it, else ""."""
    tops = {inside(name).partition("/")[0] for name in names} - {""}
    return tops.pop() if len(tops) == 1 and any("/" in inside(name) for name in names) else ""


def said_by(argv: list[str], env: dict[str, str] | None = None, errors: int = subprocess.STDOUT) -> str:
    """All that a program says, "" where it is missing."""
    everything = {**environment(), **(env or {})}
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=errors, check=False, env=everything)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace")


STEPS: dict[str, Callable[[dict[str, Any], Guest], None]] = {
    "java": install_java,
    "python": install_python,
    "node": install_node,
}
