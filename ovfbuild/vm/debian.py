"""A bootable Debian disk made from packages: without loop devices or mounts, and without root if need be.

mmdebstrap makes the tree; mke2fs, mkfs.vfat and mcopy write it into partitions of a plain file; GRUB's
two loaders come out of the tree itself (see `grub`), so that the host needs nothing of the guest's release.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.progress import Progress
from ovfbuild.vm import debian_files, ext4, grub
from ovfbuild.vm.apt import Mirrors, Settings, host_mirrors, host_settings
from ovfbuild.vm.partitions import (
    ESP_LABEL,
    ROOT_LABEL,
    SECTOR,
    Layout,
    dump_sfdisk,
    fixed_serial,
    fixed_uuid,
    lay_out,
)
from ovfbuild.vm.process import find_program, run

RELEASES: Mapping[str, str] = {"12": "bookworm", "13": "trixie", "sid": "sid"}
"""The `N` of `debian:N` and the suite that it is."""

LAYOUT_VERSION = 2
"""Raised when the same recipe shall give another image."""

_PROGRAMS = ("mmdebstrap", "tar", "sfdisk", "mkfs.vfat", "mcopy", "mke2fs", "qemu-img")
_MARK = "sources.list: "


@dataclass(frozen=True)
class Recipe:
    """Which Debian, and what is in it beyond `debian_files.PACKAGES`.

    Args:
        release: a key of `RELEASES`.
        mirror: the URI of a Debian archive that is used instead of the host's own.
        security_mirror: the same of the security archive; without it, `mirror` is the only source.
        packages: what else is installed.
    """

    release: str
    mirror: str | None = None
    security_mirror: str | None = None
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            known = ", ".join(f"debian:{name}" for name in RELEASES)
            raise UsageError(f"debian:{self.release} is not known", f"known are {known}")

    @property
    def suite(self) -> str:
        return RELEASES[self.release]

    @property
    def all_packages(self) -> tuple[str, ...]:
        newer: tuple[str, ...] = () if self.suite == "bookworm" else debian_files.NEWER_PACKAGES
        if self.suite == "sid":
            newer += debian_files.UNSTABLE_PACKAGES
        return tuple(dict.fromkeys((*debian_files.PACKAGES, *newer, *sorted(self.packages))))

    def digest_inputs(self) -> tuple[str, ...]:
        """Everything that decides what the image holds, for a cache's key.

        The host's mirror does not: all of Debian's mirrors serve the same.
        """
        return (
            f"layout {LAYOUT_VERSION}",
            f"suite {self.suite}",
            f"mirror {self.mirror or ''} {self.security_mirror or ''}",
            f"packages {' '.join(self.all_packages)}",
            debian_files.before_packages_script(),
            debian_files.after_packages_script(""),
            dump_sfdisk(lay_out(0)),
            ext4.MKE2FS_CONF,
        )


def make_base(recipe: Recipe, folder: Path, progress: Progress, source_date_epoch: int | None = None) -> None:
    """Writes `disk.qcow2`, `sources.list` and `packages.txt` into a folder.

    Raises:
        ProgramError: a program is missing or failed, or this host forbids what an ordinary user needs.
    """
    check_host()
    env = {} if source_date_epoch is None else {"SOURCE_DATE_EPOCH": str(source_date_epoch)}
    sources = public_sources(recipe.release)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="base-", dir=folder, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        _bootstrap(recipe, sources, scratch / "root.tar", progress, env)
        layout = lay_out((scratch / "root.tar").stat().st_size)
        progress.line("unpacking")
        tree = _unpack(scratch)
        progress.line("writing the disk")
        image = _write_image(layout, tree, scratch, env)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, folder / "disk.qcow2"])
        status = (tree / "var/lib/dpkg/status").read_text()
        _remove(tree)
    (folder / "packages.txt").write_text(dump_packages(status))
    (folder / "sources.list").write_text(sources)


def public_sources(release: str) -> str:
    """The sources.list that anybody can use: mmdebstrap's own, which it writes when given no mirror.

    It is asked for it with every step left out but the first; nothing is fetched.
    """
    said: list[str] = []
    skip = "check/empty,check/qemu,check/signed-by,update,download,extract,essential,cleanup"
    hook = f'sed "s/^/{_MARK}/" "$1/etc/apt/sources.list"'
    argv = ["mmdebstrap", f"--mode={_mode()}", "--variant=custom", "--format=null", f"--skip={skip}"]
    # A hook's stdout is mmdebstrap's stderr.
    run([*argv, f"--setup-hook={hook}", RELEASES[release], "-"], on_line=said.append, env=_scratch_space())
    lines = [line.removeprefix(_MARK) for line in said if line.startswith(_MARK)]
    if not lines:
        raise ProgramError(f"mmdebstrap knows no mirror of {RELEASES[release]}", "install a newer mmdebstrap")
    return "\n".join(lines) + "\n"


def check_host() -> None:
    """Refuses a host that cannot make a base image before anything is fetched."""
    for name in _PROGRAMS if _is_root() else (*_PROGRAMS, "fakeroot", "newuidmap", "debugfs"):
        find_program(name)
    if _is_root():
        _try_namespace(
            "--mount",
            "root may not mount here (no CAP_SYS_ADMIN), which mmdebstrap needs",
            "run as an ordinary user, or start the container with --cap-add SYS_ADMIN",
        )
        return
    _try_namespace(
        "--user",
        "this host forbids user namespaces to ordinary users",
        "run as root, or allow them: sysctl kernel.unprivileged_userns_clone=1 "
        "(Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0)",
    )
    user = getpass.getuser()
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        if not has_subordinate_ids(path.read_text() if path.exists() else "", user, os.geteuid()):
            raise ProgramError(
                f"{path} gives {user} no subordinate ids, which mmdebstrap needs",
                f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )


def has_subordinate_ids(text: str, user: str, uid: int) -> bool:
    """Whether a subuid(5) file gives a user at least the 65536 ids that a Debian has."""
    entries = (line.split(":") for line in text.splitlines())
    return any(len(e) == 3 and e[0] in (user, str(uid)) and e[2].isdigit() and int(e[2]) >= 65536 for e in entries)


def _try_namespace(option: str, message: str, hint: str) -> None:
    try:
        run(["unshare", option, "true"], timeout=30)
    except ProgramError as error:
        raise ProgramError(f"{message}:\n{error.message}", hint) from error


def mmdebstrap_arguments(
    recipe: Recipe, sources: str, target: Path, mirrors: Mirrors | None, settings: Settings
) -> list[str]:
    """How mmdebstrap is called; `mirrors` None means its own default ones."""
    argv = [
        *("mmdebstrap", f"--mode={_mode()}", "--variant=apt", "--format=tar", "--verbose"),
        *("--architectures=amd64", "--components=main", f"--include={','.join(recipe.all_packages)}"),
        # It would make /etc/machine-id writable; the rest of that step is in after_packages_script.
        # And the package lists stay: for a day, the guest need not fetch them again (the seal removes them).
        "--skip=cleanup/reproducible,cleanup/apt/lists",
        '--aptopt=Acquire::Languages "none";',
        *(f"--aptopt={option}" for option in settings.options()),
        f"--essential-hook={debian_files.before_packages_script()}",
        f"--customize-hook={debian_files.after_packages_script(sources)}",
    ]
    argv += [recipe.suite, str(target)]
    return argv + [_for_mmdebstrap(line) for line in mirrors.lines(recipe.suite)] if mirrors else argv


def _for_mmdebstrap(line: str) -> str:
    """apt hands dpkg the path of a `file:` package, which the chroot does not have; `copy:` copies it in."""
    return re.sub(r"(?<=\s)file:", "copy:", line, count=1)


def _bootstrap(recipe: Recipe, sources: str, target: Path, progress: Progress, env: Mapping[str, str]) -> None:
    mirrors = Mirrors(recipe.mirror, recipe.security_mirror) if recipe.mirror else host_mirrors()
    argv = mmdebstrap_arguments(recipe, sources, target, mirrors, host_settings())
    run(argv, on_line=lambda text: progress.line(text[:200]), env={**_scratch_space(), **env}, timeout=1800)


def _unpack(scratch: Path) -> Path:
    """The tree as files; under fakeroot, its owners and modes are kept in a file beside it."""
    tree = scratch / "root"
    tree.mkdir(mode=0o755)
    # udev makes /dev; an ordinary user could not.
    tar = ["tar", "--extract", "--numeric-owner", "--same-permissions"]
    if _is_root():  # fakeroot forgets the type of a file that got one; see _set_capabilities
        tar += ["--xattrs", "--xattrs-include=*"]
    run([*_fakeroot(scratch, save=True), *tar, "--exclude=./dev/*", "-f", scratch / "root.tar", "-C", tree])
    (scratch / "root.tar").unlink()
    return tree


def _write_image(layout: Layout, tree: Path, scratch: Path, env: Mapping[str, str]) -> Path:
    """Partition table, both boot loaders and root file system in one plain, sparse file."""
    image = scratch / "disk.raw"
    with image.open("wb") as file:
        file.truncate(layout.size)
    run(["sfdisk", "--quiet", image], stdin=dump_sfdisk(layout).encode())
    esp = _make_esp(layout, tree / "boot/efi", scratch, env)
    core = (tree / "boot/grub/i386-pc/core.img").read_bytes()
    boot = (tree / "boot/grub/i386-pc/boot.img").read_bytes()
    with image.open("r+b") as file:
        table = file.read(SECTOR)
        file.seek(0)
        file.write(grub.patch_boot_sector(boot, table, layout.bios.first_sector))
        file.seek(layout.bios.start)
        file.write(grub.patch_core(core, layout.bios.first_sector, layout.bios.size))
        file.seek(layout.esp.start)
        file.write(esp.read_bytes())
    capabilities = tree / debian_files.CAPABILITIES
    listed = capabilities.read_text()
    capabilities.unlink()
    _make_root(layout, image, tree, scratch, env)
    if not _is_root():
        _set_capabilities(listed, image, layout, scratch)
    return image


def _make_esp(layout: Layout, content: Path, scratch: Path, env: Mapping[str, str]) -> Path:
    """The EFI system partition; what it holds leaves the tree, where it is mounted over."""
    esp = scratch / "esp.img"
    with esp.open("wb") as file:
        file.truncate(layout.esp.size)
    serial = f"{fixed_serial('esp'):08x}"
    run(["mkfs.vfat", "-F", "32", "-s", "1", "-n", ESP_LABEL, "-i", serial, "--invariant", esp], env=env)
    run(["mcopy", "-i", esp, "-s", "-m", content / "EFI", "::/"], env=env)
    shutil.rmtree(content / "EFI")
    return esp


def _make_root(layout: Layout, image: Path, tree: Path, scratch: Path, env: Mapping[str, str]) -> None:
    config = scratch / "mke2fs.conf"
    config.write_text(ext4.MKE2FS_CONF)
    extended = f"offset={layout.root.start},hash_seed={fixed_uuid('hash')},{ext4.EAGER},nodiscard"
    # Without -b the size would be taken as KiB.
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", ROOT_LABEL, "-U", fixed_uuid("root")]
    argv += ["-E", extended, "-d", str(tree), str(image), str(layout.root.size // 4096)]
    run([*_fakeroot(scratch, save=False), *argv], env={"MKE2FS_CONFIG": str(config), **env})


def _set_capabilities(listed: str, image: Path, layout: Layout, scratch: Path) -> None:
    """Writes file capabilities, which fakeroot could not give the tree, into the file system itself."""
    commands = []
    for number, line in enumerate(listed.splitlines()):
        value, path = line.split(" ", 1)
        (scratch / f"capability{number}").write_bytes(bytes.fromhex(value))
        commands.append(f"ea_set -f capability{number} {path} security.capability\n")
    said: list[str] = []
    argv = ["debugfs", "-w", "-f", "-", f"{image}?offset={layout.root.start}"]
    run(argv, stdin="".join(commands).encode(), on_line=said.append, cwd=scratch)
    # Its exit code is 0 whatever happens; the first line is its version.
    if len(said) > 1:
        raise ProgramError("debugfs could not set file capabilities:\n" + "\n".join(said[1:]))


def dump_packages(status: str) -> str:
    """What is installed, with versions, out of dpkg's status file: `name version` a line."""
    found = []
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Status", "").endswith(" installed"):
            found.append(f"{fields['Package']} {fields['Version']}\n")
    return "".join(sorted(found))


def _remove(tree: Path) -> None:
    """Deletes an unpacked Debian, some of whose folders their owner may not write."""
    run(["chmod", "-R", "u+rwX", tree])
    shutil.rmtree(tree)


def _fakeroot(scratch: Path, save: bool) -> Sequence[str | Path]:
    if _is_root():
        return ()
    state = scratch / "owners"
    return ("fakeroot", "-s", state, "--") if save else ("fakeroot", "-i", state, "--")


def _is_root() -> bool:
    return os.geteuid() == 0


def _mode() -> str:
    return "root" if _is_root() else "unshare"


def _scratch_space() -> dict[str, str]:
    """Where mmdebstrap unpacks a gigabyte: not in /tmp, which is memory on newer systems."""
    return {} if "TMPDIR" in os.environ else {"TMPDIR": "/var/tmp"}  # noqa: S108 - mmdebstrap makes its own folder
