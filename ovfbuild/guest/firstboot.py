"""The broker: finds what the place offers, decides who this machine is, and writes it where everything else reads it.

Runs once at every boot as ovfbuild-firstboot.service, before what is configured by it, and again when a deployment
manager drops a file (ovfbuild-dropped.path). It needs no cloud-init, and never runs what it reads.

    /usr/lib/ovfbuild/properties.json    the declaration, put there by the seal:
        {"properties": [{"key": "dm.host", "type": "string|int|bool|password|ip|hostname", "default": null,
                         "required": true, "min": null, "max": null, "choices": [], "aliases": []}, …],
         "drop_files": ["/tmp/roboconf.properties"]}
    /usr/lib/ovfbuild/templates.d/*.json    configuration files to make of it:
        {"target": "/etc/x.conf", "mode": "0600", "owner": "user:group", "format": "raw|properties|shell|json",
         "text": "host = {{dm.host}}\\n", "restart": ["x.service"]}
      `{{key}}` is the value, quoted for the format (shell and json bring the quotes along); a line with `{{key?}}` is
      left out where the value is empty. Beside the declared keys there are ovfbuild.hostname, ovfbuild.interface,
      ovfbuild.address (of the default route, IPv4) and ovfbuild.instance (cloud-init's instance-id). mode and owner
      may be left out: root, and 0600 where a password is named (which never is everybody's), else 0644. The units of
      `restart` are restarted when the file has changed: at boot only those that run already, after a dropped file
      also those that do not.

    /etc/ovfbuild/identity.json    {"properties": {key: value}, "sources": {key: source}, "missing": [key]}
    /etc/ovfbuild/identity.env     OVF_DM_HOST="…", for sh and for systemd's EnvironmentFile=
    /var/lib/ovfbuild/identity.json    what each source said when it was last seen, for root alone
    /run/ovfbuild/firstboot.json   what was done, without passwords

A property has the value of the first source that gives it (`offers.SOURCES`), else its default. A source that is gone
is remembered, until cloud-init's instance-id becomes another: then this is another machine. In an OVF environment an
empty value, and one that equals the default, says nothing, for vSphere sends every property of the descriptor.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Iterator

from ovfbuild.guest import offers, templates
from ovfbuild.guest.offers import Offer

DECLARATION = "/usr/lib/ovfbuild/properties.json"
TEMPLATES = "/usr/lib/ovfbuild/templates.d"
IDENTITY, ENVIRONMENT = "/etc/ovfbuild/identity.json", "/etc/ovfbuild/identity.env"
MEMORY = "/var/lib/ovfbuild/identity.json"
REPORT = "/run/ovfbuild/firstboot.json"

LIMIT = 60.0
"""Seconds for all sources together; the unit's TimeoutStartSec is twice that."""
LARGEST = 64 << 10
"""Bytes of one value."""
FALLBACK = "ovfbuild-fallback"
"""The instance-id of the seed of last resort: says that the place offers nothing, not that it is another."""
HIDDEN = "(hidden)"

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


class Wrong(Exception):
    """A value that is not what its property was declared to be; the value is not in the sentence."""


class TooLong(Exception):
    """The sources took longer than they may."""


def main(argv: list[str]) -> int:
    """`firstboot [--dropped]`. Never fails a boot: what goes wrong is said, and the defaults stay."""
    os.umask(0o022)  # folders that are missing are everybody's to enter; files get their mode before their name
    os.makedirs("/run/ovfbuild", exist_ok=True)
    os.chmod("/run/ovfbuild", 0o755)
    with open("/run/ovfbuild/firstboot.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        say(broker("", dropped="--dropped" in argv, limit=LIMIT, restart=systemctl))
    return 0


def broker(
    root: str, *, dropped: bool = False, limit: float = 0.0, restart: Callable[[str, str], None] | None = None
) -> dict[str, Any]:
    """One run in the file system at `root`; returns the report.

    `limit`: seconds for the sources, 0 for none. `restart`: called with (verb, unit).
    """
    began = time.monotonic()
    declaration = _json(root + DECLARATION, {})
    declaration.setdefault("properties", [])
    memory = _recalled(root)
    problems: list[str] = []
    if not os.path.exists(root + IDENTITY):
        # Should all that follows be killed, what is known already stands there.
        publish(root, declaration, decide(declaration, memory), [])
    found = gather(root, declaration, limit, problems)
    instance = _instance(root)
    memory = remember(memory, found, instance, declaration, problems)
    templates.write(root + MEMORY, json.dumps(memory, indent=1, sort_keys=True) + "\n", 0o600)
    identity = decide(declaration, memory)
    changed = publish(root, declaration, identity, problems)
    written = configure(root, declaration, identity, problems)
    units = [unit for template in written for unit in template.get("restart", ())]
    for unit in dict.fromkeys(units):
        if restart:
            restart("restart" if dropped else "try-restart", unit)
    report = {
        "dropped": dropped,
        "changed": changed or bool(written),
        "instance": memory.get("instance", ""),
        "offers": [{"source": one.source, "origin": one.origin} for one in found],
        "identity": {**identity, "properties": masked(declaration, identity["properties"])},
        "written": [template["target"] for template in written],
        "problems": problems,
        "seconds": round(time.monotonic() - began, 2),
    }
    templates.write(root + REPORT, json.dumps(report, indent=1, sort_keys=True) + "\n", 0o644)
    return report


def gather(root: str, declaration: dict[str, Any], limit: float, problems: list[str]) -> list[Offer]:
    """What each place says now, as far as they say it in time."""
    found: list[Offer] = []

    def ring(*_: object) -> None:
        raise TooLong

    if limit:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, limit)
    source = ""
    try:
        for source, look in offers.PLACES:
            found += _ask(source, look, root, declaration, problems)
    except TooLong:
        problems.append("%s: no answer within %d s; what was known stays" % (source, limit))
    finally:
        if limit:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return found


def _ask(
    source: str,
    look: Callable[[str, dict[str, Any]], Iterator[Offer]],
    root: str,
    declaration: dict[str, Any],
    problems: list[str],
) -> list[Offer]:
    try:
        return list(look(root, declaration))
    except TooLong:
        raise
    except Exception as error:  # a bug of ours, or a file system's: the other places still count
        problems.append("%s: %s" % (source, type(error).__name__))
        return []


def remember(
    memory: dict[str, Any], found: list[Offer], instance: str, declaration: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """The memory after this boot: what each source said when it was last seen on this instance."""
    before = memory.get("instance", "")
    other = bool(before and instance and instance not in (before, FALLBACK))
    kept: dict[str, Any] = {} if other else dict(memory.get("offers", {}))
    for offer in found:
        if offer.problem:
            problems.append("%s (%s): %s" % (offer.source, offer.origin, offer.problem))
        elif kept.get(offer.source, {}).get("digest") != offer.digest or _declared_anew(memory, declaration):
            values = accept(offer, declaration, problems)
            if values or offer.source in kept:
                kept[offer.source] = {"origin": offer.origin, "digest": offer.digest, "values": values}
    known = before if instance in ("", FALLBACK) and before else instance
    return {"instance": known, "offers": kept, "declared": _declared(declaration)}


def _declared(declaration: dict[str, Any]) -> list[Any]:
    return [[one["key"], one["type"]] for one in declaration["properties"]]


def _declared_anew(memory: dict[str, Any], declaration: dict[str, Any]) -> bool:
    return bool(memory.get("declared") != _declared(declaration))


def accept(offer: Offer, declaration: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The declared ones of what a source says, typed; each that is wrong is refused by its name."""
    values: dict[str, Any] = {}
    environment = offer.source in ("guestinfo", "cd-rom")
    for one in declaration["properties"]:
        texts = [offer.values[name] for name in (one["key"], *one.get("aliases", ())) if name in offer.values]
        text = texts[0] if texts else None
        if text is None or (text == "" and (environment or one["type"] not in ("string", "password"))):
            continue
        try:
            value = check(one, text)
        except Wrong as wrong:
            problems.append("%s (%s): %s is refused: %s" % (offer.source, offer.origin, one["key"], wrong))
            continue
        if not (environment and value == one.get("default")):
            values[one["key"]] = value
    return values


def check(one: dict[str, Any], text: Any) -> Any:
    """The value of a property's text, in its type; Wrong, without the value, if it is not one."""
    if not isinstance(text, str):
        raise Wrong("it is no single value")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise Wrong("it holds half a character") from None
    if size > LARGEST:
        raise Wrong("it has %d bytes; %d are taken at most" % (size, LARGEST))
    value = _KINDS[one["type"]](text if one["type"] in ("string", "password") else text.strip())
    least, most = one.get("min"), one.get("max")
    measure = value if one["type"] == "int" else len(text)
    if one["type"] in ("int", "string", "password"):
        what = "" if one["type"] == "int" else " characters"
        if least is not None and measure < least and (text or one["type"] == "int"):
            raise Wrong("at least %d%s" % (least, what))
        if most is not None and measure > most:
            raise Wrong("at most %d%s" % (most, what))
    if one.get("choices") and value not in one["choices"] and value != "":
        raise Wrong("it is none of: %s" % ", ".join(one["choices"]))
    return value


def _text(text: str) -> str:
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        raise Wrong("it holds a control character")
    return text


def _password(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise Wrong("it holds a control character")
    return text


def _int(text: str) -> int:
    if not re.match(r"-?[0-9]{1,10}\Z", text, re.ASCII) or not -(2**31) <= int(text) < 2**31:
        raise Wrong("it is no whole number of 32 bits")
    return int(text)


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise Wrong("it is neither true nor false")
    return _BOOLEANS[text.lower()]


def _ip(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Wrong("it is no IP address") from None


def _hostname(text: str) -> str:
    if len(text) > 253 or not re.match(r"%s(?:\.%s)*\Z" % (_LABEL, _LABEL), text, re.ASCII):
        raise Wrong("it is no host name")
    return text


_KINDS: dict[str, Callable[[str], Any]] = {
    "string": _text,
    "password": _password,
    "int": _int,
    "bool": _bool,
    "ip": _ip,
    "hostname": _hostname,
}


def decide(declaration: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """Who this machine is: of each property the value, its source, and whether one is missing."""
    said = memory.get("offers", {})
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for one in declaration["properties"]:
        key = one["key"]
        giver = next((name for name in offers.SOURCES if key in said.get(name, {}).get("values", {})), "default")
        default = one.get("default")
        empty = "" if one["type"] not in ("int", "bool") else None
        values[key] = said[giver]["values"][key] if giver != "default" else empty if default is None else default
        origin[key] = giver
    missing = [
        one["key"] for one in declaration["properties"] if one.get("required") and values[one["key"]] in (None, "")
    ]
    return {"properties": values, "sources": origin, "missing": missing}


def publish(root: str, declaration: dict[str, Any], identity: dict[str, Any], problems: list[str]) -> bool:
    """Writes the identity for programs and for shells; whether it is another than before."""
    secret = any(one["type"] == "password" for one in declaration["properties"])
    mode = 0o600 if secret else 0o644
    folder = os.path.dirname(root + IDENTITY)
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o755)
    lines = [
        "OVF_%s=%s\n" % (re.sub(r"[^A-Za-z0-9]", "_", key).upper(), templates.shell(value))
        for key, value in identity["properties"].items()
    ]
    text = json.dumps(identity, indent=1, ensure_ascii=False) + "\n"
    try:
        return bool(
            templates.write(root + IDENTITY, text, mode) | templates.write(root + ENVIRONMENT, "".join(lines), mode)
        )
    except OSError as error:
        problems.append("%s can't be written: %s" % (IDENTITY, error.strerror))
        return False


def configure(
    root: str, declaration: dict[str, Any], identity: dict[str, Any], problems: list[str]
) -> list[dict[str, Any]]:
    """Renders every template; returns those whose file is another now."""
    values = {**identity["properties"], **machine(root)}
    defaults = {one["key"]: one.get("default") for one in declaration["properties"]}
    passwords = {one["key"] for one in declaration["properties"] if one["type"] == "password"}
    written = []
    for name, template in templates.load_all(root, TEMPLATES):
        said: list[str] = []
        if isinstance(template, templates.Refused):
            said.append("the template is not written: %s" % template)
        elif _configure(root, template, values, defaults, passwords, said):
            written.append(template)
        problems += ["%s: %s" % (name, one) for one in said]
    return written


def _configure(
    root: str,
    template: dict[str, Any],
    values: dict[str, Any],
    defaults: dict[str, Any],
    passwords: set[str],
    said: list[str],
) -> bool:
    """Renders one template; whether its file is another now."""
    try:
        text, bad = templates.render(template, values, defaults)
        said += ["%s can't stand in %s; its default does" % (key, template["target"]) for key in bad]
        secret = passwords & templates.keys_of(template["text"])
        mode = int(template.get("mode") or ("0600" if secret else "0644"), 8)
        mode &= 0o770 if secret else 0o7777  # a password is never everybody's, whatever the template says
        return templates.write(root + template["target"], text, mode, template.get("owner") or "root")
    except (templates.Refused, OSError, LookupError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        said.append("the template is not written: %s" % what)
        return False


def machine(root: str) -> dict[str, str]:
    """What templates may say of this machine: its name, its instance, and the card and address of its default route."""
    interface, address = "", ""
    try:
        with open(root + "/proc/net/route", encoding="ascii") as stream:
            rows = [line.split() for line in stream]
        interface = next((row[0] for row in rows if len(row) > 1 and row[1] == "00000000"), "")
        if interface:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(("192.0.2.1", 9))  # sends nothing: the kernel only chooses the source address
                address = probe.getsockname()[0]
    except OSError:
        pass
    return {
        "ovfbuild.hostname": socket.gethostname(),
        "ovfbuild.interface": interface,
        "ovfbuild.address": address,
        "ovfbuild.instance": _instance(root),
    }


def masked(declaration: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    secret = {one["key"] for one in declaration["properties"] if one["type"] == "password"}
    return {key: HIDDEN if key in secret and value else value for key, value in values.items()}


def say(report: dict[str, Any], console: str = "/dev/console") -> None:
    """One line for the console and the journal, and one for each thing that went wrong there; never a value."""
    identity = report["identity"]
    by_source: dict[str, list[str]] = {}
    for key, source in identity["sources"].items():
        by_source.setdefault(source, []).append(key)
    line = "; ".join("%s from %s" % (", ".join(keys), source) for source, keys in by_source.items())
    missing = " MISSING: %s" % ", ".join(identity["missing"]) if identity["missing"] else ""
    lines = ["ovfbuild: %s.%s" % (line or "nothing declared", missing), *report["problems"]]
    print("\n".join(_printable(one) for one in lines), flush=True)
    try:
        # A console that takes nothing must not hold the boot up.
        handle = os.open(console, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        with open(handle, "wb", buffering=0) as stream:
            stream.write(("\r\n%s\r\n" % _printable(lines[0])).encode("utf-8", "replace"))
    except OSError:
        pass


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:2000]


def systemctl(verb: str, unit: str) -> None:
    subprocess.run(["systemctl", "--no-block", verb, "--", unit], stderr=subprocess.DEVNULL, check=False)


def _instance(root: str) -> str:
    try:
        with open(root + "/var/lib/cloud/data/instance-id", encoding="utf-8", errors="replace") as stream:
            return stream.read(1000).strip()
    except OSError:
        return ""


def _recalled(root: str) -> dict[str, Any]:
    """The memory; nothing where a crash, or somebody, has left another shape of it."""
    memory = _json(root + MEMORY, {})
    said = memory.get("offers", {})
    good = isinstance(said, dict) and all(
        isinstance(one, dict) and isinstance(one.get("values"), dict) for one in said.values()
    )
    return memory if good else {}


def _json(path: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    """A JSON object in a file; what else stands there counts for nothing."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return dict(otherwise)
    return value if isinstance(value, dict) else dict(otherwise)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
