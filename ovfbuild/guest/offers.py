"""Where a machine may be told who it is: each place as a function of the root folder, in the order that counts.

    guestinfo    VMware's OVF environment over the hypervisor's own channel
    cd-rom       the OVF environment on a CD-ROM, ovf-env.xml
    user-data    what cloud-init fetched, from whatever cloud; without cloud-init, from NoCloud or config-drive media
    dropped      a file that a deployment manager puts there

A place that has nothing yields no offer; one that has something unreadable yields an offer with a problem.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass
from typing import Any, Callable, Iterator

from ovfbuild.guest import dialects
from ovfbuild.guest.iso9660 import NoVolume, TooLarge, Volume

SOURCES = ("guestinfo", "cd-rom", "user-data", "dropped")
"""In the order in which they count: of two that give a property, the first wins."""

_ENVIRONMENT_FILES = ("ovf-env.xml", "ovf_env.xml")
_NO_CLOUD, _CONFIG_DRIVE = ("user-data",), ("openstack/latest/user_data",)
_PATIENCE = 10
"""Seconds for VMware's program."""


@dataclass(frozen=True)
class Offer:
    """What one place says: {key: text}, with None where it names a key and says nothing."""

    source: str
    origin: str
    """A path or a channel, for people."""
    digest: str
    """Of all that was read: the same as long as nothing was changed."""
    values: dict[str, Any]
    problem: str = ""
    """Why it could not be read; no value is in it."""


def guestinfo(root: str, declaration: dict[str, Any]) -> Iterator[Offer]:
    """`guestinfo.ovfEnv`, by the first of open-vm-tools' programs that has it."""
    del declaration
    if not _content(root + "/sys/class/dmi/id/sys_vendor", 200).startswith(b"VMware"):
        return  # elsewhere the programs complain, and some wait
    for argv in (["vmware-rpctool", "info-get guestinfo.ovfEnv"], ["vmtoolsd", "--cmd", "info-get guestinfo.ovfEnv"]):
        for folder in ("/usr/bin/", "/usr/sbin/"):
            if os.access(root + folder + argv[0], os.X_OK):
                octets = _said([root + folder + argv[0], *argv[1:]])
                if octets.strip(b"\0 \r\n\t"):
                    yield _read("guestinfo", "guestinfo.ovfEnv", octets, dialects.ovf_environment)
                    return


def _said(argv: list[str]) -> bytes:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def cd_rom(root: str, declaration: dict[str, Any]) -> Iterator[Offer]:
    """The first CD-ROM that has an OVF environment (DSP0243 clause 11.2, the transport `iso`)."""
    del declaration
    for device in _drives(root):
        for octets, problem in _on_medium(device, _ENVIRONMENT_FILES):
            if problem:
                yield Offer("cd-rom", device[len(root) :], _digest(problem.encode()), {}, problem)
            else:
                yield _read("cd-rom", device[len(root) :], octets, dialects.ovf_environment)
            return


def user_data(root: str, declaration: dict[str, Any]) -> Iterator[Offer]:
    """What cloud-init keeps of it; what it made of it if the first holds nothing of ours (includes, templates)."""
    instance = root + "/var/lib/cloud/instance/"
    known = {name for one in declaration["properties"] for name in (one["key"], *one.get("aliases", ()))}
    if os.path.exists(instance + "user-data.txt"):
        for name in ("user-data.txt", "cloud-config.txt"):
            octets = _content(instance + name, dialects.LARGEST + 1)
            offer = _read("user-data", instance[len(root) :] + name, octets, dialects.user_data)
            if offer.problem or known & set(offer.values):
                yield offer
                return
        return
    by_label = sorted(glob.glob(root + "/dev/disk/by-label/*"))
    named = [path for path in by_label if os.path.basename(path).lower() in ("cidata", "config-2")]
    for device in [*named, *_drives(root)]:
        for octets, problem in _on_medium(device, (*_NO_CLOUD, *_CONFIG_DRIVE)):
            offer = _read("user-data", device[len(root) :], octets, dialects.user_data)
            if not problem and (offer.problem or known & set(offer.values)):
                yield offer
                return


def dropped(root: str, declaration: dict[str, Any]) -> Iterator[Offer]:
    """The first file of the declaration's `drop_files` that is there: Java properties, or a cloud-config.

    Not followed if it is a link: such a file may lie in a folder that everybody can write to.
    """
    for path in declaration.get("drop_files", ()):
        try:
            handle = os.open(root + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        with open(handle, "rb") as stream:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                yield _read("dropped", path, stream.read(dialects.LARGEST + 1), dialects.user_data)
                return


PLACES: tuple[tuple[str, Callable[[str, dict[str, Any]], Iterator[Offer]]], ...] = (
    ("guestinfo", guestinfo),
    ("cd-rom", cd_rom),
    ("user-data", user_data),
    ("dropped", dropped),
)


def _read(source: str, origin: str, octets: bytes, read: Callable[[bytes], dict[str, Any]]) -> Offer:
    try:
        return Offer(source, origin, _digest(octets), read(octets))
    except (dialects.NotUnderstood, ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, dialects.NotUnderstood) else "it is damaged"
        return Offer(source, origin, _digest(octets), {}, what)


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def _content(path: str, most: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(most)
    except OSError:
        return b""


def _drives(root: str) -> list[str]:
    return sorted(glob.glob(root + "/dev/sr[0-9]*"))


def _on_medium(device: str, names: tuple[str, ...]) -> Iterator[tuple[bytes, str]]:
    """(content, "") of the first of these files on it, or (b"", problem); nothing where there is none of them."""
    try:
        with open(device, "rb") as stream:
            volume = Volume(stream)
            for name in names:
                octets = volume.find(name, dialects.LARGEST)
                if octets is not None:
                    yield octets, ""
                    return
    except TooLarge as problem:
        yield b"", str(problem)
    except (NoVolume, OSError):
        return  # another medium, or none
