"""What a sealed disk must not hold any more: a table of places, and a search for secrets in every block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ovfbuild.vm.blocks import open_reader
from ovfbuild.vm.outside import DirEntry, FileSystem

_PIECE = 1 << 20
_MOST_CANARIES = 20


def _anything(_: DirEntry) -> bool:
    return True


def _no_folder(entry: DirEntry) -> bool:
    return entry.type != "folder"


def _content(entry: DirEntry) -> bool:
    return entry.type == "file" and entry.size > 0


@dataclass(frozen=True)
class _Rule:
    """What is left over: names in a folder, or (`deep`) paths under it, and why they must go."""

    folder: str
    names: tuple[str, ...]
    """Shell patterns; of the path under the folder, in small letters, `*` taking slashes too."""
    why: str
    counts: Callable[[DirEntry], bool] = _no_folder
    deep: bool = False
    spared: tuple[str, ...] = ()


_LOG = "a log of the build"
_CLOUD = "cloud-init's state: the first boot would not be taken for one"
_NETWORK = "network settings that cloud-init made for the build's NIC"
_LEASE = "the build's DHCP state"
_LISTS = "apt's lists and packages only take space"
_SCRATCH = "temporary"
_IDENTITY = "who the build VM was, the same in every copy"
_HISTORY = "what was typed during the build"
_HISTORIES = (
    *(".bash_history", ".zsh_history", ".ash_history", ".sh_history", ".python_history", ".lesshst"),
    *(".viminfo", ".wget-hsts", ".mysql_history", ".psql_history", ".node_repl_history"),
)
_RULES = (
    _Rule("/etc/ssh", ("ssh_host_*",), "a host key, the same in every copy"),
    _Rule("/var/lib/dbus", ("machine-id",), "the machine id, the same in every copy", _content),
    _Rule("/var/lib/cloud", ("instance",), _CLOUD, _anything),
    _Rule("/var/lib/cloud/instances", ("*",), _CLOUD, _anything),
    _Rule("/var/lib/cloud/data", ("*",), _CLOUD, deep=True),
    _Rule("/var/lib/cloud/sem", ("*",), _CLOUD, deep=True),
    _Rule(
        "/var/lib/cloud/seed",
        ("*",),
        "a seed of the build: the deployment's own would have to beat it",
        _content,
        deep=True,
        spared=("nocloud/meta-data", "nocloud/user-data"),
    ),
    _Rule("/var/log/journal", ("*",), "a journal, under the build's machine id", _anything),
    _Rule("/var/log", ("*",), _LOG, _content, deep=True, spared=("journal/*",)),
    _Rule("/var/lib/apt/lists", ("*",), _LISTS, deep=True, spared=("lock",)),
    _Rule("/var/cache/apt", ("*.deb", "*pkgcache.bin*"), _LISTS, deep=True),
    _Rule("/etc/apt", ("*ovfbuild*",), "how the build reached its packages", deep=True),
    _Rule("/var/lib/dhcp", ("*",), _LEASE, _content),
    _Rule("/var/lib/dhclient", ("*",), _LEASE, _content),
    _Rule("/var/lib/dhcpcd", ("*",), _LEASE, _content, deep=True),
    _Rule("/var/lib/NetworkManager", ("*lease*", "secret_key"), _LEASE, _content),
    _Rule("/var/lib/systemd", ("random-seed", "credential.secret"), "a secret, the same in every copy"),
    _Rule("/tmp", ("*",), _SCRATCH, _anything),  # noqa: S108 - the disk's, not ours
    _Rule("/var/tmp", ("*",), _SCRATCH, _anything),  # noqa: S108
    _Rule("/etc/netplan", ("*cloud-init*",), _NETWORK),
    _Rule("/etc/network/interfaces.d", ("50-cloud-init*",), _NETWORK),
    _Rule("/etc/systemd/network", ("10-cloud-init*",), _NETWORK),
    _Rule("/etc/NetworkManager/system-connections", ("cloud-init-*",), _NETWORK),
    _Rule("/etc/udev/rules.d", ("70-persistent-net.rules",), "names for the build's NIC"),
    _Rule("/etc/ssh/sshd_config.d", ("50-cloud-init.conf",), "SSH settings that cloud-init made for the build"),
    _Rule("/etc/ovfbuild", ("identity.*",), _IDENTITY),
    _Rule("/var/lib/ovfbuild", ("identity.json",), _IDENTITY),
    _Rule("/etc/sudoers.d", ("90-cloud-init-users",), "sudo for the build's user"),
    _Rule(
        "/etc",
        ("passwd-", "shadow-", "group-", "gshadow-", "subuid-", "subgid-"),
        "accounts as they were during the build",
    ),
)


def find_leftovers(fs: FileSystem, canaries: Sequence[bytes] = ()) -> list[str]:
    """What tells a disk from a sealed one, each a sentence with its path; none when it is sealed.

    Left alone is what a first boot needs (the seed of last resort, an empty machine-id) and what says
    nothing (empty folders and logs).

    Args:
        canaries: bytes that the build knew (secrets, say) and no block of the file system may hold,
            not even one that no file has any more. They are numbered, never shown.
    """
    homes = ["/root"]
    if fs.exists("/home"):
        homes += [f"/home/{e.name}" for e in fs.listing("/home") if e.type == "folder"]
    rules = [*_RULES, *(_Rule(home, _HISTORIES, _HISTORY, _content) for home in homes)]
    fs.look_up(str(place) for rule in rules for place in (rule.folder, PurePosixPath(rule.folder).parent))
    found = _find_machine_id(fs)
    for rule in rules:
        found += _apply(rule, fs)
    return found + find_canaries(fs, canaries)


def _find_machine_id(fs: FileSystem) -> list[str]:
    """Empty, or "uninitialized", is none (machine-id(5))."""
    entry = fs.entry("/etc/machine-id")
    if entry is None or entry.type != "file" or fs.read("/etc/machine-id", 64).strip() in (b"", b"uninitialized"):
        return []
    return ["/etc/machine-id is not empty: every copy would be the same machine"]


def _apply(rule: _Rule, fs: FileSystem) -> list[str]:
    folder = fs.entry(rule.folder)
    if folder is None or folder.type != "folder":
        return []
    if rule.deep:
        entries = list(fs.walk(rule.folder))
    else:
        entries = [(f"{rule.folder}/{entry.name}", entry) for entry in fs.listing(rule.folder)]
    return [
        f"{path} is left: {rule.why}"
        for path, entry in entries
        if rule.counts(entry)
        and _matches(path.removeprefix(rule.folder + "/"), rule.names)
        and not _matches(path.removeprefix(rule.folder + "/"), rule.spared)
    ]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path.lower(), pattern) for pattern in patterns)


def find_canaries(fs: FileSystem, canaries: Sequence[bytes]) -> list[str]:
    """Every place up to a limit; one that spans two runs would have a hole in it, and isn't looked for."""
    numbered = [(number, canary) for number, canary in enumerate(canaries, 1) if canary]
    if not numbered:
        return []
    found: dict[str, None] = {}
    overlap = max(map(len, canaries)) - 1
    with open_reader(fs.raw, "raw", fs.raw.parent) as reader:
        for offset, length in reader.runs():
            for place in range(offset, offset + length, _PIECE):
                piece = reader.read(place, min(_PIECE + overlap, offset + length - place))
                for number, at in _occurrences(piece, numbered):
                    owner = fs.owner_of(place + at)
                    found[f"{owner} holds what no copy may: canary {number} of the build"] = None
                    if len(found) >= _MOST_CANARIES:
                        return list(found)
    return list(found)


def _occurrences(piece: bytes, numbered: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    for number, canary in numbered:
        at = piece.find(canary)
        while at >= 0:
            yield number, at
            at = piece.find(canary, at + len(canary))
