"""Puts the broker into the image when it is sealed: its program, the declaration, and the units that run it."""

from __future__ import annotations

import glob
import json
import os
import shutil
from typing import Any

from ovfbuild.guest.steps import write

FOLDER = "/usr/lib/ovfbuild"
MODULES = ("firstboot", "offers", "dialects", "iso9660", "templates")

# After cloud-init's network stage, which has fetched the user-data, under its old and its new name; not after
# cloud-final, which comes after multi-user: that would be a circle. Nothing requires this unit, so that a
# machine comes up whatever becomes of it.
SERVICE = """\
# Written by ovfbuild: see `man 5 appliance.toml`, [[properties]].
[Unit]
Description=Find out who this machine is
After=network.target cloud-init-local.service cloud-init.service cloud-init-network.service
%(before)s
[Service]
Type=oneshot
RemainAfterExit=yes
Environment=PYTHONPATH=/usr/lib/ovfbuild/python
ExecStart=/usr/bin/python3 -B -s -m ovfbuild.guest.firstboot
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
"""

DROPPED = """\
# Written by ovfbuild: the same again, when a deployment manager has dropped a file.
[Unit]
Description=Read what a deployment manager has dropped
After=ovfbuild-firstboot.service

[Service]
Type=oneshot
Environment=PYTHONPATH=/usr/lib/ovfbuild/python
ExecStart=/usr/bin/python3 -B -s -m ovfbuild.guest.firstboot --dropped
TimeoutStartSec=120
"""

WATCH = """\
# Written by ovfbuild.
[Unit]
Description=Wait for what a deployment manager drops

[Path]
%(watched)s
Unit=ovfbuild-dropped.service

[Install]
WantedBy=paths.target
"""


def install(orders: dict[str, Any], root: str = "") -> None:
    """`orders`: declaration (for properties.json), before (units that wait for the broker)."""
    declaration = orders["declaration"]
    package = root + FOLDER + "/python/ovfbuild"
    write(package + "/__init__.py", "")
    write(package + "/guest/__init__.py", "")
    for name in MODULES:
        target = "%s/guest/%s.py" % (package, name)
        shutil.copyfile(os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"), target)
        os.chmod(target, 0o644)
    secret = any(one["type"] == "password" and one["default"] for one in declaration["properties"])
    write(root + FOLDER + "/properties.json", json.dumps(declaration, indent=1) + "\n", 0o600 if secret else 0o644)
    units = sorted({*orders["before"], *configured(root)})
    before = "Before=%s\n" % " ".join(units) if units else ""
    enable(root, "ovfbuild-firstboot.service", SERVICE % {"before": before}, "multi-user.target")
    if declaration["drop_files"]:
        write(root + "/etc/systemd/system/ovfbuild-dropped.service", DROPPED)
        watched = "\n".join("PathChanged=" + path for path in declaration["drop_files"])
        enable(root, "ovfbuild-dropped.path", WATCH % {"watched": watched}, "paths.target")


def configured(root: str) -> list[str]:
    """The units whose files the templates write: they must not start with those of another machine."""
    units: list[str] = []
    for path in glob.glob(root + FOLDER + "/templates.d/*.json"):
        with open(path, encoding="utf-8") as stream:
            units += json.load(stream).get("restart", [])
    return units


def enable(root: str, unit: str, text: str, target: str) -> None:
    """A unit that its target wants: as `systemctl enable` links it, which needs no systemd for it."""
    write(root + "/etc/systemd/system/" + unit, text)
    wants = root + "/etc/systemd/system/%s.wants" % target
    os.makedirs(wants, exist_ok=True)
    link = os.path.join(wants, unit)
    if not os.path.lexists(link):
        os.symlink("/etc/systemd/system/" + unit, link)
