"""The kinds of steps that a build may ask for, each a function of (step, guest).

A step is what `ovfbuild.spec.plan` made of the appliance: a dict with "kind", "name" and its fields.
"""

from __future__ import annotations

import glob
import grp
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from typing import Any, Callable

APT_FRESH = 24 * 3600
"""Seconds for which the lists that a base brought along are taken as they are."""


KEYBOARD = "/etc/default/keyboard"


class StepFailed(Exception):
    """A step that could not be carried out, in a sentence."""


class Guest:
    """This machine, as a step sees it: where the payload lies, and how to run and say things."""

    def __init__(self, seed: str, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.step = ""
        self._say = say
        self._lines: list[str] = []

    def begin(self, step: str) -> None:
        """A new step: what was said before it is not its output."""
        self.step, self._lines = step, []

    def say(self, text: str) -> None:
        self._lines.append(text)
        del self._lines[:-200]
        self._say(text)

    def say_file(self, path: str, most: int) -> None:
        """The last lines of a log."""
        if os.path.exists(path):
            with open(path, errors="replace") as stream:
                for line in stream.readlines()[-most:]:
                    self.say(line.rstrip())

    def last_lines(self) -> list[str]:
        return self._lines[-40:]

    def blob(self, name: str) -> str:
        """Where a part of the payload lies, on the seed."""
        return os.path.join(self.seed, name)

    def run(self, argv: list[str], env: dict[str, str] | None = None, cwd: str = "/") -> None:
        """Runs a program, saying each line that it writes; a program that fails fails the step."""
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment(), **(env or {})},
            cwd=cwd,
        )
        assert child.stdout is not None
        for raw in child.stdout:
            text = raw.decode(errors="replace").rstrip().rpartition("\r")[2]
            if text:
                self.say(text)
        if child.wait() != 0:
            raise StepFailed("%s ended with exit code %d" % (os.path.basename(argv[0]), child.returncode))


def environment() -> dict[str, str]:
    """What programs and scripts find in their environment: root's, in no language, asking nothing."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_MODE": "l",
    }


def write(path: str, text: str, mode: int = 0o644) -> None:
    """A file of ours, whole, with this mode, its folders made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(path, mode)


def set_system(step: dict[str, Any], guest: Guest) -> None:
    """Time zone, locale and keyboard. (The host name is written when the disk is sealed.)"""
    needed = []
    zone = "/usr/share/zoneinfo/" + step["timezone"]
    if not os.path.exists(zone):
        needed.append("tzdata")
    plain = step["locale"] in ("C", "C.UTF-8", "POSIX")
    if not plain and not os.path.exists("/usr/sbin/locale-gen"):
        needed.append("locales")
    keyboard = step["keyboard"]
    if keyboard and not os.path.exists(KEYBOARD):
        needed += ["keyboard-configuration", "console-setup"]
    if needed:
        install(needed, guest)
    if not os.path.exists(zone):
        raise StepFailed("the guest knows no time zone %s" % step["timezone"])
    if os.path.lexists("/etc/localtime"):
        os.unlink("/etc/localtime")
    os.symlink(zone, "/etc/localtime")
    write("/etc/timezone", step["timezone"] + "\n")
    set_locale(step["locale"], plain, guest)
    if step.get("keyboard"):
        write(
            "/etc/default/keyboard",
            'XKBMODEL="pc105"\nXKBLAYOUT="%s"\nBACKSPACE="guess"\n' % step["keyboard"],
        )


def set_locale(locale: str, plain: bool, guest: Guest) -> None:
    """Generates the locale where glibc does not bring it, and makes it the system's."""
    if not plain:
        charset = locale.partition(".")[2] or "UTF-8"
        write("/etc/locale.gen", "%s %s\n" % (locale, charset))
        guest.run(["locale-gen"])
    write("/etc/default/locale", "LANG=%s\n" % locale)
    if os.path.exists("/etc/locale.conf"):
        write("/etc/locale.conf", "LANG=%s\n" % locale)


def install_packages(step: dict[str, Any], guest: Guest) -> None:
    install(step["packages"], guest)


def install(packages: list[str], guest: Guest) -> None:
    """Installs Debian packages, `name` or `name=version`, from the sources that the build gave apt.

    Lists that came with a fresh base are used as they are; where they turn out to be behind the
    mirror, they are fetched and it is tried once more.
    """
    if shutil.which("apt-get") is None:
        raise StepFailed("the guest has no apt-get: packages can be installed in Debian and its kin only")
    command = [
        *("apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades"),
        *("--option", "Dpkg::Options::=--force-unsafe-io", "--option", "Dpkg::Use-Pty=0"),
        *packages,
    ]
    if not lists_are_fresh():
        update(guest)
    else:
        try:
            guest.run(command)
            return
        except StepFailed:
            guest.say("once more, with new package lists")
            update(guest)
    guest.run(command)


def update(guest: Guest) -> None:
    guest.run(["apt-get", "update", "--option", "APT::Update::Error-Mode=any"])


def lists_are_fresh() -> bool:
    lists = glob.glob("/var/lib/apt/lists/*Packages*")
    return bool(lists) and time.time() - max(map(os.path.getmtime, lists)) < APT_FRESH


def make_users(step: dict[str, Any], guest: Guest) -> None:
    for user in step["users"]:
        make_user(user, guest)


def make_user(user: dict[str, Any], guest: Guest) -> None:
    """One user, new or changed; without a password it can be entered by its SSH keys only."""
    name = user["name"]
    for group in user.get("groups", ()):
        guest.run(["groupadd", "--force", group])
    exists = subprocess.run(["id", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    options = ["--password", user.get("password_hash") or "*"]
    if user.get("shell"):
        options += ["--shell", user["shell"]]
    if user.get("groups"):
        options += ["--groups", ",".join(user["groups"])]
    if exists.returncode == 0:
        guest.run(["usermod", *options, *(["--append"] if user.get("groups") else []), name])
    else:
        guest.run(["useradd", "--create-home", *options, name])
    if user.get("sudo"):
        allow_sudo(name, user["sudo"], guest)
    if user.get("ssh_keys"):
        authorize(name, user["ssh_keys"])


def allow_sudo(name: str, rule: str, guest: Guest) -> None:
    """A rule of its own in sudoers.d, checked by visudo; sudo ignores names with a dot."""
    if shutil.which("visudo") is None:
        install(["sudo"], guest)
    path = "/etc/sudoers.d/" + name.replace(".", "_")
    write(path, "%s %s\n" % (name, rule), 0o440)
    guest.run(["visudo", "--check", "--quiet", "--file=" + path])


def authorize(name: str, keys: list[str]) -> None:
    home = os.path.expanduser("~" + name)
    path = os.path.join(home, ".ssh", "authorized_keys")
    write(path, "".join(key.strip() + "\n" for key in keys), 0o600)
    os.chmod(os.path.dirname(path), 0o700)
    for owned in (os.path.dirname(path), path):
        shutil.chown(owned, name, group_of(name))


def group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def put_files(step: dict[str, Any], guest: Guest) -> None:
    """Files, folders and links, straight from the seed, with their modes and owners."""
    for entry in step["entries"]:
        target = entry["target"]
        try:
            put(entry, target, guest)
        except LookupError as error:
            owner = "%s:%s" % (entry["owner"], entry["group"])
            raise StepFailed("%s: the guest has no user or group %s" % (target, owner)) from error
        except OSError as error:
            raise StepFailed("%s: %s" % (target, error)) from error
    guest.say("%d entries" % len(step["entries"]))


def put(entry: dict[str, Any], target: str, guest: Guest) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if entry["type"] == "directory":
        if os.path.isdir(target):
            return  # the guest's own keeps its mode and owner
        os.makedirs(target)
    else:
        if os.path.lexists(target) and not os.path.isdir(target):
            os.unlink(target)
        if entry["type"] == "link":
            os.symlink(entry["link"], target)
            owner, group = pwd.getpwnam(entry["owner"]), grp.getgrnam(entry["group"])
            os.chown(target, owner.pw_uid, group.gr_gid, follow_symlinks=False)
            return
        shutil.copyfile(guest.blob(entry["blob"]), target)
    shutil.chown(target, entry["owner"], entry["group"])
    os.chmod(target, int(entry["mode"], 8))


def run_script(step: dict[str, Any], guest: Guest) -> None:
    """A script of the author's, as root, from a folder that allows execution (/run does not)."""
    folder = tempfile.mkdtemp(prefix="ovfbuild-", dir="/var/tmp")
    script = os.path.join(folder, "script")
    try:
        shutil.copyfile(guest.blob(step["blob"]), script)
        os.chmod(script, 0o700)
        guest.run([script], cwd="/root")
    except OSError as error:
        raise StepFailed("it could not be started (its first line names no program here?): %s" % error) from error
    finally:
        shutil.rmtree(folder)


STEPS: dict[str, Callable[[dict[str, Any], Guest], None]] = {
    "system": set_system,
    "packages": install_packages,
    "users": make_users,
    "files": put_files,
    "script": run_script,
}
