"""What a base image is made of, and how its makers are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.progress import Silent
from ovfbuild.vm import debian, debian_files
from ovfbuild.vm.apt import Mirrors, Settings
from ovfbuild.vm.debian import Recipe, dump_packages, has_subordinate_ids, mmdebstrap_arguments
from ovfbuild.vm.process import run

SOURCES = "deb http://everybody.example.org/debian bookworm main\n"


def arguments(recipe: Recipe, mirrors: Mirrors | None = None, settings: Settings | None = None) -> list[str]:
    return mmdebstrap_arguments(recipe, SOURCES, Path("/x/root.tar"), mirrors, settings or Settings())


def test_unknown_release_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Recipe("7")
    assert "debian:12, debian:13, debian:sid" in caught.value.hint


def test_digest_changes_with_everything_that_decides_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("12")
    seen = {
        recipe.digest_inputs(),
        Recipe("13").digest_inputs(),
        replace(recipe, mirror="http://m.example.org/debian").digest_inputs(),
        replace(recipe, packages=("vim",)).digest_inputs(),
    }
    assert len(seen) == 4
    assert replace(recipe, packages=("a", "b")).digest_inputs() == replace(recipe, packages=("b", "a")).digest_inputs()
    monkeypatch.setattr(debian, "LAYOUT_VERSION", 99)
    assert recipe.digest_inputs() not in seen


def test_package_of_the_base_is_not_named_twice() -> None:
    found = Recipe("12", packages=("sudo", "vim")).all_packages
    assert found == (*debian_files.PACKAGES, "vim")


def test_sid_says_what_no_longer_comes_along() -> None:
    assert {"mount", "login", "passwd"} <= set(Recipe("sid").all_packages)
    assert "mount" not in Recipe("13").all_packages


def test_arguments_with_a_mirror() -> None:
    mirrors = Mirrors("http://m.example.org/debian", "http://s.example.org/debian-security")
    settings = Settings((("Acquire::http::Proxy", "http://p.example.org:3142"),))
    argv = arguments(Recipe("13"), mirrors, settings)
    assert argv[-5:] == ["trixie", "/x/root.tar", *mirrors.lines("trixie")]
    assert '--aptopt=Acquire::http::Proxy "http://p.example.org:3142";' in argv
    assert any(a.startswith("--include=linux-image-amd64,") for a in argv)


def test_arguments_without_a_mirror_leave_it_to_mmdebstrap() -> None:
    assert arguments(Recipe("sid"))[-2:] == ["sid", "/x/root.tar"]


def test_packages_of_a_local_folder_are_copied_into_the_chroot() -> None:
    assert arguments(Recipe("12"), Mirrors("file:/srv/debian", has_updates=False))[-1] == (
        "deb copy:/srv/debian bookworm main"
    )


@pytest.mark.parametrize(("uid", "mode"), [(0, "root"), (1000, "unshare")])
def test_mode_follows_the_user(monkeypatch: pytest.MonkeyPatch, uid: int, mode: str) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert f"--mode={mode}" in arguments(Recipe("12"))


def test_the_image_gets_the_public_sources() -> None:
    script = debian_files.after_packages_script(SOURCES)
    assert SOURCES in script
    assert script.index("sources.list.d/*") < script.index(SOURCES)


def test_files_script_writes_what_it_is_given(tmp_path: Path) -> None:
    text = "it's $HOME `x` \\n\n"
    script = debian_files.write_files_script({"etc/a b/c": text})
    run(["sh", "-c", script, "sh", tmp_path])
    assert (tmp_path / "etc/a b/c").read_text() == text
    assert (tmp_path / "etc/a b/c").stat().st_mode & 0o777 == 0o644


def test_public_sources_are_mmdebstraps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(argv: list[str], **options: object) -> str:
        assert argv[-2] == "bookworm"
        for line in ("I: using /tmp/x", "sources.list: deb http://a.example.org x main", "I: success"):
            options["on_line"](line)  # type: ignore[operator]
        return ""

    monkeypatch.setattr(debian, "run", fake)
    assert debian.public_sources("12") == "deb http://a.example.org x main\n"


def test_public_sources_of_an_mmdebstrap_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "run", lambda *_args, **_options: "")
    with pytest.raises(ProgramError, match="bookworm"):
        debian.public_sources("12")


def test_installed_packages() -> None:
    status = (
        "Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2\nDescription: x\n Version: no\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: adduser\nStatus: install ok installed\nConffiles:\n /etc/x: y\nVersion: 3.1\n"
    )
    assert dump_packages(status) == "adduser 3.1\nzlib1g 1:1.2\n"


@pytest.mark.parametrize(
    ("text", "enough"),
    [("", False), ("anna:100000:65536\n", True), ("1000:100000:65536", True), ("anna:100000:100", False),
     ("bob:100000:65536\n", False), ("# anna\n", False)],
)  # fmt: skip
def test_subordinate_ids(text: str, enough: bool) -> None:
    assert has_subordinate_ids(text, "anna", 1000) is enough


def test_forbidden_namespaces_are_told_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake(argv: list[str], **options: object) -> str:
        assert argv[0] == "unshare"
        raise ProgramError("unshare failed with 1:\nOperation not permitted")

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(debian, "find_program", lambda name: name)
    monkeypatch.setattr(debian, "run", fake)
    with pytest.raises(ProgramError) as caught:
        debian.make_base(Recipe("12"), tmp_path, Silent())
    assert "user namespaces" in caught.value.message and "not permitted" in caught.value.message
    assert "sysctl" in caught.value.hint
    assert not list(tmp_path.iterdir())
