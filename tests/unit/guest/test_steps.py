"""Steps of the guest that can be carried out here, into a folder."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.guest import steps
from ovfbuild.guest.steps import Guest, StepFailed


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "seed/files").mkdir(parents=True)
    return Guest(str(tmp_path / "seed"), lambda text: None)


ME = pwd.getpwuid(os.getuid()).pw_name
MINE = grp.getgrgid(os.getgid()).gr_name


def entry(kind: str, target: Path, **more: Any) -> dict[str, Any]:
    return {"type": kind, "target": str(target), "mode": "0644", "owner": ME, "group": MINE, "blob": "", **more}


def test_files_folders_and_links(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "seed/files/000001").write_text("content")
    target = tmp_path / "target"
    entries = [
        entry("directory", target / "a", mode="0750"),
        entry("file", target / "a/b", blob="files/000001", mode="0755"),
        entry("link", target / "a/c", link="b"),
    ]
    for _ in range(2):  # a second time changes nothing
        steps.put_files({"name": "files", "entries": entries}, guest)
    assert (target / "a/c").read_text() == "content"
    assert (target / "a/b").stat().st_mode & 0o777 == 0o755
    assert (target / "a").stat().st_mode & 0o777 == 0o750


def test_a_folder_that_is_there_keeps_its_mode(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    steps.put_files({"name": "files", "entries": [entry("directory", tmp_path / "there", mode="0777")]}, guest)
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o700


def test_an_owner_that_the_guest_does_not_have(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "seed/files/000001").write_text("x")
    wrong = entry("file", tmp_path / "x", blob="files/000001", owner="nobody-of-that-name")
    with pytest.raises(StepFailed, match="no user or group nobody-of-that-name"):
        steps.put_files({"name": "files", "entries": [wrong]}, guest)


def test_a_program_that_fails_says_what_it_said(guest: Guest) -> None:
    guest.begin("x")
    with pytest.raises(StepFailed, match="sh ended with exit code 3"):
        guest.run(["sh", "-c", "echo one; echo two >&2; exit 3"])
    assert guest.last_lines() == ["one", "two"]
    guest.begin("y")
    assert guest.last_lines() == []


def test_a_script_runs_from_a_place_that_may_execute(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "seed/files/000001").write_text("#!/bin/sh\necho $HOME $DEBIAN_FRONTEND\n")
    if os.getuid() != 0:
        pytest.skip("scripts start in /root")
    guest.begin("script x")
    steps.run_script({"name": "script x", "blob": "files/000001"}, guest)
    assert guest.last_lines() == ["/root noninteractive"]


def test_a_script_without_an_interpreter(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "seed/files/000001").write_text("#!/no/such/program\n")
    if os.getuid() != 0:
        pytest.skip("scripts start in /root")
    with pytest.raises(StepFailed, match="could not be started"):
        steps.run_script({"name": "script x", "blob": "files/000001"}, guest)


def test_keys_are_the_users_alone(guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda name: str(tmp_path / "home"))
    steps.authorize(ME, ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two\n"])
    path = tmp_path / "home/.ssh/authorized_keys"
    assert path.read_text() == "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
