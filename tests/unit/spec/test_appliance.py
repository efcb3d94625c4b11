from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec import appliance as appliance_file
from ovfbuild.spec.appliance import Appliance, load

Make = Callable[..., Appliance]


def test_defaults(appliance: Make) -> None:
    made = appliance()
    assert made.profiles == ("portable",)
    assert (made.hardware.cpus, made.hardware.memory, made.hardware.disk) == (2, 1 << 30, 4 << 30)
    assert (made.hardware.firmware, made.hardware.serial) == ("bios", False)
    assert [network.name for network in made.networks] == ["VM Network"]
    assert made.hostname == "hello"
    assert (made.system.timezone, made.system.locale, made.system.keyboard) == ("Etc/UTC", "C.UTF-8", None)
    assert (made.build.timeout, made.build.stall, made.build.memory) == (1800.0, 600.0, 1 << 30)
    assert made.base.guest_os == "debian:12"


def test_everything(appliance: Make, folder: Path) -> None:
    (folder / "site").mkdir()
    (folder / "EULA.txt").write_text("Be kind.\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "extra.yaml").write_text("#cloud-config\nruncmd: [date]\n")
    made = appliance(
        """
        [hardware]
        cpus = 4
        memory = "2 GiB"
        disk = "10 GiB"
        firmware = "efi"
        serial = true
        [[networks]]
        name = "front"
        [[networks]]
        name = "back"
        [system]
        packages = ["libstdc++6", "nginx=1:1.22.1-9+deb12u1~x"]
        hostname = "web.example.org"
        timezone = "Europe/Berlin"
        locale = "de_DE.UTF-8"
        keyboard = "de"
        [[system.users]]
        name = "admin"
        groups = ["adm", "www-data"]
        sudo = "ALL=(ALL) NOPASSWD: /usr/bin/id"
        shell = "/bin/sh"
        ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@home"]
        password_hash = "$6$saltsalt$abcdefghijklmnopqrstuvwxyz0123456789./"
        [[system.users]]
        name = "root"
        shell = "/bin/sh"
        [[files]]
        source = "site"
        target = "/var//www/./html"
        owner = "www-data:33"
        [[files]]
        content = ""
        target = "/etc/empty"
        mode = "600"
        [[scripts]]
        name = "one"
        source = "run.sh"
        [[scripts]]
        name = "two"
        run = "true"
        [cloud_init]
        user_data = "extra.yaml"
        [build]
        timeout = "1 h"
        stall = "90 s"
        memory = "512 MiB"
        cpus = 1
        firmware = "efi"
        """,
        top='name="hello"\nversion="1.0~rc1+x"\nsummary="s"\nvendor="v"\nurl="https://x.example/"\n'
        'annotation="a\\nb"\neula="EULA.txt"\n',
    )
    assert made.eula == folder / "EULA.txt"
    assert made.files[0].source == folder / "site"
    assert made.files[0].target == "/var/www/html"
    assert made.files[0].owner_and_group == ("www-data", "33")
    assert made.files[1].owner_and_group == ("root", "root")
    assert made.files[1].mode == "0600"
    assert made.hostname == "web.example.org"
    assert made.cloud_init.user_data == folder / "extra.yaml"


def test_an_appliance_is_frozen(appliance: Make) -> None:
    with pytest.raises(pydantic.ValidationError):
        setattr(appliance(), "name", "other")  # noqa: B010 (mypy knows it too)


def test_an_image_by_url_and_by_path(appliance: Make, folder: Path) -> None:
    (folder / "disk.qcow2").touch()
    by_path = appliance(base='[base]\nimage = "disk.qcow2"\nos = "ubuntu:24.04"').base
    assert (by_path.image, by_path.guest_os) == (folder / "disk.qcow2", "ubuntu:24.04")
    digest = "AB" * 32
    by_url = appliance(base=f'[base]\nimage = "http://127.0.0.1:1/d.img"\nchecksum = "SHA256:{digest}"').base
    assert (by_url.image, by_url.checksum) == ("http://127.0.0.1:1/d.img", f"sha256:{digest.lower()}")
    listed = appliance(base='[base]\nimage = "https://h/d.img"\nchecksums = "https://h/SHA512SUMS"').base
    assert listed.checksums == "https://h/SHA512SUMS"


def test_no_network_is_a_choice(appliance: Make) -> None:
    assert appliance(top='name="a"\nversion="1"\nnetworks=[]\n').networks == ()


def test_a_folder_stands_for_the_file_in_it(appliance: Make, folder: Path) -> None:
    assert appliance() == load(folder)


def test_the_template_loads(folder: Path) -> None:
    (folder / "appliance.toml").write_text(appliance_file.template(), encoding="utf-8")
    assert load(folder).name == "my-appliance"


def test_what_the_template_leaves_out_is_right_as_well(folder: Path) -> None:
    """Every comment that is a key, put in, gives an appliance: but for what no file beside it has."""
    import re
    import tomllib

    text = re.sub(r"^# (?=[a-z_]+ = |\[)", "", appliance_file.template(), flags=re.MULTILINE)
    table = tomllib.loads(text)
    for key in ("image", "checksum", "os"):
        table["base"].pop(key)
    for absent in ("eula",):
        table.pop(absent)
    table.pop("cloud_init")
    table["files"] = [file for file in table["files"] if "source" not in file]
    table["system"]["users"][0].pop("ssh_keys")
    table["system"]["users"][0].pop("password_hash")
    appliance_file.from_table(table, folder)


def test_the_example_loads() -> None:
    example = Path(__file__).parents[3] / "examples" / "hello"
    assert load(example).name == "hello"


# --- what is not an appliance.toml at all --------------------------------------------------------


def test_a_missing_file(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(folder / "none.toml")
    assert caught.value.message == f"{folder / 'none.toml'}: No such file or directory"
    assert "ovfbuild new" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "place", "start"),
    [
        ('name = "a"\nversion 1\n', "2:9", "expected '=' after a key"),
        ('name = "a"\nname = "b"\n', "2:11", "cannot overwrite a value"),
        ('name = "a', "1:10", "unterminated string"),
        ("\n\n[base", "3:6", "expected ']'"),
    ],
)
def test_a_syntax_error_has_its_place(folder: Path, text: str, place: str, start: str) -> None:
    path = folder / "appliance.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    file, line, column, rest = caught.value.message.split(":", 3)
    assert file == str(path)
    assert rest.startswith(" not TOML: "), rest
    assert rest.removeprefix(" not TOML: ").lower().startswith(start), rest
    assert line == place.split(":", maxsplit=1)[0]
    assert column.isdigit()


def test_a_file_that_is_not_utf8(folder: Path) -> None:
    (folder / "appliance.toml").write_bytes(b'name = "h\xe9llo"')
    with pytest.raises(UsageError, match="byte 9 is not UTF-8"):
        load(folder)
