"""Every way in which an appliance.toml can be wrong, and the sentence for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic_core import core_schema

from ovfbuild.spec import mistakes as sentences_of
from ovfbuild.spec.models import Appliance
from ovfbuild.spec.profile import profile_names

Find = Callable[..., list[str]]

_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def test_all_at_once_and_in_their_own_places(mistakes: Find) -> None:
    found = mistakes(
        """
        [hardware]
        memmory = "1 GiB"
        cpus = true
        firmware = "uefi"
        [[networks]]
        name = "a"
        [[networks]]
        name = "a"
        [[system.users]]
        name = "x"
        [[system.users]]
        name = "X"
        shel = "/bin/sh"
        [[scripts]]
        name = "s"
        """,
        top='name = "Hello"\n',
        base='[base]\ndistribution = "debian:12"\nimage = "no"\nchecksum = "md5:0"\n',
    )
    assert found == [
        """name: 'Hello' is not a DNS label; use a-z, 0-9 and '-' inside, at most 63, such as "web-1\"""",
        'version: is missing; for example version = "1.0.0"',
        f"base.image: 'no' does not exist (looked for {found[2].split('looked for ')[1]}",
        """base.checksum: 'md5:0' names no digest; write "sha256:…" or "sha512:…\"""",
        "base.image: stands beside a distribution; keep one of the two",
        "hardware.cpus: must be an integer, not a boolean",
        "hardware.firmware: 'uefi' is not a choice here; write 'bios' or 'efi'",
        "hardware.memmory: unknown key 'memmory'; did you mean 'memory'?",
        "system.users[1].name: 'X' is not a user or group; use a-z, 0-9, '_' and '-', at most 32",
        "system.users[1].shel: unknown key 'shel'; did you mean 'shell'?",
        "scripts[0]: has neither source nor run; add one of the two",
        "networks: has 'a' twice; keep one",
    ]


def test_an_empty_file(mistakes: Find) -> None:
    assert mistakes(top="", base="") == [
        'name: is missing; for example name = "hello"',
        'version: is missing; for example version = "1.0.0"',
        "base: is missing; write a [base] table",
    ]


@pytest.mark.parametrize(
    ("top", "sentence"),
    [
        ("version = 1.0", 'version: must be a string, not a float; put it in quotes: "1.0"'),
        ("version = 1", 'version: must be a string, not an integer; put it in quotes: "1"'),
        ("version = true", 'version: must be a string, not a boolean; put it in quotes: "true"'),
        ("version = 2024-01-01", "version: must be a string, not a date or time"),
        ('version = ["1"]', "version: must be a string, not an array"),
        ("version = {}", "version: must be a string, not a table"),
    ],
)
def test_types_in_the_words_of_toml(mistakes: Find, top: str, sentence: str) -> None:
    assert mistakes(top=f'name = "hello"\n{top}\n') == [sentence]


@pytest.mark.parametrize(
    ("top", "sentence"),
    [
        (
            'version = "1/2"',
            "version: '1/2' is not a version that a file name can hold; use letters, digits and . + ~ _ -",
        ),
        (
            'version = "1"\nsummary = "a\\nb"',
            "summary: 'a\\nb' is not one line of text; leave out control characters and line ends",
        ),
        ('version = "1"\nurl = "x.example"', "url: 'x.example' is not a URL; it begins with https:// or http://"),
        (
            'version = "1"\nannotation = "\\u0007"',
            "annotation: '\\x07' is not text; leave out control characters",
        ),
        (
            'version = "1"\nprofiles = "portable"',
            "profiles: must be an array, not a string; put it in brackets: [ … ]",
        ),
        ('version = "1"\nprofiles = []', 'profiles: is empty; write at least one, such as "portable"'),
        (
            'version = "1"\nprofiles = ["portabel"]',
            "profiles[0]: unknown profile 'portabel'; did you mean 'portable'?",
        ),
        (
            'version = "1"\nprofiles = ["xyz"]',
            "profiles[0]: unknown profile 'xyz'; known: " + ", ".join(profile_names()),
        ),
        ('version = "1"\nprofiles = ["portable", "portable"]', "profiles: has 'portable' twice; keep one"),
        ('version = "1"\nsummry = "x"', "summry: unknown key 'summry'; did you mean 'summary'?"),
        ('version = "1"\nbase = "debian"', "base: must be a table, not a string"),
        ('version = "1"\n"a b" = 1', None),
    ],
)
def test_the_top(mistakes: Find, top: str, sentence: str | None) -> None:
    base = "" if "base =" in top else '[base]\ndistribution = "debian:12"\n'
    found = mistakes(top=f'name = "hello"\n{top}\n', base=base)
    assert len(found) == 1
    if sentence:
        assert found == [sentence]
    else:
        assert found[0].startswith("\"a b\": unknown key 'a b'; known here: name, version")


_HEX = "0" * 63


@pytest.mark.parametrize(
    ("base", "found"),
    [
        ("", [""": says neither distribution nor image; for example distribution = "debian:12\""""]),
        (
            'distribution = "debian:11"',
            [
                (
                    ".distribution: 'debian:11' can't be made here; "
                    "write debian:12 or debian:13 or debian:sid, or name an image"
                )
            ],
        ),
        (
            'image = "https://h/d"',
            ['.image: is a URL without a checksum; add checksum = "sha512:…" or checksums = "URL of SHA512SUMS"'],
        ),
        (
            f'image = "https://h/d"\nchecksum = "sha256:{_HEX}0"\nchecksums = "https://h/SUMS"',
            [".checksums: stands beside a checksum; keep one of the two"],
        ),
        (
            f'image = "https://h/d"\nchecksum = "sha256:{_HEX}"',
            [".checksum: sha256 has 64 digits, not 63; copy the whole digest"],
        ),
        (
            'image = "https://h/d"\nchecksum = "sha512:xyz"',
            [".checksum: 'sha512:xyz' is not hexadecimal; sha512 has 128 digits 0-9, a-f"],
        ),
        (
            'image = "ftp://h/d"\nchecksums = "SUMS"',
            [
                ".image: 'ftp://h/d' can't be downloaded; use a path, https:// or http://",
                ".checksums: 'SUMS' is not a URL; it begins with https:// or http://",
            ],
        ),
        ('image = "."', [".image: '.' is not a file; name a file"]),
        (
            'image = "appliance.toml"\nchecksums = "https://h/SUMS"',
            ['.checksums: is for an image that is a URL; write checksum = "sha512:…"'],
        ),
        (
            'image = "appliance.toml"\nos = "ubunto:24.04"\nmirror = "https://h/"\nsources = []',
            [
                ".os: unknown system 'ubunto:24.04'; did you mean 'ubuntu:24.04'?",
                ".mirror: is for a distribution made here; leave it out",
                ".sources: is for a distribution made here; leave it out",
            ],
        ),
        ('distribution = "debian:12"\nos = "linux"', [".os: is for an image; leave it out"]),
        (
            'distribution = "debian:12"\nmirror = "h/debian"\nsources = ["http://h/debian bookworm main"]',
            [
                ".mirror: 'h/debian' is not the URL of a mirror; it begins with https://, http:// or file://",
                (
                    ".sources[0]: 'http://h/debian bookworm main' is not a line of apt's sources; "
                    'such as "deb URL bookworm main"'
                ),
            ],
        ),
    ],
)
def test_the_base(mistakes: Find, base: str, found: list[str]) -> None:
    assert mistakes(base=f"[base]\n{base}\n") == [f"base{line}" for line in found]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("memory = 2048", 'memory: 2048 has no unit; write it as "2048 MiB"'),
        ("memory = 2147483648", 'memory: 2147483648 has no unit; write it as "2 GiB"'),
        ("memory = true", 'memory: must be a size such as "4 GiB", not a boolean'),
        ('memory = "64 MiB"', "memory: 64 MiB is too small; at least 128 MiB"),
        (
            'memory = "1001 MiB"',
            'memory: 1001 MiB is not a multiple of 4 MiB; the nearest are "1000 MiB" and "1004 MiB"',
        ),
        (
            'disk = "4 GB"',
            'disk: 4 GB is not a multiple of 1 MiB; the nearest are "3814 MiB" and "3815 MiB"',
        ),
        ('disk = "1000 MiB"', "disk: 1000 MiB is too small; at least 1 GiB"),
        (
            'disk = "4 gb"',
            'disk: \'gb\' is not a unit of size; did you mean \'GB\'?; write it as "512 MiB", "4 GiB" or "20 GB"',
        ),
        ("cpus = 0", "cpus: 0 is out of range; write at least 1"),
        ("cpus = 129", "cpus: 129 is out of range; write at most 128"),
        ('cpus = "2"', "cpus: must be an integer, not a string; leave out the quotes: 2"),
        ("cpus = 2.0", "cpus: must be an integer, not a float"),
        ("firmware = 1", "firmware: an integer is not a choice here; write 'bios' or 'efi'"),
        ("serial = 1", "serial: must be true or false, not an integer"),
    ],
)
def test_the_hardware(mistakes: Find, line: str, sentence: str) -> None:
    assert mistakes(f"[hardware]\n{line}") == [f"hardware.{sentence}"]


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        (
            '[networks]\nname = "a"',
            "networks: must be an array, not a table; a table of a list is written with two brackets: [[…]]",
        ),
        ("[[networks]]", 'networks[0].name: is missing; for example name = "VM Network"'),
        (
            '[[networks]]\nname = ""',
            (
                "networks[0].name: '' is not a name of a network; write one line of 1 to 80 characters, "
                'such as "VM Network"'
            ),
        ),
        ("[build]\ntimeout = 30", 'build.timeout: 30 has no unit; write it as "30 s" or "30 min"'),
        ("[build]\nstall = []", 'build.stall: must be a duration such as "30 min", not an array'),
        (
            '[build]\nstall = "1 week"',
            'build.stall: \'week\' is not a unit of time; write it as "10 s", "30 min" or "1 h"',
        ),
        ('[build]\nmemory = "100 MiB"', "build.memory: 100 MiB is too small; at least 256 MiB"),
    ],
)
def test_networks_and_build(mistakes: Find, tables: str, sentence: str) -> None:
    assert mistakes(tables) == [sentence]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            'packages = ["Nginx"]',
            """packages[0]: 'Nginx' is not the name of a package; did you mean "nginx"?""",
        ),
        (
            'packages = ["x"]',
            "packages[0]: 'x' is not the name of a package; use a-z, 0-9, + - . and at least two",
        ),
        (
            'packages = ["curl=latest"]',
            (
                "packages[0]: 'latest' is not a version of a package; write \"name=version\" as apt shows it, "
                'such as "curl=1.22.1-9"'
            ),
        ),
        (
            'packages = ["curl ; rm -rf /"]',
            "packages[0]: 'curl ; rm -rf /' is not the name of a package; use a-z, 0-9, + - . and at least two",
        ),
        ('packages = ["curl", "curl=7"]', "packages: has 'curl' twice; keep one"),
        (
            "packages = [1]",
            'packages[0]: must be a string, not an integer; put it in quotes: "1"',
        ),
        (
            'hostname = "a_b"',
            "hostname: 'a_b' is not a host name; use a-z, 0-9, '-' and dots, such as \"web-1.example.org\"",
        ),
        (
            'timezone = "Europe/Berln"',
            "timezone: 'Europe/Berln' is not a time zone; did you mean 'Europe/Berlin'?",
        ),
        (
            'timezone = "../etc/passwd"',
            'timezone: \'../etc/passwd\' is not a time zone; write one such as "Etc/UTC" or "Europe/Paris"',
        ),
        (
            'locale = "german; x"',
            'locale: \'german; x\' is not a locale; such as "C.UTF-8" or "de_DE.UTF-8"',
        ),
        ('keyboard = "DE"', """keyboard: 'DE' is not a keyboard layout; such as "us", "de" or "fr\""""),
    ],
)
def test_the_system(mistakes: Find, line: str, sentence: str) -> None:
    assert mistakes(f"[system]\n{line}") == [f"system.{sentence}"]


_PUB = 'give the line of a .pub file: "ssh-ed25519 AAAA… comment"'


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('name = "a:b"', ".name: 'a:b' is not a user or group; use a-z, 0-9, '_' and '-', at most 32"),
        ('name = "root"\nsudo = true', ".sudo: means nothing for root; leave it out"),
        ('name = "root"\ngroups = ["adm"]', ".groups: means nothing for root; leave it out"),
        ('name = "a"\ngroups = ["adm", "adm"]', ".groups: has 'adm' twice; keep one"),
        ('name = "a"\nsudo = 1', ".sudo: must be true, false or a rule of sudoers, not an integer"),
        (
            'name = "a"\nsudo = "ALL=(ALL) ALL\\nb ALL=(ALL) ALL"',
            (
                ".sudo: 'ALL=(ALL) ALL\\nb ALL=(ALL) ALL' is not a rule of sudoers; "
                'write one line such as "ALL=(ALL) ALL"'
            ),
        ),
        ('name = "a"\nshell = "bash"', """.shell: 'bash' is not the path of a shell; such as "/bin/bash\""""),
        (
            'name = "a"\nssh_keys = ["ssh-ed25519 …"]',
            f".ssh_keys[0]: 'ssh-ed25519 …' is not a whole SSH public key; {_PUB}",
        ),
        ('name = "a"\nssh_keys = ["~/.ssh/id.pub"]', None),
        (f'name = "a"\nssh_keys = ["ssh-rsa {_KEY}"]', None),
        (f'name = "a"\nssh_keys = ["ssh-ed25519 {_KEY[:30]}"]', None),
        (
            'name = "a"\nssh_keys = ["-----BEGIN OPENSSH PRIVATE KEY-----\\nc2VjcmV0"]',
            ".ssh_keys[0]: is a private key; give the public one, the line in the file that ends in .pub",
        ),
        (
            'name = "a"\npassword_hash = "hunter2"',
            (
                ".password_hash: is not a password hash of crypt(5) ($6$…, $y$…); a plain password is not "
                "taken, make its hash with: openssl passwd -6"
            ),
        ),
        (
            'name = "a"\npassword_hash = 12345',
            (
                ".password_hash: must be a string, not an integer; a plain password is not taken, "
                "make its hash with: openssl passwd -6"
            ),
        ),
    ],
)
def test_users(mistakes: Find, lines: str, sentence: str | None) -> None:
    found = mistakes(f"[[system.users]]\n{lines}")
    assert len(found) == 1
    if sentence:
        assert found == [f"system.users[0]{sentence}"]
    else:
        assert found[0].startswith("system.users[0].ssh_keys[0]: ")
        assert found[0].endswith(f"SSH public key; {_PUB}")
    assert not any(secret in found[0] for secret in ("hunter2", "12345", "c2VjcmV0"))


def test_two_users_of_one_name(mistakes: Find) -> None:
    assert mistakes('[[system.users]]\nname="a"\n[[system.users]]\nname="a"') == [
        "system.users: has 'a' twice; keep one"
    ]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('target = "/a"', ": has neither source nor content; add one of the two"),
        (
            'source = "appliance.toml"\ncontent = "x"\ntarget = "/a"',
            ".content: stands beside a source; keep one of the two",
        ),
        ('content = "x"', '.target: is missing; for example target = "/etc/hello.conf"'),
        ('content = "x"\ntarget = "etc/a"', """.target: 'etc/a' is not absolute; begin it with "/\""""),
        ('content = "x"\ntarget = "/a/../b"', ".target: '/a/../b' climbs with '..'; write where it ends"),
        (
            'content = "x"\ntarget = "/run/a"',
            ".target: '/run/a' is made anew at every boot; choose a place outside /run",
        ),
        (
            'content = "x"\ntarget = "/a\\nb"',
            ".target: '/a\\nb' holds a control character; leave it out",
        ),
        (
            'content = "x"\ntarget = "/a"\nmode = 0o644',
            '.mode: must be a string, not an integer; write octal digits in quotes, such as "0644"',
        ),
        (
            'content = "x"\ntarget = "/a"\nmode = "rw"',
            """.mode: 'rw' is not a mode; write octal digits such as "0644" or "0755\"""",
        ),
        (
            'content = "x"\ntarget = "/a"\nowner = "a:b:c"',
            '.owner: \'a:b:c\' is not an owner; write "user" or "user:group", such as "www-data:adm"',
        ),
        ('content = 1\ntarget = "/a"', '.content: must be a string, not an integer; put it in quotes: "1"'),
    ],
)
def test_files(mistakes: Find, lines: str, sentence: str) -> None:
    assert mistakes(f"[[files]]\n{lines}") == [f"files[0]{sentence}"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('run = "true"', '.name: is missing; for example name = "configure"'),
        (
            'name = "a/b"\nrun = "true"',
            ".name: 'a/b' is not a name that a file can have; use letters, digits and . _ -",
        ),
        (
            'name = "a"\nrun = " \\n "',
            ".run: ' \\n ' is not a content; it is empty, so put something between the quotes",
        ),
        ('name = "a"\nsource = "."', ".source: '.' is not a file; name a file"),
        ('name = "a"\nsource = ""', ".source: is not a path; name a file"),
    ],
)
def test_scripts(mistakes: Find, lines: str, sentence: str) -> None:
    assert mistakes(f"[[scripts]]\n{lines}") == [f"scripts[0]{sentence}"]


def test_a_missing_file_names_the_one_that_is_there(mistakes: Find, folder: Path) -> None:
    (folder / "configure.sh").touch()
    assert mistakes('[[scripts]]\nname = "a"\nsource = "confgure.sh"') == [
        (
            f"scripts[0].source: 'confgure.sh' does not exist (looked for {folder / 'confgure.sh'}); "
            "did you mean 'configure.sh'?"
        )
    ]


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("~nobody-of-that-name/x", "'~nobody-of-that-name/x' begins with the home of an unknown user"),
        ("x" * 300, f"'{'x' * 57}…' can't be read: File name too long"),
    ],
)
def test_paths_that_can_not_be(mistakes: Find, path: str, start: str) -> None:
    found = mistakes(f'[[scripts]]\nname = "a"\nsource = "{path}"')
    assert len(found) == 1
    assert found[0].startswith(f"scripts[0].source: {start}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "'x' is empty; write something in it, or leave out the key"),
        (b"caf\xe9", "'x' is not UTF-8 text; save it as UTF-8"),
        (b"#!/bin/sh\n", "x:1: the first line is not #cloud-config; begin the file with it"),
        (b"#cloud-config\na: [1\n", None),
        (b"#cloud-config\n- a\n", "x: holds a list, where a cloud-config has keys and values"),
    ],
)
def test_user_data(mistakes: Find, folder: Path, content: bytes, sentence: str | None) -> None:
    (folder / "x").write_bytes(content)
    found = mistakes('[cloud_init]\nuser_data = "x"')
    assert len(found) == 1
    if sentence:
        assert found == [f"cloud_init.user_data: {sentence}"]
    else:
        assert found[0].startswith("cloud_init.user_data: x:3:1: not YAML: ")


def test_braces_of_a_user_are_not_placeholders(mistakes: Find) -> None:
    assert mistakes(top='name = "{sentence}"\nversion = "1"\n')[0].startswith("name: '{sentence}' is not")


def test_long_values_are_cut(mistakes: Find) -> None:
    assert len(mistakes(top=f'name = "{"x" * 9000}"\nversion = "1"\n')[0]) < 200


def test_every_kind_of_validator_has_a_sentence() -> None:
    """Walks the models' core schema: a new kind of validator needs a sentence here and in mistakes.py."""
    said = {
        "model": "model_type",
        "bool": "bool_type",
        "int": "int_type",
        "literal": "literal_error",
        "tuple": "tuple_type",
        "dict": "dict_type",
        "str": "string_type",
    }
    ours = {"function-plain", "function-wrap", "function-after"}  # raise sentences themselves
    # A union is under a validator of ours that picks the one by its kind: pydantic never tries them all.
    silent = {"model-fields", "model-field", "default", "nullable", "definitions", "definition-ref", "union"}
    kinds = set(_kinds(Appliance.__pydantic_core_schema__))
    assert kinds <= said.keys() | ours | silent, kinds - said.keys() - ours - silent
    for kind in kinds & said.keys():
        assert said[kind] in {*sentences_of._WANTED, *sentences_of._SAY}


def _kinds(schema: core_schema.CoreSchema | object) -> list[str]:
    if isinstance(schema, list | tuple):
        return [kind for inner in schema for kind in _kinds(inner)]
    if not isinstance(schema, dict):
        return []
    own = [schema["type"]] if isinstance(schema.get("type"), str) else []
    inner = (value for key, value in schema.items() if key in ("schema", "fields", "definitions", "items_schema"))
    return own + [kind for value in inner for kind in _walk(value)]


def _walk(value: object) -> list[str]:
    if isinstance(value, dict) and "type" not in value:
        return [kind for inner in value.values() for kind in _kinds(inner)]
    return _kinds(value)
