"""An agent's signs of life, as a packed appliance knows them: which there are, and those that only it can see.

    /usr/lib/ovfbuild/agent.json    {"title": "…", "alive": [{"kind": "unit", "unit": "…", "within": 120.0}, …]}

What is in `{{ }}` there is a property, or what the first-boot broker knows of the machine. A sign that can't be seen
in this deployment gets a `skip`, which says why.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import Any, Callable

from ovfbuild.guest import firstboot

ABOUT = "/usr/lib/ovfbuild/agent.json"
SLOT = re.compile(r"\{\{ *([A-Za-z0-9_.-]+) *\}\}")
STEADY = 5.0
"""Seconds for which a unit has to run as the same process: one that dies at once is active for a moment too."""


def ask(*argv: str) -> str:
    """What a program says, "" where it is missing."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip()


def agent(root: str = "") -> dict[str, Any] | None:
    """{"title", "signs"} of the agent in the image, None if it has none.

    A sign may hold a password (RabbitMQ's): the report port is a pair of sockets between the guest and its host.
    """
    about = _json(root + ABOUT)
    if not about:
        return None
    values = {**_json(root + firstboot.IDENTITY).get("properties", {}), **firstboot.machine(root)}
    kind = ask("systemd-detect-virt", "--vm")
    return {"title": about.get("title", ""), "signs": [filled(sign, values, kind) for sign in about.get("alive", ())]}


def filled(sign: dict[str, Any], values: dict[str, Any], virtualization: str) -> dict[str, Any]:
    """The sign with its properties filled in, and with `skip` where it is none here.

    In the names of RabbitMQ's objects a path's slashes are dots, and there are none at its ends
    (Roboconf: MessagingUtils.escapeInstancePath).
    """
    known = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    skip = unfit(sign, known, virtualization)
    if skip:
        return {**sign, "skip": skip}
    missing: list[str] = []

    def fill(word: Any, dots: bool) -> Any:
        if isinstance(word, (list, tuple)):
            return [fill(one, dots) for one in word]
        return SLOT.sub(lambda match: value(match.group(1), dots), word) if isinstance(word, str) else word

    def value(key: str, dots: bool) -> str:
        text = known.get(key, "")
        if not text:
            missing.append(key)
        return text.strip("/").replace("/", ".") if dots else text

    done = {key: fill(word, key in ("queue", "exchange")) for key, word in sign.items()}
    return {**done, "skip": "it is not told %s" % ", ".join(dict.fromkeys(missing))} if missing else done


def unfit(sign: dict[str, Any], known: dict[str, str], virtualization: str) -> str:
    """Why the sign's own conditions leave it out here; "" where they do not."""
    wanted = sign.get("virtualization")
    if wanted and wanted != virtualization:
        return "it is one on %s alone, and this is %s" % (wanted, virtualization or "no VM")
    for key, value in sign.get("when", {}).items():
        if known.get(key, "") != value:
            return "%s is not %r" % (key, value)
    for key, value in sign.get("unless", {}).items():
        if known.get(key, "") == value:
            return "%s is %r" % (key, value)
    return ""


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def unit(sign: dict[str, Any]) -> str:
    """ "" if the unit is active, and stays so as the same process; else what it is."""

    def state() -> list[str]:
        said = ask("systemctl", "show", sign["unit"], "--property=ActiveState,SubState,MainPID,NRestarts")
        return sorted(said.splitlines())

    first = state()
    if "ActiveState=active" in first:
        time.sleep(STEADY)
        if state() == first:
            return ""
    return "%s is not steadily active: %s" % (sign["unit"], ", ".join(state()))


def file(sign: dict[str, Any]) -> str:
    return "" if os.path.exists(sign["path"]) else "%s is not there" % sign["path"]


def journal(sign: dict[str, Any]) -> str:
    said = ask("journalctl", "--quiet", "--no-pager", "--output=cat", "--boot", "--unit", sign["unit"])
    lacking = [text for text in sign["text"] if text not in said]
    return "the journal of %s has no line with %s" % (sign["unit"], ", ".join(lacking)) if lacking else ""


LOOKS: dict[str, Callable[[dict[str, Any]], str]] = {"unit": unit, "file": file, "journal": journal}
"""Of the signs that only the guest can see; the others are seen from outside."""


def watch(signs: list[dict[str, Any]], tell: Callable[..., None]) -> None:
    """Looks for each until it is seen or its time is over, and tells; the host counts the signs from 0."""
    began = time.monotonic()
    for number, sign in enumerate(signs):
        look = LOOKS.get(sign["kind"])
        if look is None or "skip" in sign:
            continue
        said = look(sign)
        while said and time.monotonic() - began < sign["within"]:
            time.sleep(2)
            said = look(sign)
        tell("sign", number=number, unseen=said)
