"""Carries out a build's steps in the guest, seals the disk, and powers off.

Started by cloud-init's runcmd as a unit of its own, ordered after cloud-final (`cloud-init clean`
run inside cloud-init is undone by the rest of it). With `--listen` it waits for `{"order": "build"}`
on the report port instead, so that a booted machine that was kept can be set to work. A step knows
nothing of how the runner was started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from typing import Any

from ovfbuild.guest import agent, disks, libraries, seal
from ovfbuild.guest.report import Port
from ovfbuild.guest.steps import STEPS, Guest, StepFailed


def main(argv: list[str]) -> int:
    """`runner SEED [--listen]`: SEED is where the seed ISO is mounted."""
    seed, port = argv[0], Port()
    if "--listen" in argv:
        while port.orders().get("order") != "build":
            pass
    with open(os.path.join(seed, "build.json"), encoding="utf-8") as stream:
        orders = json.load(stream)
    guest = Guest(seed, lambda text: port.tell("line", text=text[:500]))
    try:
        build(orders, guest, port)
    except StepFailed as failure:
        port.tell("failed", step=guest.step, error=str(failure), output=guest.last_lines())
    except Exception as error:  # a bug of ours: the host must hear of it, not wait for its timeout
        port.tell("failed", step=guest.step, error=repr(error), output=traceback.format_exc().splitlines())
    else:
        port.tell("sealed")
        seal.power_off()
        return 0
    stay(orders.get("on_failure", "clean"))
    return 1


def build(orders: dict[str, Any], guest: Guest, port: Port) -> None:
    """All steps in their order; the first that fails ends it."""
    guest.begin("cloud-init")
    port.tell("started", cloud_init=cloud_init_verdict(guest))
    kinds = {**STEPS, **disks.STEPS, **libraries.STEPS, **agent.STEPS}
    for step in orders["steps"]:
        guest.begin(step["name"])
        port.tell("begin", step=step["name"])
        kinds[step["kind"]](step, guest)
        port.tell("end", step=step["name"])
    guest.begin("seal")
    port.tell("begin", step="seal")
    seal.seal(orders["seal"], guest)
    port.tell("end", step="seal")


def cloud_init_verdict(guest: Guest) -> dict[str, Any]:
    """What cloud-init says of this boot; an error in it (the author's user-data, say) fails the build.

    `status` is "error" from 22.4 on whenever a stage recorded one; a "degraded" boot only warns.
    """
    asked = subprocess.run(
        ["cloud-init", "status", "--format=json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    text = asked.stdout.decode(errors="replace")
    try:
        said = json.loads(text)
    except ValueError:
        # Before 22.4 there is no JSON: "status: done"
        said = {"status": "error" if "error" in text else "done", "errors": []}
    errors = said.get("errors") or []
    if said.get("status") == "error":
        for error in errors:
            guest.say(str(error))
        guest.say_file("/var/log/cloud-init-output.log", 40)
        raise StepFailed("cloud-init ended with an error: %s" % "; ".join(map(str, errors)))
    return {"status": said.get("status"), "warnings": said.get("recoverable_errors") or {}}


def stay(on_failure: str) -> None:
    """After a failure: a root shell on the serial console where that was asked for, else nothing.

    The host ends the machine, after it has taken its evidence.
    """
    if on_failure == "shell":
        console = "/dev/ttyS0"
        subprocess.run(["systemctl", "stop", "serial-getty@ttyS0.service"], check=False)
        # A session of its own with the console as its controlling terminal: job control works.
        subprocess.run(
            ["setsid", "--ctty", "--wait", "sh", "-c", "stty sane; exec bash -i || exec sh -i"],
            stdin=open(console, "rb", buffering=0),
            stdout=open(console, "wb", buffering=0),
            stderr=subprocess.STDOUT,
            cwd="/root",
            env={**os.environ, "TERM": "vt220", "HOME": "/root"},
            check=False,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
