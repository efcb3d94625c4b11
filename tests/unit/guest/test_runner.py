"""The runner's talk with the host, and that a message can start it."""

from __future__ import annotations

import json
import os
import pty
import threading
import tty
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.guest import report, runner, seal, steps
from ovfbuild.guest.steps import Guest, StepFailed


class Host:
    """The other end of the report port."""

    def __init__(self) -> None:
        self._fd, guest = pty.openpty()
        tty.setraw(guest)
        self.path = os.ttyname(guest)
        self._guest = guest

    def send(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        text = b""
        while not text.endswith(b"\n") or (b'"sealed"' not in text and b'"failed"' not in text):
            text += os.read(self._fd, 65536)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(report.Port, "__init__", _opens(host.path))
    monkeypatch.setattr(runner, "cloud_init_verdict", lambda guest: {"status": "done"})
    monkeypatch.setattr(seal, "seal", lambda orders, guest: None)
    monkeypatch.setattr(seal, "power_off", lambda: None)
    return host


def _opens(path: str) -> Any:
    def open_it(self: report.Port) -> None:
        self._stream = Path(path).open("r+b", buffering=0)  # noqa: SIM115

    return open_it


def seed(tmp_path: Path, *kinds: str) -> str:
    orders = {"steps": [{"kind": kind, "name": f"a {kind}"} for kind in kinds], "seal": {}}
    (tmp_path / "build.json").write_text(json.dumps(orders))
    return str(tmp_path)


def test_steps_are_reported_in_their_order(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps.STEPS, "speak", lambda step, guest: guest.say("wörds"))
    assert runner.main([seed(tmp_path, "speak", "speak")]) == 0
    heard = host.heard()
    assert [event["event"] for event in heard] == [
        "started",
        *("begin", "line", "end"),
        *("begin", "line", "end"),
        *("begin", "end"),
        "sealed",
    ]
    assert heard[2]["text"] == "wörds"


def test_a_message_starts_it_and_the_steps_are_the_same(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(steps.STEPS, "speak", lambda step, guest: guest.say("x"))
    thread = threading.Thread(target=runner.main, args=([seed(tmp_path, "speak"), "--listen"],))
    thread.start()
    host.send('{"order": "something else"}')
    thread.join(0.3)
    assert thread.is_alive(), "it waits for its order"
    host.send('{"order": "build"}')
    assert [event["event"] for event in host.heard()][:2] == ["started", "begin"]
    thread.join(5)
    assert not thread.is_alive()


def test_a_step_that_fails_is_the_last(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: dict[str, Any], guest: Guest) -> None:
        guest.say("almost")
        raise StepFailed("it broke")

    monkeypatch.setitem(steps.STEPS, "fail", fail)
    assert runner.main([seed(tmp_path, "fail", "fail")]) == 1
    last = host.heard()[-1]
    assert (last["event"], last["step"], last["error"], last["output"]) == ("failed", "a fail", "it broke", ["almost"])


def test_a_bug_of_ours_is_heard_too(host: Host, tmp_path: Path) -> None:
    assert runner.main([seed(tmp_path, "no such kind")]) == 1
    last = host.heard()[-1]
    assert last["event"] == "failed"
    assert "KeyError" in last["error"]
