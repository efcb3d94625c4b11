"""The step that mounts the appliance's further disks, now and at every boot.

In the appliance a disk may hang on anything, and be called anything: it is found by its file system's UUID. A disk that
is not there must not keep the machine from coming up (nofail); one that is there is mounted before what uses it starts,
which nofail alone does not say (systemd.mount(5)).
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from typing import Any, Callable

from ovfbuild.guest.steps import Guest, StepFailed

DEVICE = "/dev/disk/by-id/virtio-ovfbuild-disk%d"
OPTIONS = "defaults,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target"
GROW = ",x-systemd.growfs"


def mount_disks(step: dict[str, Any], guest: Guest) -> None:
    """`step`: mounts, each with number, path and grow, a folder above those inside."""
    guest.run(["udevadm", "settle", "--timeout=30"])
    for one in step["mounts"]:
        device = DEVICE % one["number"]
        found = file_system(device, [probe(path) for path in (device, *sorted(glob.glob(device + "-part*")))])
        make_place(one["path"])
        with open("/etc/fstab", "a", encoding="utf-8") as fstab:
            fstab.write(fstab_line(found, one["path"], one["grow"]))
        guest.run(["systemctl", "daemon-reload"])
        guest.run(["mount", one["path"]])
        if shutil.which("restorecon"):
            guest.run(["restorecon", one["path"]])
        guest.say("%s, UUID %s, is %s" % (found["TYPE"], found["UUID"], one["path"]))


def probe(device: str) -> dict[str, str]:
    """What blkid(8) sees on a device: USAGE, TYPE, UUID and so on; nothing where it sees nothing."""
    asked = subprocess.run(["blkid", "-p", "-o", "export", device], stdout=subprocess.PIPE, check=False)
    lines = asked.stdout.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def file_system(device: str, seen: list[dict[str, str]]) -> dict[str, str]:
    """The only file system among what was seen on a disk and its partitions."""
    found = [one for one in seen if one.get("USAGE") == "filesystem" and one.get("UUID")]
    if len(found) != 1:
        name = os.path.basename(device)
        raise StepFailed("%s: %d file systems are on it, and one can be mounted" % (name, len(found)))
    return found[0]


def make_place(path: str) -> None:
    """The folder, made if need be; one that holds anything would be hidden."""
    os.makedirs(path, exist_ok=True)
    if os.listdir(path):
        raise StepFailed("%s holds files already, which a disk there would hide; choose another mount" % path)


def fstab_line(found: dict[str, str], path: str, grow: bool) -> str:
    """The line of fstab(5) by which it is mounted at every boot, after it was checked."""
    return "UUID=%s %s %s %s 0 2\n" % (found["UUID"], path, found["TYPE"], OPTIONS + (GROW if grow else ""))


def unmounted(root: str = "") -> list[str]:
    """Of the folders that this step has put into fstab, those where nothing is mounted now."""
    with open(root + "/etc/fstab", encoding="utf-8") as stream:
        lines = [line.split() for line in stream if not line.startswith("#")]
    with open(root + "/proc/self/mounts", encoding="utf-8") as stream:
        mounted = {line.split()[1] for line in stream}
    return [words[1] for words in lines if len(words) == 6 and OPTIONS in words[3] and words[1] not in mounted]


STEPS: dict[str, Callable[[dict[str, Any], Guest], None]] = {"disks": mount_disks}
