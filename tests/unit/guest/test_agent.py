"""What an agent needs in the guest, carried out into a folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.guest import agent
from ovfbuild.guest.steps import Guest, StepFailed


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "seed/agent").mkdir(parents=True)
    return Guest(str(tmp_path / "seed"), lambda text: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def step(**more: Any) -> dict[str, Any]:
    return {"blob": "agent/archive", "target": "/opt/a", "strip": 1, "moves": [], **more}


def tar(guest: Guest, *members: tuple[str, str, str], mode: str = "w:gz") -> None:
    """(name, kind, content or target) of each member."""
    with tarfile.open(guest.blob("agent/archive"), mode) as archive:  # type: ignore[call-overload]
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[kind]
            member.mode, member.uid, member.gid = 0o755, 1234, 1234
            member.linkname = text if kind == "link" else ""
            member.size = len(text) if kind == "file" else 0
            archive.addfile(member, io.BytesIO(text.encode()) if kind == "file" else None)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_without_its_first_folder(guest: Guest, root: Path, mode: str) -> None:
    tar(guest, ("./a-1.0/", "folder", ""), ("a-1.0/bin/a", "file", "#!"), ("a-1.0/b", "link", "bin/a"), mode=mode)
    agent.unpack(step(), guest, str(root))
    assert (root / "opt/a/b").readlink() == Path("bin/a")
    found = (root / "opt/a/bin/a").stat()
    assert found.st_uid == os.getuid()
    assert stat.S_IMODE(found.st_mode) == 0o755


def test_a_zip_with_its_modes(guest: Guest, root: Path) -> None:
    with zipfile.ZipFile(guest.blob("agent/archive"), "w") as archive:
        for name, bits in (("a-1.0/bin/a", 0o755), ("a-1.0/etc/a.cfg", 0o640)):
            info = zipfile.ZipInfo(name)
            info.external_attr = bits << 16
            archive.writestr(info, "x")
        archive.writestr("a-1.0/data/", "")
    agent.unpack(step(), guest, str(root))
    assert stat.S_IMODE((root / "opt/a/bin/a").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "opt/a/etc/a.cfg").stat().st_mode) == 0o640
    assert (root / "opt/a/data").is_dir()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x"])
def test_a_name_that_leads_out_of_the_archive(guest: Guest, root: Path, name: str) -> None:
    tar(guest, (name, "file", "x"))
    with pytest.raises(StepFailed, match="outside"):
        agent.unpack(step(strip=0), guest, str(root))


def test_a_link_that_leads_out_of_the_archive(guest: Guest, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    tar(guest, ("out", "link", str(tmp_path / "elsewhere")), ("out/x", "file", "x"))
    with pytest.raises(StepFailed, match="behind a link"):
        agent.unpack(step(strip=0), guest, str(root))
    assert not (tmp_path / "elsewhere/x").exists()


def test_an_archive_that_is_none_or_has_nothing_so_deep(guest: Guest, root: Path) -> None:
    Path(guest.blob("agent/archive")).write_bytes(b"nothing of the kind")
    with pytest.raises(StepFailed, match="can't be read"):
        agent.unpack(step(), guest, str(root))
    tar(guest, ("a", "file", "x"))
    with pytest.raises(StepFailed, match="nothing below 1 folders"):
        agent.unpack(step(), guest, str(root))


def test_folders_that_live_elsewhere(guest: Guest, root: Path) -> None:
    tar(guest, ("a/etc/a.cfg", "file", "theirs"), ("a/etc/b.cfg", "file", "theirs"), ("a/data/x", "file", "x"))
    (root / "etc/a").mkdir(parents=True)
    (root / "etc/a/a.cfg").write_text("mine")
    # Links to absolute paths: in a folder they lead into the folder too.
    moves = [["etc", f"{root}/etc/a"], ["data", f"{root}/var/lib/a"], ["data/log", f"{root}/var/log/a"]]
    agent.unpack(step(target=f"{root}/opt/a", moves=moves), guest)
    assert (root / "opt/a/etc").readlink() == root / "etc/a"
    assert (root / "etc/a/a.cfg").read_text() == "mine", "what [[files]] put there stays"
    assert (root / "etc/a/b.cfg").read_text() == "theirs"
    assert (root / "var/lib/a/x").read_text() == "x"
    assert (root / "var/lib/a/log").readlink() == root / "var/log/a"


def test_the_seal_closes_and_cleans(guest: Guest, root: Path) -> None:
    (root / "etc/a/keys").mkdir(parents=True)
    (root / "etc/a/shell.cfg").write_text("# console\nsshPort = 8101\nsshHost=0.0.0.0\nsshHost = ::\n")
    (root / "etc/a/shell.cfg").chmod(0o640)
    (root / "etc/a/users").write_text("  karaf = karaf,admin\nother = x\n")
    (root / "etc/a/keys/one").touch()
    (root / "etc/a/keys/link").symlink_to("/nowhere")

    def edit(name: str, values: dict[str, str], *remove: str, **more: bool) -> dict[str, Any]:
        found = {"file": f"/etc/a/{name}", "set": values, "remove": list(remove), "optional": False, "create": False}
        return {**found, **more}

    edits = [
        edit("shell.cfg", {"sshHost": "127.0.0.1", "completion": "on"}),
        edit("users", {}, r"\s*karaf\s*[=:]"),
        edit("not-there", {"a": "b"}, optional=True),
        edit("web.cfg", {"port": "1"}, create=True),
    ]
    agent.seal({"edits": edits, "commands": [f"echo x > {root}/said"], "clean": ["/etc/a/keys/*"]}, guest, str(root))
    assert (root / "etc/a/shell.cfg").read_text() == (
        "# console\nsshPort = 8101\nsshHost = 127.0.0.1\ncompletion = on\n"
    )
    assert stat.S_IMODE((root / "etc/a/shell.cfg").stat().st_mode) == 0o640
    assert (root / "etc/a/users").read_text() == "other = x\n"
    assert not (root / "etc/a/not-there").exists()
    assert (root / "etc/a/web.cfg").read_text() == "port = 1\n"
    assert list((root / "etc/a/keys").iterdir()) == []
    assert (root / "said").read_text() == "x\n"


def test_what_is_to_be_closed_and_is_not_there_fails_the_build(guest: Guest, root: Path) -> None:
    edit = {"file": "/etc/a", "set": {"a": "b"}, "remove": [], "optional": False, "create": False}
    with pytest.raises(StepFailed, match="can't be hardened"):
        agent.seal({"edits": [edit], "commands": [], "clean": []}, guest, str(root))


@pytest.mark.parametrize(
    ("said", "major"),
    [
        ('openjdk version "1.8.0_392"', 8),
        ('java version "1.7.0_80"', 7),
        ('openjdk version "17.0.1" 2021-10-19', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ("no such thing", None),
    ],
)
def test_the_major_of_a_java(said: str, major: int | None) -> None:
    assert agent.java_major(said) == major


def test_a_java_that_the_agent_can_t_use(guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    agent.check_java([11, 17], guest)
    with pytest.raises(StepFailed, match="needs Java 7 to 8; the guest's says: openjdk version"):
        agent.check_java([7, 8], guest)


def test_packages_are_installed_without_being_started(
    guest: Guest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def install(packages: list[str], guest: Guest) -> None:
        seen["packages"] = [Path(name).name for name in packages]
        seen["debs"] = [Path(name).read_text() for name in packages if name.endswith(".deb")]
        seen["policy"] = (root / "usr/sbin/policy-rc.d").read_text()

    monkeypatch.setattr(agent, "install", install)
    monkeypatch.setattr(agent, "update", lambda guest: seen.update(updated=True))
    Path(guest.blob("agent/archive")).write_text("a deb")
    Path(guest.blob("key")).write_text("a key")
    (root / "usr/sbin").mkdir(parents=True)
    orders: dict[str, Any] = {
        "packages": ["salt-minion"],
        "debs": ["agent/archive"],
        "repository": "deb [signed-by=/etc/apt/keyrings/agent.asc] https://example.org/ stable main",
        "key": "key",
        "key_path": "/etc/apt/keyrings/agent.asc",
    }
    agent.install_packages(orders, guest, str(root))
    assert seen == {
        "updated": True,
        "packages": ["salt-minion", "0.deb"],
        "debs": ["a deb"],
        "policy": "#!/bin/sh\nexit 101\n",
    }
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert (root / "etc/apt/keyrings/agent.asc").read_text() == "a key"
    assert (root / "etc/apt/sources.list.d/agent.list").read_text() == orders["repository"] + "\n"
