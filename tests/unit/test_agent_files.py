"""What an agent's source names is fetched and verified before a VM starts."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovfbuild.agent_files import agent_files
from ovfbuild.cache import Cache
from ovfbuild.errors import FileError
from ovfbuild.progress import LogProgress
from ovfbuild.spec.appliance import from_table, load
from ovfbuild.spec.plan import Plan, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGEST = "sha256:" + hashlib.sha256(b"an archive").hexdigest()
WRONG = "sha256:" + "0" * 64


def plan_of(folder: Path, **source: str) -> Plan:
    agent = {"profile": "archive", "settings": {"command": "x"}, **source}
    table = {"name": "a", "version": "1", "base": {"distribution": "debian:12"}, "agent": agent}
    return resolve(from_table(table, folder), {})


def fetched(plan: Plan) -> dict[str, bytes]:
    found = agent_files(plan, Cache(), LogProgress(io.StringIO(), False), offline=False)
    return {name: path.read_bytes() for name, path in found.items()}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.tgz").write_bytes(b"an archive")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    one = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{one.server_port}"
    one.shutdown()


def test_a_url(own_cache: Path, tmp_path: Path, server: str) -> None:
    plan = plan_of(tmp_path, archive=f"{server}/a.tgz", checksum=DIGEST)
    assert fetched(plan) == {"agent/archive": b"an archive"}
    with pytest.raises(FileError, match="has the sha256"):
        fetched(plan_of(tmp_path, archive=f"{server}/a.tgz", checksum=WRONG))


def test_maven(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    body = 'for w in "$@"; do case $w in -DoutputDirectory=*) printf "an archive" > "${w#*=}/a.tgz";; esac; done'
    (tmp_path / "bin/mvn").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "bin/mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert fetched(plan_of(tmp_path, maven="g:a:1:tar.gz")) == {"agent/archive": b"an archive"}
    assert fetched(plan_of(tmp_path, maven="g:a:1:tar.gz", checksum=DIGEST)) == {"agent/archive": b"an archive"}
    with pytest.raises(FileError, match=r"g:a:1:tar\.gz: its sha256 is"):
        fetched(plan_of(tmp_path, maven="g:a:1:tar.gz", checksum=WRONG))


def test_nothing_is_fetched_where_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(b"an archive")
    assert fetched(plan_of(tmp_path, archive="a.tgz", checksum=DIGEST)) == {}


@pytest.mark.parametrize("name", ["agent-package", "agent-archive", "roboconf"])
def test_the_examples_come_to_a_plan(name: str) -> None:
    plan = resolve(load(EXAMPLES / name), {})
    assert plan.agent
    assert plan.deployment.properties
    assert len((EXAMPLES / name / "README.md").read_text().splitlines()) <= 20
