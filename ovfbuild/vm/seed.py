"""cloud-init's NoCloud seed: an ISO 9660 image with the label CIDATA, its names in Rock Ridge. An OVF environment's
ISO is written the same way, under its own label.

`user-data` and `meta-data` must be there, `network-config` may be; everything else on it is payload,
read by the guest straight from the image (DataSourceNoCloud.py; cloud-init.md, section 1).
The same files give the same bytes: pycdlib reads the clock and the time zone, so both are shut out.
"""

from __future__ import annotations

import importlib.resources
import io
import threading
import time
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pycdlib
import pycdlib.dates
import pycdlib.headervd
import pycdlib.pycdlib
import pycdlib.udf
import pycdlib.utils

MOUNT = "/run/ovfbuild/seed"
"""Where the guest mounts the seed."""

BUILD_MAC = "52:54:00:12:34:56"
"""The build VM's only NIC, QEMU's first: known, so that its network-config fits every renderer."""

_EPOCH = 315532800.0
"""1980-01-01: every time stamp on a seed."""

_clock = threading.Lock()


def write(path: Path, files: Mapping[str, bytes | Path], label: str = "CIDATA") -> None:
    """Writes an ISO with these files (`folder/name` → content, or a file to take it from); by default a seed."""
    iso = pycdlib.PyCdlib()
    with _stopped_clock():
        iso.new(
            interchange_level=3,
            rock_ridge="1.09",
            vol_ident=label,
            sys_ident="LINUX",
            app_ident_str="OVFBUILD",
        )
        folders = {PurePosixPath("."): ""}
        for number, (name, content) in enumerate(sorted(files.items())):
            parent = _make_folders(iso, folders, PurePosixPath(name).parent)
            at, real = f"{parent}/F{number:07d}.;1", PurePosixPath(name).name
            if isinstance(content, bytes):
                iso.add_fp(io.BytesIO(content), len(content), at, rr_name=real, file_mode=0o100444)
            else:
                iso.add_file(str(content), at, rr_name=real, file_mode=0o100444)
        iso.write(str(path), blocksize=2**20)
        iso.close()


def build_seed(instance: str, hostname: str, user_data: str, build: bytes) -> dict[str, bytes | Path]:
    """The files of a build's seed but for its payload; `build` is the runner's orders as JSON."""
    network = f"version: 2\nethernets:\n  build:\n    match: {{macaddress: '{BUILD_MAC}'}}\n    dhcp4: true\n"
    return {
        "user-data": user_data.encode(),
        "meta-data": _meta_data(instance, hostname),
        "network-config": network.encode(),
        "build.json": build,
        **_guest_modules(),
    }


def witness_seed(instance: str, hostname: str, user_data: str) -> dict[str, bytes | Path]:
    """The files of the seed that verification attaches: a user's, and the witness."""
    return {
        "user-data": user_data.encode(),
        "meta-data": _meta_data(instance, hostname),
        **_guest_modules(),
    }


def build_cloud_config() -> dict[str, object]:
    """Our part of a build's cloud-config: mount the seed, let apt use its settings, start the runner.

    No user, no locale, one cheap host key: all of it is made anew where the appliance is deployed.
    """
    return {
        "bootcmd": [["sh", "-c", _MOUNT_SEED + _GIVE_APT_ITS_SETTINGS]],
        "runcmd": [_start("runner", MOUNT)],
        "users": [],
        "locale": False,
        "ssh_genkeytypes": ["ed25519"],
    }


def witness_cloud_config(token: str) -> dict[str, object]:
    """What a user's seed adds for verification: the witness, started when cloud-init is done."""
    return {"runcmd": [["sh", "-c", _MOUNT_SEED], _start("witness", token)]}


_MOUNT_SEED = f"mkdir -p {MOUNT} && {{ mountpoint -q {MOUNT} || mount -o ro LABEL=CIDATA {MOUNT}; }}\n"

_GIVE_APT_ITS_SETTINGS = f"""\
if [ -e {MOUNT}/apt.conf ] && [ -d /etc/apt/apt.conf.d ]; then
  cp {MOUNT}/apt.conf /etc/apt/apt.conf.d/99ovfbuild-build
fi
"""


def _start(module: str, argument: str) -> list[str]:
    """As a unit of its own, after all of cloud-init: what runs inside cloud-init can't clean up after it."""
    return [
        *("systemd-run", "--no-block", f"--unit=ovfbuild-{module}", "--property=After=cloud-final.service"),
        *("--property=Type=oneshot", "--property=StandardOutput=null", f"--setenv=PYTHONPATH={MOUNT}"),
        *("python3", "-B", "-m", f"ovfbuild.guest.{module}", argument),
    ]


def _meta_data(instance: str, hostname: str) -> bytes:
    return f"instance-id: {instance}\nlocal-hostname: {hostname}\n".encode()


def _guest_modules() -> dict[str, bytes | Path]:
    """The guest's Python, as a package of the same name as here."""
    folder = importlib.resources.files("ovfbuild.guest")
    modules: dict[str, bytes | Path] = {"ovfbuild/__init__.py": b""}
    for module in folder.iterdir():
        if module.name.endswith(".py"):
            modules[f"ovfbuild/guest/{module.name}"] = module.read_bytes()
    return modules


def guest_modules_digest_inputs() -> list[str]:
    """What of the guest's code decides how a sealed disk comes out: all of it but the witness."""
    modules = sorted(_guest_modules().items())
    return [bytes(text).decode() for name, text in modules if isinstance(text, bytes) and "witness" not in name]


def _make_folders(iso: pycdlib.PyCdlib, folders: dict[PurePosixPath, str], folder: PurePosixPath) -> str:
    """The ISO path of a folder, made with those above it. ISO names are numbers: Rock Ridge has the real ones."""
    if folder not in folders:
        parent = _make_folders(iso, folders, folder.parent)
        folders[folder] = f"{parent}/D{len(folders):07d}"
        iso.add_directory(folders[folder], rr_name=folder.name, file_mode=0o040555)
    return folders[folder]


@contextmanager
def _stopped_clock() -> Iterator[None]:
    """pycdlib sees one moment in UTC (it has no time stamp argument: clalancette/pycdlib#113)."""
    modules = (pycdlib.pycdlib, pycdlib.headervd, pycdlib.dates, pycdlib.udf, pycdlib.utils)
    stopped = types.SimpleNamespace(
        time=lambda: _EPOCH, localtime=time.gmtime, gmtime=time.gmtime, strftime=time.strftime, timezone=0
    )
    with _clock:
        real = [(module, getattr(module, "time", None)) for module in modules]
        try:
            for module, had in real:
                if had is not None:
                    setattr(module, "time", stopped)  # noqa: B010 - it isn't the module's own
            yield
        finally:
            for module, had in real:
                if had is not None:
                    setattr(module, "time", had)  # noqa: B010
