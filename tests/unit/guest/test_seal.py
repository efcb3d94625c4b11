"""What the seal takes out and leaves, in a tree that looks like a guest's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild.guest import seal

LEFT_OVER = (
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/apt/apt.conf.d/99ovfbuild-build",
    "etc/shadow-",
    "etc/systemd/network/10-cloud-init-ens6.network",
    "var/lib/cloud/instances/i-1/user-data.txt",
    "var/lib/cloud/data/result.json",
    "var/log/cloud-init.log",
    "var/log/journal/0123/system.journal",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/apt/lists/mirror_Packages",
    "var/cache/apt/archives/curl.deb",
    "tmp/x",
    "tmp/.hidden",
    "var/tmp/ovfbuild-1/script",
    "etc/ovfbuild/identity.json",
    "etc/ovfbuild/identity.env",
    "var/lib/ovfbuild/identity.json",
    "root/.bash_history",
    "home/admin/.cache/x",
    "home/admin/.ssh/known_hosts",
)
STAYS = (
    "etc/ssh/sshd_config",
    "etc/passwd",
    "etc/apt/sources.list",
    "home/admin/.ssh/authorized_keys",
    "var/lib/dpkg/status",
    "etc/systemd/network/20-mine.network",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*LEFT_OVER, *STAYS, "var/log/syslog", "var/log/syslog.1", "var/log/nginx/access.log"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 build\n")
    (tmp_path / "etc/machine-id").write_text("0123\n")
    (tmp_path / "var/lib/dbus").mkdir()
    (tmp_path / "var/lib/dbus/machine-id").write_text("0123\n")
    return tmp_path


def test_leftovers_go_and_what_is_the_appliances_stays(root: Path) -> None:
    seal.remove_leftovers(str(root))
    assert [name for name in LEFT_OVER if (root / name).exists()] == []
    assert [name for name in STAYS if not (root / name).exists()] == []


def test_logs_stay_empty_and_rotated_ones_go(root: Path) -> None:
    seal.empty_logs(str(root))
    assert (root / "var/log/nginx/access.log").stat().st_size == 0
    assert (root / "var/log/syslog").stat().st_size == 0
    assert not (root / "var/log/syslog.1").exists()


def test_identity(root: Path) -> None:
    seal.reset_identity("hello", str(root))
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "etc/machine-id").stat().st_mode & 0o777 == 0o444
    assert (root / "var/lib/dbus/machine-id").readlink() == Path("/etc/machine-id")
    assert (root / "etc/hostname").read_text() == "hello\n"
    assert (root / "etc/hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 hello\n"


def test_the_first_boot_finds_what_it_needs(root: Path) -> None:
    seal.leave_first_boot({"locale": "C.UTF-8", "sources": "deb x y z\n"}, str(root))
    seal.leave_first_boot({"locale": "C.UTF-8", "sources": None}, str(root))
    config = (root / "etc/cloud/cloud.cfg.d/90-ovfbuild.cfg").read_text()
    # ds-identify is a shell script: it reads a list on one line only.
    assert sum(line.startswith("datasource_list: [") and line.endswith("]") for line in config.splitlines()) == 1
    assert (root / "var/lib/cloud/seed/nocloud/user-data").read_text().startswith("#cloud-config\n")
    assert (root / "etc/apt/sources.list").read_text() == "deb x y z\n"
    assert (root / "etc/systemd/system/ssh.service.wants/ovfbuild-host-keys.service").is_symlink()
    assert not (root / "usr/lib/ovfbuild").exists()


def test_the_broker_is_there_where_there_is_something_to_be_told(root: Path) -> None:
    declared = {"key": "pw", "type": "password", "default": "s3cret"}
    orders = {"declaration": {"properties": [declared], "drop_files": []}, "before": []}
    seal.leave_first_boot({"locale": "C.UTF-8", "sources": None, "firstboot": orders}, str(root))
    declaration = root / "usr/lib/ovfbuild/properties.json"
    assert declaration.stat().st_mode & 0o777 == 0o600, "it has a password in it"
    assert (root / "etc/systemd/system/multi-user.target.wants/ovfbuild-firstboot.service").is_symlink()
    assert not (root / "etc/systemd/system/ovfbuild-dropped.path").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            'GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0"\n',
            'GRUB_CMDLINE_LINUX="console=tty0 consoleblank=0"\n',
        ),
        ('GRUB_TERMINAL="console serial"\nGRUB_TIMEOUT=0\n', "GRUB_TIMEOUT=0\n"),
        ('GRUB_SERIAL_COMMAND="serial --speed=115200"\n', ""),
        ('GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n', 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'),
    ],
)
def test_what_ships_does_not_know_the_serial_port(before: str, after: str) -> None:
    assert seal.without_serial(before) == after


@pytest.mark.parametrize("unit", ["ovfbuild-runner.service", "dbus.service", "getty@tty1.service", "user@0.service"])
def test_what_runs_us_is_not_stopped(unit: str) -> None:
    assert seal.KEEP_RUNNING.match(unit)


@pytest.mark.parametrize("unit", ["nginx.service", "cron.service", "mysql.service", "apt-daily.timer"])
def test_services_are_stopped(unit: str) -> None:
    assert not seal.KEEP_RUNNING.match(unit)


def test_units_with_a_tmp_of_their_own_are_known_by_its_name(tmp_path: Path) -> None:
    boot = "0123456789abcdef" * 2
    for name in (
        f"tmp/systemd-private-{boot}-systemd-logind.service-Ab3xYz",
        f"var/tmp/systemd-private-{boot}-systemd-logind.service-Zy9xAb",
        f"var/tmp/systemd-private-{boot}-a-b@1.service-abcdef",
        f"var/tmp/systemd-private-{boot}-ovfbuild-runner.service-abcdef",
        "tmp/systemd-private-x",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert seal.private_units(str(tmp_path)) == ["a-b@1.service", "systemd-logind.service"]
