"""npm's packages for a guest, fetched by the host's npm, and carried as one tree.

No package's own scripts are run, so nothing is compiled: what must be is refused by its name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.progress import Progress
from ovfbuild.vm.process import run

TREE, LOCK = "packages.tar", "lock.json"
"""`node_modules` as a tar archive; what is in it, and which of its files are commands."""

_SHOWN = 12
_QUIET = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
_COMPILES = re.compile(r"\b(node-gyp|node-pre-gyp|prebuild-install|cmake-js|prebuildify|napi)\b")
_NO_VERSION = re.compile(r"No matching version found for (?P<wanted>(?P<name>@?[^@\s]+)@\S+?)\.?$", re.MULTILINE)


def fetch_packages(packages: Sequence[str], folder: Path, progress: Progress) -> None:
    """Writes TREE and LOCK of packages, and of all that they depend on, into a folder.

    Raises:
        UsageError: the registry has no such version, or a package must be compiled.
        ProgramError: npm is missing, or failed.
    """
    work = folder / "work"
    work.mkdir()
    (work / "package.json").write_text('{"name": "libraries", "private": true}\n', encoding="ascii")
    _install(packages, work)
    modules = work / "node_modules"
    lock = json.loads((work / "package-lock.json").read_text(encoding="utf-8"))
    found = dict(_packages(lock["packages"], work))
    _refuse_native(found, work, progress)
    # The lock files name the registry, which is the host's affair.
    (modules / ".package-lock.json").unlink(missing_ok=True)
    wanted = lock["packages"][""].get("dependencies", {})
    listed = [{"path": path, "name": one["name"], "version": one["version"]} for path, one in sorted(found.items())]
    commands = dict(_commands(wanted, work))
    text = json.dumps({"packages": listed, "commands": commands}, sort_keys=True, indent=1) + "\n"
    (folder / LOCK).write_text(text, encoding="utf-8")
    _archive(work, folder / TREE)
    shutil.rmtree(work)


def _install(packages: Sequence[str], work: Path) -> None:
    argv = ["npm", "install", "--prefix", str(work), "--ignore-scripts", "--omit=dev", "--no-global", "--save"]
    argv += ["--package-lock", "--no-engine-strict", "--install-strategy=hoisted", "--bin-links"]
    argv += ["--os=linux", "--cpu=x64", "--libc=glibc", *_QUIET, "--", *packages]
    try:
        run(argv, cwd=work, timeout=1800)
    except ProgramError as error:
        said = "\n".join(line for line in error.message.splitlines() if line.startswith(("npm error", "npm ERR!")))
        missing = _NO_VERSION.search(said)
        if missing:
            raise _not_there(missing["wanted"], missing["name"]) from error
        raise


def _not_there(wanted: str, name: str) -> UsageError:
    versions = json.loads(run(["npm", "view", name, "versions", "--json", *_QUIET], timeout=300) or "[]")
    newest = (versions if isinstance(versions, list) else [versions])[::-1]
    shown = ", ".join(newest[:_SHOWN]) + (f" and {len(newest) - _SHOWN} older" if len(newest) > _SHOWN else "")
    return UsageError(f"node: {wanted} can't be had; there is {shown}", "name one of these versions")


def _packages(lock: Mapping[str, Any], work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(its folder, what the lock says of it) of every package that is in the tree."""
    for path, entry in lock.items():
        if path and (work / path / "package.json").exists():
            yield path, {"name": path.rpartition("node_modules/")[2], **entry}


def _refuse_native(found: dict[str, dict[str, Any]], work: Path, progress: Progress) -> None:
    """Packages that compile something when they are installed; optional ones are left out, as npm would."""
    native = []
    for path, entry in list(found.items()):
        scripts = json.loads((work / path / "package.json").read_text(encoding="utf-8")).get("scripts") or {}
        own = " ".join(str(scripts.get(when, "")) for when in ("preinstall", "install", "postinstall"))
        if not (work / path / "binding.gyp").exists() and not _COMPILES.search(own):
            if own.strip():
                progress.note(f"{entry['name']} {entry['version']}: its install script is not run ({own.strip()})")
        elif entry.get("optional"):
            progress.note(f"{entry['name']} {entry['version']} is optional and would be compiled; left out")
            shutil.rmtree(work / path)
            for inner in [inner for inner in found if inner == path or inner.startswith(f"{path}/")]:
                del found[inner]
        else:
            native.append(f"{entry['name']} {entry['version']}")
    if native:
        raise UsageError(
            "\n".join(f"node: {name} must be compiled when it is installed" for name in native),
            "take a package without native code, or install the distribution's by [system] packages",
        )


def _commands(wanted: Mapping[str, str], work: Path) -> Iterator[tuple[str, str]]:
    """(command, its file in the tree) of the packages that were asked for."""
    for name in wanted:
        folder = PurePosixPath("node_modules", name)
        said = json.loads((work / folder / "package.json").read_text(encoding="utf-8")).get("bin") or {}
        table = {name.rpartition("/")[2]: said} if isinstance(said, str) else said
        for command, file in sorted(table.items()):
            target = folder / str(file).removeprefix("./")
            if ".." in target.parts or "/" in command or not (work / target).is_file():
                raise UsageError(f"node: {name} has a command {command!r} without its file", "take another version")
            yield command, str(target)


def _archive(work: Path, target: Path) -> None:
    """The same tree, the same bytes."""
    fixed = ["--sort=name", "--mtime=@315532800", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    modes = "--mode=u+rw,go-w,a+rX"
    run(["tar", "--create", "--file", target, *fixed, modes, "--directory", work, "node_modules"])
