"""The broker in folders that look like machines: every source, which one counts, what is kept, what is refused."""

from __future__ import annotations

import ast
import io
import json
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from ovfbuild.formats import ovf_environment
from ovfbuild.guest import broker_install, dialects, firstboot, offers, templates
from ovfbuild.spec.cloud_config import with_properties
from ovfbuild.vm import seed

PROPERTIES: list[dict[str, Any]] = [
    {"key": "dm.host", "type": "string", "required": True, "default": None},
    {"key": "dm.port", "type": "int", "default": 5672, "min": 1, "max": 65535},
    {"key": "dm.password", "type": "password", "default": None},
    {"key": "tls", "type": "bool", "default": False},
    {"key": "address", "type": "ip", "default": None},
    {"key": "name", "type": "hostname", "default": "agent"},
    {"key": "level", "type": "string", "default": "info", "choices": ["info", "debug"]},
    {"key": "app", "type": "string", "default": None, "aliases": ["application.name"]},
]
DECLARATION = {"properties": PROPERTIES, "drop_files": ["/tmp/roboconf.properties"]}


class Machine:
    """A machine's file system, and what its place says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put(firstboot.DECLARATION, json.dumps(DECLARATION))
        self.restarted: list[tuple[str, str]] = []

    def put(self, path: str, text: str | bytes, mode: int = 0o644) -> Path:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        target.chmod(mode)
        return target

    def gone(self, path: str) -> None:
        (self.root / path.lstrip("/")).unlink()

    def template(self, name: str, **template: Any) -> None:
        self.put(f"{firstboot.TEMPLATES}/{name}.json", json.dumps(template))

    def boot(self, instance: str = "i-1", **how: Any) -> dict[str, Any]:
        self.put("/var/lib/cloud/data/instance-id", instance + "\n")
        how.setdefault("restart", lambda verb, unit: self.restarted.append((verb, unit)))
        return firstboot.broker(str(self.root), **how)

    @property
    def identity(self) -> dict[str, Any]:
        return dict(json.loads((self.root / firstboot.IDENTITY[1:]).read_text()))

    def __getitem__(self, key: str) -> Any:
        return self.identity["properties"][key]

    # What a place says

    def environment(self, **values: str) -> bytes:
        return ovf_environment.dump(
            ovf_environment.Environment("vm", {k.replace("__", "."): v for k, v in values.items()})
        )

    def guestinfo(self, **values: str) -> None:
        self.put("/sys/class/dmi/id/sys_vendor", "VMware, Inc.\n")
        self.put("/environment.xml", self.environment(**values))
        script = (
            f'#!/bin/sh\n[ "$*" = "info-get guestinfo.ovfEnv" ] && cat {shlex.quote(str(self.root))}/environment.xml\n'
        )
        self.put("/usr/bin/vmware-rpctool", script, 0o755)

    def cd(self, **values: str) -> None:
        self.put("/dev/x", b"")
        seed.write(self.root / "dev/sr0", {ovf_environment.FILE_NAME: self.environment(**values)}, "OVF ENV")

    def user_data(self, text: str | bytes) -> None:
        self.put("/var/lib/cloud/instance/user-data.txt", text)

    def says(self, **values: Any) -> None:
        self.user_data(with_properties({}, {key.replace("__", "."): value for key, value in values.items()}))

    def drop(self, text: str) -> None:
        self.put("/tmp/roboconf.properties", text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- sources -------------------------------------------------------------------------------------

SOURCES: dict[str, Callable[[Machine], None]] = {
    "guestinfo": lambda m: m.guestinfo(dm__host="here", dm__port="1"),
    "cd-rom": lambda m: m.cd(dm__host="here", dm__port="1"),
    "user-data": lambda m: m.says(dm__host="here", dm__port=1),
    "dropped": lambda m: m.drop("dm.host=here\ndm.port=1\n"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_alone(machine: Machine, source: str) -> None:
    SOURCES[source](machine)
    report = machine.boot()
    assert (machine["dm.host"], machine["dm.port"]) == ("here", 1)
    assert machine.identity["sources"]["dm.host"] == source
    assert machine.identity["sources"]["name"] == "default"
    assert (report["problems"], machine.identity["missing"]) == ([], [])


def test_without_any_source_the_defaults_and_what_is_missing(machine: Machine) -> None:
    report = machine.boot()
    assert machine.identity["properties"] == {
        **{"dm.host": "", "dm.port": 5672, "dm.password": "", "tls": False},
        **{"address": "", "name": "agent", "level": "info", "app": ""},
    }
    assert machine.identity["missing"] == ["dm.host"]
    assert report["problems"] == []


def test_the_first_source_that_gives_a_key_wins_key_by_key(machine: Machine) -> None:
    machine.drop("dm.host=4\ndm.port=4\nname=four\napplication.name=my app\n")
    machine.says(dm__host="3", dm__port=3, name="three")
    machine.cd(dm__host="2", dm__port="2")
    machine.guestinfo(dm__host="1")
    machine.boot()
    assert [machine[key] for key in ("dm.host", "dm.port", "name", "app")] == ["1", 2, "three", "my app"]


def test_vsphere_s_defaults_and_empty_fields_say_nothing(machine: Machine) -> None:
    machine.cd(dm__host="", dm__port="5672", tls="False", level="info")
    machine.drop("dm.host=dropped\ndm.port=1\ntls=yes\nlevel=debug\n")
    machine.boot()
    assert [machine[key] for key in ("dm.host", "dm.port", "tls", "level")] == ["dropped", 1, True, "debug"]


def test_an_empty_string_of_user_data_is_one(machine: Machine) -> None:
    machine.says(level="", dm__port="", name="")
    report = machine.boot()
    assert (machine["level"], machine["dm.port"], machine["name"]) == ("", 5672, "agent")
    assert report["problems"] == []


def test_user_data_of_a_deployment_manager(machine: Machine) -> None:
    machine.user_data("#\n#Tue Feb 23 10:00:00 UTC 2016\napplication.name=my app\ndm.host=10.0.0.1\\:5672\n")
    machine.boot()
    assert (machine["app"], machine["dm.host"]) == ("my app", "10.0.0.1:5672")


def test_what_cloud_init_made_of_includes_is_read_where_the_rest_says_nothing(machine: Machine) -> None:
    machine.user_data("#include\nhttps://example.org/user-data\n")
    machine.put(
        "/var/lib/cloud/instance/cloud-config.txt",
        "#cloud-config\n\n# from 1 files\n---\novfbuild:\n    properties:\n        name: included\n...\n",
    )
    machine.boot()
    assert machine["name"] == "included"


@pytest.mark.parametrize("path", ["user-data", "openstack/latest/user_data"])
def test_media_without_cloud_init(machine: Machine, path: str) -> None:
    label = "CIDATA" if path == "user-data" else "config-2"
    by_label = machine.put(f"/dev/disk/by-label/{label}", b"")
    seed.write(by_label, {path: with_properties({}, {"name": "medium"}).encode(), "meta-data": b"{}"}, label)
    machine.boot()
    assert machine["name"] == "medium"


def test_a_cd_of_somebody_else_and_an_empty_drive(machine: Machine) -> None:
    machine.put("/dev/sr0", b"")
    machine.put("/dev/sr1", b"\0" * 70000)
    seed.write(machine.put("/dev/sr2", b""), {"setup.exe": b"x"}, "DRIVERS")
    assert machine.boot()["problems"] == []


@pytest.mark.parametrize("how", ["joliet", "plain", "rock ridge"])
def test_the_environment_by_whatever_names_the_cd_has(machine: Machine, how: str) -> None:
    """vSphere's CD has plain names; genisoimage's has both others."""
    octets = machine.environment(name="cd")
    iso = pycdlib.PyCdlib()
    joliet, rock_ridge = 3 if how == "joliet" else None, "1.09" if how == "rock ridge" else None
    iso.new(interchange_level=3, joliet=joliet, rock_ridge=rock_ridge)
    names: dict[str, Any] = {"joliet": {"joliet_path": "/ovf-env.xml"}, "rock ridge": {"rr_name": "ovf-env.xml"}}.get(
        how, {}
    )
    at = "/OVF_ENV.XML;1" if how == "plain" else "/X.;1"
    for number in range(60):  # more than a sector of names
        extra = {key: value.replace("ovf-env", f"other{number}") for key, value in names.items()}
        iso.add_fp(io.BytesIO(b"x"), 1, f"/A{number:03}.;1", **extra)
    iso.add_fp(io.BytesIO(octets), len(octets), at, **names)
    iso.write(str(machine.put("/dev/sr0", b"")))
    iso.close()
    machine.boot()
    assert machine["name"] == "cd"


# --- over reboots --------------------------------------------------------------------------------


def test_a_source_that_vanished_is_remembered_and_one_that_changed_is_taken_again(machine: Machine) -> None:
    machine.cd(dm__host="one", dm__password="secret")
    machine.boot("i-cd")
    machine.gone("/dev/sr0")
    machine.boot(firstboot.FALLBACK)
    assert (machine["dm.host"], machine["dm.password"]) == ("one", "secret")
    machine.boot("i-cd")
    assert machine["dm.host"] == "one"
    machine.cd(dm__host="two")
    machine.boot("i-cd")
    assert (machine["dm.host"], machine["dm.password"]) == ("two", "")


def test_a_dropped_file_outlives_its_tmpfs(machine: Machine) -> None:
    machine.drop("dm.host=dropped\n")
    machine.boot(dropped=True)
    machine.gone("/tmp/roboconf.properties")
    machine.boot()
    assert machine["dm.host"] == "dropped"


def test_another_instance_is_another_machine(machine: Machine) -> None:
    machine.cd(dm__host="the template's")
    machine.boot("i-1")
    machine.gone("/dev/sr0")
    machine.says(name="clone")
    machine.boot("i-2")
    assert (machine["dm.host"], machine["name"]) == ("", "clone")


def test_a_source_that_became_unreadable_keeps_what_it_said(machine: Machine) -> None:
    machine.says(dm__host="x")
    machine.boot()
    machine.user_data("#cloud-config\novfbuild:\n  properties:\n    dm.host: [\n")
    report = machine.boot()
    assert machine["dm.host"] == "x"
    assert len(report["problems"]) == 1


def test_nothing_changes_where_nothing_changed(machine: Machine) -> None:
    machine.says(dm__host="x")
    machine.template("a", target="/etc/a", format="raw", text="{{dm.host}}\n", restart=["a.service"])
    assert machine.boot()["changed"] is True
    before = {
        path: path.stat().st_mtime_ns for path in machine.root.rglob("*") if path.is_file() and "run" not in str(path)
    }
    report = machine.boot()
    assert (report["changed"], report["written"]) == (False, [])
    assert machine.restarted == [("try-restart", "a.service")]
    unchanged = [
        path for path, when in before.items() if "instance-id" not in path.name and path.stat().st_mtime_ns != when
    ]
    assert unchanged == []


def test_a_new_declaration_is_obeyed_without_a_new_source(machine: Machine) -> None:
    machine.says(dm__host="x", extra="later")
    machine.boot()
    more = {"properties": [*PROPERTIES, {"key": "extra", "type": "string", "default": None}]}
    machine.put(firstboot.DECLARATION, json.dumps(more))
    machine.boot()
    assert machine["extra"] == "later"


def test_the_report_does_not_tell_of_what_is_not_ours(machine: Machine) -> None:
    machine.user_data("dm.host=x\nhunter2hunter2\nother = s3cret\n")
    report = machine.boot()
    assert machine["dm.host"] == "x"
    shown = json.dumps(report) + "".join(path.read_text() for path in machine.root.glob("*/*/*.json"))
    assert "hunter2" not in shown
    assert "s3cret" not in shown


def test_an_environment_that_is_too_large_is_said(machine: Machine) -> None:
    seed.write(machine.put("/dev/sr0", b""), {"ovf-env.xml": b"x" * (5 << 20)}, "OVF ENV")
    assert "ovf-env.xml has 5242880 bytes" in machine.boot()["problems"][0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"offers": 3}', '{"offers": {"user-data": []}}', "\0\0"])
def test_a_damaged_memory_counts_for_nothing(machine: Machine, content: str) -> None:
    machine.says(dm__host="x")
    machine.put(firstboot.MEMORY, content)
    machine.boot()
    assert machine["dm.host"] == "x"


# --- values --------------------------------------------------------------------------------------

WRONG = [
    *[("dm.port", text) for text in ("x", "0", "65536", "1.5", "99999999999", "1e3", "0x10", "²", "--1", "1;id")],
    *[("tls", text) for text in ("maybe", "2", "$(id)")],
    *[("address", text) for text in ("10.0.0", "10.0.0.256", "::1%eth0", "localhost", "10.0.0.1; id", "010.0.0.1")],
    *[("name", text) for text in ("-a", "a-", "a..b", "a_b", "a b", "a" * 64, "a." * 127 + "a", "$(id)", "a\nb")],
    *[("level", text) for text in ("trace", "INFO", "info\n")],
    *[("dm.host", text) for text in ("\0", "a\x1bc", "\x7f", "x" * 65537, "é" * 40000)],
    *[("dm.password", text) for text in ("s3cret\n", "s3cret\0", "s3cret" * 20000)],
]


@pytest.mark.parametrize(("key", "text"), WRONG, ids=[f"{key}-{number}" for number, (key, _) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_by_name_and_the_default_stays(machine: Machine, key: str, text: str) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" if ord(letter) < 32 else letter for letter in text).replace(
        "\\u0000", "\\u0000"
    )
    machine.drop(f"{key}={escaped}\n")
    report = machine.boot()
    default = next(one.get("default") for one in PROPERTIES if one["key"] == key)
    assert machine[key] in (default, "")
    assert len(report["problems"]) == 1
    assert key in report["problems"][0]
    shown = json.dumps(report) + (machine.root / firstboot.REPORT[1:]).read_text()
    assert "s3cret" not in shown
    assert text[:40] not in report["problems"][0] or len(text) < 4


HOSTILE = [
    *[
        "'; touch PWNED; '",
        '"; touch PWNED; "',
        "$(touch PWNED)",
        "`touch PWNED`",
        "${IFS}touch",
        "\\",
        "\\'",
        '\\"',
        "a\\",
    ],
    *["one\ntwo=3\n[section]", "%s%n{}{{dm.port}}", "../../etc/passwd", "\t x \t", "!history", "a=b:c#d;e", "é€😀"],
    *["*?[a]~ &|<>()", "=x", ":x", "#x", " lead", "#cloud-config", "x" * 60000],
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_value_is_only_a_value_in_every_format(machine: Machine, tmp_path: Path, text: str) -> None:
    machine.says(dm__host=text, dm__port=1)
    for format_ in templates.FORMATS:
        machine.template(
            format_, target=f"/out/{format_}", format=format_, text="before=1\nhost={{ dm.host }}\nport={{dm.port}}\n"
        )
    report = machine.boot()
    assert machine["dm.host"] == text
    out = machine.root / "out"
    sh: list[Any] = ["sh", "-c", '. "$1"; printf "%s" "$host"; printf x', "sh"]
    assert (
        subprocess.run([*sh, out / "shell"], capture_output=True, cwd=tmp_path, check=True).stdout.decode()
        == text + "x"
    )
    env: list[Any] = [
        "sh",
        "-c",
        '. "$1"; printf "%s" "$OVF_DM_HOST"; printf x',
        "sh",
        machine.root / firstboot.ENVIRONMENT[1:],
    ]
    assert subprocess.run(env, capture_output=True, cwd=tmp_path, check=True).stdout.decode() == text + "x"
    assert systemd_environment((out / "shell").read_text()) == {"before": "1", "host": text, "port": "1"}
    assert json.loads((out / "json").read_text().split("host=")[1].rsplit("\n", 2)[0]) == text
    properties = (out / "properties").read_text()
    assert properties.isascii()
    assert dialects.java_properties(properties) == {"before": "1", "host": text, "port": "1"}
    raw = (out / "raw").read_text().splitlines()
    one_line = "\n" not in text and "\t" not in text
    assert raw == ["before=1", f"host={text if one_line else ''}", "port=1"]
    assert len(report["problems"]) == (0 if one_line else 1)
    assert not list(tmp_path.rglob("PWNED"))


def systemd_environment(text: str) -> dict[str, str]:
    """EnvironmentFile= as systemd's parse_env_file_internal reads it, of what stands in double quotes."""
    found, at = {}, 0
    while at < len(text):
        equals = text.index("=", at)
        key, at, value = text[at:equals].strip(), equals + 1, ""
        if text[at] == '"':
            at += 1
            while text[at] != '"':
                if text[at] == "\\":
                    at += 1
                    value += text[at] if text[at] in '"\\`$' else "" if text[at] == "\n" else "\\" + text[at]
                else:
                    value += text[at]
                at += 1
            at = text.index("\n", at) + 1
        else:
            end = text.index("\n", at)
            value, at = text[at:end], end + 1
        found[key] = value
    return found


def test_a_megabyte_is_refused_in_good_time(machine: Machine) -> None:
    began = time.monotonic()
    machine.drop("dm.host=" + "\\" * (1 << 20) + "x\n")
    machine.user_data(
        "#cloud-config\novfbuild:\n  properties:\n    dm.host: '" + "a''" * (1 << 18) + "'\n    name: x\n"
    )
    machine.cd(dm__host="x" * (1 << 20))
    report = machine.boot()
    assert len([problem for problem in report["problems"] if "refused" in problem]) == 3
    assert machine["name"] == "x"
    assert time.monotonic() - began < 20


def test_the_spec_and_the_guest_agree_on_values() -> None:
    from ovfbuild.spec.deployment import Property

    for one in PROPERTIES:
        table = {key: value for key, value in one.items() if value is not None and key != "aliases"}
        property_ = Property.model_validate(table)
        right = [
            "x",
            "1",
            "true",
            "Yes",
            "10.0.0.1",
            "2001:DB8::1",
            "info",
            "a.b-c.d",
            "debug",
            "-1",
            " 7 ",
            "é",
            "a\tb",
        ]
        for text in [*right, *HOSTILE, *(text for _, text in WRONG)]:
            try:
                guest: Any = firstboot.check(one, text)
            except firstboot.Wrong:
                guest = firstboot.Wrong
            try:
                host: Any = property_.value_of(text)
            except ValueError:
                host = firstboot.Wrong
            assert guest == host, (one["key"], text[:80])


# --- what is written -----------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_root_s_alone(machine: Machine) -> None:
    machine.says(dm__password="s3cret")
    machine.template("a", target="/etc/a", format="raw", text="{{dm.password}}")
    machine.template("b", target="/etc/b", format="raw", text="{{name}}")
    machine.template("c", target="/etc/c", format="raw", text="{{dm.password}}", mode="0644")
    machine.template("d", target="/etc/d", format="raw", text="{{dm.password}}", mode="0640")
    old = os.umask(0)
    try:
        report = machine.boot()
    finally:
        os.umask(old)
    modes = {name: mode(machine.root / "etc" / name) for name in "abcd"}
    assert modes == {"a": 0o600, "b": 0o644, "c": 0o640, "d": 0o640}
    for path in (firstboot.IDENTITY, firstboot.ENVIRONMENT, firstboot.MEMORY):
        assert mode(machine.root / path[1:]) == 0o600
    assert mode(machine.root / firstboot.REPORT[1:]) == 0o644
    assert "s3cret" not in json.dumps(report) + (machine.root / firstboot.REPORT[1:]).read_text()


def test_without_a_password_everybody_may_read_it(machine: Machine) -> None:
    machine.put(firstboot.DECLARATION, json.dumps({"properties": [PROPERTIES[0]]}))
    machine.boot()
    assert mode(machine.root / firstboot.IDENTITY[1:]) == 0o644


def test_lines_of_empty_values_may_be_left_out(machine: Machine) -> None:
    machine.says(name="x")
    text = "name = {{name?}}\nhost = {{dm.host?}}\nboth = {{name}} {{dm.host?}}\ntls = {{tls}}\nend"
    machine.template("a", target="/etc/a", format="raw", text=text)
    machine.boot()
    assert (machine.root / "etc/a").read_text() == "name = x\ntls = false\nend"


def test_a_value_is_not_a_template(machine: Machine) -> None:
    machine.says(dm__host="{{dm.password}}", dm__password="s3cret")
    machine.template("a", target="/etc/a", format="raw", text="{{dm.host}}")
    machine.boot()
    assert (machine.root / "etc/a").read_text() == "{{dm.password}}"


@pytest.mark.parametrize(
    "template",
    [
        {"target": "/etc/a", "format": "raw", "text": "{{nobody.knows}}"},
        {"target": "/etc/a", "format": "perl", "text": "x"},
        {"target": "/etc/a", "format": "raw", "text": "x", "owner": "nobody-of-this-name"},
        {"target": "/etc/a", "format": "raw", "text": "x", "mode": "rwx"},
        {"format": "raw", "text": "x"},
        {},
        "x",
    ],
)
def test_a_wrong_template_is_said_and_the_others_are_written(machine: Machine, template: Any) -> None:
    machine.put(f"{firstboot.TEMPLATES}/a.json", json.dumps(template))
    machine.template("b", target="/etc/b", format="raw", text="x")
    report = machine.boot()
    assert [problem.partition(":")[0] for problem in report["problems"]] == ["a.json"]
    assert not (machine.root / "etc/a").exists()
    assert (machine.root / "etc/b").read_text() == "x"


def test_a_file_is_replaced_whole_and_links_are_not_followed(machine: Machine) -> None:
    victim = machine.put("/victim", "untouched")
    (machine.root / "etc").mkdir()
    (machine.root / "etc/a").symlink_to(victim)
    machine.template("a", target="/etc/a", format="raw", text="x")
    machine.boot()
    assert victim.read_text() == "untouched"
    assert not (machine.root / "etc/a").is_symlink()
    assert sorted(path.name for path in (machine.root / "etc").iterdir()) == ["a", "ovfbuild"]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_dropped_must_be_a_file(machine: Machine, kind: str) -> None:
    path = machine.root / "tmp/roboconf.properties"
    path.parent.mkdir()
    secret = machine.put("/etc/secret", "dm.host=stolen\n")
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    machine.boot()
    assert machine["dm.host"] == ""


def test_restarts(machine: Machine) -> None:
    machine.template("a", target="/etc/a", format="raw", text="{{dm.host}}", restart=["a.service", "b.service"])
    machine.template("b", target="/etc/b", format="raw", text="{{dm.host}}", restart=["a.service"])
    machine.boot()
    machine.drop("dm.host=x\n")
    machine.boot(dropped=True)
    at_boot = [("try-restart", "a.service"), ("try-restart", "b.service")]
    assert machine.restarted == [*at_boot, ("restart", "a.service"), ("restart", "b.service")]


# --- its life ------------------------------------------------------------------------------------


def test_a_source_that_hangs_ends_at_the_limit(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(root: str, declaration: dict[str, Any]) -> Iterator[offers.Offer]:
        time.sleep(30)
        yield from ()

    machine.drop("dm.host=x\n")
    places = (("guestinfo", offers.guestinfo), ("cd-rom", hang), *offers.PLACES[2:])
    monkeypatch.setattr(offers, "PLACES", places)
    began = time.monotonic()
    report = machine.boot(limit=0.3)
    assert time.monotonic() - began < 10
    assert any(problem.startswith("cd-rom: no answer") for problem in report["problems"])
    assert machine["name"] == "agent"


def test_a_source_that_breaks_does_not_take_the_others_along(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(root: str, declaration: dict[str, Any]) -> Iterator[offers.Offer]:
        raise ZeroDivisionError

    machine.drop("dm.host=x\n")
    monkeypatch.setattr(offers, "PLACES", (("cd-rom", broken), *offers.PLACES))
    report = machine.boot()
    assert report["problems"] == ["cd-rom: ZeroDivisionError"]
    assert machine["dm.host"] == "x"


def test_the_console_s_line_names_sources_and_what_is_missing_and_no_value(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.says(dm__password="s3cret", name="visible")
    report = machine.boot()
    console = machine.put("/dev/console", b"")
    firstboot.say(report, str(console))
    said = capsys.readouterr().out
    assert console.read_text().strip() == said.strip()
    assert "dm.password, name from user-data" in said
    assert "MISSING: dm.host" in said
    assert "s3cret" not in said
    assert "visible" not in said


MODULES = [Path(broker_install.__file__).with_name(f"{name}.py") for name in broker_install.MODULES]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_broker_is_python_3_8_and_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "ovfbuild.guest"
                else [str(node.module)]
            )
        for name in names:
            if name.startswith("ovfbuild."):
                assert name.split(".")[2] in broker_install.MODULES
            else:
                assert name.split(".")[0] in sys.stdlib_module_names


def test_it_runs_from_where_the_seal_puts_it(machine: Machine) -> None:
    broker_install.install({"declaration": DECLARATION, "before": ["x.service"]}, str(machine.root))
    machine.template("a", target="/etc/a", format="raw", text="x", restart=["agent.service"])
    broker_install.install({"declaration": DECLARATION, "before": ["x.service"]}, str(machine.root))
    machine.drop("dm.host=x\n")
    code = "import sys; from ovfbuild.guest import firstboot; print(firstboot.__file__); firstboot.broker(sys.argv[1])"
    python = {"PYTHONPATH": str(machine.root / "usr/lib/ovfbuild/python"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-B", "-s", "-S", "-c", code, machine.root],
        env=python,
        cwd=machine.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(machine.root))
    assert machine["dm.host"] == "x"
    unit = (machine.root / "etc/systemd/system/ovfbuild-firstboot.service").read_text()
    assert "Before=agent.service x.service\n" in unit
    assert "cloud-final" not in unit.partition("[Unit]")[2]
    assert (
        "PathChanged=/tmp/roboconf.properties\n"
        in (machine.root / "etc/systemd/system/ovfbuild-dropped.path").read_text()
    )
    links = [path for path in machine.root.rglob("*.wants/*") if path.is_symlink()]
    assert sorted(path.name for path in links) == ["ovfbuild-dropped.path", "ovfbuild-firstboot.service"]
    assert mode(machine.root / "usr/lib/ovfbuild/properties.json") == 0o644


def test_systemd_takes_the_units(machine: Machine, needs: Callable[..., None]) -> None:
    needs("systemd-analyze")
    broker_install.install({"declaration": DECLARATION, "before": []}, str(machine.root))
    units = sorted((machine.root / "etc/systemd/system").glob("ovfbuild-*"))
    assert len(units) == 3
    for unit in units:  # all but the program that is not here
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if "ovfbuild" in line and "is not executable" not in line]
        assert [line for line in said if "not found" not in line] == []
