"""Agents are data: those that ship, and what may be wrong with one of a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec.agent import BUILD_SLOT, SLOT
from ovfbuild.spec.agent_page import page
from ovfbuild.spec.agents import agent_names, load_agent
from ovfbuild.spec.appliance import Appliance
from ovfbuild.spec.plan import Plan, disk_inputs, resolve
from ovfbuild.spec.steps import AgentPackagesStep, FilesStep, ServicesStep, Step, UnpackStep

Make = Callable[..., Appliance]
ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "agents"

MINE = """
title = "Mine"
summary = "an agent of my own"
[source]
kind = "archive"
target = "/opt/mine"
[[properties]]
key = "mine.server"
setting = "server"
label = "Server"
[[units]]
name = "mine.service"
[[templates]]
target = "/etc/mine.conf"
text = "server = {{mine.server}}"
[[alive]]
kind = "unit"
unit = "mine.service"
"""


def plan_of(appliance: Appliance) -> Plan:
    return resolve(appliance, {})


def refused(appliance: Appliance) -> list[str]:
    with pytest.raises(UsageError) as caught:
        resolve(appliance, {})
    return [line.removeprefix("appliance.toml: ") for line in caught.value.message.split("\n")]


def agent_steps(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if step.name.startswith("agent ")]


def content(plan: Plan, target: str) -> str:
    """What a file of the agent's holds."""
    (entry,) = [e for step in plan.steps if isinstance(step, FilesStep) for e in step.entries if e.target == target]
    (blob,) = [blob for blob in plan.payload if blob.name == entry.blob]
    with blob.open() as stream:
        return stream.read().decode()


def template(plan: Plan, target: str) -> dict[str, Any]:
    """The one template that writes `target`."""
    places = [e.target for step in plan.steps if isinstance(step, FilesStep) for e in step.entries]
    found = [json.loads(content(plan, place)) for place in places if place.startswith("/usr/lib/ovfbuild/templates.d/")]
    (one,) = [entry for entry in found if entry["target"] == target]
    assert isinstance(one, dict)
    return one


# --- those that ship -----------------------------------------------------------------------------


def test_the_wanted_ones_ship() -> None:
    assert set(agent_names()) == {
        *("archive", "package", "roboconf", "qemu-guest-agent", "open-vm-tools", "salt-minion", "puppet-agent"),
        *("prometheus-node-exporter", "zabbix-agent", "telegraf"),
    }


@pytest.mark.parametrize("name", agent_names())
def test_each_is_whole(name: str) -> None:
    profile = load_agent(name)
    agent = profile.agent
    assert agent.title
    assert agent.summary
    assert agent.alive
    assert agent.units
    files = {path.name for path in profile.folder.iterdir()} - {"agent.toml"}
    used = {file.file for file in agent.files} | {t.file for t in agent.templates} | {unit.file for unit in agent.units}
    assert files == used - {None}, "nothing lies there that nobody reads"


@pytest.mark.parametrize("name", agent_names())
def test_each_page_of_the_docs_is_up_to_date(name: str) -> None:
    told = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert told == page(load_agent(name)), "write them anew: python -m ovfbuild.spec.agent_page docs/agents"


def test_there_are_no_other_pages() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(agent_names())


_TABLES = {
    "archive": 'archive = "agent.tar.gz"\n[agent.settings]\ncommand = "bin/agent"',
    "package": 'package = "chrony"\n[agent.settings]\nservice = "chrony"',
    "salt-minion": 'repository = "deb https://example.org/ stable main"\nkey = "key.asc"',
    "telegraf": 'repository = "deb https://example.org/ stable main"\nkey = "key.asc"',
    "roboconf": 'java_from = "own"',
}


@pytest.mark.parametrize("name", agent_names())
def test_each_comes_to_a_plan_in_which_nothing_is_left_to_fill_in(name: str, appliance: Make, folder: Path) -> None:
    (folder / "agent.tar.gz").write_bytes(b"an archive")
    (folder / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    plan = plan_of(appliance(f'[agent]\nprofile = "{name}"\n{_TABLES.get(name, "")}\n'))
    assert plan.agent
    keys = {prop.key for prop in plan.agent.properties} | {f"ovfbuild.{name}" for name in ("address", "interface")}
    for step in plan.steps:
        for entry in step.entries if isinstance(step, FilesStep) else ():
            text = content(plan, entry.target)
            assert not BUILD_SLOT.search(text), entry.target
            assert set(SLOT.findall(text)) <= keys, entry.target
    assert not BUILD_SLOT.search(json.dumps(plan.agent.to_json())), "nor in the seal's orders and the signs of life"
    about = json.loads(content(plan, "/usr/lib/ovfbuild/agent.json"))
    assert about["profile"] == name
    assert about["units"]


# --- packages ------------------------------------------------------------------------------------


def test_a_package_is_installed_and_waits_for_the_broker(appliance: Make) -> None:
    plan = plan_of(appliance('[agent]\nprofile = "zabbix-agent"\n[agent.settings]\nserver = "zabbix.example.org"'))
    packages, files, services = agent_steps(plan)
    assert packages == AgentPackagesStep("agent packages", ("zabbix-agent",))
    assert services == ServicesStep("agent services", (), ("zabbix-agent.service",))
    assert isinstance(files, FilesStep)
    drop_in = content(plan, "/etc/systemd/system/zabbix-agent.service.d/50-ovfbuild.conf")
    assert "After=ovfbuild-firstboot.service network-online.target\n" in drop_in
    assert "Wants=ovfbuild-firstboot.service network-online.target\n" in drop_in
    assert template(plan, "/etc/zabbix/zabbix_agentd.conf") == {
        "target": "/etc/zabbix/zabbix_agentd.conf",
        "mode": "0644",
        "owner": "root",
        "format": "raw",
        "restart": ["zabbix-agent.service"],
        "text": load_agent("zabbix-agent").text("zabbix_agentd.conf"),
    }
    assert [one.default for one in plan.deployment.properties if one.key == "zabbix.server"] == ["zabbix.example.org"]
    assert plan.agent_packages


def test_a_version_pins_the_package(appliance: Make) -> None:
    plan = plan_of(appliance('[agent]\nprofile = "zabbix-agent"\nversion = "1:6.0.14+dfsg-1+b1"'))
    assert agent_steps(plan)[0] == AgentPackagesStep("agent packages", ("zabbix-agent=1:6.0.14+dfsg-1+b1",))


def test_the_generic_package(appliance: Make) -> None:
    table = '[agent]\nprofile = "package"\npackage = "chrony=4.3-2"\n[agent.settings]\nservice = "chrony"'
    plan = plan_of(appliance(table))
    assert agent_steps(plan)[0] == AgentPackagesStep("agent packages", ("chrony=4.3-2",))
    assert agent_steps(plan)[-1] == ServicesStep("agent services", (), ("chrony.service",))
    assert refused(appliance('[agent]\nprofile = "package"')) == [
        'agent.package: is missing; for example package = "prometheus-node-exporter"',
        'agent.settings.service: is missing; for example service = "prometheus-node-exporter"',
    ]


def test_a_repository_of_a_third_party_stays_with_its_own_key(appliance: Make, folder: Path) -> None:
    (folder / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    (folder / "key.gpg").write_bytes(b"\x99\x01")
    table = '[agent]\nprofile = "salt-minion"\nrepository = "deb [arch=amd64] https://example.org/ stable main"\n'
    (step, *_) = agent_steps(plan_of(appliance(table + 'key = "key.asc"')))
    assert isinstance(step, AgentPackagesStep)
    assert step.key_path == "/etc/apt/keyrings/agent.asc"
    assert step.repository == f"deb [arch=amd64 signed-by={step.key_path}] https://example.org/ stable main"
    (step, *_) = agent_steps(plan_of(appliance(table + 'key = "key.gpg"')))
    assert isinstance(step, AgentPackagesStep)
    assert step.key_path == "/etc/apt/keyrings/agent.gpg"
    (said,) = refused(appliance('[agent]\nprofile = "salt-minion"'))
    assert said.startswith("agent.repository: is missing; write that of its makers")


# --- archives ------------------------------------------------------------------------------------


def test_the_generic_archive(appliance: Make, folder: Path) -> None:
    (folder / "agent.tar.gz").write_bytes(b"an archive")
    table = """
    [agent]
    profile = "archive"
    archive = "agent.tar.gz"
    [agent.settings]
    name = "probe"
    command = "bin/probe --fast"
    user = "probe"
    """
    plan = plan_of(appliance(table))
    unpack, accounts, _, services = agent_steps(plan)
    assert isinstance(unpack, UnpackStep)
    assert (unpack.target, unpack.strip) == ("/opt/probe", 1)
    assert accounts == ServicesStep("agent accounts", ("probe",), ())
    assert services == ServicesStep("agent services", (), ("probe.service",))
    unit = content(plan, "/etc/systemd/system/probe.service")
    assert "User=probe\n" in unit
    assert "ExecStart=/bin/sh -c 'exec bin/probe --fast'\n" in unit
    assert not plan.agent_packages


def test_a_unit_of_the_user_s_own_needs_no_command(appliance: Make, folder: Path) -> None:
    (folder / "agent.tar.gz").write_bytes(b"an archive")
    (folder / "probe.service").write_text("[Service]\nExecStart=/opt/agent/bin/probe\n")
    plan = plan_of(appliance('[agent]\nprofile = "archive"\narchive = "agent.tar.gz"\nunit = "probe.service"'))
    assert agent_steps(plan)[-1] == ServicesStep("agent services", (), ("probe.service",))
    assert "ExecStart=/opt/agent/bin/probe" in content(plan, "/etc/systemd/system/probe.service")
    assert "ovfbuild-firstboot" in content(plan, "/etc/systemd/system/probe.service.d/50-ovfbuild.conf")
    assert json.loads(content(plan, "/usr/lib/ovfbuild/agent.json"))["units"] == ["probe.service"]


def test_a_url_is_fetched_later_and_a_deb_installed(appliance: Make, folder: Path) -> None:
    digest = "sha256:" + "0" * 64
    table = f'[agent]\nprofile = "archive"\narchive = "https://example.org/a.tgz"\nchecksum = "{digest}"\n'
    plan = plan_of(appliance(table + '[agent.settings]\ncommand = "x"'))
    assert plan.agent
    (download,) = plan.agent.downloads
    assert (download.name, download.url, download.checksum) == ("agent/archive", "https://example.org/a.tgz", digest)
    (folder / "zabbix.deb").write_bytes(b"!<arch>")
    (step, *_) = agent_steps(plan_of(appliance('[agent]\nprofile = "zabbix-agent"\narchive = "zabbix.deb"')))
    assert isinstance(step, AgentPackagesStep)
    assert (step.packages, len(step.debs)) == ((), 1)


def test_what_decides_what_is_on_the_disk(appliance: Make, folder: Path) -> None:
    def inputs(archive: bytes, own: str = "") -> dict[str, Any]:
        (folder / "agent.tar.gz").write_bytes(archive)
        table = '[agent]\nprofile = "archive"\narchive = "agent.tar.gz"\n[agent.settings]\ncommand = "x"\n'
        return disk_inputs(plan_of(appliance(table + own)))

    first = inputs(b"one")
    assert first["agent"]["profile"] == load_agent("archive").digest
    assert first == inputs(b"one")
    assert first != inputs(b"two")
    assert first != inputs(b"one", 'name = "other"')
    assert "agent" not in disk_inputs(plan_of(appliance()))


# --- mistakes ------------------------------------------------------------------------------------


def test_mistakes_of_the_table_all_at_once(mistakes: Callable[..., list[str]]) -> None:
    found = mistakes(
        """
        [agent]
        profile = "robocnof"
        archive = "https://example.org/a.tgz"
        package = "chrony"
        key = "no.asc"
        plugin = []
        """
    )
    assert found[0] == "agent.profile: unknown agent 'robocnof'; did you mean 'roboconf'?"
    assert found[1].startswith("agent.key: 'no.asc' does not exist")
    assert found[2:] == [
        "agent.plugin: unknown key 'plugin'; did you mean 'plugins'?",
        "agent.package: stands beside archive; keep one of them",
        'agent.archive: is a URL without a checksum; add checksum = "sha256:…"',
        "agent.key: needs a repository beside it; add one",
    ]


def test_mistakes_between_the_table_and_the_profile(appliance: Make, folder: Path) -> None:
    (folder / "a.jar").write_bytes(b"")
    (folder / "a.txt").write_bytes(b"")
    table = """
    [hardware]
    memory = "512 MiB"
    [agent]
    profile = "roboconf"
    version = "0.5"
    plugins = ["scrpt", "puppet"]
    [[agent.extras]]
    into = "bundels"
    source = "a.jar"
    [[agent.extras]]
    into = "bundles"
    source = "a.txt"
    [agent.settings]
    mesaging = "rabbitmq"
    http.port = "8181"
    rabbitmq.username = 5
    max_memory = true
    """
    found = refused(appliance(table))
    assert "agent.version: roboconf is known from 0.6 to 0.9.1, not '0.5'" in found
    assert "agent.settings.mesaging: roboconf has no setting 'mesaging'; did you mean 'messaging'?" in found
    assert "agent.settings.http.port: must be an integer, not a string" in found
    assert "agent.settings.rabbitmq.username: must be a string, not an integer" in found
    assert "agent.settings.max_memory: must be a string, not a boolean" in found
    assert "agent.plugins[0]: roboconf has no plugin 'scrpt'; did you mean 'script'?" in found
    assert "agent.extras[0].into: roboconf has no folder 'bundels'; did you mean 'bundles'?" in found
    assert "agent.extras[1].source: 'a.txt' does not end in .jar or .kar or .xml, so nothing reads it" in found
    assert 'hardware.memory: is too little for roboconf; write at least "1024 MiB"' in found
    assert any(line.startswith("agent.profile: roboconf needs Java 7 to 8; write [java] version = 8") for line in found)
    assert len(found) == 10


def test_a_checksum_that_is_not_the_archive_s(appliance: Make, folder: Path) -> None:
    (folder / "agent.tar.gz").write_bytes(b"an archive")
    digest = "sha256:" + "0" * 64
    table = f'[agent]\nprofile = "archive"\narchive = "agent.tar.gz"\nchecksum = "{digest}"\n'
    (said,) = refused(appliance(table + '[agent.settings]\ncommand = "x"'))
    assert said.startswith("agent.checksum: the sha256 of ")


def test_mistakes_of_the_appliance_s_own_signs(appliance: Make, mistakes: Callable[..., list[str]]) -> None:
    table = """
    [agent]
    profile = "package"
    package = "chrony"
    [[agent.alive]]
    kind = "http"
    port = 80
    path = "/{{dm.hots}}"
    [agent.settings]
    service = "chrony"
    [[properties]]
    key = "dm.host"
    """
    (said,) = refused(appliance(table))
    assert said == "agent.alive[0]: speaks of {{dm.hots}}, which is no property; did you mean 'dm.host'?"
    wrong = table.replace("port = 80", 'port = "http"').replace("dm.hots", "dm.host").replace('path = "', 'pth = "')
    found = mistakes(wrong)
    assert any(line.startswith("agent.alive[0].port: must be a port or a property such as") for line in found)
    assert any(line.startswith("agent.alive[0].pth: ") for line in found)


# --- one's own folder ----------------------------------------------------------------------------


def test_a_folder_of_the_user_s_own(appliance: Make, folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/agent.toml").write_text(MINE)
    (folder / "mine.zip").write_bytes(b"an archive")
    plan = plan_of(appliance('[agent]\nprofile = "./mine"\narchive = "mine.zip"'))
    assert plan.agent
    assert plan.agent.name == "mine"
    assert [prop.key for prop in plan.deployment.properties] == ["mine.server"]
    assert template(plan, "/etc/mine.conf")["text"] == "server = {{mine.server}}"


def test_every_mistake_of_an_agent_toml_at_once(folder: Path) -> None:
    (folder / "wrong").mkdir()
    text = MINE.replace("{{mine.server}}", "{{mine.sever}} {{agent.port}}").replace('kind = "unit"', 'kind = "tcp"')
    text = text.replace('name = "mine.service"', 'name = "mine"\nfile = "no.service"').replace("/opt/mine", "opt")
    (folder / "wrong/agent.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_agent(folder / "wrong")
    prefix = f"{folder}/wrong/agent.toml: "
    found = [line.removeprefix(prefix) for line in caught.value.message.split("\n")]
    assert found == [
        "source.target: 'opt' is not an absolute path without '..'; begin it with '/'",
        "units[0].name: 'mine' is not a unit of systemd; such as \"agent.service\"",
        f"units[0].file: 'no.service' is not in {folder}/wrong; put the file there",
        "alive[0].port: is missing; a sign of kind tcp has one",
        "templates: templates[0].text speaks of {{agent.port}}, which is no setting; declare it in [[settings]]",
        "templates: templates[0].text speaks of {{mine.sever}}, which is no property; declare it in [[properties]]",
    ]


def test_a_folder_without_an_agent(folder: Path, mistakes: Callable[..., list[str]]) -> None:
    (folder / "empty").mkdir()
    (said,) = mistakes('[agent]\nprofile = "./empty"')
    assert said.startswith("agent.profile: ")
    assert said.endswith("agent.toml: No such file or directory")


def test_a_file_that_speaks_of_what_is_not_declared(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "own/agent.toml").write_text(MINE.replace('name = "mine.service"', 'name = "mine.service"\nfile = "u"'))
    (folder / "own/u").write_text("ExecStart={{agent.command}}\n")
    with pytest.raises(UsageError, match=r"units\[0\]\.file: u speaks of {{agent\.command}}, which is not declared"):
        load_agent(folder / "own")


# --- Roboconf ------------------------------------------------------------------------------------

CFG = "/etc/roboconf-agent/net.roboconf.agent.configuration.cfg"


def roboconf(appliance: Make, version: str, settings: str = "", table: str = "") -> Plan:
    text = f'[java]\narchive = "jre.tgz"\n[agent]\nprofile = "roboconf"\nversion = "{version}"\n{table}\n'
    return plan_of(appliance(f"{text}[agent.settings]\n{settings}"))


@pytest.fixture(autouse=True)
def java_archive(folder: Path) -> None:
    (folder / "jre.tgz").write_bytes(b"a Java")


@pytest.mark.parametrize("version", ["0.6", "0.6.1", "0.7", "0.8", "0.9", "0.9.1"])
def test_the_keys_of_each_version(appliance: Make, version: str) -> None:
    plan = roboconf(appliance, version)
    number = tuple(map(int, version.split(".")))
    text = template(plan, CFG)["text"]
    keys = [line.partition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert "root-instance-name" not in keys, "gone since 0.4, whatever the documentation says"
    assert ("domain" in keys) == ("network-interface" in keys) == (number >= (0, 8))
    assert ("parameters" in keys) == (number >= (0, 9))
    assert ("target-id" in keys) == (number < (0, 9))
    properties = {one.key: one for one in plan.deployment.properties}
    assert ("roboconf.domain" in properties) == (number >= (0, 8))
    assert properties["roboconf.messaging"].default == ("idle" if number >= (0, 9) else "http")
    assert ("idle" in properties["roboconf.messaging"].choices) == (number >= (0, 9))
    assert plan.agent
    sign = next(sign for sign in plan.agent.alive if sign["kind"] == "amqp")
    head = "{{roboconf.domain}}." if number >= (0, 8) else ""
    assert sign["exchange"] == head + "roboconf.dm"
    assert sign["queue"] == head + "{{roboconf.application}}.{{roboconf.path}}"
    assert plan.agent.downloads[0].maven == f"net.roboconf:roboconf-karaf-dist-agent:{version}:tar.gz"


def test_a_deployment_manager_s_own_words_are_known(appliance: Make) -> None:
    plan = roboconf(appliance, "0.9.1")
    aliases = {alias: key for key, names in plan.deployment.aliases.items() for alias in names}
    assert aliases["application.name"] == "roboconf.application"
    assert aliases["scoped.instance.path"] == "roboconf.path"
    assert aliases["net.roboconf.messaging.type"] == "roboconf.messaging"
    assert aliases["net.roboconf.messaging.rabbitmq.server.ip"] == "roboconf.rabbitmq.host"
    assert plan.deployment.drop_files == ("/tmp/roboconf.properties",)


def test_the_layout_and_the_service(appliance: Make) -> None:
    plan = roboconf(appliance, "0.9.1", table='plugins = ["script", "puppet"]')
    packages, unpack, accounts, _, services = agent_steps(plan)
    assert packages == AgentPackagesStep("agent packages", ("procps", "bash", "puppet-agent"))
    assert isinstance(unpack, UnpackStep)
    assert unpack.target == "/opt/roboconf-agent"
    assert dict(unpack.moves)["etc"] == "/etc/roboconf-agent"
    assert isinstance(accounts, ServicesStep)
    assert accounts.java == (7, 8)
    assert services == ServicesStep("agent services", (), ("roboconf-agent.service",))
    unit = content(plan, "/etc/systemd/system/roboconf-agent.service")
    assert "After=network-online.target ovfbuild-firstboot.service" in unit
    assert "KARAF_ETC=/etc/roboconf-agent" in unit
    assert "PrivateTmp" not in unit, "a Deployment Manager on vSphere drops a file in /tmp"
    assert template(plan, "/etc/roboconf-agent/net.roboconf.messaging.rabbitmq.cfg")["mode"] == "0600"


def test_java_is_guarded_before_a_vm_starts(appliance: Make) -> None:
    table = '[java]\nversion = 17\n[agent]\nprofile = "roboconf"'
    (said,) = refused(appliance(table))
    assert said.startswith("java.version: roboconf needs Java 7 to 8, not 17; write [java] version = 8")
    assert plan_of(appliance('[agent]\nprofile = "roboconf"\njava_from = "own"')).agent


def test_extras_are_of_the_versions_that_read_them(appliance: Make, folder: Path) -> None:
    (folder / "x.cfg.tpl").write_text("a = <domain>\n")
    (folder / "p.jar").write_bytes(b"PK")
    table = '[agent]\nprofile = "roboconf"\njava_from = "own"\nversion = "%s"\n'
    extras = '[[agent.extras]]\ninto = "templates"\nsource = "x.cfg.tpl"\n[[agent.extras]]\ninto = "bundles"\n'
    plan = plan_of(appliance(table % "0.8" + extras + 'source = "p.jar"'))
    assert content(plan, "/etc/roboconf-agent/roboconf/cfg-injection/x.cfg.tpl") == "a = <domain>\n"
    assert content(plan, "/opt/roboconf-agent/deploy/p.jar") == "PK"
    (said,) = refused(appliance(table % "0.7" + extras + 'source = "p.jar"'))
    assert said == "agent.extras[0].into: templates is of roboconf 0.8 and later; leave it out"


def test_a_password_is_not_shown(appliance: Make) -> None:
    plan = roboconf(appliance, "0.9.1", settings='rabbitmq.password = "geheim"\nrabbitmq.host = "mq:5672"')
    shown = json.dumps(plan.to_json())
    assert "geheim" not in shown
    assert "mq:5672" in shown
    assert [one.default for one in plan.deployment.properties if one.type == "password"] == ["geheim"]
