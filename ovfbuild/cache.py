"""What can be computed again, kept under `$XDG_CACHE_HOME/ovfbuild` by the digest of what made it.

An entry is a folder `KIND/DIGEST/`. It is made in a folder of another name and renamed when it is
whole, so an entry that can be seen is complete. Its age is its `made` file's modification time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_MADE = "made"


@dataclass(frozen=True)
class Entry:
    """One thing in the cache."""

    kind: str
    digest: str
    path: Path
    made: float
    """When it was made, in seconds since the epoch."""
    used: float
    """When a build last took it."""
    size: int
    """Bytes that it takes on the disk (holes cost nothing)."""
    about: str
    """What it is, in its maker's words."""


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/ovfbuild`, by default `~/.cache/ovfbuild`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "ovfbuild"


class Cache:
    """The entries under one root."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()

    def find(self, kind: str, digest: str) -> Entry | None:
        """The entry, or None. Finding it counts as using it."""
        folder = self.root / kind / digest
        made = folder / _MADE
        if not made.exists():
            return None
        os.utime(folder)
        return self._entry(kind, folder)

    def obtain(
        self,
        kind: str,
        digest: str,
        about: str,
        make: Callable[[Path], None],
        *,
        again: bool = False,
        on_wait: Callable[[], None] | None = None,
    ) -> tuple[Entry, bool]:
        """The entry, made by `make(folder)` if there is none yet (or `again`); and whether it was made now.

        Two processes that want the same entry make it once: the second waits for the first, and says
        so by `on_wait`.
        """
        with self._lock(kind, digest, on_wait):
            found = None if again else self.find(kind, digest)
            if found:
                return found, False
            with self.workspace(f"{kind}-") as work:
                make(work)
                (work / _MADE).write_text(about + "\n", encoding="utf-8")
                folder = self.root / kind / digest
                folder.parent.mkdir(parents=True, exist_ok=True)
                self._remove(folder)
                work.rename(folder)
            entry = self.find(kind, digest)
            assert entry is not None
            return entry, True

    @contextmanager
    def workspace(self, prefix: str = "work-") -> Iterator[Path]:
        """A scratch folder on the cache's file system, gone at the end (a killed build's: with `prune`)."""
        base = self.root / "work"
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        try:
            with _in_use(folder):
                yield folder
        finally:
            self._remove(folder)

    @contextmanager
    def resumable(self, name: str) -> Iterator[Path]:
        """A scratch folder that its next user finds as this one left it; gone when its block ends well.

        One user at a time: hold the lock of the entry that it is for.
        """
        folder = self.root / "work" / name
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        with _in_use(folder):
            yield folder
        self._remove(folder)

    def entries(self) -> list[Entry]:
        """All entries, newest use first."""
        found = [
            self._entry(kind.name, folder)
            for kind in (self.root.iterdir() if self.root.is_dir() else ())
            if kind.is_dir() and kind.name not in ("work", "locks")
            for folder in kind.iterdir()
            if (folder / _MADE).exists()
        ]
        return sorted(found, key=lambda entry: -entry.used)

    def prune(self, older_than: float, *, now: float | None = None) -> list[Entry]:
        """Removes what was not used for `older_than` seconds, and workspaces of killed builds a day old."""
        limit = (time.time() if now is None else now) - older_than
        gone = [entry for entry in self.entries() if entry.used <= limit]
        for entry in gone:
            with self._lock(entry.kind, entry.digest):
                self._remove(entry.path)
        day_ago = time.time() - min(86400.0, older_than)
        work = self.root / "work"
        for folder in work.iterdir() if work.is_dir() else ():
            with suppress(FileNotFoundError):  # its build may end just now
                if folder.stat().st_mtime < day_ago and not _used(folder):
                    self._remove(folder)
        return gone

    def _entry(self, kind: str, folder: Path) -> Entry:
        return Entry(
            kind,
            folder.name,
            folder,
            made=(folder / _MADE).stat().st_mtime,
            used=folder.stat().st_mtime,
            size=sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()),
            about=(folder / _MADE).read_text(encoding="utf-8").strip(),
        )

    @contextmanager
    def _lock(self, kind: str, digest: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{kind}-{digest}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait:
                    on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove(self, folder: Path) -> None:
        """Gone from under its name at once, however long the deletion takes (killed in it: `prune`)."""
        if folder.exists():
            (self.root / "work").mkdir(exist_ok=True)
            doomed = Path(tempfile.mkdtemp(prefix=".doomed-", dir=self.root / "work"))
            folder.rename(doomed / "entry")
            shutil.rmtree(doomed)


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Says so to every process that asks `_used`, until the block, or this process, ends."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        os.close(held)


def _used(folder: Path) -> bool:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(held)
    return False
