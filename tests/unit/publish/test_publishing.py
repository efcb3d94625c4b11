"""What leaves the publisher has no secret in it, a bug neither."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import ProgramError, PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish import clouds
from ovfbuild.publish.cloud import Standing, Surroundings
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Publisher
from ovfbuild.tries import Patience, TryAgain
from tests.unit.publish.kit import Heard, ova, target

SECRET = "hush-hush-0815"
QUICK = Patience(tries=2, first_wait=0.001, longest_wait=0.001)


class Telltale:
    """A cloud that tells its password wherever it can."""

    def __init__(self, around: Surroundings, error: Exception | None, room: int | None = None) -> None:
        self._around, self._error, self._room = around, error, room

    def standing(self, *, write: bool) -> Standing:
        secret = self._around.secrets.read("x", "SECRET", None)
        self._around.progress.note(f"logged in with {secret}")
        if self._error:
            raise self._error
        return Standing("here", self._room)


def publisher(monkeypatch: pytest.MonkeyPatch, heard: Silent, **how: Any) -> Publisher:
    @contextmanager
    def connect(_: object, around: Surroundings) -> Iterator[Any]:
        yield Telltale(around, how.get("error"), how.get("room"))

    monkeypatch.setattr(clouds, "CLOUDS", {"http": connect})
    return Publisher(heard, environ={"SECRET": SECRET}, patience=QUICK)


ERRORS = [PublishError(f"no {SECRET}", f"not {SECRET}"), TryAgain(f"again {SECRET}"), KeyError(f"a bug: {SECRET}")]


@pytest.mark.parametrize("error", ERRORS, ids=["refused", "failed", "a bug"])
def test_no_error_has_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path, error: Exception
) -> None:
    heard = Heard()
    aim = target(tmp_path, name="x", kind="http", url="https://x.example")
    with pytest.raises((PublishError, RuntimeError)) as caught:
        publisher(monkeypatch, heard, error=error).publish(ova(tmp_path / "a.ova"), aim, How())
    told = "".join(traceback.format_exception(caught.value)) + getattr(caught.value, "hint", "") + heard.text
    assert SECRET not in told
    assert "***" in str(caught.value) and "logged in with ***" in heard.text
    assert "verify" not in heard.said, "the package is not read before the target has let us in"


def test_what_does_not_fit_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path) -> None:
    aim = target(tmp_path, name="x", kind="http", url="https://x.example")
    with pytest.raises(PublishError, match="here has 0 MB free"):
        publisher(monkeypatch, Silent(), room=1000).publish(ova(tmp_path / "a.ova"), aim, How())


@pytest.mark.parametrize(("kind", "module", "extra"), [("s3", "boto3", "s3"), ("libvirt", "libvirt", "libvirt")])
def test_a_library_that_is_missing_says_which_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path, kind: str, module: str, extra: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"ovfbuild.publish.{kind}", raising=False)
    more = {"bucket": "b"} if kind == "s3" else {}
    with pytest.raises(ProgramError, match="is not installed") as caught:
        Publisher(Silent(), environ={}).publish(
            ova(tmp_path / "a.ova"), target(tmp_path, name="x", kind=kind, **more), How()
        )
    assert caught.value.hint == f"install it: pip install 'ovfbuild[{extra}]'"
