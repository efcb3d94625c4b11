"""What a base image has beyond Debian's packages: its own files, and what is done to it last."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from ovfbuild.vm import grub
from ovfbuild.vm.partitions import ESP_LABEL, ROOT_LABEL

PACKAGES = (
    "linux-image-amd64",  # the cloud kernel lacks VirtualBox's and VMware's devices
    "initramfs-tools",
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "libnss-resolve",
    "libpam-systemd",
    "dbus",
    "udev",
    "kmod",
    "procps",
    "e2fsprogs",
    "fdisk",  # growpart calls sfdisk
    "cloud-init",
    "cloud-guest-utils",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
    "grub2-common",
    "openssh-server",
    "sudo",
    "ca-certificates",
    "iproute2",
    "iputils-ping",
    "less",
    "tzdata",
    "zstd",
)

NEWER_PACKAGES = ("linux-sysctl-defaults",)
"""From trixie on, it is what lets ordinary users ping; bookworm's ping has a capability instead."""

UNSTABLE_PACKAGES = ("bsdutils", "login", "mount", "passwd")
"""Required by policy, but in sid neither essential nor anybody's dependency any more; until trixie they come along."""

FSTAB = f"""\
LABEL={ROOT_LABEL} / ext4 errors=remount-ro,x-systemd.growfs 0 1
LABEL={ESP_LABEL} /boot/efi vfat umask=0077,nofail 0 0
"""

_HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""

_NETWORK = """\
# Any ethernet NIC whatever its name: every hypervisor has its own. Real ones only: no bridge, no tunnel.
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
"""

_WAIT_ONLINE = """\
# An appliance may have NICs that nobody has connected: one that works is enough, and none must not block.
[Service]
ExecStart=
ExecStart=/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=30
"""

FILES: Mapping[str, str] = {
    "etc/fstab": FSTAB,
    "etc/hosts": _HOSTS,
    "etc/default/grub": grub.DEFAULTS,
    "etc/default/locale": "LANG=C.UTF-8\n",
    # Told, since there is no disk to look at when it is made: so that e2fsck is in it.
    "etc/initramfs-tools/conf.d/ovfbuild.conf": "FSTYPE=ext4\n",
    "etc/systemd/network/99-ovfbuild-dhcp.network": _NETWORK,
    "etc/systemd/system/systemd-networkd-wait-online.service.d/10-ovfbuild.conf": _WAIT_ONLINE,
    "boot/grub/early.cfg": grub.EARLY_CONFIG,
}
"""Written before the kernel is installed, which makes its initramfs."""

_FINISH = """\
rm -f "$1"/etc/ssh/ssh_host_*_key "$1"/etc/ssh/ssh_host_*_key.pub
rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/sources.list.d/*
rm -f "$1"/etc/hostname "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id
echo localhost >"$1/etc/hostname"
: >"$1/etc/machine-id"
chmod 0644 "$1/etc/hostname"
chmod 0444 "$1/etc/machine-id"
rm -f "$1"/var/log/dpkg.log "$1"/var/log/apt/* "$1"/var/log/alternatives.log "$1"/var/log/bootstrap.log
rm -f "$1"/var/cache/ldconfig/aux-cache
rm -f "$1"/var/lib/systemd/random-seed "$1"/var/lib/systemd/credential.secret
chroot "$1" systemctl enable systemd-networkd systemd-resolved systemd-timesyncd ssh
# Last: until here the chroot may have needed the host's.
ln -sfn ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
"""


CAPABILITIES = "boot/grub/capabilities"

_LIST_CAPABILITIES = """\
import os
for folder, _, names in os.walk("/usr"):
    for name in names:
        path = os.path.join(folder, name)
        if "security.capability" in os.listxattr(path, follow_symlinks=False):
            print(os.getxattr(path, "security.capability").hex(), path)
"""
"""Which programs may what without being root: fakeroot forgets it, so it is written down as `hex path`."""


def write_files_script(files: Mapping[str, str]) -> str:
    """A shell script that writes files below $1, owned by whoever is root there."""
    return "set -eu\n" + "".join(
        f'mkdir -p "$1"/{shlex.quote(path.rpartition("/")[0])}\n'
        f'printf %s {shlex.quote(text)} >"$1"/{shlex.quote(path)}\n'
        f'chmod 0644 "$1"/{shlex.quote(path)}\n'
        for path, text in files.items()
    )


def before_packages_script() -> str:
    """Runs when dpkg is there and the kernel is not."""
    return write_files_script(FILES)


def after_packages_script(sources: str) -> str:
    """Runs when everything is installed; `sources` is the image's own sources.list."""
    last = {"etc/apt/sources.list": sources, "boot/grub/grub.cfg": grub.BUILD_CONFIG}
    # The first file must come after sources.list.d was emptied, the second before its kernel is filled in.
    capabilities = f'chroot "$1" python3 -c {shlex.quote(_LIST_CAPABILITIES)} >"$1/{CAPABILITIES}"\n'
    return "set -eu\n" + _FINISH + write_files_script(last) + grub.INSTALL_SCRIPT + capabilities
