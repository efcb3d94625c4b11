"""Targets: from files, changed by --set, and their mistakes all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec import appliance, targets

LAB = '[[publish]]\nname = "lab"\nkind = "http"\nurl = "https://x.example/a"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / targets.FILE_NAME
    path.write_text(text)
    return path


def test_a_target_is_found_and_changed(tmp_path: Path) -> None:
    path = write(tmp_path, LAB)
    found = targets.find("lab", [path], ["insecure=true", "tries=7", "timeout=2 min", "user=1", "ca_file=ca.pem"])
    assert isinstance(found, targets.HttpTarget)
    assert (found.insecure, found.tries, found.timeout, found.user) == (True, 7, 120, "1")
    assert found.ca_file == tmp_path / "ca.pem"


def test_the_appliance_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "appliance.toml"
    base = 'name = "a"\nversion = "1"\n[base]\ndistribution = "debian:12"\n'
    own.write_text(base + LAB.replace("x.example", "y.example"))
    path = write(tmp_path, LAB)
    assert targets.find("lab", [own, path]).url == "https://y.example/a"  # type: ignore[attr-defined]
    assert appliance.load(own).publish == targets.load(own)


def test_every_mistake_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        LAB
        + LAB.replace("lab", "b").replace("https", "ftp")
        + 'token_env = "T"\npassword_env = "P"\nnme = 1\n'
        + '[[publish]]\nname = "c"\nkind = "htp"\n[[publish]]\nname = "lab"\n',
    )
    with pytest.raises(UsageError) as caught:
        targets.load(path)
    for line in (
        "publish[1].url: 'ftp://x.example/a' is not a URL",
        "publish[1].password_env: has no user beside it",
        "publish[1].token_env: stands beside password_env",
        "publish[1].nme: unknown key 'nme'; did you mean 'name'?",
        "publish[2].kind: 'htp' is no kind of target; did you mean 'http'?",
        "publish[3].kind: is missing; there are",
        "publish: has 'lab' twice; keep one",
    ):
        assert f"{path}: {line}" in caught.value.message, caught.value.message


def test_a_content_library_takes_no_key_of_machines(tmp_path: Path) -> None:
    vsphere = '[[publish]]\nname = "v"\nkind = "vsphere"\nhost = "vc.example"\nuser = "me"\nlibrary = "shelf"\n'
    assert targets.load(write(tmp_path, vsphere))[0].library == "shelf"  # type: ignore[attr-defined]
    with pytest.raises(UsageError) as caught:
        targets.load(write(tmp_path, vsphere + 'template = false\nfolder = "a"\n[publish.networks]\na = "b"\n'))
    for key in ("template", "folder", "networks"):
        assert f"publish[0].{key}: stands beside library; it is asked for when a machine" in caught.value.message


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = write(tmp_path, LAB.replace("x.example", "me:hush@x.example"))
    with pytest.raises(UsageError, match="has a user or a password in it") as caught:
        targets.load(path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tries", "there is no value"),
        ("kind=s3", "says which target it is"),
        ("tries=many", "target lab: publish\\[0\\].tries: must be an integer, not a string"),
        ("colour=red", "unknown key 'colour'"),
    ],
)
def test_a_wrong_setting_is_said(tmp_path: Path, setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        targets.find("lab", [write(tmp_path, LAB)], [setting])


def test_an_unknown_target_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no target 'lba' in .*; did you mean 'lab'") as caught:
        targets.find("lba", [write(tmp_path, LAB)])
    assert caught.value.hint == "there are lab"
    with pytest.raises(UsageError, match="there is no target"):
        targets.find("lab", [tmp_path / "none.toml"])
