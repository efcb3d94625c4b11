"""A tree of npm's packages for a guest, with a double of npm on PATH."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.files import sha256_of
from ovfbuild.progress import Silent
from ovfbuild.vm import npm

FAKE = """\
#!/usr/bin/env python3
import json, os, pathlib, sys
world = json.loads(pathlib.Path(os.environ["WORLD"]).read_text())
if sys.argv[1] == "view":
    print(json.dumps(world["versions"])); sys.exit()
if "error" in world:
    print(world["error"], file=sys.stderr); sys.exit(1)
assert "--ignore-scripts" in sys.argv
lock = {"": {"dependencies": {word.rpartition("@")[0]: "x" for word in sys.argv[sys.argv.index("--") + 1:]}}}
for path, (package, entry, files) in world["tree"].items():
    folder = pathlib.Path("node_modules", path)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps(package))
    for name in files:
        (folder / name).write_text("#!/usr/bin/env node")
    lock[f"node_modules/{path}"] = {"version": package["version"], "resolved": "https://index.example/x", **entry}
pathlib.Path("node_modules/.package-lock.json").write_text(json.dumps(lock))
pathlib.Path("package-lock.json").write_text(json.dumps({"packages": lock}))
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what this npm knows, as JSON."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/npm"
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("WORLD", str(tmp_path / "world.json"))
    return tmp_path / "world.json"


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def fetch(folder: Path, *packages: str) -> tuple[dict[str, Any], list[str]]:
    folder.mkdir()
    progress = Notes()
    npm.fetch_packages(packages, folder, progress)
    assert sorted(path.name for path in folder.iterdir()) == ["lock.json", "packages.tar"]
    found: dict[str, Any] = json.loads((folder / "lock.json").read_text())
    return found, progress.notes


def tree(**more: Any) -> dict[str, Any]:
    return {
        "tool": [{"name": "tool", "version": "1.0.0", "bin": {"tool": "./cli.js"}}, {}, ["cli.js"]],
        "@a/b": [{"name": "@a/b", "version": "2.0.0", "bin": "run.js"}, {}, ["run.js"]],
        **more,
    }


def test_a_tree_and_its_commands(world: Path, tmp_path: Path) -> None:
    world.write_text(json.dumps({"tree": tree()}))
    lock, notes = fetch(tmp_path / "one", "tool@1", "@a/b@2")
    assert lock["commands"] == {"tool": "node_modules/tool/cli.js", "b": "node_modules/@a/b/run.js"}
    assert [(one["name"], one["version"]) for one in lock["packages"]] == [("@a/b", "2.0.0"), ("tool", "1.0.0")]
    assert notes == []
    with tarfile.open(tmp_path / "one/packages.tar") as archive:
        names = archive.getnames()
        assert {(member.uid, member.gid, member.mtime) for member in archive} == {(0, 0, 315532800)}
    assert "node_modules/tool/cli.js" in names
    assert not [name for name in names if "lock" in name], "it names the host's registry"


def test_the_same_tree_the_same_bytes(world: Path, tmp_path: Path) -> None:
    world.write_text(json.dumps({"tree": tree()}))
    fetch(tmp_path / "one", "tool@1")
    fetch(tmp_path / "two", "tool@1")
    for name in ("packages.tar", "lock.json"):
        assert sha256_of(tmp_path / "one" / name) == sha256_of(tmp_path / "two" / name)


def test_what_must_be_compiled_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    gyp = [{"name": "native", "version": "3.0.0"}, {}, ["binding.gyp"]]
    script = [{"name": "fetcher", "version": "4.0.0", "scripts": {"install": "node-gyp rebuild"}}, {}, []]
    world.write_text(json.dumps({"tree": tree(native=gyp, fetcher=script)}))
    with pytest.raises(UsageError) as caught:
        fetch(tmp_path / "one", "tool@1")
    assert caught.value.message.split("\n") == [
        "node: native 3.0.0 must be compiled when it is installed",
        "node: fetcher 4.0.0 must be compiled when it is installed",
    ]


def test_what_is_optional_is_left_out_as_npm_does(world: Path, tmp_path: Path) -> None:
    gyp = [{"name": "native", "version": "3.0.0"}, {"optional": True}, ["binding.gyp"]]
    world.write_text(json.dumps({"tree": tree(native=gyp)}))
    lock, notes = fetch(tmp_path / "one", "tool@1")
    assert "native" not in str(lock)
    assert notes == ["native 3.0.0 is optional and would be compiled; left out"]


def test_an_install_script_is_not_run_and_told(world: Path, tmp_path: Path) -> None:
    script = [{"name": "talker", "version": "1.0.0", "scripts": {"postinstall": "node thanks.js"}}, {}, []]
    world.write_text(json.dumps({"tree": tree(talker=script)}))
    _, notes = fetch(tmp_path / "one", "tool@1")
    assert notes == ["talker 1.0.0: its install script is not run (node thanks.js)"]


def test_a_pin_that_nobody_has(world: Path, tmp_path: Path) -> None:
    said = "npm error code ETARGET\nnpm error notarget No matching version found for @a/b@99."
    world.write_text(json.dumps({"error": said, "versions": ["1.0.0", "2.0.0"]}))
    with pytest.raises(UsageError, match=r"node: @a/b@99 can't be had; there is 2\.0\.0, 1\.0\.0"):
        fetch(tmp_path / "one", "@a/b@99")


def test_a_failure_that_is_npm_s_own(world: Path, tmp_path: Path) -> None:
    world.write_text(json.dumps({"error": "npm error code E404"}))
    with pytest.raises(ProgramError, match="npm error code E404"):
        fetch(tmp_path / "one", "x")


def test_a_host_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError) as caught:
        fetch(tmp_path / "one", "x")
    assert caught.value.hint == "install it: apt install npm"
