"""`make --publish`: the targets are tried before anything is built, and what is good goes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ovfbuild import errors, pipeline
from ovfbuild.cli.main import cli
from tests.faults import free_port
from tests.unit.publish.kit import ova

APPLIANCE = 'name = "a"\nversion = "1"\n[base]\ndistribution = "debian:12"\n'


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path) -> list[str]:
    """A build that takes no time; it says that it was begun."""
    begun: list[str] = []
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def make(*_: object) -> list[Path]:
        begun.append("make")
        return [ova(tmp_path / "a.ova")]

    monkeypatch.setattr(pipeline, "make", make)
    return begun


def make(folder: Path, *words: str, publish: str = "") -> object:
    (folder / "appliance.toml").write_text(APPLIANCE + publish)
    result = CliRunner().invoke(cli, ["make", str(folder), *words], standalone_mode=False)
    return result.exception or result.output


def table(port: int) -> str:
    return f'[[publish]]\nname = "web"\nkind = "http"\ntries = 1\nurl = "http://127.0.0.1:{port}/"\n'


def test_a_target_that_is_down_ends_it_before_the_build(built: list[str], tmp_path: Path) -> None:
    said = make(tmp_path, "--publish", "web", publish=table(free_port()))
    assert isinstance(said, errors.PublishError) and "can't be reached" in said.message
    assert built == []


@pytest.mark.parametrize("words", [("--publish", "wbe"), ("--publish", "web", "--format", "qcow2")])
def test_what_text_can_tell_ends_it_before_the_build(built: list[str], tmp_path: Path, words: tuple[str, ...]) -> None:
    said = make(tmp_path, *words, publish=table(1))
    assert isinstance(said, errors.UsageError), said
    assert built == []
