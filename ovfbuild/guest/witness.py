"""Tells the host, from inside a packed appliance, that it has come up: multi-user, cloud-init done, its agent alive.

Lies on the seed that verification attaches; started by its runcmd after cloud-final.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

from ovfbuild.guest import disks, witness_signs
from ovfbuild.guest.report import Port
from ovfbuild.guest.witness_signs import ask


def cloud_init() -> dict[str, Any]:
    """cloud-init's verdict on this boot, `{"status": "done", ...}`."""
    text = ask("cloud-init", "status", "--format=json") or ask("cloud-init", "status")
    try:
        said = json.loads(text)
    except ValueError:
        return {"status": text.replace("status:", "").strip() or "unknown", "errors": []}
    return {
        "status": said.get("status"),
        "errors": said.get("errors") or [],
        "datasource": said.get("datasource"),
    }


def identity(token: str) -> dict[str, Any] | None:
    """Who the first boot's broker took this machine for; of each value only a digest, since it may be a password."""
    try:
        with open("/etc/ovfbuild/identity.json", encoding="utf-8") as stream:
            known = json.load(stream)
        with open("/run/ovfbuild/firstboot.json", encoding="utf-8") as stream:
            report = json.load(stream)
    except (OSError, ValueError):
        return None
    digests = {
        key: hashlib.sha256(("%s:%s" % (token, json.dumps(value))).encode()).hexdigest()
        for key, value in known["properties"].items()
    }
    return {
        "digests": digests,
        "sources": known["sources"],
        "missing": known["missing"],
        "problems": report["problems"],
        "written": report["written"],
    }


def wait_for_multi_user(port: Port) -> None:
    """However long it takes: the host has the clock."""
    while ask("systemctl", "is-active", "multi-user.target") != "active":
        port.tell("line", text="waiting for multi-user: " + (ask("systemctl", "list-jobs", "--no-legend")[:200]))
        time.sleep(2)


def main(argv: list[str]) -> int:
    """`witness TOKEN`: says the token that the host put on the seed, so that it is this boot that answers."""
    port = Port()
    wait_for_multi_user(port)
    with open("/etc/machine-id", encoding="ascii") as stream:
        machine_id = stream.read().strip()
    failed = ask("systemctl", "list-units", "--plain", "--no-legend", "--state=failed").splitlines()
    agent = witness_signs.agent()
    port.tell(
        "answered",
        token=argv[0],
        agent=agent,
        cloud_init=cloud_init(),
        machine_id=machine_id,
        hostname=ask("hostname"),
        addresses=ask("hostname", "--all-ip-addresses").split(),
        failed_units=[line.split()[0] for line in failed if line.strip()],
        identity=identity(argv[0]),
        unmounted=disks.unmounted(),
        uptime=ask("cat", "/proc/uptime").split()[:1],
    )
    witness_signs.watch(agent["signs"] if agent else [], port.tell)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
