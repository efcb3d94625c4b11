from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.files import digest_of
from ovfbuild.spec.appliance import Appliance, load
from ovfbuild.spec.plan import DEFAULT_EPOCH, Plan, disk_inputs, resolve

Make = Callable[..., Appliance]

HASH = "$6$saltsalt$abcdefghijklmnopqrstuvwxyz0123456789./"
TABLES = f"""
[system]
packages = ["curl"]
[[system.users]]
name = "admin"
sudo = true
password_hash = "{HASH}"
[[files]]
content = "secret content"
target = "/etc/a"
owner = "admin"
[[scripts]]
name = "configure"
run = "date"
"""


def plan_of(appliance: Appliance, **environ: str) -> Plan:
    return resolve(appliance, environ)


def refused(appliance: Appliance) -> list[str]:
    with pytest.raises(UsageError) as caught:
        resolve(appliance, {})
    return caught.value.message.split("\n")


def test_the_steps_stand_in_the_order_in_which_they_are_done(appliance: Make) -> None:
    plan = plan_of(appliance(TABLES))
    assert [step.name for step in plan.steps] == [
        "system",
        "packages",
        "users",
        "files /etc/a",
        "script configure",
    ]
    assert [step.to_json() for step in plan.steps] == [
        {
            "kind": "system",
            "name": "system",
            "hostname": "hello",
            "timezone": "Etc/UTC",
            "locale": "C.UTF-8",
            "keyboard": None,
            "serial": False,
        },
        {"kind": "packages", "name": "packages", "packages": ("curl",)},
        {
            "kind": "users",
            "name": "users",
            "users": (
                {
                    "name": "admin",
                    "groups": (),
                    "sudo": "ALL=(ALL:ALL) NOPASSWD: ALL",
                    "shell": "/bin/bash",
                    "ssh_keys": (),
                    "password_hash": HASH,
                },
            ),
        },
        {
            "kind": "files",
            "name": "files /etc/a",
            "entries": (
                {
                    "type": "file",
                    "target": "/etc/a",
                    "mode": "0644",
                    "owner": "admin",
                    "group": "admin",
                    "blob": "files/000001",
                    "link": "",
                },
            ),
        },
        {"kind": "script", "name": "script configure", "blob": "files/000002"},
    ]


def test_what_is_not_asked_for_is_no_step(appliance: Make) -> None:
    assert [step.name for step in plan_of(appliance()).steps] == ["system"]


def test_a_script_without_an_interpreter_is_run_by_sh_and_ends_at_a_failure(appliance: Make) -> None:
    plan = plan_of(
        appliance(
            """
            [[scripts]]
            name = "plain"
            run = "date"
            [[scripts]]
            name = "own"
            run = '''

            #!/usr/bin/env python3
            print(1)'''
            """
        )
    )
    plain, own = (blob.open().read() for blob in plan.payload)
    assert plain == b"#!/bin/sh\nset -eu\ndate\n"
    assert own.startswith(b"#!/usr/bin/env python3\n")
    assert own.endswith(b"print(1)\n")


def test_a_folder_is_walked_in_order(appliance: Make, folder: Path) -> None:
    site = folder / "site"
    (site / "b" / "empty").mkdir(parents=True)
    (site / "a.html").write_text("same")
    (site / "c.sh").write_text("#!/bin/sh\n")
    (site / "c.sh").chmod(0o744)
    (site / "b" / "again.html").write_text("same")
    (site / "d").symlink_to("../elsewhere")
    plan = plan_of(appliance('[[files]]\nsource = "site/"\ntarget = "/srv/x/"\nowner = "www-data"'))
    entries = plan.steps[1].to_json()["entries"]
    assert [(e["type"], e["target"], e["mode"], e["blob"], e["link"]) for e in entries] == [
        ("directory", "/srv/x", "0755", "", ""),
        ("file", "/srv/x/a.html", "0644", "files/000001", ""),
        ("directory", "/srv/x/b", "0755", "", ""),
        ("file", "/srv/x/b/again.html", "0644", "files/000001", ""),
        ("directory", "/srv/x/b/empty", "0755", "", ""),
        ("file", "/srv/x/c.sh", "0755", "files/000002", ""),
        ("link", "/srv/x/d", "0777", "", "../elsewhere"),
    ]
    assert {(e["owner"], e["group"]) for e in entries} == {("www-data", "www-data")}
    assert [blob.name for blob in plan.payload] == ["files/000001", "files/000002"]


def test_a_mode_holds_for_the_files_and_opens_their_folders(appliance: Make, folder: Path) -> None:
    (folder / "keys").mkdir()
    (folder / "keys" / "k").touch()
    plan = plan_of(appliance('[[files]]\nsource = "keys"\ntarget = "/etc/keys"\nmode = "0640"'))
    assert [entry["mode"] for entry in plan.steps[1].to_json()["entries"]] == ["0750", "0640"]


def test_a_folder_onto_the_root(appliance: Make, folder: Path) -> None:
    (folder / "tree" / "etc").mkdir(parents=True)
    plan = plan_of(appliance('[[files]]\nsource = "tree"\ntarget = "/"'))
    assert [entry["target"] for entry in plan.steps[1].to_json()["entries"]] == ["/", "/etc"]


def test_names_of_steps_are_unique(appliance: Make, folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
    plan = plan_of(appliance('[[files]]\nsource="one"\ntarget="/srv"\n[[files]]\nsource="two"\ntarget="/srv"\n'))
    assert [step.name for step in plan.steps] == ["system", "files /srv", "files /srv (2)"]


def test_what_is_wrong_with_files_is_said_at_once(appliance: Make, folder: Path) -> None:
    site = folder / "site"
    site.mkdir()
    os.mkfifo(site / "pipe")
    (site / "new\nline").touch()
    (site / os.fsdecode(b"caf\xe9")).touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(site / "socket"))
    (folder / "no-shebang").write_text("date\n")
    (folder / "windows").write_bytes(b"#!/bin/sh\r\ndate\r\n")
    found = refused(
        appliance(
            """
            [[files]]
            source = "site"
            target = "/srv"
            [[files]]
            content = "x"
            target = "/etc/"
            [[files]]
            content = "x"
            target = "/etc/a"
            [[files]]
            source = "windows"
            target = "/etc/a"
            [[scripts]]
            name = "a"
            source = "no-shebang"
            [[scripts]]
            name = "b"
            source = "windows"
            """
        )
    )
    head = "appliance.toml: files[0].source: "
    assert found == [
        f"{head}'{site}' has 'caf\\udce9' in it; give it a printable name",
        f"{head}'{site}' has 'new\\nline' in it; give it a printable name",
        f"{head}'{site / 'pipe'}' is a named pipe; take it out of the folder",
        f"{head}'{site / 'socket'}' is a socket; take it out of the folder",
        "appliance.toml: files[1].target: '/etc/' is a folder; write the file's own path, '/etc/name'",
        (
            f"appliance.toml: scripts[0].source: '{folder / 'no-shebang'}' has no #! line; "
            "begin it with one, such as #!/bin/sh"
        ),
        (
            f"appliance.toml: scripts[1].source: '{folder / 'windows'}' has the line ends of Windows; "
            "save it with those of Unix"
        ),
        "appliance.toml: files[3].target: '/etc/a' is also files[2]'s; keep one",
    ]


def test_a_program_may_be_a_script(appliance: Make, folder: Path) -> None:
    (folder / "tool").write_bytes(b"\x7fELF\x02")
    plan = plan_of(appliance('[[scripts]]\nname = "a"\nsource = "tool"'))
    assert plan.payload[0].source == folder / "tool"
    assert plan.payload[0].size == 5


# --- profiles, epoch, JSON -----------------------------------------------------------------------


def test_profiles_of_the_command_line_replace_the_appliances(appliance: Make) -> None:
    made = appliance()
    assert [p.name for p in resolve(made, {}, profiles=["portable", "portable"]).profiles] == ["portable"]
    with pytest.raises(UsageError, match="did you mean 'portable'"):
        resolve(made, {}, profiles=["portble"])


def test_the_compression_of_the_command_line_replaces_the_appliance_s(appliance: Make) -> None:
    assert resolve(appliance(), {}).compression == "balanced"
    made = appliance('[package]\ncompression = "small"')
    assert resolve(made, {}).to_json()["compression"] == "small"
    assert resolve(made, {}, compression="turbo").to_json()["compression"] == "turbo"
    assert resolve(made, {}, compression="reproducible").compression == "reproducible"


def test_the_epoch(appliance: Make) -> None:
    made = appliance()
    assert plan_of(made).epoch == DEFAULT_EPOCH
    assert plan_of(made, SOURCE_DATE_EPOCH="").epoch == DEFAULT_EPOCH
    assert plan_of(made, SOURCE_DATE_EPOCH="1700000000").epoch == 1700000000
    for wrong in ("soon", "-1", "1.5", "9" * 12):
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is"):
            plan_of(made, SOURCE_DATE_EPOCH=wrong)


def test_the_plan_prints_as_json_without_secrets(appliance: Make) -> None:
    text = json.dumps(plan_of(appliance(TABLES)).to_json())
    plan = json.loads(text)
    assert HASH not in text
    assert "secret content" not in text
    assert plan["appliance"]["system"]["users"][0]["password_hash"] == "…"
    assert plan["steps"][2]["users"][0]["password_hash"] == "…"
    assert plan["appliance"]["hardware"]["memory"] == 1 << 30
    assert plan["guest_os"]["cim"] == 96
    assert [blob["name"] for blob in plan["payload"]] == ["files/000001", "files/000002"]


def test_the_same_files_give_the_same_plan(appliance: Make) -> None:
    made = appliance(TABLES)
    assert plan_of(made) == plan_of(made)


# --- what decides the sealed disk ----------------------------------------------------------------


def digest(appliance: Appliance) -> str:
    return digest_of(disk_inputs(plan_of(appliance)))


@pytest.mark.parametrize(
    ("tables", "top"),
    [
        ("", 'name="hello"\nversion="2"\nsummary="s"\nvendor="v"\nurl="https://h"\nannotation="a"'),
        ("", 'name="hello"\nversion="1"\neula="EULA"\nprofiles=["portable"]'),
        ('[hardware]\ncpus=4\nmemory="2 GiB"\nfirmware="efi"', None),
        ('[[networks]]\nname="NAT"', None),
        ('[package]\ncompression="turbo"', None),
        ('[build]\ntimeout="1 h"\nmemory="2 GiB"\ncpus=1\nfirmware="efi"', None),
    ],
)
def test_what_only_the_package_shows_leaves_the_disk(
    appliance: Make, folder: Path, tables: str, top: str | None
) -> None:
    (folder / "EULA").write_text("x")
    before = digest(appliance(TABLES))
    assert digest(appliance(TABLES + tables, **({"top": top} if top else {}))) == before


@pytest.mark.parametrize(
    "change",
    [
        {"tables": TABLES.replace("curl", "wget")},
        {"tables": TABLES.replace("date", "id")},
        {"tables": TABLES.replace("secret content", "other")},
        {"tables": TABLES.replace("/etc/a", "/etc/b")},
        {"tables": TABLES.replace("sudo = true", "")},
        {"tables": TABLES.replace("salt", "pepp")},
        {"tables": TABLES + '[hardware]\ndisk = "5 GiB"'},
        {"tables": TABLES + "[hardware]\nserial = true"},
        {"tables": TABLES + '[cloud_init]\nuser_data = "x.yaml"'},
        {"top": 'name = "other"\nversion = "1.0.0"'},
        {"base": '[base]\ndistribution = "debian:13"'},
        {"base": '[base]\ndistribution = "debian:12"\nmirror = "https://h/debian"'},
        {"base": '[base]\ndistribution = "debian:12"\nsources = ["deb https://h/debian bookworm main"]'},
        {"base": '[base]\nimage = "x.yaml"'},
    ],
)
def test_what_is_on_the_disk_changes_it(appliance: Make, folder: Path, change: dict[str, Any]) -> None:
    (folder / "x.yaml").write_text("#cloud-config\n")
    before = digest(appliance(TABLES))
    assert digest(appliance(**{"tables": TABLES, **change})) != before


def test_an_image_is_its_checksum_wherever_it_lies(appliance: Make) -> None:
    def of(url: str, kind: str) -> str:
        return digest(appliance(base=f'[base]\nimage = "{url}"\nchecksum = "sha256:{kind * 64}"'))

    assert of("https://one/d", "0") == of("https://two/d", "0")
    assert of("https://one/d", "0") != of("https://one/d", "1")


def test_a_changed_file_is_seen(appliance: Make, folder: Path) -> None:
    (folder / "f").write_text("one")
    tables = '[[files]]\nsource = "f"\ntarget = "/f"'
    before = digest(appliance(tables))
    (folder / "f").write_text("two")
    assert digest(appliance(tables)) != before
    (folder / "f").write_text("one")
    assert digest(appliance(tables)) == before
    (folder / "f").chmod(0o755)
    assert digest(appliance(tables)) != before


def test_the_example_resolves() -> None:
    plan = plan_of(load(Path(__file__).parents[3] / "examples" / "hello"))
    assert [step.name for step in plan.steps][-2:] == ["files /var/www/html", "script configure"]
