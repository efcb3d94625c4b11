"""What all tests share: programs that may be missing, and a cache of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Where the environment forbids .pyc files, each of a hundred commands would compile the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# A job in the background of a shell inherits an ignored SIGINT, and so would every command that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """`needs("qemu-img")`: a missing program skips the test on a laptop and fails it in CI."""

    def check(*programs: str) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        missing = [name for name in programs if shutil.which(name, path=path) is None]
        if missing:
            reason = f"not installed: {', '.join(missing)}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)

    return check


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache that nobody else uses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "ovfbuild"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What boots a guest gets a guest's time."""
    for item in items:
        if item.get_closest_marker("acceptance"):
            item.add_marker(pytest.mark.timeout(3600))
        elif item.get_closest_marker("guest"):
            item.add_marker(pytest.mark.timeout(1500))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side with `-n 2`: a module's tests stay together, for its servers, and so do all modules with guests."""
    from xdist.scheduler import LoadScopeScheduling

    class OneGuest(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "guests" if _boots(config.rootpath / module) else module

    return OneGuest(config, log)


@cache
def _boots(module: Path) -> bool:
    """Whether a test of a module starts QEMU."""
    return re.search(r"mark\.(qemu|guest|acceptance)\b", module.read_text(encoding="utf-8")) is not None
