"""Each agent that ships, where its package can be had: built, booted, and seen alive by `make` and `verify`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovfbuild.spec.agents import agent_names, load_agent
from tests.integration import guests

pytestmark = pytest.mark.acceptance


@dataclass(frozen=True)
class Case:
    """An agent in an appliance, and how it is seen to live there."""

    agent: str
    """Lines of [agent], or an example's name."""
    seen: tuple[str, ...]
    told: tuple[str, ...] = ()
    """Given, `verify` boots it with these values, and sees it then; else `make` does."""


CASES = {
    "prometheus-node-exporter": Case(
        "examples/agent-package",
        ("HTTP port 9200, /metrics", "unit prometheus-node-exporter.service"),
        ("node-exporter.port=9200",),
    ),
    "archive": Case(
        "examples/agent-archive", ("unit greeter.service", "HTTP port 8080, /"), ('greeter.text=it\'s "me" $(id)',)
    ),
    "qemu-guest-agent": Case('profile = "qemu-guest-agent"', ("answer to guest-ping",)),
    "puppet-agent": Case('profile = "puppet-agent"', ("unit puppet.service", "file /var/lib/puppet/ssl/private_keys")),
    "zabbix-agent": Case(
        'profile = "zabbix-agent"', ("TCP port 10050", "unit zabbix-agent.service"), ("zabbix.server=10.0.2.2",)
    ),
    "package": Case(
        'profile = "package"\npackage = "memcached"\n[agent.settings]\nservice = "memcached"',
        ("unit memcached.service",),
    ),
}
ELSEWHERE = {"roboconf"}
"""Seen in test_roboconf.py."""


def test_the_list_says_which_were_seen() -> None:
    tested = {name for name in agent_names() if load_agent(name).agent.tested}
    assert tested == CASES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", CASES)
def test_it_is_seen_alive(tmp_path: Path, needs: Callable[..., None], name: str) -> None:
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs")
    case = CASES[name]
    ova = make(tmp_path, case.agent, *(("--no-boot",) if case.told else ()))
    said = ova.with_suffix(".log").read_text()
    if case.told:
        settings = [word for value in case.told for word in ("--set", value)]
        done = guests.command("verify", ova, "--boot", *settings)
        assert done.returncode == 0, done.stderr[-5000:]
        said = done.stderr
    title = load_agent(name).agent.title
    assert f"{title} was seen alive: {'; '.join(case.seen)}" in said


def make(folder: Path, agent: str, *options: str) -> Path:
    """Builds an example, or a Debian with nothing but the agent; what was said lies beside the OVA."""
    if agent.startswith("examples/"):
        shutil.copytree(guests.EXAMPLES / Path(agent).name, folder / "appliance")
    else:
        (folder / "appliance").mkdir()
        text = f'name = "agent"\nversion = "1"\n[base]\ndistribution = "debian:12"\n[agent]\n{agent}\n'
        (folder / "appliance/appliance.toml").write_text(text)
    done = guests.command("make", folder / "appliance", "-o", folder / "dist", *options)
    assert done.returncode == 0, done.stderr[-5000:]
    ova = Path(done.stdout.strip())
    ova.with_suffix(".log").write_text(done.stderr)
    return ova


def test_a_sign_that_can_not_be_seen_here_is_said_to_be_none(tmp_path: Path, needs: Callable[..., None]) -> None:
    """Open VM Tools run on VMware's hypervisors alone: built, booted, and warned of."""
    needs("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debugfs")
    said = make(tmp_path, 'profile = "open-vm-tools"').with_suffix(".log").read_text()
    assert "no sign of life was looked for (unit open-vm-tools.service: it is one on vmware alone" in said
