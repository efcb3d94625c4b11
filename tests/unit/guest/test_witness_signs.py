"""What an appliance says of its agent's signs of life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.guest import witness_signs

HEARTBEAT = {
    "kind": "amqp",
    "server": "{{mq.host}}",
    "queue": "default.{{app}}.{{path}}",
    "routing_key": "{{app}}",
    "text": ["Beat", "{{path}}"],
    "within": 180.0,
}


def test_a_sign_is_filled_in_and_a_path_has_dots_in_a_queue_name() -> None:
    values = {"app": "shop", "path": "/vm1/web", "mq.host": "10.0.2.2:5673", "on": True}
    sign = witness_signs.filled({**HEARTBEAT, "when": {"on": "true"}}, values, "qemu")
    assert sign["queue"] == "default.shop.vm1.web"
    assert sign["server"] == "10.0.2.2:5673"
    assert sign["text"] == ["Beat", "/vm1/web"]
    assert sign["within"] == 180.0
    assert "skip" not in sign


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"when": {"on": "rabbitmq"}}, "on is not 'rabbitmq'"),
        ({"unless": {"app": "shop"}}, "app is 'shop'"),
        ({"virtualization": "vmware"}, "it is one on vmware alone, and this is qemu"),
        ({}, "it is not told path, mq.host"),
    ],
)
def test_a_sign_that_can_not_be_seen_here_says_why(more: dict[str, Any], why: str) -> None:
    sign = {"kind": "amqp", "queue": "{{app}}.{{path}}", "server": "{{mq.host}}", "text": "{{path}}", **more}
    assert witness_signs.filled(sign, {"app": "shop", "path": "", "on": "http"}, "qemu")["skip"] == why


def test_an_image_without_an_agent_has_none(tmp_path: Path) -> None:
    assert witness_signs.agent(str(tmp_path)) is None


def test_the_agent_is_what_the_image_says(tmp_path: Path) -> None:
    for path, value in (
        ("usr/lib/ovfbuild/agent.json", {"title": "Greeter", "alive": [{"kind": "tcp", "port": "{{port}}"}]}),
        ("etc/ovfbuild/identity.json", {"properties": {"port": 8080}}),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(value))
    assert witness_signs.agent(str(tmp_path)) == {"title": "Greeter", "signs": [{"kind": "tcp", "port": "8080"}]}


def test_what_only_the_guest_sees_is_told_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.touch()
    monkeypatch.setattr(witness_signs, "ask", lambda *argv: "one line\nis here")
    signs: list[dict[str, Any]] = [
        {"kind": "tcp", "port": "1", "within": 0},
        {"kind": "file", "path": str(there), "within": 0},
        {"kind": "file", "path": str(tmp_path / "not"), "within": 0},
        {"kind": "file", "path": "/", "within": 0, "skip": "not here"},
        {"kind": "journal", "unit": "a.service", "text": ["line", "here"], "within": 0},
        {"kind": "journal", "unit": "a.service", "text": ["gone"], "within": 0},
    ]
    told: list[tuple[int, str]] = []
    witness_signs.watch(signs, lambda event, number, unseen: told.append((number, unseen)))
    assert told == [
        (1, ""),
        (2, f"{tmp_path}/not is not there"),
        (4, ""),
        (5, "the journal of a.service has no line with gone"),
    ]


def test_a_unit_that_is_restarted_is_not_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_signs, "STEADY", 0.0)
    states = iter(["ActiveState=active\nMainPID=7\nNRestarts=0", "ActiveState=active\nMainPID=9\nNRestarts=1"])
    last = "ActiveState=activating\nNRestarts=1"
    monkeypatch.setattr(witness_signs, "ask", lambda *argv: next(states, last))
    assert witness_signs.unit({"unit": "a.service"}).startswith("a.service is not steadily active: ")
    assert "activating" in witness_signs.unit({"unit": "a.service"})
    monkeypatch.setattr(witness_signs, "ask", lambda *argv: "ActiveState=active\nMainPID=9")
    assert witness_signs.unit({"unit": "a.service"}) == ""
