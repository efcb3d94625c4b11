"""What is done in the guest, in order: plain values that JSON can hold, and nothing of how it is done.

    system → packages → users → files … → script …

`to_json` of a step is what the guest's runner reads:

    {"kind": "system", "name": "system", "hostname": "hello", "timezone": "Etc/UTC",
     "locale": "C.UTF-8", "keyboard": null, "serial": false}
    {"kind": "packages", "name": "packages", "packages": ["curl", "nginx-light=1.22.1-9"]}
    {"kind": "users", "name": "users", "users": [{"name": "admin", "groups": [], "sudo": "",
     "shell": "/bin/bash", "ssh_keys": [], "password_hash": null}]}
    {"kind": "files", "name": "files /var/www/html", "entries": [
        {"type": "directory", "target": "/var/www/html", "mode": "0755", "owner": "root", "group": "root",
         "blob": "", "link": ""}, …]}
    {"kind": "script", "name": "script configure", "blob": "files/000002"}

A step's name is unique in a plan, and is what progress and errors call it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class _Step:
    kind: ClassVar[str]
    name: str

    def to_json(self) -> dict[str, Any]:
        """As the guest's runner reads it. The users' password hashes are in it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class SystemStep(_Step):
    """Host name, time zone, locale, keyboard; and whether the console is on the serial port too."""

    kind = "system"
    hostname: str
    timezone: str
    locale: str
    keyboard: str | None
    """None: the base's own."""
    serial: bool


@dataclass(frozen=True)
class PackagesStep(_Step):
    """Packages to install, each "name" or "name=version"."""

    kind = "packages"
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """A user to be made, or, where there is one of that name, to be changed."""

    name: str
    groups: tuple[str, ...]
    sudo: str
    """What follows the name in a line of sudoers; empty: nothing is allowed."""
    shell: str
    ssh_keys: tuple[str, ...]
    password_hash: str | None
    """crypt(5); None: no password opens the account."""


@dataclass(frozen=True)
class UsersStep(_Step):
    """Accounts, in the order of appliance.toml."""

    kind = "users"
    users: tuple[Account, ...]


@dataclass(frozen=True)
class FileEntry:
    """One name in the guest's file system.

    A directory that the guest has already keeps its own mode and owner; a file or a link is replaced.
    Folders above the first entry that are missing belong to root, mode 0755.
    """

    type: Literal["file", "directory", "link"]
    target: str
    """Absolute, without a slash at the end."""
    mode: str
    """Four octal digits; of a link it means nothing."""
    owner: str
    group: str
    blob: str = ""
    """Of a file: the name of its Blob in the payload."""
    link: str = ""
    """Of a link: what it points to, as it was written."""


@dataclass(frozen=True)
class FilesStep(_Step):
    """One [[files]] of appliance.toml; a directory's entry stands before those inside."""

    kind = "files"
    entries: tuple[FileEntry, ...]


@dataclass(frozen=True)
class ScriptStep(_Step):
    """A program to run once as root; its Blob begins with #! or is an ELF program."""

    kind = "script"
    blob: str


Step = SystemStep | PackagesStep | UsersStep | FilesStep | ScriptStep
