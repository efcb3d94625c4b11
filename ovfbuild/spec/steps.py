"""What is done in the guest, in order: plain values that JSON can hold, and nothing of how it is done.

    system → disks → packages → java → python → node → users → files … → agent … → script …

`to_json` of a step is what the guest's runner reads:

    {"kind": "system", "name": "system", "hostname": "hello", "timezone": "Etc/UTC",
     "locale": "C.UTF-8", "keyboard": null, "serial": false}
    {"kind": "disks", "name": "disks", "mounts": [{"number": 2, "path": "/srv/data", "grow": true}]}
    {"kind": "packages", "name": "packages", "packages": ["curl", "nginx-light=1.22.1-9"]}
    {"kind": "java", "name": "java", "version": 17, "package": "openjdk-17-jre-headless", "archive": "",
     "path": "/opt/java"}
    {"kind": "python", "name": "python", "path": "/opt/hello/venv", "wheels": "libraries/python"}
    {"kind": "node", "name": "node", "version": 18, "package": "nodejs", "archive": "",
     "path": "/opt/hello/node", "packages": "libraries/node"}
    {"kind": "users", "name": "users", "users": [{"name": "admin", "groups": [], "sudo": "",
     "shell": "/bin/bash", "ssh_keys": [], "password_hash": null}]}
    {"kind": "files", "name": "files /var/www/html", "entries": [
        {"type": "directory", "target": "/var/www/html", "mode": "0755", "owner": "root", "group": "root",
         "blob": "", "link": ""}, …]}
    {"kind": "agent-packages", "name": "agent packages", "packages": ["zabbix-agent"], "debs": [],
     "repository": "", "key": "", "key_path": ""}
    {"kind": "unpack", "name": "agent archive", "blob": "agent/archive", "target": "/opt/agent", "strip": 1,
     "moves": [["etc", "/etc/agent"]]}
    {"kind": "services", "name": "agent services", "accounts": [], "enable": ["zabbix-agent.service"], "java": null}
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
class Mount:
    """A disk that the appliance has beside the one that it boots from."""

    number: int
    """In the package, by which the build's guest finds it."""
    path: str
    grow: bool
    """Whether its file system grows to the disk at boot."""


@dataclass(frozen=True)
class DisksStep(_Step):
    """Further disks, a folder above those inside."""

    kind = "disks"
    mounts: tuple[Mount, ...]


@dataclass(frozen=True)
class PackagesStep(_Step):
    """Packages to install, each "name" or "name=version"."""

    kind = "packages"
    packages: tuple[str, ...]


@dataclass(frozen=True)
class JavaStep(_Step):
    """A Java runtime: of a package, or of an archive that the seed carries."""

    kind = "java"
    version: int | None
    """The major version that it must turn out to be."""
    package: str
    """Of the distribution, or "" for an archive."""
    archive: str
    """Where the seed has it, or ""."""
    path: str


@dataclass(frozen=True)
class PythonStep(_Step):
    """A virtual environment with the wheels that the seed carries, and nothing from an index."""

    kind = "python"
    path: str
    wheels: str
    """The seed's folder: wheels, and lock.txt, which names each with its version and digest."""


@dataclass(frozen=True)
class NodeStep(_Step):
    """Node.js, of a package or of an archive, and a tree of npm's that the seed carries."""

    kind = "node"
    version: int | None
    package: str
    archive: str
    path: str
    packages: str
    """The seed's folder: packages.tar and lock.json; "" where no packages are wanted."""


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


@dataclass(frozen=True)
class AgentPackagesStep(_Step):
    """Packages of an agent, which is not started when they are installed."""

    kind = "agent-packages"
    packages: tuple[str, ...]
    debs: tuple[str, ...] = ()
    """Blobs that are .deb files."""
    repository: str = ""
    """A line of apt's sources that stays in the image."""
    key: str = ""
    """The Blob of the key that signs it."""
    key_path: str = ""


@dataclass(frozen=True)
class UnpackStep(_Step):
    """An archive (tar of any compression, or zip) that goes into a folder; all of it is root's."""

    kind = "unpack"
    blob: str
    target: str
    strip: int = 0
    """How many folders at the head of each name are left out."""
    moves: tuple[tuple[str, str], ...] = ()
    """(a folder of the archive, where it lives instead); a link takes its place."""


@dataclass(frozen=True)
class ServicesStep(_Step):
    """System users that own services, and the units that are started at boot."""

    kind = "services"
    accounts: tuple[str, ...]
    enable: tuple[str, ...]
    java: tuple[int, int] | None = None
    """The majors of Java that the guest's must be between."""


AgentStep = AgentPackagesStep | UnpackStep | ServicesStep


LanguageStep = JavaStep | PythonStep | NodeStep
Step = SystemStep | DisksStep | PackagesStep | LanguageStep | UsersStep | FilesStep | ScriptStep | AgentStep
