"""Wheels for a guest, with a double of the host's Python on PATH in pip's place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.files import sha256_of
from ovfbuild.progress import Silent
from ovfbuild.vm import pip

GUEST = pip.GuestPython("3.13.5", (2, 41))

# What stands before is the program "-c CODE MARKERS --disable… --no-input COMMAND …".
FAKE = """\
#!/bin/sh
[ "$2" != "import pip" ] || exit ${NO_PIP:-0}
printf '%s\\n' "$@" > "$LOG"
while [ "$1" != download ] && [ "$1" != wheel ]; do shift; done
command=$1
while [ $# -gt 0 ]; do
  case $1 in
    --dest|--wheel-dir) folder=$2 ;;
    --find-links) links=$2 ;;
  esac
  shift
done
. "$BEHAVIOUR"
"""
UNMET = "ERROR: Could not find a version that satisfies the requirement %s (from versions: %s)"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for a shell script: what this pip does."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/python3"
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("BEHAVIOUR", str(tmp_path / "behaviour"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "behaviour"


def fetch(folder: Path, *requirements: str) -> str:
    pip.fetch_wheels(requirements, GUEST, folder / "wheels", Silent())
    return (folder / "wheels/lock.txt").read_text()


def test_what_came_is_locked(fake: Path, tmp_path: Path) -> None:
    fake.write_text('echo x > "$folder/Foo_Bar-1.0-cp313-cp313-manylinux_2_28_x86_64.whl"\n')
    lock = fetch(tmp_path, "foo.bar==1.0")
    digest = sha256_of(tmp_path / "wheels/Foo_Bar-1.0-cp313-cp313-manylinux_2_28_x86_64.whl")
    assert lock == f"foo-bar==1.0 --hash=sha256:{digest}\n"
    assert sorted(path.suffix for path in (tmp_path / "wheels").iterdir()) == [".txt", ".whl"], "no scratch is left"


def test_pip_is_asked_for_the_guest(fake: Path, tmp_path: Path) -> None:
    fake.write_text("")
    fetch(tmp_path, "x")
    words = (tmp_path / "log").read_text().splitlines()
    assert "--only-binary=:all:" in words
    assert "--python-version=3.13.5" in words
    markers = next(json.loads(word) for word in words if word.startswith("{"))
    assert (markers["python_version"], markers["python_full_version"]) == ("3.13", "3.13.5")
    platforms = [word.partition("=")[2] for word in words if word.startswith("--platform=")]
    assert platforms[0] == "manylinux_2_41_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"} <= set(platforms)


def test_a_pin_that_nobody_has(fake: Path, tmp_path: Path) -> None:
    versions = ", ".join(f"1.{n}" for n in range(20))
    fake.write_text(f'echo "{UNMET % ("requests==99", versions)}" >&2; exit 1\n')
    with pytest.raises(UsageError) as caught:
        fetch(tmp_path, "requests==99")
    assert caught.value.message == (
        "python: requests==99 can't be had for Python 3.13; there is 1.19, 1.18, 1.17, 1.16, 1.15, 1.14, 1.13, "
        "1.12, 1.11, 1.10, 1.9, 1.8 and 8 older"
    )


def test_a_name_that_nobody_has_or_no_network(fake: Path, tmp_path: Path) -> None:
    fake.write_text(f'echo "{UNMET % ("nothing", "none")}" >&2; exit 1\n')
    with pytest.raises(ProgramError, match="nothing of nothing could be had"):
        fetch(tmp_path, "nothing")


def source_only(wheel: str) -> str:
    """Nothing but source: what `pip wheel` makes of it, `pip download` then finds."""
    return (
        f'if [ $command = wheel ]; then echo x > "$folder/{wheel}"; exit 0; fi\n'
        'if ls "$links"/*.whl >/dev/null 2>&1; then cp "$links"/*.whl "$folder"; exit 0; fi\n'
        f'echo "{UNMET % ("docopt==0.6.2 (from alpha)", "none")}" >&2; exit 1\n'
    )


def test_pure_python_is_built_here(fake: Path, tmp_path: Path) -> None:
    fake.write_text(source_only("docopt-0.6.2-py2.py3-none-any.whl"))
    assert fetch(tmp_path, "alpha").startswith("docopt==0.6.2 --hash=sha256:")


def test_what_is_not_pure_python_is_refused_by_name(fake: Path, tmp_path: Path) -> None:
    fake.write_text(source_only("docopt-0.6.2-cp311-cp311-linux_x86_64.whl"))
    with pytest.raises(UsageError, match=r"docopt==0\.6\.2 has no wheel for Python 3\.13 .* not pure Python"):
        fetch(tmp_path, "alpha")


def test_a_failure_that_is_pip_s_own(fake: Path, tmp_path: Path) -> None:
    fake.write_text('echo "ERROR: ResolutionImpossible" >&2; exit 1\n')
    with pytest.raises(ProgramError, match="pip failed with 1:\nERROR: ResolutionImpossible"):
        fetch(tmp_path, "a", "b")


def test_a_host_without_pip(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PIP", "1")
    with pytest.raises(ProgramError) as caught:
        fetch(tmp_path, "x")
    assert caught.value.hint == "install it: apt install python3-pip"
