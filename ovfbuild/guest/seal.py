"""Sealing: everything unique or left over goes, what the first boot needs is put in its place.

What is taken out follows virt-sysprep's operations, Debian's own image clean-up, and what neither
of them touches (cloud-init's state, random seed, credentials). The order matters: services are
stopped before their files go, for a normal shutdown would write them again; so the machine goes
down by sysrq, past systemd (cloud-init.md, section 4.2).
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import time
from typing import Any

from ovfbuild.guest import agent, broker_install
from ovfbuild.guest.steps import Guest, write

CLOUD_CONFIG = """\
# Written by ovfbuild. A deployment's own data is looked for first; where none is offered, the
# seed in /var/lib/cloud/seed/nocloud lets cloud-init run at once (and make this machine's host
# keys) instead of asking the network for minutes. The list must stay on one line.
datasource_list: [ VMware, OVF, ConfigDrive, OpenStack, Ec2, GCE, Azure, NoCloud, None ]
datasource: { Ec2: { strict_id: true } }
locale: %(locale)s
manage_etc_hosts: localhost
"""

DHCP = """\
# Written by ovfbuild: whatever the NIC is called here, and whoever made it.
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
"""

HOST_KEYS = """\
# Written by ovfbuild: host keys of this machine's own, should cloud-init have made none.
[Unit]
Description=Make missing SSH host keys
After=cloud-init.service cloud-init-network.service
Before=ssh.service sshd.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=ssh.service sshd.service
"""

KEEP_RUNNING = re.compile(
    r"ovfbuild-|systemd-journald|systemd-udevd|dbus|user@|user-runtime-dir@|(serial-)?getty@|init\.scope"
)
"""Services that stay while the others are stopped: what runs us, and what needs no stopping."""

# fmt: off
GONE = (
    "/etc/ssh/ssh_host_*_key*", "/etc/ssh/sshd_config.d/50-cloud-init.conf", "/etc/sudoers.d/90-cloud-init-users",
    "/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init*",
    "/etc/systemd/network/10-cloud-init-*", "/etc/NetworkManager/system-connections/cloud-init-*",
    "/etc/udev/rules.d/70-persistent-net.rules", "/etc/iscsi/initiatorname.iscsi", "/etc/blkid.tab*",
    "/etc/apt/apt.conf.d/*ovfbuild*", "/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-",
    "/etc/subuid-", "/etc/subgid-", "/var/lib/cloud/*", "/var/log/cloud-init*", "/var/log/journal/*",
    "/var/log/installer", "/var/lib/dhcp/*", "/var/lib/dhclient/*", "/var/lib/dhcpcd/*",
    "/var/lib/NetworkManager/*", "/run/systemd/netif/leases/*", "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret", "/var/lib/systemd/coredump/*", "/var/lib/systemd/timers/*",
    "/var/lib/systemd/timesync/*", "/var/lib/systemd/network/*", "/boot/efi/loader/random-seed",
    "/var/lib/apt/lists/*", "/var/cache/apt/*", "/var/backups/*", "/var/cache/debconf/*-old", "/var/lib/dpkg/*-old",
    "/var/cache/ldconfig/aux-cache", "/var/crash/*", "/var/mail/*", "/var/spool/mail/*", "/tmp/*", "/tmp/.[!.]*",
    "/var/tmp/*", "/var/tmp/.[!.]*", "/etc/ovfbuild/identity.*", "/var/lib/ovfbuild/identity.json",
)
# fmt: on

# fmt: off
PERSONAL = (
    ".bash_history", ".zsh_history", ".ash_history", ".sh_history", ".python_history", ".node_repl_history",
    ".mysql_history", ".psql_history", ".lesshst", ".viminfo", ".wget-hsts", ".sudo_as_admin_successful", ".cache",
    ".ssh/known_hosts", ".ssh/known_hosts.old",
)
# fmt: on


def seal(orders: dict[str, Any], guest: Guest) -> None:
    """Everything but the last word and the power-off.

    `orders`: hostname, locale, serial (whether the appliance has a serial port), sources (text for
    /etc/apt/sources.list, or None to leave it), agent (what is closed and cleaned of it, or None),
    firstboot (what the broker is told of the properties, or None).
    """
    set_console(orders["serial"], guest)
    stop_services(guest)
    if orders.get("agent"):
        agent.seal(orders["agent"], guest)
    subprocess.run(["cloud-init", "clean", "--logs", "--seed"], stdout=subprocess.DEVNULL, check=False)
    remove_leftovers()
    empty_logs()
    leave_first_boot(orders)
    reset_identity(orders["hostname"])
    guest.run(["sync"])
    guest.run(["fstrim", "--all", "--verbose"])


def set_console(serial: bool, guest: Guest) -> None:
    """What ships talks to the screen; to the serial port as well where the appliance declares one.

    `console=ttyS0` without such a port makes VirtualBox crawl (LP#1573095, hashicorp/vagrant#10578).
    """
    paths = ["/etc/default/grub", *sorted(glob.glob("/etc/default/grub.d/*.cfg"))]
    if not os.path.exists(paths[0]):
        return
    for path in paths:
        with open(path, encoding="utf-8") as stream:
            before = stream.read()
        after = without_serial(before)
        if after != before:
            write(path, after)
    text = "GRUB_TERMINAL=console\n"
    if serial:
        text = (
            'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX console=tty0 console=ttyS0,115200n8"\n'
            'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"\n'
        )
    write("/etc/default/grub.d/99-ovfbuild.cfg", "# Written by ovfbuild.\n" + text)
    if shutil.which("update-grub"):
        guest.run(["update-grub"])


def without_serial(text: str) -> str:
    """A grub configuration that does not know the serial port."""
    text = re.sub(r"\s?\b(console|earlyprintk)=ttyS\d[^\s\"']*", "", text)
    return re.sub(r"(?m)^(GRUB_TERMINAL(_INPUT|_OUTPUT)?|GRUB_SERIAL_COMMAND)=.*\n?", "", text)


def stop_services(guest: Guest) -> None:
    """Stops what runs, so that databases close their files and nothing writes its log once more."""
    doomed = [
        unit
        for unit in active("--type=service,timer,socket")
        if not KEEP_RUNNING.match(unit) and not unit.startswith("systemd-")
    ]
    # Should journald be started again by whoever still logs, it writes to /run.
    subprocess.run(["journalctl", "--relinquish-var"], stderr=subprocess.DEVNULL, check=False)
    # Ordered by systemd itself; what does not stop cleanly is not our failure.
    for batch in (doomed, systemd_keepers(), private_units()):
        if batch:
            subprocess.run(["systemctl", "stop", *batch], stderr=subprocess.DEVNULL, check=False)
    guest.say("%d services, timers and sockets stopped" % len(doomed))


def active(*which: str) -> list[str]:
    """The units that are active, of a kind or of a pattern."""
    argv = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", *which]
    listed = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    return [line.split()[0] for line in listed.stdout.decode().splitlines() if line.strip()]


def systemd_keepers() -> list[str]:
    """systemd's own units that write their state when they stop; of journald, every socket that would start it."""
    journald = active("systemd-journald*.socket", "systemd-journald*.service")
    return [
        *("systemd-random-seed.service", "systemd-timesyncd.service", "systemd-update-utmp.service"),
        *("systemd-networkd.socket", "systemd-networkd.service"),
        *("systemd-resolved.service", "systemd-logind.service"),
        *sorted(journald, key=lambda unit: unit.endswith(".service")),
    ]


def private_units(root: str = "") -> list[str]:
    """The units that still have a /tmp of their own.

    As long as they run, what we remove of it stays allocated, and so would a file system be sealed that e2fsck has to
    mend (Debian sid, systemd 258).
    """
    folders = [os.path.basename(path) for path in glob.glob(root + "/tmp/systemd-private-*")]
    folders += [os.path.basename(path) for path in glob.glob(root + "/var/tmp/systemd-private-*")]
    found = [re.fullmatch(r"systemd-private-[0-9a-f]{32}-(.+\.service)-\w{6}", name) for name in folders]
    return sorted({match.group(1) for match in found if match and not match.group(1).startswith("ovfbuild-")})


def remove_leftovers(root: str = "") -> None:
    for pattern in GONE:
        for path in glob.glob(root + pattern):
            remove(path)
    for home in [root + "/root", *glob.glob(root + "/home/*")]:
        for name in PERSONAL:
            remove(os.path.join(home, name))


def remove(path: str) -> None:
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)


def empty_logs(root: str = "") -> None:
    """Logs stay as empty files with their owners; rotated ones go."""
    for folder, _, names in os.walk(root + "/var/log"):
        for name in names:
            path = os.path.join(folder, name)
            if re.search(r"\.(gz|xz|zst|old|\d+)$", name):
                os.unlink(path)
            elif os.path.isfile(path) and not os.path.islink(path):
                os.truncate(path, 0)


def leave_first_boot(orders: dict[str, Any], root: str = "") -> None:
    """What the first boot needs: a datasource list, a seed of last resort, DHCP, and host keys."""
    write(root + "/etc/cloud/cloud.cfg.d/90-ovfbuild.cfg", CLOUD_CONFIG % {"locale": orders["locale"]})
    write(root + "/var/lib/cloud/seed/nocloud/meta-data", "instance-id: ovfbuild-fallback\n")
    write(root + "/var/lib/cloud/seed/nocloud/user-data", "#cloud-config\n{}\n")
    write(root + "/etc/systemd/network/99-ovfbuild-dhcp.network", DHCP)
    unit = "ovfbuild-host-keys.service"
    write(root + "/etc/systemd/system/" + unit, HOST_KEYS)
    for service in ("ssh.service", "sshd.service"):
        wants = root + "/etc/systemd/system/%s.wants" % service
        os.makedirs(wants, exist_ok=True)
        link = os.path.join(wants, unit)
        if not os.path.lexists(link):
            os.symlink("/etc/systemd/system/" + unit, link)
    if orders.get("firstboot"):
        broker_install.install(orders["firstboot"], root)
    if orders.get("sources") is not None:
        write(root + "/etc/apt/sources.list", orders["sources"])


def reset_identity(hostname: str, root: str = "") -> None:
    """An empty machine-id (systemd makes one at the next boot), and the appliance's host name."""
    remove(root + "/etc/machine-id")
    write(root + "/etc/machine-id", "", 0o444)
    old = root + "/var/lib/dbus/machine-id"
    if os.path.isfile(old) and not os.path.islink(old):
        os.unlink(old)
        os.symlink("/etc/machine-id", old)
    write(root + "/etc/hostname", hostname + "\n")
    with open(root + "/etc/hosts", encoding="utf-8") as stream:
        kept = [line for line in stream if not line.startswith(("127.0.1.1", "# Your system has configured"))]
    write(root + "/etc/hosts", "".join(kept) + "127.0.1.1 %s\n" % hostname)


def power_off() -> None:
    """Sync, everything read-only, off: past systemd, whose shutdown would write again."""
    with open("/proc/sys/kernel/sysrq", "w") as allowed:
        allowed.write("1")
    for order in "suo":
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write(order)
        time.sleep(1)
