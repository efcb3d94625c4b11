"""The cache, used by several threads and processes, some of which are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovfbuild.cache import Cache, cache_root

DAY = 86400.0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def leave(folder: Path, text: str = "x") -> None:
    (folder / "file").write_text(text)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def maker(cache: Cache, script: str) -> subprocess.Popen[bytes]:
    """Another process with the same cache; `script` has `cache`."""
    head = f"import pathlib, time; from ovfbuild.cache import Cache; cache = Cache(pathlib.Path({str(cache.root)!r}))\n"
    return subprocess.Popen([sys.executable, "-c", head + script])


def test_an_entry_is_made_once(cache: Cache) -> None:
    assert cache.find("disks", "d1") is None
    entry, made = cache.obtain("disks", "d1", "a disk", lambda f: leave(f, "1"))
    assert made
    assert (entry.kind, entry.digest, entry.about) == ("disks", "d1", "a disk")
    assert entry.path == cache.root / "disks" / "d1"
    same, made = cache.obtain("disks", "d1", "a disk", lambda f: leave(f, "2"))
    assert not made
    assert (same.path / "file").read_text() == "1"
    assert entry.size >= 8192


def test_again(cache: Cache) -> None:
    cache.obtain("disks", "d1", "old", lambda f: leave(f, "1"))
    entry, made = cache.obtain("disks", "d1", "new", lambda f: leave(f, "2"), again=True)
    assert made
    assert (entry.path / "file").read_text() == "2"
    assert entry.about == "new"
    assert [e.digest for e in cache.entries()] == ["d1"]
    assert sorted(p.name for p in cache.root.iterdir()) == ["disks", "locks", "work"]
    assert list((cache.root / "work").iterdir()) == []


def test_threads_make_it_once(cache: Cache) -> None:
    makes: list[int] = []

    def make(folder: Path) -> None:
        makes.append(1)
        time.sleep(0.1)
        leave(folder)

    def obtain() -> None:
        results.append(Cache(cache.root).obtain("disks", "d1", "", make)[1])

    results: list[bool] = []
    threads = [threading.Thread(target=obtain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makes) == 1
    assert sorted(results) == [False, False, False, True]


def test_processes_make_it_once(cache: Cache, tmp_path: Path) -> None:
    script = (
        "def make(folder):\n"
        f"    open({str(tmp_path / 'makes')!r}, 'a').write('x')\n"
        "    time.sleep(0.3)\n"
        "cache.obtain('disks', 'd1', '', make)\n"
    )
    makers = [maker(cache, script) for _ in range(3)]
    assert [one.wait(30) for one in makers] == [0, 0, 0]
    assert (tmp_path / "makes").read_text() == "x"


def test_a_make_that_fails_leaves_nothing(cache: Cache) -> None:
    cache.obtain("disks", "d1", "", lambda f: leave(f, "kept"))

    def make(folder: Path) -> None:
        leave(folder)
        raise RuntimeError("no")

    for digest in ("d1", "d2"):
        with pytest.raises(RuntimeError):
            cache.obtain("disks", digest, "", make, again=True)
    assert cache.find("disks", "d2") is None
    assert [(e.path / "file").read_text() for e in cache.entries()] == ["kept"]
    assert list((cache.root / "work").iterdir()) == []


def test_a_killed_make_leaves_no_entry(cache: Cache, tmp_path: Path) -> None:
    script = (
        "def make(folder):\n"
        "    (folder / 'file').write_text('half')\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(60)\n"
        "cache.obtain('disks', 'd1', '', make)\n"
    )
    child = maker(cache, script)
    wait_for(tmp_path / "begun")
    assert cache.prune(0) == []
    assert len(list((cache.root / "work").iterdir())) == 1, "one in use is spared"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert cache.find("disks", "d1") is None
    assert cache.entries() == []
    entry, made = cache.obtain("disks", "d1", "", leave)
    assert made
    assert (entry.path / "file").read_text() == "x"
    cache.prune(DAY)
    assert len(list((cache.root / "work").iterdir())) == 1, "the killed one's, for a day"
    cache.prune(0)
    assert list((cache.root / "work").iterdir()) == []


def test_prune_goes_by_the_last_use(cache: Cache) -> None:
    for digest in ("old", "used", "new"):
        entry, _ = cache.obtain("disks", digest, "", leave)
        if digest != "new":
            os.utime(entry.path, (time.time() - 9 * DAY,) * 2)
    assert cache.find("disks", "used") is not None
    assert [e.digest for e in cache.prune(8 * DAY)] == ["old"]
    assert {e.digest for e in cache.entries()} == {"used", "new"}
    assert len(cache.prune(3 * DAY, now=time.time() + 4 * DAY)) == 2
    assert cache.entries() == []


def test_a_workspace_is_gone_at_the_end(cache: Cache) -> None:
    with cache.workspace() as folder:
        leave(folder)
    assert not folder.exists()
    with pytest.raises(ValueError, match="x"), cache.workspace() as folder:
        raise ValueError("x")
    assert not folder.exists()


def test_what_can_be_resumed_is_found_again(cache: Cache) -> None:
    with pytest.raises(ValueError, match="x"), cache.resumable("download-1") as folder:
        leave(folder, "half")
        raise ValueError("x")
    with Cache(cache.root).resumable("download-1") as folder:
        assert (folder / "file").read_text() == "half"
        cache.prune(0)
        assert folder.exists()
    assert not folder.exists()
    with pytest.raises(ValueError, match="x"), cache.resumable("download-1"):
        raise ValueError("x")
    cache.prune(0)
    assert not folder.exists()


def test_a_removal_that_was_killed_is_ended_by_prune(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.obtain("disks", "d1", "", leave)
    with monkeypatch.context() as patched:
        patched.setattr("ovfbuild.cache.shutil.rmtree", lambda _: None)
        cache.prune(0)
    assert cache.entries() == []
    assert list((cache.root / "disks").iterdir()) == []
    cache.prune(0)
    assert list((cache.root / "work").iterdir()) == []


def test_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_root() == Path("/x/ovfbuild")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # "must be absolute", says the specification
    monkeypatch.setenv("HOME", "/h")
    assert cache_root() == Path("/h/.cache/ovfbuild")
