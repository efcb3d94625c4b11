"""Maven's client as a door: found on PATH, heard, and what it brings kept."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, ProgramError, UsageError
from ovfbuild.progress import LogProgress
from ovfbuild.vm.maven import fetch_maven

GOOD = """
for word in "$@"; do case $word in -DoutputDirectory=*) out=${word#*=};; -Dartifact=*) what=${word#*=};; esac; done
echo "$what" > "$out/agent-1.0.tar.gz"
"""
MISSING = 'echo "[ERROR] Failed: Unable to find artifact."; exit 1'
BROKEN = 'echo "[INFO] Scanning"; echo "[ERROR] The server is on fire"; exit 1'


@pytest.fixture
def mvn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of that body on PATH."""

    def put(body: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin/mvn").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin/mvn").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return put


def ask(*, offline: bool = False) -> Path:
    return fetch_maven("g:a:1.0:tar.gz", Cache(), LogProgress(io.StringIO(), False), offline=offline)


def test_it_is_asked_once(own_cache: Path, mvn: Callable[[str], None]) -> None:
    mvn(GOOD)
    assert ask().read_text() == "g:a:1.0:tar.gz\n"
    mvn("exit 1")
    assert ask(offline=True).read_text() == "g:a:1.0:tar.gz\n"


def test_offline_without_it_in_the_cache(own_cache: Path, mvn: Callable[[str], None]) -> None:
    mvn(GOOD)
    with pytest.raises(UsageError, match="not in the cache"):
        ask(offline=True)


def test_what_is_not_there_and_what_fails(own_cache: Path, mvn: Callable[[str], None]) -> None:
    mvn(MISSING)
    with pytest.raises(FileError, match="not in the repositories that mvn knows"):
        ask()
    mvn(BROKEN)
    with pytest.raises(ProgramError, match="The server is on fire"):
        ask()
