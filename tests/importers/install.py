"""The importers' programs, unpacked from Debian's packages into the cache: once, and without root.

mmdebstrap's variant `extract` in its mode `chrootless` resolves dependencies and unpacks, and runs no script of any
package: what these set up (users, services, a kernel module) an import does not need.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.files import digest_of
from ovfbuild.progress import Progress, step
from ovfbuild.vm.apt import host_mirrors, host_settings
from ovfbuild.vm.process import find_program, run
from tests.importers.sandbox import Sandbox, check_host

KIND = "importers"
SUITE = "sid"
VCSIM = Path(__file__).parent / "vcsim" / "main.go"
_LAYOUT = 1
"""Counted up whenever an entry of the cache would be made in another way."""

# Debian's virtualbox depends on its kernel modules, or on what builds them (a compiler, the kernel's headers).
_LEFT_OUT = """\
Package: virtualbox-modules-left-out
Status: install ok installed
Maintainer: nobody <nobody@localhost>
Architecture: all
Version: 1
Provides: virtualbox-modules
Description: stands for the kernel modules, which an import does not need

"""
_GO = {
    "GO111MODULE": "off",
    "GOPATH": "/usr/share/gocode",
    "GOTOOLCHAIN": "local",
    "GOCACHE": "/w/cache",
    "GOFLAGS": "-trimpath",
    "CGO_ENABLED": "0",
}


def virtualbox(cache: Cache, progress: Progress) -> Path:
    """The root of a tree with VirtualBox in it (about 500 MB), made if it is not there."""
    packages = ("base-files", "virtualbox")

    def make(folder: Path) -> None:
        with step(progress, "unpack VirtualBox"):
            _unpack(folder / "root", packages, progress)

    key = digest_of({"layout": _LAYOUT, "suite": SUITE, "packages": packages})
    return _obtain(cache, key, f"VirtualBox of Debian {SUITE}", make) / "root"


def vcsim(cache: Cache, progress: Progress) -> Path:
    """The simulator's program, built if it is not there; static, so that it runs anywhere."""
    packages = ("base-files", "golang-go", "golang-github-vmware-govmomi-dev")
    source = VCSIM.read_text(encoding="utf-8")

    def make(folder: Path) -> None:
        scratch = folder / "scratch"
        (scratch / "work").mkdir(parents=True)
        with step(progress, "unpack Go and govmomi"):
            _unpack(scratch / "root", packages, progress)
        shutil.copy(VCSIM, scratch / "work")
        with step(progress, "build vcsim"):
            go = Sandbox(scratch / "root", scratch / "work", _GO)
            go.run("go", "build", "-ldflags=-s -w", "-o", "vcsim", VCSIM.name, timeout=1200)
        (scratch / "work" / "vcsim").rename(folder / "vcsim")
        shutil.rmtree(scratch)

    key = digest_of({"layout": _LAYOUT, "suite": SUITE, "packages": packages, "source": source})
    return _obtain(cache, key, f"govmomi's vCenter simulator, of Debian {SUITE}", make) / "vcsim"


def _obtain(cache: Cache, key: str, about: str, make: Callable[[Path], None]) -> Path:
    check_host()
    entry, _ = cache.obtain(KIND, key, about, make)
    return entry.path


def _unpack(root: Path, packages: Sequence[str], progress: Progress) -> None:
    """The packages and all that they depend on, under `root`."""
    status = root.parent / "status"
    status.write_text(_LEFT_OUT, encoding="utf-8")
    mirrors = host_mirrors()
    sources = [f"{line} contrib" for line in mirrors.lines(SUITE)] if mirrors else []
    settings = (*host_settings().options(), 'Acquire::Languages "none";')
    argv = [
        *("mmdebstrap", "--mode=chrootless", "--variant=extract", "--format=directory", "--architectures=amd64"),
        *("--components=main,contrib", f"--include={','.join(packages)}"),
        *(f"--aptopt={line}" for line in settings),
        f'--setup-hook=mkdir -p "$1/var/lib/dpkg"; cat "{status}" >> "$1/var/lib/dpkg/status"',
        *(SUITE, str(root), *sources),
    ]
    as_root = [] if os.geteuid() == 0 else [find_program("fakeroot")]
    run([*as_root, *argv], on_line=progress.line, timeout=1800)
    status.unlink()
    (root / "w").mkdir()
    for name in ("doc", "man", "locale", "info"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
