"""pip and npm themselves, with the registries that this host is configured with; no VM."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.guest import libraries
from ovfbuild.guest.steps import Guest
from ovfbuild.progress import Silent
from ovfbuild.vm import npm, pip

NEWER = pip.GuestPython("3.13.5", (2, 41))
HERE = pip.GuestPython(".".join(map(str, sys.version_info[:3])), (2, 36))


@pytest.fixture(autouse=True)
def _network(needs: object, tmp_path: Path) -> None:
    """A laptop without a network skips; CI fails."""
    (tmp_path / "probe").mkdir()
    try:
        pip.fetch_wheels(["six==1.17.0"], HERE, tmp_path / "probe", Silent())
    except ProgramError as error:
        if not os.environ.get("CI"):
            pytest.skip(f"no index can be reached: {error.message}")
        raise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fetched").mkdir()
    return tmp_path / "fetched"


def names(folder: Path) -> set[str]:
    return {line.split("==")[0] for line in (folder / "lock.txt").read_text().splitlines()}


def test_wheels_of_another_python_than_the_host_s(folder: Path) -> None:
    """A compiled wheel of the guest's, one built from source, and a marker that is the guest's."""
    wanted = ["PyYAML==6.0.2", "docopt==0.6.2", 'tomli==2.0.1; python_version < "3.13"']
    pip.fetch_wheels(wanted, NEWER, folder, Silent())
    assert names(folder) == {"pyyaml", "docopt"}
    assert any("cp313" in path.name for path in folder.glob("*.whl"))


def test_a_pin_that_the_index_has_not(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"requests==99 can't be had for Python 3\.13; there is .*2\.\d+"):
        pip.fetch_wheels(["requests==99"], NEWER, folder, Silent())


def test_what_was_fetched_installs_without_an_index(folder: Path, tmp_path: Path) -> None:
    pip.fetch_wheels(["requests==2.32.3"], HERE, folder, Silent())
    guest = Guest(str(folder), lambda text: None)
    libraries.make_venv(str(tmp_path / "venv"), str(folder), guest, sys.executable)
    program = "import requests; print(requests.__version__, requests.__file__)"
    assert libraries.said_by([str(tmp_path / "venv/bin/python"), "-c", program]).startswith(f"2.32.3 {tmp_path}/venv/")


def test_npm_s_packages(folder: Path, tmp_path: Path, needs: object) -> None:
    assert callable(needs)
    needs("npm", "node")
    npm.fetch_packages(["cowsay@1.6.0"], folder, Silent())
    lock = json.loads((folder / "lock.json").read_text())
    assert ("cowsay", "1.6.0") in [(one["name"], one["version"]) for one in lock["packages"]]
    guest = Guest(str(folder), lambda text: None)
    libraries.put_node_packages(str(folder), str(tmp_path / "lib"), guest, str(tmp_path / "bin"))
    assert "moo" in libraries.said_by([str(tmp_path / "bin/cowsay"), "moo"])
    with pytest.raises(UsageError, match=r"is-odd@99 can't be had; there is 3\.0\.1"):
        npm.fetch_packages(["is-odd@99"], tmp_path, Silent())
