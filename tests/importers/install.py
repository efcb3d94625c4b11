"""The importers' programs, unpacked from Debian's packages into the cache: once, and without root.

The simulator of vCenter is a module of Go, built with Debian's Go: what it is made of is pinned by its go.mod and
go.sum, and fetched as the user's own Go client fetches modules.

mmdebstrap's variant `extract` in its mode `chrootless` resolves dependencies and unpacks, and runs no script of any
package: what these set up (users, services, a kernel module) an import does not need.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.files import digest_of
from ovfbuild.progress import Progress, step
from ovfbuild.vm.apt import host_mirrors, host_settings
from ovfbuild.vm.process import find_program, run
from tests.importers.sandbox import NETWORK, WORK, Sandbox, check_host

KIND = "importers"
SUITE = "sid"
INCUS_SUITE = "trixie"
"""With Incus's long-term release, 6.0."""
VCSIM = Path(__file__).parent / "vcsim"
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
_GO = {"GOTOOLCHAIN": "local", "GOCACHE": f"{WORK}/cache", "GOMODCACHE": f"{WORK}/modules", "CGO_ENABLED": "0"}
_CLIENT = ("GOPROXY", "GOSUMDB", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOINSECURE", "GOFLAGS")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")


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
    packages = ("base-files", "golang-go")
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(VCSIM.iterdir()) if path.is_file()}

    def make(folder: Path) -> None:
        scratch = folder / "scratch"
        with step(progress, "unpack Go"):
            scratch.mkdir()
            _unpack(scratch / "root", packages, progress)
            for name in NETWORK:
                place = scratch / "root" / name.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        shutil.copytree(VCSIM, scratch / "work")
        settings = _GO | _client()
        with step(progress, "fetch govmomi"):
            Sandbox(scratch / "root", scratch / "work", settings, network=True).run(
                "go", "mod", "download", "-modcacherw"
            )
        with step(progress, "build vcsim"):
            go = Sandbox(scratch / "root", scratch / "work", settings)
            go.run("go", "build", "-modcacherw", "-trimpath", "-ldflags=-s -w", "-o", "vcsim", ".", timeout=1200)
        (scratch / "work" / "vcsim").rename(folder / "vcsim")
        shutil.rmtree(scratch)

    key = digest_of({"layout": _LAYOUT, "suite": SUITE, "packages": packages, "sources": sources})
    return _obtain(cache, key, f"govmomi's vCenter simulator, built with the Go of Debian {SUITE}", make) / "vcsim"


def _client() -> dict[str, str]:
    """How this user's Go fetches modules, as far as that is not Go's own default."""
    said = json.loads(run(["go", "env", "-json", *_CLIENT])) if shutil.which("go") else os.environ
    found = {name: said.get(name, "") for name in _CLIENT}
    found |= {name: os.environ.get(name) or os.environ.get(name.lower(), "") for name in _PROXIES}
    return {name: value for name, value in found.items() if value}


def incus(cache: Cache, progress: Progress) -> Path:
    """The root of a tree with incusd and its client in it (about 170 MB), made if it is not there."""
    packages = ("base-files", "incus-base", "incus-client", "tar", "gzip")

    def make(folder: Path) -> None:
        with step(progress, "unpack Incus"):
            _unpack(folder / "root", packages, progress, INCUS_SUITE)

    key = digest_of({"layout": _LAYOUT, "suite": INCUS_SUITE, "packages": packages})
    return _obtain(cache, key, f"Incus of Debian {INCUS_SUITE}", make) / "root"


def _obtain(cache: Cache, key: str, about: str, make: Callable[[Path], None]) -> Path:
    check_host()
    entry, _ = cache.obtain(KIND, key, about, make)
    return entry.path


def _unpack(root: Path, packages: Sequence[str], progress: Progress, suite: str = SUITE) -> None:
    """The packages and all that they depend on, under `root`."""
    status = root.parent / "status"
    status.write_text(_LEFT_OUT, encoding="utf-8")
    mirrors = host_mirrors()
    sources = [f"{line} contrib" for line in mirrors.lines(suite)] if mirrors else []
    settings = (*host_settings().options(), 'Acquire::Languages "none";')
    argv = [
        *("mmdebstrap", "--mode=chrootless", "--variant=extract", "--format=directory", "--architectures=amd64"),
        *("--components=main,contrib", f"--include={','.join(packages)}"),
        *(f"--aptopt={line}" for line in settings),
        f'--setup-hook=mkdir -p "$1/var/lib/dpkg"; cat "{status}" >> "$1/var/lib/dpkg/status"',
        *(suite, str(root), *sources),
    ]
    as_root = [] if os.geteuid() == 0 else [find_program("fakeroot")]
    run([*as_root, *argv], on_line=progress.line, timeout=1800)
    status.unlink()
    (root / "w").mkdir()
    for name in ("doc", "man", "locale", "info"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
